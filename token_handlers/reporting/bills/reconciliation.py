"""A bill beside the calls of a ledger, day by day and model by model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from token_handlers.reporting.bills.bill import FEES, BilledSum, BillRow, ProviderBill, plain_model
from token_handlers.reporting.bills.calls import LedgerCalls, LedgerSum
from token_handlers.reporting.bills.causes import find_causes
from token_handlers.reporting.bills.compared import NOISE, Compared, billed, unexplained
from token_handlers.reporting.period import midnight

OPEN_DAYS = 2
"""How many days, today included, a bill may still lack calls of: those of usage come in minutes, of cost in a day."""

ALL_MODELS = "(all models)"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """By how much a day may differ: a share of its bill, or USD, whichever is more."""

    share: Decimal = Decimal("0.005")
    usd: Decimal = Decimal("0.01")

    def allows(self, difference: Decimal, bill: Decimal) -> bool:
        """Return whether a day is within it."""
        return abs(difference) <= max(self.share * abs(bill), self.usd, NOISE)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """All that is compared, from ``since`` to ``until`` (included), in the order of time and model."""

    since: date
    until: date
    rows: list[Compared]

    def off(self, tolerance: Tolerance) -> list[date]:
        """Return the days whose unexplained difference is above a tolerance; open days are not judged."""
        days: dict[date, list[Compared]] = {}
        for row in self.rows:
            if not row.is_open:
                days.setdefault(row.day, []).append(row)
        return [day for day, rows in days.items() if not tolerance.allows(unexplained(rows), billed(rows))]


def reconcile(bill: ProviderBill, calls: LedgerCalls, since: date, until: date, now: datetime) -> Reconciliation:
    """Set a bill beside calls, which have to include those of the day before ``since``."""
    days: dict[date, list[BillRow]] = {day: [] for day, _ in calls.sums}
    for row in bill.rows:
        days.setdefault(row.day, []).append(row)
    compared = [
        each
        for day in sorted(days)
        if since <= day <= until
        for each in _compare_day(day, days[day], calls, is_open=_is_open(day, bill.complete_until, now))
    ]
    return Reconciliation(since, until, compared)


def _is_open(day: date, complete_until: datetime | None, now: datetime) -> bool:
    if complete_until is not None and complete_until < midnight(day + timedelta(days=1)):
        return True
    return day > now.astimezone(UTC).date() - timedelta(days=OPEN_DAYS)


def _compare_day(day: date, rows: Sequence[BillRow], calls: LedgerCalls, *, is_open: bool) -> Iterator[Compared]:
    """Yield what is compared of a day, model by model, or all models together where the bill has no more than that."""
    is_whole = _is_whole(rows)
    before, ours = (_of_day(calls, each, is_whole=is_whole) for each in (day - timedelta(days=1), day))
    bills: dict[str, BilledSum] = {model: BilledSum() for model in ours}
    others: dict[str, dict[str, BilledSum]] = {}
    for row in rows if is_whole else _placed(rows, calls, day):
        model = ALL_MODELS if is_whole else _label(row)
        bills.setdefault(model, BilledSum()).add(row)
        if calls.projects and row.account is not None and row.account not in calls.projects:
            others.setdefault(model, {}).setdefault(row.account, BilledSum()).add(row)
    for model in sorted(bills):
        compared = Compared(day, model, bills[model], ours.get(model, LedgerSum()), is_open)
        found = find_causes(compared, before.get(model, LedgerSum()), others.get(model, {}), calls.ids)
        compared.causes = list(found)
        yield compared


def _is_whole(rows: Sequence[BillRow]) -> bool:
    """Return whether a day's money is under no model and no kind."""
    paid = [row for row in rows if row.cost]
    return not any(row.model for row in paid) and any(not row.kind for row in paid)


def _of_day(calls: LedgerCalls, day: date, *, is_whole: bool) -> dict[str, LedgerSum]:
    sums = {model: each for (on, model), each in calls.sums.items() if on == day}
    if not is_whole or not sums:
        return sums
    together = LedgerSum()
    for each in sums.values():
        together.merge(each)
    return {ALL_MODELS: together}


def _label(row: BillRow) -> str:
    return plain_model(row.model) if row.model else row.kind.replace("_", " ") or ALL_MODELS


def _placed(rows: Sequence[BillRow], calls: LedgerCalls, day: date) -> Iterator[BillRow]:
    """Yield the rows, those of searches and the like under the models that made them.

    Bills have them under no model, and OpenAI's those of gpt-4.1 under gpt-4o.
    """
    named = {plain_model(row.model) for row in rows if row.model and row.kind in FEES}
    for row in rows:
        made = calls.searches(day, row.kind) if row.kind in FEES else {}
        if row.kind not in FEES or (row.model and plain_model(row.model) in made):
            yield row
            continue
        stated = {each.model: each.counts.get(row.kind, 0) for each in rows if each.model and not each.cost}
        shares = {name: number for name, number in stated.items() if name and number} if row.model is None else {}
        shares = shares or {name: number for name, number in made.items() if name not in named}
        yield from _divided(row, shares) if shares else (row,)


def _divided(row: BillRow, shares: dict[str, int]) -> Iterator[BillRow]:
    """Yield a row's parts for models in these shares, which add up to it."""
    total, counts, cost = sum(shares.values()), dict(row.counts), row.cost
    for position, (model, share) in enumerate(shares.items(), 1):
        part = {name: row.counts[name] * share // total for name in counts}
        part, paid = (counts, cost) if position == len(shares) else (part, row.cost * share / total)
        counts = {name: number - part[name] for name, number in counts.items()}
        cost -= paid
        yield BillRow(row.day, model, paid, row.kind, part, account=row.account)
