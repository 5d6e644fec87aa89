"""What a call adds to a counter, and the sums of that, in all and by label."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import reduce
from itertools import islice
from typing import NamedTuple

from token_handlers.locks import DeferredLock
from token_handlers.usage import EXACT, MEASURES, Operation, Outcome, Source, UsageRecord, UsageTotals, new_tuple

UNKNOWN_MODEL = "(unknown)"
SESSION_MODEL = "\0session"
"""A label within: a session, a provider and a model, divided by NULs."""
BARE = "true"
"""The value of a tag that was given without one."""

MAX_VALUES = 10_000
"""How many values of one label (models, sessions, ...) a counter holds apart; what comes later adds to OTHER."""

OTHER = "(other)"

MAX_APART = 1_000
"""How many combinations of labels are summed apart; beyond it the oldest are added to the sums of their labels."""

MOST_PARTS = 8
"""How many parts of a total stay as they are."""

_ZERO = Decimal(0)
_WITHOUT_OUTPUT = ("embeddings", "rerank")


class CallLabels(NamedTuple):
    """What a call is labelled with; ``tags`` are names and values. The labels that it is summed under are `pairs`."""

    model: str | None = None
    session: str | None = None
    user: str | None = None
    node: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    provider: str | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """Return the labels under which the call is summed; 'tag' sums every tag, a bare one by its name."""
        model = self.model or UNKNOWN_MODEL
        pairs = [("model", model)]
        if self.session is not None:
            pairs.append(("session", self.session))
            pairs.append((SESSION_MODEL, f"{self.session}\0{self.provider or ''}\0{model}"))
        if self.user is not None:
            pairs.append(("user", self.user))
        if self.node is not None:
            pairs.append(("langgraph_node", self.node))
        for name, value in self.tags:
            pairs.append((name, value))
            pairs.append(("tag", name if value == BARE else f"{name}={value}"))
        return pairs


class Increment(NamedTuple):
    """What a call adds to a counter, or what several calls added: nobody changes it.

    Its numbers are by their unit (Usage's fields and the request counts), USD, and the labels under which it is summed,
    None where it has none. ``priced`` is of how many calls ``cost`` is the sum.
    """

    numbers: dict[str, int]
    cost: Decimal | None = None
    saved: Decimal | None = None
    labels: CallLabels | None = None
    cache_saved: Decimal | None = None
    priced: int = 0

    def negated(self) -> "Increment":
        """Return what takes this back."""
        numbers = {name: -number for name, number in self.numbers.items()}
        cost, saved, cache_saved = (
            None if amount is None else amount.copy_negate() for amount in (self.cost, self.saved, self.cache_saved)
        )
        return Increment(numbers, cost, saved, self.labels, cache_saved, -self.priced)

    def known_cost(self) -> Decimal | None:
        """Return the USD, or None where there were requests and none could be priced."""
        return None if not self.priced and self.numbers.get("unpriced_requests") else self.cost or _ZERO

    def totals(self) -> UsageTotals:
        """Return it under the names of the totals."""
        numbers = self.numbers
        totals = {measure.name: numbers[measure.unit] for measure in MEASURES if measure.unit in numbers}
        return UsageTotals(
            **totals,
            cost=self.known_cost(),
            saved_cost=self.saved or _ZERO,
            cache_saved_cost=known_saving(
                self.cache_saved or _ZERO, numbers.get("unpriced_cache_tokens", 0), _cached_tokens(numbers)
            ),
        )


NOTHING = Increment({})

Tables = dict[str, dict[str, Increment]]
"""Sums by a label and its value."""


def summed(increments: Sequence[Increment], labels: CallLabels | None = None) -> Increment:
    """Return the exact sum of increments, as one that has these labels."""
    if not increments:
        return NOTHING
    numbers, costs, saved, _, cache_saved, priced = zip(*increments, strict=True)
    money = [reduce(EXACT.add, filter(None, amounts), _ZERO) for amounts in (costs, saved, cache_saved)]
    return Increment(_sums(numbers), money[0], money[1], labels, money[2], sum(priced))


def _sums(numbers: Sequence[dict[str, int]]) -> dict[str, int]:
    if len(set(map(tuple, numbers))) == 1:  # as nearly always: calls of one kind state the same
        return dict(zip(numbers[0], map(sum, zip(*map(dict.values, numbers), strict=True)), strict=True))
    sums: dict[str, int] = {}
    for each in numbers:
        for name, number in each.items():
            sums[name] = sums.get(name, 0) + number
    return sums


def increment(
    counts: Mapping[str, int],
    operation: Operation = "chat",
    outcome: Outcome = "success",
    source: Source = "reported",
    cost: Decimal | None = None,
    saved: Decimal | None = None,
    requests: int = 1,
    labels: CallLabels | None = None,
    doubted: bool = False,  # noqa: FBT001, FBT002 (a keyword would cost each call a microsecond)
    cache_saved: Decimal | None = None,
) -> Increment:
    """Return what a call adds: its tokens where it was billed, and one to each request count that it belongs to.

    ``doubted`` is whether something billed could not be counted or priced exactly: the request is an estimate then.
    """
    if outcome != "success":
        if outcome == "cached":
            return Increment({"cached_responses": requests}, None, saved, labels)
        return Increment({"failed_requests": requests}, labels=labels)
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
    return new_tuple(Increment, (numbers, cost, None, labels, cache_saved, cost is not None))


def _cached_tokens(counts: Mapping[str, int]) -> int:
    return counts.get("cache_read_tokens", 0) + counts.get("cache_write_tokens", 0)


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
        labels=labels_of(record),
        doubted=bool(record.doubts),
        cache_saved=record.cache_saved_cost,
    )


def labels_of(record: UsageRecord) -> CallLabels:
    """Return the labels of a record's call."""
    tags = tuple(record.tags.items())
    return CallLabels(record.model, record.session, record.user, record.node, tags, record.provider)


class LabelSums:
    """Sums of increments by label, that several threads and the garbage collector may add to at once.

    ``parts`` are a counter's: whoever adds appends to it, whoever reads the total copies it, and neither takes a lock,
    as each is one operation of a list, which is atomic. Too many are replaced by their sum, in one operation as well,
    and added to the sums of their combinations of labels; these are added to the tables of their labels when somebody
    reads one, or when there are too many. Estimates of open calls are taken back when these end.
    """

    __slots__ = ("_apart", "_lock", "_parts", "_resets", "_shown", "_tables")

    def __init__(self, parts: list[Increment]) -> None:
        self._lock = DeferredLock()
        self._parts = parts
        self._apart: dict[CallLabels | None, Increment] = {}
        self._tables: Tables = {}
        self._shown: dict[object, Increment] = {}
        self._resets = 0

    def catch_up(self) -> None:
        """Add what was settled and sum up too many parts, or leave it to whoever has the lock."""
        self._lock.run_soon(self._catch_up)

    def show(self, call: object, estimate: Increment) -> None:
        """Add what a call that is still open is estimated to be, until it is settled or hidden."""
        self._lock.run_soon(lambda: self._show(call, estimate))

    def settle(self, call: object, increment: Increment) -> None:
        """Add a call's increment in place of the estimate, when somebody reads or by `catch_up`.

        An interrupt before it returns has added nothing.
        """
        added = [increment]
        self._lock.defer(lambda: self._replace(call, added))

    def hide(self, call: object) -> None:
        """Subtract the estimate of a call that was never sent, or that another one includes."""
        self._lock.run_soon(lambda: self._replace(call, []))

    def await_settled(self) -> None:
        """Wait until all that this thread has settled is in the parts, where another one that has the lock does it."""
        if self._lock.waiting:
            self._lock.run(_nothing)

    def reading(self) -> tuple[list[Increment], int]:
        """Return the parts as of one moment, and how many times they were cleared before."""
        return self._lock.run(lambda: ([*self._parts], self._resets))

    def by(self, label: str) -> dict[str, Increment]:
        """Return the sums by a label's values."""
        self._lock.run_soon(self._sum_all)  # later, in the middle of the same, in which the garbage collector asks
        return self._lock.run(lambda: {**self._tables.get(label, {}), **self._not_in_tables().get(label, {})})

    def names(self) -> set[str]:
        """Return the names of all labels."""
        return self._lock.run(lambda: {*self._tables, *self._not_in_tables()})

    def clear(self) -> Increment:
        """Remove all but the estimates of open calls, and return the sum of what was removed."""
        parts, shown = self._lock.run(self._clear)
        return summed([*parts, *(estimate.negated() for estimate in shown)])

    # These change what belongs together by statements that call nothing, between which no interrupt comes.

    def _clear(self) -> tuple[list[Increment], list[Increment]]:
        parts, shown = [*self._parts], [*self._shown.values()]
        done, apart, tables = slice(len(parts)), dict[CallLabels | None, Increment](), Tables()
        self._parts[done] = shown
        self._apart, self._tables = apart, tables
        self._resets += 1
        return parts, shown

    def _show(self, call: object, estimate: Increment) -> None:
        if getattr(call, "settled", False):
            return
        self._catch_up()
        before = self._shown.get(call)
        self._parts += (estimate,) if before is None else (before.negated(), estimate)
        self._shown[call] = estimate

    def _replace(self, call: object, added: list[Increment]) -> None:
        """Add increments in place of a call's estimate, where there is one, and take them from the list."""
        self._catch_up()
        estimate = self._shown.get(call)
        if estimate is None:
            self._parts += added
        else:
            self._parts += (estimate.negated(), *added)
            del self._shown[call]
        del added[:]

    def _catch_up(self) -> None:
        if len(self._parts) > MOST_PARTS:
            self._sum_up()
            if len(self._apart) > MAX_APART:
                self._add_to_tables(len(self._apart) - MAX_APART)

    def _sum_all(self) -> None:
        self._sum_up()
        self._add_to_tables(len(self._apart))

    def _sum_up(self) -> None:
        parts = [*self._parts]
        done = slice(len(parts))
        alike: defaultdict[CallLabels | None, list[Increment]] = defaultdict(list)
        for part in parts:
            alike[part.labels].append(part)
        if len(alike) == 1:  # such as a handler's of one model: their sum keeps the labels
            self._parts[done] = [summed(parts, parts[0].labels)]
            return
        alike.pop(None, None)
        sums = {}
        for labels, added in alike.items():
            if labels in self._apart:
                added.append(self._apart[labels])
            sums[labels] = added[0] if len(added) == 1 else summed(added, labels)
        total = [summed(parts)]
        self._apart |= sums
        self._parts[done] = total

    def _add_to_tables(self, number: int) -> None:
        """Add the oldest sums of combinations to the tables of their labels."""
        oldest = {labels: self._apart[labels] for labels in [*islice(self._apart, number)]}
        changed = _plus(self._tables, oldest.values())
        removals = map(self._apart.__delitem__, oldest)
        changes = map(dict.update, [self._tables.setdefault(label, {}) for label in changed], changed.values())
        _ = [*changes, *removals]  # they are made here: in C, so that no interrupt comes between

    def _not_in_tables(self) -> Tables:
        """Return the sums that the tables would have if all were added to them, where these are others."""
        return _plus(self._tables, [*self._apart.values(), *self._parts])


def _nothing() -> None:
    """Do nothing but have the lock."""


def _plus(tables: Tables, parts: Iterable[Increment]) -> Tables:
    """Return the sums of the values that parts are labelled with, by label, as they are with the parts added."""
    added: defaultdict[str, defaultdict[str, list[Increment]]] = defaultdict(lambda: defaultdict(list))
    for numbers, cost, saved, labels, cache_saved, priced in parts:
        part = new_tuple(Increment, (numbers, cost, saved, None, cache_saved, priced))
        for label, value in () if labels is None else labels.pairs():
            added[label][value].append(part)
    return {label: _plus_values(tables.get(label, {}), values) for label, values in added.items()}


def _plus_values(sums: Mapping[str, Increment], added: dict[str, list[Increment]]) -> dict[str, Increment]:
    """Return the sums of one label's values to which something is added; past MAX_VALUES it is added to OTHER."""
    room = max(MAX_VALUES - len(sums), 0)
    late = [value for value in added if value not in sums][room:]
    if late:
        beyond = [part for value in late for part in added.pop(value)]
        added[OTHER] = [*added.get(OTHER, ()), *beyond]
    return {
        value: parts[0] if len(parts) == 1 and value not in sums else summed((sums.get(value, NOTHING), *parts))
        for value, parts in added.items()
    }
