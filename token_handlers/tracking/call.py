"""Calls that have started, until they end."""

import asyncio
import time
from collections.abc import Callable, Mapping

from token_handlers.budget.budget import Budget
from token_handlers.budget.limits import Hold
from token_handlers.counter.counter import TokenCounter
from token_handlers.tracking.context import Lane, lane_here
from token_handlers.tracking.scopes import Budgets, Labels
from token_handlers.tracking.state import state
from token_handlers.usage import Operation

MAX_OPEN_CALLS = 10_000
"""How many calls may be open at once; beyond it the oldest is recorded as an estimate."""

open_calls: "dict[Call, bool]" = {}
"""The calls that have started and not yet ended, the oldest first. Whoever takes a call out is the one to record it."""


class Call:
    """A call that has started: what its end does not tell. A framework's package adds what it knows of the call.

    ``parents`` are the calls that made this one, and ``child_usages`` the counts of those that it made itself,
    None where it made none: it may only pass on what they used.
    """

    # Class attributes are the defaults: a call is made in the application's time, and most of them stay as they are.
    labels: Labels
    operation: Operation = "chat"
    model: str | None = None
    provider: str | None = None
    base_url: str | None = None
    node: str | None = None
    budgets: Budgets = ()
    holds: Mapping[Budget, Hold] | None = None
    settled = False
    task: "tuple[asyncio.Task[object], Callable[[object], None]] | None" = None
    shown = False
    parents: "tuple[Call, ...]" = ()
    child_usages: list[Mapping[str, int]] | None = None

    def __init__(self, lane: Lane | None = None) -> None:
        self.started_at = time.time()
        if lane is None:
            lane = lane_here()
        self.lane = lane
        self.labels = lane.labels
        if lane.budgets or state.budgets:
            self.budgets = tuple(dict.fromkeys((*state.budgets, *lane.budgets)))
        for counter in lane.own:
            counter.open_calls.add(self)
        open_calls[self] = True

    def count_for(self, counter: TokenCounter) -> None:
        """Add this call to one more counter, once."""
        self.lane = self.lane.plus(counter)
        counter.open_calls.add(self)

    def estimate_prompt(self) -> int:
        """Return the tokens of what is about to be sent, estimated."""
        raise NotImplementedError

    def max_output(self) -> int:
        """Return the most output tokens that the call allows, 0 where it does not say."""
        return 0

    def estimate(self) -> tuple[dict[str, int], str]:
        """Return counts from what the events carried so far, and how they were estimated."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what the framework's package keeps of this call."""

    def describe(self) -> None:
        """Fill in model, provider and labels from what the start event carried."""

    def add_parent(self, outer: "Call") -> None:
        """Note that another call makes this one."""
        if outer not in self.parents:
            self.parents = (*self.parents, outer)
        if outer.child_usages is None:
            outer.child_usages = []

    def reports_own_usage(self, counts: Mapping[str, int]) -> bool:
        """Return whether counts that this call reports are others than those of the calls that it made.

        Input and output tell: whatever parts are named beside them, two ways of telling the same usage agree on these.
        """
        if not self.child_usages:
            return False
        sides = ("input_tokens", "output_tokens")
        theirs = [tuple(map(one.get, sides)) for one in self.child_usages]
        total = tuple(sum(one.get(side, 0) for one in self.child_usages) for side in sides)
        return tuple(map(counts.get, sides)) not in (*theirs, total)


made_by_others: list[Callable[[Call], None]] = []
"""Whom to ask by which calls of another framework a call is made that starts here."""
