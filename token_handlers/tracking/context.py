"""Lanes: what the calls that start in the same blocks have in common, and the sums of those that have ended.

An ended call joins its lane's queue, and that is all that it costs the application. It is read, priced and added up
when a total is asked for, or with a hundred others; calls that differ in their counts alone are summed as integers.
"""

import threading
from collections import deque

from token_handlers.counter.counter import TokenCounter
from token_handlers.counter.totals import Increment
from token_handlers.tracking.result import Alike, Ended, Told, entry_of_one, join
from token_handlers.tracking.scopes import NO_LABELS, Scope, active_scopes
from token_handlers.tracking.state import state

MAX_WAITING = 100
"""How many ended calls a lane keeps before it adds them up by itself."""


class Lane:
    """The counters, labels, sinks and budgets of the calls that start in the same blocks, and their queue."""

    __slots__ = (
        "__weakref__",
        "_ended",
        "_last",
        "_lock",
        "_marked",
        "budgets",
        "counters",
        "labels",
        "own",
        "scopes",
        "sinks",
    )

    def __init__(self, scopes: tuple[Scope, ...], *more: TokenCounter) -> None:
        self.scopes = scopes
        self.own = tuple(dict.fromkeys((*(scope.counter for scope in scopes), *more)))
        self.counters = (state.counter, *(counter for counter in self.own if counter is not state.counter))
        self.labels = scopes[-1].labels if scopes else NO_LABELS
        self.sinks = tuple(sink for scope in scopes for sink in scope.sinks)
        self.budgets = tuple(dict.fromkeys(budget for scope in scopes for budget in scope.budgets))
        self._ended: deque[tuple[Ended, Told]] = deque()
        self._lock = threading.RLock()  # a call that is read may warn, and what logs the warning may read a counter
        self._marked = False
        self._last: Lane | None = None

    def plus(self, counter: TokenCounter) -> "Lane":
        """Return the lane of calls that one more counter counts."""
        if counter in self.counters:
            return self
        if self._last is None or self._last.own[-1] is not counter:
            self._last = Lane(self.scopes, *self.own, counter)
        return self._last

    def is_like(self, other: "Lane") -> bool:
        """Return whether calls of the other lane count as those of this one do."""
        return (self.counters, self.labels, self.budgets) == (other.counters, other.labels, other.budgets)

    def add(self, call: Ended, told: Told) -> None:
        """Queue an ended call."""
        ended = self._ended
        ended.append((call, told))
        if not self._marked:
            self._mark()
        if len(ended) > MAX_WAITING:
            self.drain(wait=False)

    def is_heard(self) -> bool:
        """Return whether a listener wants the record of each call."""
        return any(counter.listeners for counter in self.counters)

    def apply(self, entry: Increment) -> None:
        """Add an entry to each counter."""
        for counter in self.counters:
            counter.apply(entry)

    def drain(self, *, wait: bool = True) -> None:
        """Read, price and add up what is queued; without ``wait`` only where no other thread is at it."""
        groups: dict[object, Alike] = {}
        if not self._lock.acquire(blocking=wait):
            return
        try:
            try:
                while self._ended:
                    call, told = self._ended.popleft()
                    if not join(groups, call, told):
                        self.apply(entry_of_one(call, told))
            finally:
                for alike in groups.values():
                    for entry in alike.entries():
                        self.apply(entry)
            self._unmark()
        finally:
            self._lock.release()

    def renew_lock(self) -> None:
        """Replace the lock: for a forked child, in which a thread that held it does not exist."""
        self._lock = threading.RLock()

    def _mark(self) -> None:
        for counter in self.counters:
            counter.queues.add(self)
        self._marked = True

    def _unmark(self) -> None:
        self._marked = False  # before all else: what comes in from now on sets its own mark, or is seen below
        for counter in self.counters:
            counter.queues.discard(self)
        if self._ended:  # one that came in between, whose mark may just have been taken away
            self._mark()


_process_lane = Lane(())


def lane_here() -> Lane:
    """Return the lane of a call that starts here."""
    scopes = active_scopes()
    if not scopes:
        return _process_lane
    lane: Lane | None = scopes[-1].lane
    if lane is None or (lane.scopes is not scopes and lane.scopes != scopes):
        lane = scopes[-1].lane = Lane(scopes)
    return lane


def renew_locks() -> None:
    """Replace in a forked child what a thread of the parent may have held."""
    _process_lane.renew_lock()
