"""What every LangChain and LlamaIndex call used and cost.

Three ways in. A block::

    from token_handlers import track_tokens

    with track_tokens() as tokens:
        model.invoke("Hello")
    print(tokens)

A whole process, with AGENTSIGHT_TOKEN_HANDLER_TYPE=auto in its environment::

    import token_handlers.auto
    ...
    print(token_handlers.shared_counter())

A handler in a callbacks list::

    from token_handlers import LangChainTokenHandler

    handler = LangChainTokenHandler()
    model.invoke("Hello", config={"callbacks": [handler]})
    print(handler)

And one without a line of code: ``token-handlers run app.py``.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

if sys.version_info < (3, 11):  # noqa: UP036 (a copied package, or a pip that does not ask)
    raise ImportError(f"token_handlers needs Python 3.11 or newer; this is {sys.version.split()[0]}")

if TYPE_CHECKING:
    from token_handlers.budget.budget import Budget
    from token_handlers.conversation import ConversationTracker
    from token_handlers.conversation import conversation_tracker as conversation_tracker
    from token_handlers.counter.counter import TokenCounter
    from token_handlers.errors import BudgetExceeded, MissingDependency, TokenHandlersError
    from token_handlers.install import install, shared_counter, uninstall
    from token_handlers.langchain import LangChainTokenHandler as LangChainTokenHandler
    from token_handlers.langchain import openai_callback
    from token_handlers.llama_index import LlamaIndexTokenHandler as LlamaIndexTokenHandler
    from token_handlers.payloads import usage_from_payload
    from token_handlers.pricing.calculator import set_price
    from token_handlers.reporting.foresight import estimate
    from token_handlers.sessions import get_llm_token_usage_for_session
    from token_handlers.sinks.postgres import SQLLedger
    from token_handlers.sinks.sqlite import SQLiteLedger
    from token_handlers.tracking.recorder import add_sink, remove_sink
    from token_handlers.tracking.tool_costs import record_cost
    from token_handlers.tracking.track_tokens import track_tokens
    from token_handlers.usage import Usage, UsageRecord, UsageTotals

# A framework that is not installed must not break `from token_handlers import *`, so the handlers are not in __all__.
__all__ = [
    "Budget",
    "BudgetExceeded",
    "ConversationTracker",
    "MissingDependency",
    "SQLLedger",
    "SQLiteLedger",
    "TokenCounter",
    "TokenHandlersError",
    "Usage",
    "UsageRecord",
    "UsageTotals",
    "add_sink",
    "estimate",
    "get_llm_token_usage_for_session",
    "get_openai_callback",
    "install",
    "record_cost",
    "remove_sink",
    "report_stream_usage",
    "set_price",
    "shared_counter",
    "track_tokens",
    "uninstall",
    "usage_from_payload",
]

# Public name -> the module that has it. Each is imported when somebody asks for it: the pytest plugin and the processes
# that only find the package installed pay for nothing.
_HOMES = {
    "Budget": "budget.budget",
    "BudgetExceeded": "errors",
    "ConversationTracker": "conversation",
    "LangChainTokenHandler": "langchain",
    "LlamaIndexTokenHandler": "llama_index",
    "MissingDependency": "errors",
    "SQLLedger": "sinks.postgres",
    "SQLiteLedger": "sinks.sqlite",
    "TokenCounter": "counter.counter",
    "TokenHandlersError": "errors",
    "Usage": "usage",
    "UsageRecord": "usage",
    "UsageTotals": "usage",
    "conversation_tracker": "conversation",
    "add_sink": "tracking.recorder",
    "estimate": "reporting.foresight",
    "get_llm_token_usage_for_session": "sessions",
    "install": "install",
    "record_cost": "tracking.tool_costs",
    "remove_sink": "tracking.recorder",
    "set_price": "pricing.calculator",
    "shared_counter": "install",
    "track_tokens": "tracking.track_tokens",
    "uninstall": "install",
    "usage_from_payload": "payloads",
}
# Modules that are attributes without an import of their own, as `token_handlers.pricing.reset_prices()`.
_MODULES = (
    *("budget", "conversation", "counter", "errors", "guide", "lifecycle", "locks", "payloads", "pricing", "sessions"),
    *("settings", "sinks", "tokenizer", "tracking", "usage"),
)

Model = TypeVar("Model")


def get_openai_callback() -> "openai_callback.get_openai_callback":
    """Count the LangChain calls inside the block; yields a LangChainTokenHandler, for every provider's models.

    In place of langchain-community's, with its attributes and its printed lines. LangChain is imported by the call.
    """
    from token_handlers.langchain import openai_callback

    return openai_callback.get_openai_callback()


def report_stream_usage(model: Model) -> Model:
    """Return a copy of a LangChain or LlamaIndex model that asks its server for usage when it streams.

    Models that always report are returned as they are; what is no model is a TypeError.
    """
    is_llama_index = any(kind.__module__.startswith("llama_index.") for kind in type(model).__mro__)
    home = "token_handlers.llama_index" if is_llama_index else "token_handlers.langchain"
    asking: Model = importlib.import_module(home).report_stream_usage(model)
    return asking


class _Package(ModuleType):
    """This package, in which ``install`` is the function: the import of the module of that name must not replace it."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

if not TYPE_CHECKING:  # to a type checker, what is not imported above is not there

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_HOMES})
