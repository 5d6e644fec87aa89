"""Checking an LLM run against its budgets where it starts, and what a refusal leaves behind in LangChain."""

import inspect

from token_handlers.errors import BudgetExceeded
from token_handlers.langchain.calls import Run
from token_handlers.tracking import recorder
from token_handlers.tracking.frames import callers

_STARTS = ("inline_tasks", "non_inline_tasks")


def reserve(run: Run) -> None:
    """Reserve what a run may use in its budgets; one that is refused takes along what was to be sent with it.

    LangChain fires no end of them: it raises before it sends the first.
    """
    try:
        if run.batch is not None and run.batch.refusal is not None:
            raise run.batch.refusal
        recorder.reserve(run)
    except BudgetExceeded as error:
        if run.batch is not None:
            run.batch.refusal = error
        for other in run.batch.runs if run.batch is not None else (run,):
            recorder.discard(other)
        _close_starts()
        raise


def _close_starts() -> None:
    """Close the start events that LangChain has made as coroutines and, as one has raised, will not await.

    Python would warn of each, and LangChain has no hand on them any more.
    """
    for frame in callers():
        if _STARTS[0] in frame.f_code.co_varnames:
            for name in _STARTS:
                for start in frame.f_locals.get(name, ()):
                    if inspect.iscoroutine(start) and inspect.getcoroutinestate(start) == inspect.CORO_CREATED:
                        start.close()
            return
