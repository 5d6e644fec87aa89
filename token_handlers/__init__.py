"""What every LangChain and LlamaIndex call used and cost."""

from typing import TYPE_CHECKING

from token_handlers.budget.budget import Budget
from token_handlers.conversation import ConversationTracker
from token_handlers.counter.counter import TokenCounter
from token_handlers.errors import BudgetExceeded, MissingDependency, TokenHandlersError
from token_handlers.install import install, uninstall
from token_handlers.payloads import usage_from_payload
from token_handlers.pricing.calculator import set_price
from token_handlers.sessions import get_llm_token_usage_for_session
from token_handlers.tracking.recorder import add_sink, remove_sink
from token_handlers.tracking.state import shared_counter
from token_handlers.tracking.track_tokens import track_tokens
from token_handlers.usage import Usage, UsageRecord, UsageTotals

if TYPE_CHECKING:
    from token_handlers.langchain import openai_callback

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


def get_openai_callback() -> "openai_callback.get_openai_callback":
    """Count the LangChain calls inside the block; yields a LangChainTokenHandler, for every provider's models.

    In place of langchain-community's, with its attributes and its printed lines. LangChain is imported by the call.
    """
    from token_handlers.langchain import openai_callback

    return openai_callback.get_openai_callback()
