"""LangChain's callbacks, turned into usage records."""

from importlib import import_module
from typing import TYPE_CHECKING

from token_handlers.errors import MissingDependency

try:
    import langchain_core as _langchain_core  # noqa: F401 (is it installed?)
except ImportError as error:
    raise MissingDependency("langchain-core", "langchain") from error

if TYPE_CHECKING:
    from token_handlers.langchain.callback import get_bedrock_anthropic_callback, get_openai_callback
    from token_handlers.langchain.embeddings import TrackedEmbeddings
    from token_handlers.langchain.handler import LangChainTokenHandler
    from token_handlers.langchain.streams import report_stream_usage

__all__ = [
    "LangChainTokenHandler",
    "TrackedEmbeddings",
    "get_bedrock_anthropic_callback",
    "get_openai_callback",
    "report_stream_usage",
]

# Imported when they are asked for: the hook is attached while LangChain itself is being imported.
_HOMES = {
    "LangChainTokenHandler": "handler",
    "TrackedEmbeddings": "embeddings",
    "get_bedrock_anthropic_callback": "callback",
    "get_openai_callback": "callback",
    "report_stream_usage": "streams",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"token_handlers.langchain.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
