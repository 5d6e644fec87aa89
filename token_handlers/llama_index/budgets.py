"""Budgets refuse a call where its CallbackManager starts it, as LlamaIndex swallows what a dispatcher's handler raises.

In every LLM and embedding model that is after the start event, which opens the call, and before the request.
"""

import functools
from collections.abc import Callable
from typing import Any

from token_handlers.errors import BudgetExceeded, absorb
from token_handlers.llama_index import calls, embeddings
from token_handlers.llama_index.spans import ModelSpan, current
from token_handlers.tracking.call import Call
from token_handlers.tracking.recorder import reserve
from token_handlers.tracking.reservations import release

_KINDS = ("llm", "embedding")


def checking(on_event_start: Callable[..., str]) -> Callable[..., str]:
    """Return a replacement of CallbackManager.on_event_start that checks each call; a refusal ends the call's event.

    It is not made by `wrap`, which would cost every event its steps. It does nothing outside of the spans that we note.
    """

    @functools.wraps(on_event_start)
    def on_checked_start(manager: Any, event_type: Any, payload: Any = None, *args: Any, **kwargs: Any) -> str:
        event_id = on_event_start(manager, event_type, payload, *args, **kwargs)
        span = current.get()
        if span is not None and event_type in _KINDS:
            try:
                _check(span, event_type, payload)
            except BudgetExceeded as error:
                manager.on_event_end(event_type, payload={"exception": error}, event_id=event_id)
                raise
            except Exception as error:  # noqa: BLE001 - as `shielded`, without its frame
                absorb(error, on_checked_start.__qualname__)
        return event_id

    return on_checked_start


def check(call: Call) -> None:
    """Reserve for a call that has budgets, once; raises BudgetExceeded."""
    if call.budgets and call.reservations is None:
        for outer in call.parents:
            release(outer, wait=True)  # the outer call sends nothing itself, and this one is about to reserve the same
        reserve(call)


def _check(span: ModelSpan, event_type: str, payload: Any) -> None:
    if event_type == "embedding":
        for batch in embeddings.next_batches(span):
            check(batch)
        return
    call = calls.by_span.get(span.span_id)
    if call is not None and call.next_same_id is not None:
        call = calls.find(span.span_id, calls.prompt_of(payload or {}))
    if call is not None:
        check(call)
