"""What every LangChain and LlamaIndex call used and cost."""

from importlib import import_module
from typing import TYPE_CHECKING

from token_handlers.counter import TokenCounter
from token_handlers.errors import BudgetExceeded, MissingDependency, TokenHandlersError
from token_handlers.install import install, uninstall
from token_handlers.payloads import usage_from_payload
from token_handlers.pricing import set_price
from token_handlers.recording import add_sink, remove_sink, shared_counter
from token_handlers.tracking import track_tokens
from token_handlers.usage import Usage, UsageRecord, UsageTotals

if TYPE_CHECKING:
    from token_handlers.langchain import get_openai_callback

__all__ = [
    "BudgetExceeded",
    "MissingDependency",
    "TokenCounter",
    "TokenHandlersError",
    "Usage",
    "UsageRecord",
    "UsageTotals",
    "add_sink",
    "get_openai_callback",
    "install",
    "remove_sink",
    "set_price",
    "shared_counter",
    "track_tokens",
    "uninstall",
    "usage_from_payload",
]


def __getattr__(name: str) -> object:
    # LangChain's part needs langchain-core, which importing this package must not.
    if name == "get_openai_callback":
        return import_module("token_handlers.langchain").get_openai_callback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
