"""Models that call other models in their own code: an answer that they pass on is billed once."""

from collections.abc import Iterator
from uuid import UUID

from token_handlers.langchain import calls
from token_handlers.langchain.calls import Run
from token_handlers.tracking.call import Call, parent_finders
from token_handlers.tracking.frames import callers_named
from token_handlers.tracking.reservations import release

# LangChain's functions, and a model's own ones, which know the run that they are of.
RUN_CODE = frozenset(
    {
        "_generate_with_cache",
        "_agenerate_with_cache",
        "stream",
        "astream",
        "_generate",
        "_agenerate",
        "_stream",
        "_astream",
        "_call",
        "_acall",
        "_call_with_config",  # a decision model's; other chains' runs are not among the open ones
    }
)


def join(run: Run, last: Run | None) -> None:
    """Link a starting run to the calls in whose code it starts, and count it for their handlers as well.

    ``last`` is the run that was started last in this context: LangChain starts a task for a decision model's code,
    which is not on the stack of what starts there.
    """
    if len(calls.open_runs) > 1:
        for parent in runs_on_stack():
            if parent is not run:
                _link(run, parent)
        if last is not None and last.is_decision and not last.settled:
            _link(run, last)
    for find_parents in parent_finders:
        if find_parents is not link:
            find_parents(run)


def link(call: Call) -> None:
    """Link a call of another framework to the runs in whose code it starts, and count it for their handlers as well."""
    if calls.open_runs and call.operation != "embeddings" and not isinstance(call, Run):
        for parent in runs_on_stack():
            _link(call, parent)


def _link(call: Call, parent: Run) -> None:
    call.add_parent(parent)
    release(parent, wait=True)  # the call reserves it itself
    for counter in parent.context.own:
        call.count_for(counter)


def runs_on_stack() -> Iterator[Run]:
    """Yield the open runs whose model's code is being executed here, innermost first.

    A model gives no callbacks to those that it calls in its own code, so the stack has to say.
    """
    for frame in callers_named(RUN_CODE):
        run_id = getattr(frame.f_locals.get("run_manager"), "run_id", None)
        run = calls.newest(run_id) if isinstance(run_id, UUID) else None
        if run is not None:
            yield run
