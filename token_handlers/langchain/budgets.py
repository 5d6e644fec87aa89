"""Checking an LLM run against its budgets where it starts, and what a refusal leaves behind in LangChain."""

import inspect
import sys
from types import FrameType

from token_handlers.errors import BudgetExceeded
from token_handlers.langchain.calls import Run
from token_handlers.tracking.recorder import discard
from token_handlers.tracking.recorder import reserve as reserve_call

_STARTS = ("inline_tasks", "non_inline_tasks")


def reserve(run: Run) -> None:
    """Hold what a run may use in its budgets; one that is refused takes those with it that were to be sent together.

    LangChain tells of no end of them: it raises before it sends the first.
    """
    try:
        if run.batch is not None and run.batch.refusal is not None:
            raise run.batch.refusal
        reserve_call(run)
    except BudgetExceeded as error:
        if run.batch is not None:
            run.batch.refusal = error
        for other in run.batch.runs if run.batch is not None else (run,):
            other.forget()
            discard(other)
        _close_starts()
        raise


def _close_starts() -> None:
    """Close the start events that LangChain has made as coroutines and, as one has raised, will not await.

    Python would warn of each, and LangChain has no hand on them any more.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 (as in scopes)
    while frame is not None and _STARTS[0] not in frame.f_code.co_varnames:
        frame = frame.f_back
    for name in _STARTS if frame is not None else ():
        for start in frame.f_locals.get(name, ()):  # type: ignore[union-attr]  # checked above
            if inspect.iscoroutine(start) and inspect.getcoroutinestate(start) == inspect.CORO_CREATED:
                start.close()
