"""What a budget's refusal of an LLM run leaves behind in LangChain."""

import inspect

from token_handlers.errors import BudgetExceeded
from token_handlers.langchain.calls import Run
from token_handlers.tracking import recorder
from token_handlers.tracking.frames import callers

_STARTS = ("inline_tasks", "non_inline_tasks")


class _Refusal(BudgetExceeded):
    """Raises a BudgetExceeded where LangChain is about to log it: there would be a warning beside the exception.

    LangChain writes the repr of what a callback raises, and then raises it. This one is raised to have that asked for.
    """

    def __init__(self, error: BudgetExceeded) -> None:
        super().__init__(str(error), **vars(error))
        self._error: BudgetExceeded | None = error

    def __repr__(self) -> str:
        error, self._error = self._error, None
        if error is None:
            return super().__repr__()
        raise error.with_traceback(None) from None


def refused(run: Run, error: BudgetExceeded) -> BudgetExceeded:
    """Discard a run that a budget refuses, with the others of its batch, and return the error to raise.

    LangChain fires no end of them: it raises before it sends the first.
    """
    if run.batch is not None:
        run.batch.refusal = error
    for other in run.batch.runs if run.batch is not None else (run,):
        recorder.discard(other)
    _close_starts()
    return _Refusal(error)


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
