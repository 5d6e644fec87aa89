"""Which of LlamaIndex's agents and tools the code here runs in, from the spans of their steps and calls."""

from collections import OrderedDict
from typing import Any

from token_handlers.tracking.surroundings import Activity, activity

MAX_RUNS = 10_000
"""How many runs of agents are followed at once; the tools of an older run are recorded without their agent."""

_STEPS = (".run_agent_step-", ".call_tool-")

_running: OrderedDict[str, str] = OrderedDict()
"""The name of the agent whose turn it is, by the span id of the run."""


class OpenSpan(Activity):
    """One span of a tool, or of a step of an agent."""

    __slots__ = ("span_id",)

    def __init__(self, label: str, name: str, span_id: str) -> None:
        super().__init__(label, name, activity.get())
        self.span_id = span_id


def enter_tool(span_id: str, tool: Any) -> None:
    """Note that the span of a tool begins here."""
    name = tool.metadata.name
    if isinstance(name, str) and name:
        activity.set(OpenSpan("tool", name, span_id))


def enter_step(span_id: str, arguments: Any, run_id: str | None) -> None:
    """Note that a step of an agent begins here: one that asks its model, or one that calls its tool.

    Only the arguments of the first name the agent; the second belongs to the agent of the same run.
    """
    if not any(step in span_id for step in _STEPS):
        return
    stated = getattr(arguments.arguments.get("ev"), "current_agent_name", None)
    if isinstance(stated, str) and stated and run_id is not None:
        _running[run_id] = stated
        if len(_running) > MAX_RUNS:
            _running.popitem(last=False)
    name = stated or _running.get(run_id or "")
    if isinstance(name, str) and name:
        activity.set(OpenSpan("agent", name, span_id))


def leave(span_id: str) -> None:
    """Note that a span has ended: a tool's, a step's, or that of an agent's run."""
    _running.pop(span_id, None)
    here = activity.get()
    if isinstance(here, OpenSpan) and here.span_id == span_id:
        activity.set(here.outer)
