"""What a call adds to a counter, and the sums of that, in all and by label."""

import operator
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import NamedTuple

from token_handlers.locks import DeferredLock
from token_handlers.usage import EXACT, MEASURES, Operation, Outcome, Source, UsageRecord, UsageTotals

UNKNOWN_MODEL = "(unknown)"
SESSION_MODEL = "\0session"
"""A label within: a session, a provider and a model, divided by NULs."""
BARE = "true"
"""The value of a tag that was given without one."""

MAX_VALUES = 10_000
"""How many values of one label (models, sessions, ...) a counter holds apart; what comes later adds to OTHER."""

OTHER = "(other)"

_MAX_APART = 64
"""How many combinations of labels are summed apart before the oldest is added to the sums of its labels."""

_MOST_WAITING = 8
"""How many increments wait before they are added."""

Labelled = tuple[tuple[str, str], ...]

_add, _subtract = EXACT.add, EXACT.subtract
_ZERO = Decimal(0)
_NO_NUMBERS: Mapping[str, int] = {}
_WITHOUT_OUTPUT = ("embeddings", "rerank")

new_tuple = tuple.__new__
"""Makes a NamedTuple of all its fields: its own __new__ is a function in Python, which takes as long as some calls."""


class Increment(NamedTuple):
    """What a call adds to a counter: numbers by their unit (Usage's fields and the request counts), USD, and the labels
    under which it is summed.
    """

    numbers: Mapping[str, int]
    cost: Decimal | None
    saved: Decimal | None
    labels: Labelled
    cache_saved: Decimal | None = None


def increment(
    counts: Mapping[str, int],
    operation: Operation = "chat",
    outcome: Outcome = "success",
    source: Source = "reported",
    cost: Decimal | None = None,
    saved: Decimal | None = None,
    requests: int = 1,
    labels: Labelled = (),
    doubted: bool = False,  # noqa: FBT001, FBT002 (a keyword would cost each call a microsecond)
    cache_saved: Decimal | None = None,
) -> Increment:
    """Return what a call adds: its tokens where it was billed, and one to each request count that it belongs to.

    ``doubted`` is whether something billed could not be counted or priced exactly: the request is an estimate then.
    """
    if outcome != "success":
        if outcome == "cached":
            return Increment({"cached_responses": requests}, None, saved, labels)
        return Increment({"failed_requests": requests}, None, None, labels)
    numbers = {**counts, "successful_requests": requests}
    if operation in _WITHOUT_OUTPUT:
        numbers.pop("output_tokens", None)
        if "input_tokens" in numbers:
            numbers["embedding_tokens"] = numbers.pop("input_tokens")
    if source == "manual":
        del numbers["successful_requests"]
    elif doubted or source == "estimated":
        numbers["estimated_requests"] = requests
    if cost is None:  # also of tokens that were counted by hand
        numbers["unpriced_requests"] = requests
    if cache_saved is None and (counts.get("cache_read_tokens") or counts.get("cache_write_tokens")):
        numbers["unpriced_cache_tokens"] = _cached_tokens(counts)
    return new_tuple(Increment, (numbers, cost, None, labels, cache_saved))


def _cached_tokens(counts: Mapping[str, int]) -> int:
    return counts.get("cache_read_tokens", 0) + counts.get("cache_write_tokens", 0)


class RunningTotal:
    """One running sum; its counter's lock guards it. Its ``numbers`` are replaced, never changed: others have them."""

    __slots__ = ("cache_saved", "cost", "numbers", "priced", "saved")

    def __init__(self, first: Increment | None = None) -> None:
        self.numbers: Mapping[str, int] = _NO_NUMBERS
        self.cost = self.saved = self.cache_saved = _ZERO
        self.priced = 0  # how many increments have a cost
        if first is not None:
            self.numbers = first.numbers
            if first.cost is not None:
                self.cost, self.priced = first.cost, 1
            if first.saved is not None:
                self.saved = first.saved
            if first.cache_saved is not None:
                self.cache_saved = first.cache_saved

    def add(self, increment: Increment) -> None:
        """Add an increment."""
        self.numbers = _sums(self.numbers, increment.numbers)
        if increment.cost is not None:
            self.cost = _add(self.cost, increment.cost)
            self.priced += 1
        if increment.saved is not None:
            self.saved = _add(self.saved, increment.saved)
        if increment.cache_saved is not None:
            self.cache_saved = _add(self.cache_saved, increment.cache_saved)

    def add_total(self, other: "RunningTotal") -> None:
        """Add another sum."""
        self.numbers = _sums(self.numbers, other.numbers)
        self.cost = _add(self.cost, other.cost)
        if other.saved:
            self.saved = _add(self.saved, other.saved)
        if other.cache_saved:
            self.cache_saved = _add(self.cache_saved, other.cache_saved)
        self.priced += other.priced

    def copy(self) -> "RunningTotal":
        """Return another sum of the same."""
        other = RunningTotal()
        other.numbers, other.cost, other.saved, other.priced = self.numbers, self.cost, self.saved, self.priced
        other.cache_saved = self.cache_saved
        return other

    def subtract(self, increment: Increment) -> None:
        """Subtract an increment that was added."""
        self.numbers = _sums(self.numbers, {name: -number for name, number in increment.numbers.items()})
        if increment.cost is not None:
            self.cost = _subtract(self.cost, increment.cost)
            self.priced -= 1
        if increment.cache_saved is not None:
            self.cache_saved = _subtract(self.cache_saved, increment.cache_saved)

    def totals(self) -> UsageTotals:
        """Return the sum as it is now."""
        numbers = self.numbers
        totals = {measure.name: numbers[measure.unit] for measure in MEASURES if measure.unit in numbers}
        return UsageTotals(
            **totals,
            cost=self.known_cost(),
            saved_cost=self.saved,
            cache_saved_cost=known_saving(
                self.cache_saved, numbers.get("unpriced_cache_tokens", 0), _cached_tokens(numbers)
            ),
        )

    def known_cost(self) -> Decimal | None:
        """Return the USD, or None where there were requests and none could be priced."""
        return None if not self.priced and self.numbers.get("unpriced_requests") else self.cost


