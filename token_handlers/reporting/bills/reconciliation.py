"""A bill beside the calls of a ledger: what differs on each day and of each model, and why."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from token_handlers.reporting.amounts import counted
from token_handlers.reporting.bills.bill import (
    FEES,
    TOKENS,
    BilledSum,
    BillRow,
    ProviderBill,
    parts_of,
    plain_model,
    summed,
)
from token_handlers.reporting.bills.calls import CallSum, LedgerCalls, LedgerSum
from token_handlers.reporting.period import midnight

OPEN_DAYS = 2
"""How many days, today included, a bill may still lack calls of: those of usage come in minutes, of cost in a day."""

NOISE = Decimal("0.000001")
"""USD a row that floats in a bill may be off by, and nobody looks for."""

_ZERO = Decimal(0)
_ALL_MODELS = "(all models)"
_BESIDE = ("storage", "vector store", "fine-tun", "training", "session usage", "code execution")
"""Words of lines that are billed beside calls."""

OF_CALLS = frozenset(("account", "midnight", "unpriced", "estimated"))
"""The kinds that are of calls, and so have a number of requests where the bill has one."""

_EXPLAINED = {
    "account": "of other projects of the account",
    "open": "on days that the bill may still lack calls of",
    "midnight": "under way at midnight UTC, which the bill has on the other day",
    "unpriced": "without a price in the ledger: see token_handlers.set_price and token-handlers reprice",
    "estimated": "of which the ledger says that they are estimates",
    "discount": "discount of the account: token_handlers.set_multiplier makes the ledger's cost the billed one",
    "beside": "billed beside calls",
    "rounded": "rounded away in the export, which has whole cents",
}


class Cause(NamedTuple):
    """Why a part of a difference is there, in USD and requests; ``is_known`` where the ledger or the bill states it."""

    kind: str
    cost: Decimal
    requests: int
    text: str

    @property
    def is_known(self) -> bool:
        """Whether this explains the difference, and is not only what it is likely to be."""
        return self.kind in _EXPLAINED


@dataclass(slots=True)
class Compared:
    """One day and model: what the bill has, what the ledger has, and the causes that add up to the difference."""

    day: date
    model: str
    bill: BilledSum
    calls: LedgerSum
    is_open: bool = False
    causes: list[Cause] = field(default_factory=list)

    @property
    def difference(self) -> Decimal:
        """The bill less the ledger, in USD."""
        return self.bill.cost - self.calls.all.cost

    @property
    def explained(self) -> Decimal:
        """The part of the difference that the ledger or the bill explains."""
        return sum((cause.cost for cause in self.causes if cause.is_known), _ZERO)

    @property
    def requests(self) -> int | None:
        """The requests of the bill less those of the ledger; None where the bill counts none."""
        if self.bill.requests is None and (self.bill.counts or self.bill.cost):
            return None
        return (self.bill.requests or 0) - self.calls.all.requests

    @property
    def tokens(self) -> int | None:
        """The tokens of the bill less those of the ledger; None where the bill counts none."""
        if self.bill.cost and not any(name in self.bill.counts for name in TOKENS):
            return None
        return sum(self.bill.counts.get(name, 0) - self.calls.all.counts.get(name, 0) for name in TOKENS)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """By how much a day may differ: a share of its bill, or USD, whichever is more."""

    share: Decimal = Decimal("0.005")
    usd: Decimal = Decimal("0.01")

    def allows(self, unexplained: Decimal, billed: Decimal) -> bool:
        """Return whether a day is within it."""
        return abs(unexplained) <= max(self.share * abs(billed), self.usd, NOISE)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """All that is compared, from ``since`` to ``until`` (included), in the order of time and model."""

    since: date
    until: date
    rows: list[Compared]

    def off(self, tolerance: Tolerance) -> list[date]:
        """Return the days whose unexplained difference is above a tolerance; open days are not judged."""
        days = {row.day for row in self.rows if not row.is_open}
        sums = {day: [row for row in self.rows if row.day == day] for day in sorted(days)}
        return [day for day, rows in sums.items() if not tolerance.allows(unexplained(rows), billed(rows))]


def billed(rows: Iterable[Compared]) -> Decimal:
    """Return what the bill has for rows."""
    return sum((row.bill.cost for row in rows), _ZERO)


def unexplained(rows: Iterable[Compared]) -> Decimal:
    """Return what differs in rows and is not explained."""
    return sum((row.difference - row.explained for row in rows), _ZERO)


def reconcile(bill: ProviderBill, calls: LedgerCalls, since: date, until: date, now: datetime) -> Reconciliation:
    """Set a bill beside calls, which have to include those of the day before ``since``."""
    rows = [row for row in bill.rows if since <= row.day <= until]
    days = sorted({row.day for row in rows} | {day for day, _ in calls.sums if since <= day <= until})
    compared: list[Compared] = []
    for day in days:
        rows_of_day = [row for row in rows if row.day == day]
        is_whole = not any(row.cost and row.model for row in rows_of_day) and any(
            row.cost and not row.kind for row in rows_of_day
        )
        is_open = _is_open(day, bill.complete_until, now)
        compared += _compare_day(day, list(_placed(rows_of_day, calls, day)), calls, is_whole, is_open)
    return Reconciliation(since, until, compared)


def _is_open(day: date, complete_until: datetime | None, now: datetime) -> bool:
    end = midnight(day + timedelta(days=1))
    if complete_until is not None and complete_until < end:
        return True
    return day > now.astimezone(UTC).date() - timedelta(days=OPEN_DAYS)


def _placed(rows: Sequence[BillRow], calls: LedgerCalls, day: date) -> Iterator[BillRow]:
    """Yield the rows, those of searches and the like under the models that made them.

    Bills have them under no model, and OpenAI's those of gpt-4.1 under gpt-4o.
    """
    named = {plain_model(row.model) for row in rows if row.model and row.kind in FEES}
    for row in rows:
        if row.kind not in FEES:
            yield row
            continue
        made = calls.searches(day, row.kind)
        model = plain_model(row.model) if row.model else None
        if model in made:
            yield row
            continue
        stated = {each.model: each.counts.get(row.kind, 0) for each in rows if each.model and not each.cost}
        shares = {name: number for name, number in stated.items() if name and number} if model is None else {}
        shares = shares or {name: number for name, number in made.items() if name not in named}
        yield from _divided(row, shares) if shares else (row,)


def _divided(row: BillRow, shares: dict[str, int]) -> Iterator[BillRow]:
    total, left, cost_left = sum(shares.values()), dict(row.counts), row.cost
    for position, (model, share) in enumerate(shares.items(), 1):
        is_last = position == len(shares)
        counts = {name: number if is_last else row.counts[name] * share // total for name, number in left.items()}
        cost = cost_left if is_last else row.cost * share / total
        left = {name: number - counts[name] for name, number in left.items()}
        cost_left -= cost
        yield BillRow(row.day, model, cost, row.kind, counts, account=row.account)


def _compare_day(
    day: date,
    rows: Sequence[BillRow],
    calls: LedgerCalls,
    is_whole: bool,  # noqa: FBT001 (of this module)
    is_open: bool,  # noqa: FBT001 (of this module)
) -> Iterator[Compared]:
    """Yield what is compared of a day, model by model, or all models together where the bill has no more than that."""
    before = _of_day(calls, day - timedelta(days=1), is_whole)
    ours = _of_day(calls, day, is_whole)
    found: dict[str, Compared] = {}
    others: dict[str, dict[str, BilledSum]] = {}
    for row in rows:
        model = _ALL_MODELS if is_whole else _label(row)
        if model not in found:
            found[model] = Compared(day, model, BilledSum(), ours.get(model, LedgerSum()), is_open)
        is_other = bool(calls.projects) and row.account is not None and row.account not in calls.projects
        found[model].bill.add(row)
        if is_other:
            others.setdefault(model, {}).setdefault(str(row.account), BilledSum()).add(row)
    for model, sums in ours.items():
        found.setdefault(model, Compared(day, model, BilledSum(), sums, is_open))
    for model in sorted(found):
        compared = found[model]
        compared.causes = list(_causes(compared, before.get(model, LedgerSum()), others.get(model, {}), calls.ids))
        yield compared


def _of_day(calls: LedgerCalls, day: date, is_whole: bool) -> dict[str, LedgerSum]:  # noqa: FBT001 (of this module)
    sums = {model: each for (on, model), each in calls.sums.items() if on == day}
    if not is_whole:
        return sums
    together = LedgerSum()
    for each in sums.values():
        together.merge(each)
    return {_ALL_MODELS: together} if sums else {}


def _label(row: BillRow) -> str:
    return plain_model(row.model) if row.model else row.kind.replace("_", " ") or _ALL_MODELS


def _causes(compared: Compared, before: LedgerSum, others: dict[str, BilledSum], ids: set[str]) -> Iterator[Cause]:
    """Yield the causes of a difference, the certain ones first; each takes its part, and they add up to all of it."""
    bill, ours = compared.bill, CallSum()
    ours.merge(compared.calls.all)
    left = compared.difference
    for account, sums in others.items():
        left -= sums.cost
        yield Cause("account", sums.cost, sums.requests or 0, account)
    own = _without(bill, others.values())
    if compared.is_open:
        if abs(left) > NOISE:
            yield Cause("open", left, _gap(own, ours), "")
        return
    lacked = summed(row for row in own.calls if row.call_id not in ids)
    if lacked.calls and not compared.calls.unidentified:
        left -= lacked.cost
        own = _without(own, [lacked])
        yield Cause("calls", lacked.cost, len(lacked.calls), _named_calls(lacked.calls))
    for across, sign in ((before.across, 1), (compared.calls.across, -1)):
        if across.requests and _brings_closer(own, ours, across, sign):
            ours.merge(across, sign)
            left -= sign * across.cost
            yield Cause("midnight", sign * across.cost, sign * across.requests, "")
    for cause in _certain(compared, own, left):
        left -= cause.cost
        yield cause
    for cause in _likely(compared, own, ours, left) if abs(left) > NOISE else ():
        left -= cause.cost
        yield cause
    if abs(left) > NOISE:
        yield Cause("price", left, 0, _price_text(own, ours, left))


def _certain(compared: Compared, own: BilledSum, left: Decimal) -> Iterator[Cause]:
    """Yield what the ledger or the bill states of a difference."""
    unpriced = compared.calls.unpriced
    if unpriced.requests and left > NOISE:
        cost = min(own.value(unpriced.counts), left)
        left -= cost
        yield Cause("unpriced", cost, unpriced.requests, "")
    discount = own.cost - own.list_cost
    if discount and abs(left - discount) < abs(left):
        left -= discount
        yield Cause("discount", discount, 0, "")
    if any(word in compared.model.lower() for word in _BESIDE) and not compared.calls.all.requests:
        yield Cause("beside", left, 0, compared.model)
        return
    if own.rounding and NOISE < abs(left) <= own.rounding:
        yield Cause("rounded", left, 0, "")


def _likely(compared: Compared, own: BilledSum, ours: CallSum, left: Decimal) -> Iterator[Cause]:
    """Yield what follows from counts that differ: fees, calls that one side lacks, and estimates."""
    gaps = _gaps(own, ours)
    for kind in FEES:
        gap = gaps.pop(kind, 0)
        cost, what = own.value({kind: gap}), _fees(gap, kind)
        if kind in own.costs and kind not in own.counts and not ours.counts.get(kind):
            gap, cost, what = 1, own.costs[kind], _SEVERAL[kind]
        if gap and cost:
            cost = _within(cost, left)
            left -= cost
            yield Cause("fees", cost, 0, f"{what} {_lacked_by(gap)}")
    requests, estimated = _gap(own, ours), compared.calls.estimated
    value = own.value(gaps) if gaps else _ZERO
    if requests and own.requests:
        mean = round(own.cost / own.requests * requests, 12)
        cost = _within(mean if estimated.requests or not value else value, left)
        if not ours.requests:
            cost = left
        left -= cost
        yield Cause("calls", cost, requests, f"{counted(abs(requests), 'request')} {_lacked_by(requests)}")
    elif ours.requests and not own.cost and not own.requests:
        yield Cause("calls", left, -ours.requests, _only_ours(compared, ours))
        return
    elif ours.requests == 0 and own.cost:
        yield Cause("calls", left, 0, "no call of it is in the ledger")
        return
    if estimated.requests and abs(left) > NOISE:
        most = estimated.cost  # an estimate may be all wrong, and half of the truth
        cost = max(-most, min(most, left))
        left -= cost
        yield Cause("estimated", cost, estimated.requests, "")
    if any(gaps.values()) and not requests and abs(left) > NOISE and value:
        cost = _within(value, left)
        tokens = sum(gaps.get(name, 0) for name in TOKENS)
        yield Cause("tokens", cost, 0, f"{counted(abs(tokens), 'token')} {_lacked_by(tokens)}")


_NAMES = {"web_searches": "web search", "storage_searches": "file search", "container_sessions": "container session"}
_SEVERAL = {
    "web_searches": "web searches",
    "storage_searches": "file searches",
    "container_sessions": "container sessions",
}


def _fees(gap: int, kind: str) -> str:
    return f"{abs(gap):,} {_NAMES[kind] if abs(gap) == 1 else _SEVERAL[kind]}"


def _named_calls(rows: Sequence[BillRow]) -> str:
    named = ", ".join(str(row.call_id) for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
    return f"{counted(len(rows), 'request')} that the ledger lacks: {named}"


def _lacked_by(gap: int) -> str:
    return "that the ledger lacks" if gap > 0 else "that the bill lacks"


def _only_ours(compared: Compared, ours: CallSum) -> str:
    hosts = ", ".join(sorted(compared.calls.hosts))
    return f"{counted(ours.requests, 'request')} that the bill lacks" + (f", answered by {hosts}" if hosts else "")


def _within(cost: Decimal, left: Decimal) -> Decimal:
    """Return a cost, at most all that is left of a difference in its direction."""
    return min(max(cost, _ZERO), left) if left > 0 else max(min(cost, _ZERO), left)


def _without(bill: BilledSum, others: Collection[BilledSum]) -> BilledSum:
    """Return a bill less parts of it."""
    theirs = {row.call_id for other in others for row in other.calls}
    calls = [row for row in bill.calls if row.call_id not in theirs]
    own = BilledSum(bill.cost, bill.list_cost, bill.rounding, dict(bill.costs), dict(bill.counts), bill.requests, calls)
    for other in others:
        own.cost -= other.cost
        own.list_cost -= other.list_cost
        own.rounding -= other.rounding
        own.costs = {kind: cost - other.costs.get(kind, _ZERO) for kind, cost in own.costs.items()}
        own.counts = {name: number - other.counts.get(name, 0) for name, number in own.counts.items()}
        if own.requests is not None:
            own.requests -= other.requests or 0
    return own


def _gap(bill: BilledSum, ours: CallSum) -> int:
    return 0 if bill.requests is None else bill.requests - ours.requests


def _gaps(bill: BilledSum, ours: CallSum) -> dict[str, int]:
    """Return the counts of the bill, as far as it states any, less those of the ledger."""
    return {name: number - ours.counts.get(name, 0) for name, number in bill.counts.items()}


def _brings_closer(bill: BilledSum, ours: CallSum, moved: CallSum, sign: int) -> bool:
    """Return whether the two sides are closer where calls are moved from one day to another."""
    if not bill.counts:
        left = bill.cost - ours.cost
        return abs(left - sign * moved.cost) < abs(left)
    then = CallSum()
    then.merge(ours)
    then.merge(moved, sign)
    return _distance(bill, then) < _distance(bill, ours)


def _distance(bill: BilledSum, ours: CallSum) -> int:
    return sum(abs(gap) for gap in parts_of(_gaps(bill, ours), bill.counts).values())


_FACTORS = {
    Decimal("0.5"): "batches and flex cost",
    Decimal("1.1"): "a region may cost",
    Decimal(2): "fast and priority may cost",
}


def _price_text(own: BilledSum, ours: CallSum, left: Decimal) -> str:
    if not ours.requests:
        return "no call of it is in the ledger"
    if not own.counts or any(_gaps(own, ours).values()):
        return "of unknown cause"
    if not ours.cost:
        return "the tokens are the same, and the price is not"
    factor = (ours.cost + left) / ours.cost
    likely = next((f", as {what}" for each, what in _FACTORS.items() if abs(factor - each) < each / 200), "")
    return f"the tokens are the same, and the price is {factor:.4g} times the ledger's{likely}"


def explanation(kind: str) -> str:
    """Return what a kind of cause that is known means."""
    return _EXPLAINED[kind]
