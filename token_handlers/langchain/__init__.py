"""LangChain's callbacks, turned into usage records."""

from importlib import import_module
from typing import TYPE_CHECKING

from token_handlers.errors import MissingDependency

try:
    # Is it installed? And if so: older versions import so much with this that our hook is attached, which takes modules
    # of this package that are whole, or not begun.
    import langchain_core.callbacks.base as _base  # noqa: F401
except ImportError as error:
    raise MissingDependency("langchain-core", "langchain") from error

if TYPE_CHECKING:
    from token_handlers.langchain.embeddings import TrackedEmbeddings
    from token_handlers.langchain.handler import LangChainTokenHandler
    from token_handlers.langchain.middleware import BudgetMiddleware
    from token_handlers.langchain.openai_callback import get_bedrock_anthropic_callback, get_openai_callback
    from token_handlers.langchain.stream_usage import report_stream_usage

__all__ = [
    "BudgetMiddleware",
    "LangChainTokenHandler",
    "TrackedEmbeddings",
    "get_bedrock_anthropic_callback",
    "get_openai_callback",
    "report_stream_usage",
]

# Imported when they are asked for: the hook is attached while LangChain itself is being imported.
_HOMES = {
    "BudgetMiddleware": "middleware",
    "LangChainTokenHandler": "handler",
    "TrackedEmbeddings": "embeddings",
    "get_bedrock_anthropic_callback": "openai_callback",
    "get_openai_callback": "openai_callback",
    "report_stream_usage": "stream_usage",
}


if not TYPE_CHECKING:  # to a type checker, what is not imported above is not there

    def __getattr__(name: str) -> object:
        if name in _HOMES:
            value = globals()[name] = getattr(import_module(f"token_handlers.langchain.{_HOMES[name]}"), name)
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
