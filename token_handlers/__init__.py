"""What every LangChain and LlamaIndex call used and cost."""

from importlib import import_module
from typing import TYPE_CHECKING

from token_handlers.budget import Budget
from token_handlers.counter import TokenCounter
from token_handlers.errors import BudgetExceeded, MissingDependency, TokenHandlersError
from token_handlers.install import install, uninstall
from token_handlers.payloads import usage_from_payload
from token_handlers.pricing import set_price
from token_handlers.recording import add_sink, remove_sink, shared_counter
from token_handlers.tracking import track_tokens
from token_handlers.usage import Usage, UsageRecord, UsageTotals

if TYPE_CHECKING:
    from token_handlers.conversation import ConversationTracker
    from token_handlers.langchain import get_openai_callback
    from token_handlers.sessions import get_llm_token_usage_for_session

__all__ = [
    "Budget",
    "BudgetExceeded",
    "ConversationTracker",
    "MissingDependency",
    "TokenCounter",
    "TokenHandlersError",
    "Usage",
    "UsageRecord",
    "UsageTotals",
    "add_sink",
    "get_llm_token_usage_for_session",
    "get_openai_callback",
    "install",
    "remove_sink",
    "set_price",
    "shared_counter",
    "track_tokens",
    "uninstall",
    "usage_from_payload",
]


# These need a framework, an HTTP client or a database, none of which importing this package is to load.
_HOMES = {
    "ConversationTracker": "conversation",
    "get_llm_token_usage_for_session": "sessions",
    "get_openai_callback": "langchain",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"token_handlers.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
