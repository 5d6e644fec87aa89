"""LlamaIndex's callbacks and instrumentation, turned into usage records."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from token_handlers.errors import MissingDependency

if TYPE_CHECKING:
    from token_handlers.llama_index.handler import LlamaIndexTokenHandler
    from token_handlers.llama_index.stream_usage import report_stream_usage

__all__ = ["LlamaIndexTokenHandler", "report_stream_usage"]

try:
    _installed = all(find_spec(name) for name in ("llama_index.core", "llama_index_instrumentation"))
except ModuleNotFoundError:  # the parent package of llama_index.core
    _installed = False
if not _installed:
    raise MissingDependency("llama-index-core", "llamaindex")

_MODULES = {"LlamaIndexTokenHandler": "handler", "report_stream_usage": "stream_usage"}


if not TYPE_CHECKING:  # to a type checker, what is not imported above is not there

    def __getattr__(name: str) -> object:
        # `hook` is imported in the middle of LlamaIndex's own import, when these can't be.
        if name in _MODULES:
            value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
