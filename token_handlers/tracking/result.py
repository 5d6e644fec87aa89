"""Calls that have ended: what their ends tell, what that costs, and what it adds to a counter."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple, Protocol

from token_handlers.counter.totals import Increment, Labelled, increment, label_pairs
from token_handlers.errors import absorb
from token_handlers.pricing import calculator
from token_handlers.tracking.scopes import Labels
from token_handlers.usage import Operation, Outcome, Source


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


Likeness = tuple[object, tuple[str, ...], tuple[int, ...]]
"""What calls have in common, the names of their counts, and one call's numbers under these."""


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

    def alike(self, call: Ended) -> Likeness | None:
        """Return what tells it from calls that differ in their counts alone, and these; None where it is not plain."""

    def known(self) -> Mapping[str, int]:
        """Return the counts where reading fails."""


class Alike:
    """Calls that differ in their counts alone: they have one price plan, and the labels of the first."""

    __slots__ = ("_calls", "_counts", "_first", "_labels", "_names", "_plan")

    def __init__(self, call: Ended, told: Told, names: tuple[str, ...]) -> None:
        call.describe()
        self._first = call  # keeps alive what their key has the identity of
        spent = told.read(call)
        model = spent.model or call.model
        self._labels = _labels(call, model)
        self._plan = calculator.find_plan(
            model,
            call.provider,
            requested=call.model,
            base_url=call.base_url,
            service_tier=spent.service_tier,
            at=call.started_at,
        )
        self._names = names
        self._calls: list[tuple[Ended, Told]] = []
        self._counts: list[tuple[int, ...]] = []

    def add(self, call: Ended, told: Told, counts: tuple[int, ...]) -> bool:
        """Add a call, unless its price is another one."""
        plan = self._plan
        if plan is None or not plan.start <= call.started_at < plan.end:
            return False
        self._calls.append((call, told))
        self._counts.append(counts)
        return True

    def entries(self) -> Iterator[Increment]:
        """Yield what they add: one entry for all, unless the price of one is not the sum of its counts."""
        plan, calls = self._plan, self._calls
        if plan is None or not calls:
            return
        columns = list(zip(*self._counts, strict=True))
        steps = plan.all_steps(self._names, columns)
        if steps is None:
            yield from (entry_of_one(*one) for one in calls)
            return
        numbers = dict(zip(self._names, map(sum, columns), strict=True))
        cost = plan.usd(steps) if plan.priced else None
        entry = increment(numbers, cost=cost, requests=len(calls), labels=self._labels)
        yield entry._replace(priced=len(calls))


def join(groups: dict[object, Alike], call: Ended, told: Told) -> bool:
    """Add a call to those that it is like, and return whether it could be."""
    try:
        found = told.alike(call)
        if found is None:
            return False
        what, names, counts = found
        alike = groups.get((what, names))
        if alike is None:
            alike = groups[what, names] = Alike(call, told, names)
        return alike.add(call, told, counts)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not the application's
        absorb(error, "reading what a call used")
        return False


def entry_of_one(call: Ended, told: Told) -> Increment:
    """Return what a call adds; where it can't be read, what is known of it, as an estimate."""
    try:
        return price_entry(call, told.read(call))[0]
    except Exception as error:  # noqa: BLE001 - as above
        absorb(error, "reading what a call used")
        return increment(told.known(), call.operation, source="estimated")


def price_entry(call: Ended, spent: Spent) -> tuple[Increment, tuple[Decimal | None, str | None]]:
    """Return what a call adds to its counters, and its cost with where that is from."""
    if call.model is None:
        call.describe()
    model = spent.model or call.model
    price = price_spent(call, spent, model)
    cost = price[0]
    labels = _labels(call, model)
    entry = increment(spent.counts, call.operation, spent.outcome, spent.source, cost, cost, spent.requests, labels)
    return entry, price


def price_spent(call: Ended, spent: Spent, model: str | None) -> tuple[Decimal | None, str | None]:
    """Return what a call costs, and where that is from."""
    if spent.outcome == "failed":
        return None, None
    if spent.cost is not None:
        return spent.cost, "reported"
    price = calculator.price_call(
        spent.counts if spent.billed is None else spent.billed,
        model,
        call.provider,
        requested=call.model,
        base_url=call.base_url,
        service_tier=spent.service_tier,
        at=call.started_at,
    )
    return (None, None) if price is None else (price.cost, price.source)


def _labels(call: Ended, model: str | None) -> Labelled:
    return label_pairs(model, call.labels.session, call.labels.user, call.node, call.labels.tags, call.provider)
