"""The tools of LangChain and LangGraph whose code is being executed, and the names of outermost runs.

A run starts in its caller's context, which stays as it is while a stream is read, and where a run is cancelled that may
have no end. So what says where code runs is the run of LangChain's own variable: in the caller's code it is the caller.
"""

from uuid import UUID

from token_handlers.langchain.run_config import run_config
from token_handlers.tracking.surroundings import Activity, activity

MAX_RUNS = 10_000
"""How many outermost runs are followed at once; beyond it the oldest, whose end may never come, is forgotten."""

_UNNAMED = ("Runnable", "LangGraph")
"""How the names begin that LangChain and LangGraph give to runs that nobody has named."""


class RunActivity(Activity):
    """One run of a tool, or an outermost run; ``caller`` is the id of the run that called it, None outside of all."""

    __slots__ = ("caller", "is_ambiguous", "run_id")

    def __init__(self, label: str, name: str, run_id: UUID, caller: UUID | None, outer: Activity | None) -> None:
        super().__init__(label, name, outer)
        self.run_id = run_id
        self.caller = caller
        self.is_ambiguous = False

    def is_left(self) -> bool:
        """Return whether the run here is the caller's again, or nobody knows which of several it is in."""
        return self.is_ambiguous or _run_here() == self.caller


_outermost: dict[UUID, RunActivity] = {}
"""The outermost runs that have a name, or start where one has, and have not ended."""


def enter_tool(name: object, run_id: UUID, caller: UUID | None) -> None:
    """Note that a tool starts here, once however many handlers see it."""
    outer = activity.get()
    if not isinstance(name, str) or not name or (isinstance(outer, RunActivity) and outer.run_id == run_id):
        return
    while isinstance(outer, RunActivity) and outer.is_left():
        outer = outer.outer
    activity.set(RunActivity("tool", name, run_id, caller, outer))


def leave_tool(run_id: UUID) -> None:
    """Note that a tool has ended."""
    here = activity.get()
    if isinstance(here, RunActivity) and here.run_id == run_id:
        activity.set(here.outer)


def enter_outermost(name: object, run_id: UUID) -> None:
    """Note that an outermost run starts here, if somebody has named it.

    A batch starts all of its runs before it does their work: of runs with different names nobody knows whose that is.
    """
    outer = activity.get()
    if not isinstance(name, str) or name.startswith(_UNNAMED):
        name = ""
    if not name and outer is None:
        return
    if run_id in _outermost:
        return
    started = RunActivity("run_name", name, run_id, None, None)
    while isinstance(outer, RunActivity) and outer.is_left():
        if outer.run_id in _outermost and outer.name != name:
            outer.is_ambiguous = started.is_ambiguous = True
        outer = outer.outer
    started.outer = outer
    if len(_outermost) >= MAX_RUNS:
        _outermost.pop(next(iter(_outermost)), None)
    _outermost[run_id] = started
    activity.set(started)


def leave_outermost(run_id: UUID | None) -> None:
    """Note that an outermost run has ended."""
    ended = _outermost.pop(run_id, None) if run_id is not None and _outermost else None
    if ended is not None and activity.get() is ended:
        activity.set(ended.outer)


def _run_here() -> UUID | None:
    """Return the run in whose code this is, None outside of all."""
    config = run_config()
    return getattr(config.get("callbacks"), "parent_run_id", None) if config else None
