"""Models that call other models in their own code: whose answer they pass on is billed once."""

import sys
from collections.abc import Iterator
from types import FrameType
from uuid import UUID

from token_handlers.langchain import calls
from token_handlers.langchain.calls import Run
from token_handlers.tracking.call import made_by_others
from token_handlers.tracking.reservations import release

# LangChain's functions, and those that a model has of its own, which know the run that they are of.
_OWN_CODE = frozenset(
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
    }
)


def join(run: Run) -> None:
    """Tell the calls in whose code a run starts that they make it, and count it for their handlers as well."""
    if calls.others_open():
        for outer in _around(run):
            run.add_parent(outer)
            release(outer, wait=True)  # the run holds it itself
            for counter in outer.lane.own:
                run.count_for(counter)
    for ask in made_by_others:
        ask(run)


def _around(run: Run) -> Iterator[Run]:
    """Yield the runs of the models in whose code this one starts; they give it no callbacks, so the stack tells."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 (there is no public way without copies)
    while frame is not None:
        if frame.f_code.co_name in _OWN_CODE:
            run_id = getattr(frame.f_locals.get("run_manager"), "run_id", None)
            outer = calls.newest(run_id) if isinstance(run_id, UUID) else None
            if outer is not None and outer is not run:
                yield outer
        frame = frame.f_back