def _sums(numbers: Mapping[str, int], more: Mapping[str, int]) -> Mapping[str, int]:
    if [*numbers] == [*more]:  # as nearly always: calls of one kind state the same
        return dict(zip(numbers, map(operator.add, numbers.values(), more.values()), strict=True))
    return {**numbers, **{name: numbers.get(name, 0) + number for name, number in more.items()}}


def known_saving(saved: Decimal, unpriced_tokens: int, cached_tokens: int) -> Decimal | None:
    """Return what a prompt cache saved, or None where that is not known of any token that was read or written."""
    return None if unpriced_tokens and unpriced_tokens == cached_tokens else saved


def increment_of(record: UsageRecord) -> Increment:
    """Return what a record adds."""
    return increment(
        record.usage.model_dump(exclude={"total_tokens"}, exclude_unset=True),
        operation=record.operation,
        outcome=record.outcome,
        source=record.source,
        cost=record.cost,
        saved=record.saved_cost,
        requests=record.requests,
        labels=label_pairs(record.model, record.session, record.user, record.node, record.tags, record.provider),
        doubted=bool(record.doubts),
        cache_saved=record.cache_saved_cost,
    )


def label_pairs(
    model: str | None,
    session: str | None,
    user: str | None,
    node: str | None,
    tags: Mapping[str, str],
    provider: str | None = None,
) -> Labelled:
    """Return the labels under which a call is summed; 'tag' sums every tag, a bare one by its name."""
    named = ("model", model or UNKNOWN_MODEL)
    if session is None and user is None and node is None and not tags:
        return (named,)
    pairs = [named]
    if session is not None:
        pairs.append(("session", session))
        pairs.append((SESSION_MODEL, f"{session}\0{provider or ''}\0{model or UNKNOWN_MODEL}"))
    if user is not None:
        pairs.append(("user", user))
    if node is not None:
        pairs.append(("langgraph_node", node))
    for name, value in tags.items():
        pairs.append((name, value))
        pairs.append(("tag", name if value == BARE else f"{name}={value}"))
    return tuple(pairs)


class LabelSums:
    """Sums of increments, in all and by label, that several threads and the garbage collector may add to at once.

    An increment is added to the sum of its combination of labels alone; reading adds these up.
    """

    __slots__ = ("__weakref__", "_apart", "_labels", "_lock", "_shown", "_total")

    def __init__(self) -> None:
        self._lock = DeferredLock()
        self._apart: dict[Labelled, RunningTotal] = {}
        self._total = RunningTotal()
        self._labels: dict[str, dict[str, RunningTotal]] = {}
        self._shown: dict[object, Increment] = {}

    def apply(self, increment: Increment) -> None:
        """Add an increment: whoever reads next does it, or the call with which too many wait."""
        waiting = self._lock.waiting
        waiting.append(partial(self._add, increment))
        if len(waiting) >= _MOST_WAITING:
            self._lock.catch_up()

    def show(self, call: object, estimate: Increment) -> None:
        """Add what a call that is still open is estimated to be, until it is settled or hidden."""
        self._lock.run_soon(lambda: self._show(call, estimate))

    def settle(self, call: object, increment: Increment) -> None:
        """Add a call's increment in place of the estimate, atomically."""
        self._lock.run_soon(lambda: self._hide(call, increment))

    def hide(self, call: object) -> None:
        """Subtract the estimate of a call that was never sent, or that another one includes."""
        self._lock.run_soon(lambda: self._hide(call))

    def renew_lock(self) -> None:
        """Replace the lock: for a forked child, in which a thread that held it does not exist."""
        self._lock.renew()

    def _add(self, increment: Increment) -> None:
        total = self._apart.get(increment.labels)
        if total is not None:
            total.add(increment)
            return
        if len(self._apart) >= _MAX_APART:
            oldest = next(iter(self._apart))
            self._add_up(oldest, self._apart.pop(oldest))
        self._apart[increment.labels] = RunningTotal(increment)

    def _subtract(self, increment: Increment) -> None:
        self._add_all_up()
        self._total.subtract(increment)
        for label, value in increment.labels:
            self._sum_of(label, value).subtract(increment)

    def _add_up(self, labels: Labelled, total: RunningTotal) -> None:
        self._total.add_total(total)
        for label, value in labels:
            values = self._labels.setdefault(label, {})
            if value not in values and len(values) < MAX_VALUES:  # such as a new session's
                values[value] = total.copy()
            else:
                self._sum_of(label, value).add_total(total)

    def _add_all_up(self) -> None:
        for labels, total in self._apart.items():
            self._add_up(labels, total)
        self._apart.clear()

    def _sum_of(self, label: str, value: str) -> RunningTotal:
        values = self._labels.setdefault(label, {})
        total = values.get(value)
        if total is None:
            if len(values) >= MAX_VALUES:
                value = OTHER
            total = values.setdefault(value, RunningTotal())
        return total

    def _show(self, call: object, estimate: Increment) -> None:
        if getattr(call, "settled", False):
            return
        self._hide(call)
        self._shown[call] = estimate
        self._add(estimate)

    def _hide(self, call: object, increment: Increment | None = None) -> None:
        estimate = self._shown.pop(call, None)
        if estimate is not None:
            self._subtract(estimate)
        if increment is not None:
            self._add(increment)
