"""What the tests of budgets in LlamaIndex share: budgets that must let go of everything, and a user's own handler."""

import contextlib
from collections.abc import Callable, Iterator

from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.callbacks.schema import CBEventType, EventPayload

from tests.support.llama_index_clients import no_swallowed_faults
from token_handlers import Budget, BudgetExceeded, uninstall
from token_handlers.budget import Amounts
from token_handlers.llama_index import calls, hook
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.embeddings import EmbeddingBatch
from token_handlers.tracking.call import open_calls


@contextlib.contextmanager
def settled() -> Iterator[Callable[..., Budget]]:
    """Yield a maker of budgets; afterwards no call is open, nothing is held, and no fault was swallowed.

    What is attached stays, as other tests count on it.
    """
    made: list[Budget] = []

    def make(**terms):
        made.append(Budget(**terms))
        return made[-1]

    with no_swallowed_faults():
        yield make
    uninstall()
    hook.attach()
    assert [Amounts()] * len(made) == [budget.held() for budget in made]
    assert {} == calls.by_span
    assert not any(isinstance(call, ModelCall | EmbeddingBatch) for call in open_calls)


def refusal(action: Callable[[], object], tries: int = 10) -> BudgetExceeded:
    """Do something until it is refused, and return the error."""
    for _ in range(tries):
        try:
            action()
        except BudgetExceeded as error:
            return error
    raise AssertionError(f"nothing was refused in {tries} tries")


class Pairs(BaseCallbackHandler):
    """A user's handler that notes what starts and how it ends; ``open`` is what has not ended."""

    def __init__(self):
        super().__init__([], [])
        self.started = 0
        self.open: set[str] = set()
        self.errors: list[BaseException] = []

    def on_event_start(self, event_type, payload=None, event_id="", parent_id="", **kwargs):
        if event_type in (CBEventType.LLM, CBEventType.EMBEDDING):
            self.open.add(event_id)
            self.started += 1
        return event_id

    def on_event_end(self, event_type, payload=None, event_id="", **kwargs):
        self.open.discard(event_id)
        if EventPayload.EXCEPTION in (payload or {}):
            self.errors.append(payload[EventPayload.EXCEPTION])

    def start_trace(self, trace_id=None):
        pass

    def end_trace(self, trace_id=None, trace_map=None):
        pass
