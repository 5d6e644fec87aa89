"""Budgets: LlamaIndex swallows what a dispatcher's handler raises, so calls are refused where their callbacks start.

That is after the start event, which opens the call, and before the request, in every LLM and embedding model.
"""

from collections.abc import Callable
from typing import Any

from token_handlers.errors import BudgetExceeded, shielded
from token_handlers.llama_index import calls, embeddings
from token_handlers.llama_index.spans import current
from token_handlers.tracking.call import Call
from token_handlers.tracking.recorder import reserve
from token_handlers.tracking.reservations import release

_KINDS = ("llm", "embedding")


def start(wrapped: Callable[..., Any], manager: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Stand for CallbackManager.on_event_start: check the call that starts, and tell its handlers of a refusal."""
    event_type = args[0] if args else kwargs.get("event_type")
    if event_type not in _KINDS:
        return wrapped(*args, **kwargs)
    payload = args[1] if len(args) > 1 else kwargs.get("payload")
    event_id = wrapped(*args, **kwargs)
    try:
        _check(event_type, payload)
    except BudgetExceeded as error:
        manager.on_event_end(event_type, payload={"exception": error}, event_id=event_id)
        raise
    return event_id


def check(call: Call) -> None:
    """Reserve for a call that has budgets, once; raises BudgetExceeded."""
    if call.budgets and call.reservations is None:
        for outer in call.parents:
            release(outer, wait=True)  # it only passes on what this one sends, and is about to hold itself
        reserve(call)


@shielded
def _check(event_type: str, payload: Any) -> None:
    span = current.get()
    if span is None:
        return
    if event_type == "embedding":
        for batch in embeddings.next_batches(span):
            check(batch)
    else:
        call = calls.find(span.span_id, _prompt(payload))
        if call is not None:
            check(call)


def _prompt(payload: Any) -> Any:
    return (payload or {}).get("messages") or (payload or {}).get("formatted_prompt")
