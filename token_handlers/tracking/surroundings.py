"""What labels a call beside its blocks: the agent, the tool and the framework's run in whose code it starts."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import NamedTuple

from token_handlers.counter.counter import TokenCounter
from token_handlers.settings import Settings
from token_handlers.tracking.scopes import Labels

MOST_CHARACTERS = 200
"""How much of a label's value is taken."""


class Activity:
    """What is being executed, and labels the calls that it makes: "agent", "tool" or "run_name" is its ``label``."""

    __slots__ = ("label", "name", "outer")

    def __init__(self, label: str, name: str, outer: "Activity | None") -> None:
        self.label = label
        self.name = name
        self.outer = outer

    def is_left(self) -> bool:
        """Return whether this is no longer its code, though its end did not reach this context."""
        return False


activity: ContextVar[Activity | None] = ContextVar("token_handlers_activity", default=None)
"""The innermost activity here."""


class RunLabels(NamedTuple):
    """The labels of a call that starts in a framework's run, and LangGraph's node."""

    labels: Labels
    node: str | None = None


class RunSource(NamedTuple):
    """Of a framework, what returns None where no run of it is here, and of the run that is here what adds its labels,
    and what returns the counters of the handlers that it was given.
    """

    here: Callable[[], object]
    add_labels: Callable[[Labels], RunLabels | None]
    counters: Callable[[], Sequence[TokenCounter]]


run_sources: list[RunSource] = []
"""The frameworks whose runs label the calls of others, such as an SDK's, that start in their code."""


def in_run() -> bool:
    """Return whether a run of a framework is here; cheap, as it is asked for each call."""
    for source in run_sources:  # noqa: SIM110 - a generator takes longer than all of this
        if source.here() is not None:
            return True
    return False


def labels_here(labels: Labels) -> Labels:
    """Return a call's labels with the names of the activities here, of each kind the innermost; a block's go first."""
    found: dict[str, str] = {}
    around = activity.get()
    while around is not None:
        if around.label not in found and is_chosen(around.label) and not around.is_left():
            found[around.label] = around.name[:MOST_CHARACTERS]
        around = around.outer
    if not any(found.values()):
        return labels
    return labels._replace(tags={**{label: name for label, name in found.items() if name}, **labels.tags})


def labels_in_run(labels: Labels) -> RunLabels:
    """Return the labels of a call that no framework's run labels by itself, and its node."""
    labels, node = labels_here(labels), None
    for source in run_sources:
        found = source.add_labels(labels)
        if found is not None:
            labels, node = found.labels, found.node or node
    return RunLabels(labels, node)


def counters_in_run() -> tuple[TokenCounter, ...]:
    """Return the counters of the handlers that the runs here were given."""
    return tuple(counter for source in run_sources for counter in source.counters())


class _Choice:
    """The labels that AGENTSIGHT_TOKEN_LABELS names, None for all; read with the first label and by install()."""

    names: frozenset[str] | None = None
    is_read = False


def is_chosen(label: str) -> bool:
    """Return whether a label that a framework states is taken."""
    if not _Choice.is_read:
        choose_labels(Settings())
    return _Choice.names is None or label in _Choice.names


def choose_labels(settings: Settings) -> None:
    """Take the labels that the settings name from now on."""
    _Choice.names, _Choice.is_read = settings.chosen_labels, True
