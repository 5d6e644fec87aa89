"""Lanes: what the calls that start in the same blocks have in common, and the sums of those that have ended.

An ended call joins its lane's queue, and that is all that it costs the application. It is read, priced and added up
when a total is asked for, or with a hundred others; calls that differ in their counts alone are summed as integers.
"""

import threading
from collections import deque
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple, Protocol

from token_handlers import pricing
from token_handlers.counter import TokenCounter
from token_handlers.errors import absorb
from token_handlers.process import process
from token_handlers.scopes import NO_LABELS, Labels, Scope, active_scopes
from token_handlers.tallies import Entry, Labelled, label_pairs, make_entry
from token_handlers.usage import Operation, Outcome, Source

MAX_WAITING = 100
"""How many ended calls a lane keeps before it adds them up by itself."""


class Spent(NamedTuple):
    """What the end of a call tells.

    ``model`` is the name that the provider answered with, ``cost`` what the provider itself reported, in USD, and
    ``billed`` what prices the call where that is not what it used.
    """

    counts: Mapping[str, int]
    model: str | None = None
    source: Source = "reported"
    method: str | None = None
    outcome: Outcome = "success"
    cost: Decimal | None = None
    service_tier: str | None = None
    billed: Mapping[str, int] | None = None
    requests: int = 1


class Ended(Protocol):
    """A call that has ended."""

    operation: Operation
    model: str | None
    provider: str | None
    base_url: str | None
    node: str | None
    labels: Labels
    started_at: float

    def describe(self) -> None:
        """Fill in what the start event carried."""


class Told(Protocol):
    """What the end of a call told, to be read later: numbers and names alone, no text is to wait in it."""

    def read(self, call: Ended) -> Spent:
        """Return what the call used."""

    def alike(self, call: Ended) -> "tuple[object, Mapping[str, int]] | None":
        """Return its counts, and what tells it from calls that differ in these alone; None where that is not plain."""

    def known(self) -> Mapping[str, int]:
        """Return the counts where reading fails."""


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
        self.counters = (process.counter, *(counter for counter in self.own if counter is not process.counter))
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

    def apply(self, entry: Entry) -> None:
        """Add an entry to each counter."""
        for counter in self.counters:
            counter.apply(entry)

    def drain(self, *, wait: bool = True) -> None:
        """Read, price and add up what is queued; without ``wait`` only where no other thread is at it."""
        alike: dict[object, _Alike] = {}
        if not self._lock.acquire(blocking=wait):
            return
        try:
            try:
                while self._ended:
                    call, told = self._ended.popleft()
                    try:
                        if not _join(alike, call, told):
                            self.apply(price_entry(call, told.read(call))[0])
                    except Exception as error:  # noqa: BLE001 - whatever it is, it is not the application's
                        self.apply(make_entry(told.known(), call.operation, source="estimated"))
                        absorb(error, "reading what a call used")
            finally:
                for calls in alike.values():
                    self.apply(calls.entry())
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


class _Alike:
    """Calls that differ in their counts alone: they have one price plan, and the labels of the first."""

    __slots__ = ("_call", "_labels", "_numbers", "_plan", "_requests", "_steps")

    def __init__(self, call: Ended, spent: Spent) -> None:
        call.describe()
        model = spent.model or call.model
        self._call = call  # keeps alive what its key has the identity of
        self._labels = _labels(call, model)
        self._plan = pricing.find_plan(
            model,
            call.provider,
            requested=call.model,
            base_url=call.base_url,
            service_tier=spent.service_tier,
            at=call.started_at,
        )
        self._numbers: dict[str, int] = {}
        self._requests = self._steps = 0

    def add(self, counts: Mapping[str, int], started_at: float) -> bool:
        """Add a call, unless its price is not the sum of its counts."""
        plan = self._plan
        if plan is None or not plan.start <= started_at < plan.end:
            return False
        steps = plan.steps(counts)
        if steps is None:
            return False
        self._steps += steps
        self._requests += 1
        numbers = self._numbers
        for name, number in counts.items():
            numbers[name] = numbers.get(name, 0) + number
        return True

    def entry(self) -> Entry:
        """Return what they add."""
        cost = self._plan.usd(self._steps) if self._plan is not None and self._plan.priced else None
        entry = make_entry(self._numbers, cost=cost, requests=self._requests, labels=self._labels)
        return entry._replace(priced=self._requests)


def _join(groups: dict[object, _Alike], call: Ended, told: Told) -> bool:
    """Add a call to those that it is like, and return whether it could be."""
    found = told.alike(call)
    if found is None:
        return False
    key, counts = found
    alike = groups.get(key)
    if alike is None:
        alike = groups[key] = _Alike(call, told.read(call))
    return alike.add(counts, call.started_at)


_process_lane = Lane(())


def lane_here() -> Lane:
    """Return the lane of a call that starts here."""
    scopes = active_scopes()
    if not scopes:
        return _process_lane
    lane = scopes[-1].lane
    if not isinstance(lane, Lane) or lane.scopes != scopes:
        lane = scopes[-1].lane = Lane(scopes)
    return lane


def renew_locks() -> None:
    """Replace in a forked child what a thread of the parent may have held."""
    _process_lane.renew_lock()


def price_entry(call: Ended, spent: Spent) -> tuple[Entry, tuple[Decimal | None, str | None]]:
    """Return what a call adds to its counters, and its cost with where that is from."""
    if call.model is None:
        call.describe()
    model = spent.model or call.model
    price = price_spent(call, spent, model)
    cost = price[0]
    labels = _labels(call, model)
    entry = make_entry(spent.counts, call.operation, spent.outcome, spent.source, cost, cost, spent.requests, labels)
    return entry, price


def price_spent(call: Ended, spent: Spent, model: str | None) -> tuple[Decimal | None, str | None]:
    """Return what a call costs, and where that is from."""
    if spent.outcome == "failed":
        return None, None
    if spent.cost is not None:
        return spent.cost, "reported"
    price = pricing.price_call(
        spent.counts if spent.billed is None else spent.billed,
        model,
        call.provider,
        requested=call.model,
        base_url=call.base_url,
        service_tier=spent.service_tier,
        at=call.started_at,
    )
    return price if price is not None else (None, None)


def _labels(call: Ended, model: str | None) -> Labelled:
    return label_pairs(model, call.labels.session, call.labels.user, call.node, call.labels.tags, call.provider)
