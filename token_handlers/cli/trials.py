"""A call of each framework's own mock model, to see that it is counted with the versions that are installed."""

from collections.abc import Callable

from token_handlers.tracking.track_tokens import track_tokens


def is_counted(call: Callable[[], object]) -> bool:
    """Return whether one call is counted once."""
    with track_tokens() as counter:
        call()
    return counter.successful_requests == 1


def call_langchain() -> None:
    """Invoke a model that answers from a list; LangSmith is not told of it."""
    from langchain_core.language_models.fake_chat_models import FakeListChatModel
    from langsmith import tracing_context

    with tracing_context(enabled=False):
        FakeListChatModel(responses=["yes"]).invoke("there?")


def call_llama_index() -> None:
    """Ask a model that echoes."""
    from llama_index.core.llms import MockLLM

    MockLLM().complete("there?")


CALLS: dict[str, Callable[[], None]] = {"langchain-core": call_langchain, "llama-index-core": call_llama_index}
