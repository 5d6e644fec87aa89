"""The tools of LangChain and LangGraph whose code is being executed, from their own events."""

from uuid import UUID

from langchain_core.runnables.config import var_child_runnable_config

from token_handlers.tracking.surroundings import Activity, activity


class ToolRun(Activity):
    """One run of a tool; ``caller`` is the id of the run that called it.

    The context in which a tool starts is its caller's, and a tool that is cancelled may have no end: what starts in the
    caller's own code is not the tool's.
    """

    __slots__ = ("caller", "run_id")

    def __init__(self, name: str, run_id: UUID, caller: UUID | None, outer: Activity | None) -> None:
        super().__init__("tool", name, outer)
        self.run_id = run_id
        self.caller = caller

    def is_left(self) -> bool:
        """Return whether the run here is the caller's again."""
        return _run_here() == self.caller


def enter(name: object, run_id: UUID, caller: UUID | None) -> None:
    """Note that a tool starts here, once however many handlers see it."""
    outer = activity.get()
    if not isinstance(name, str) or not name or (isinstance(outer, ToolRun) and outer.run_id == run_id):
        return
    while isinstance(outer, ToolRun) and outer.is_left():
        outer = outer.outer
    activity.set(ToolRun(name, run_id, caller, outer))


def leave(run_id: UUID) -> None:
    """Note that a tool has ended."""
    here = activity.get()
    if isinstance(here, ToolRun) and here.run_id == run_id:
        activity.set(here.outer)


def _run_here() -> UUID | None:
    """Return the run in whose code this is, None outside of all."""
    config = var_child_runnable_config.get()
    return getattr(config.get("callbacks"), "parent_run_id", None) if config else None
