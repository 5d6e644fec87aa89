"""Totals added up: days to months, and all but the most expensive to what the others used."""

import functools
from collections.abc import Iterable, Mapping
from decimal import Decimal

from token_handlers.counter.totals import OTHER
from token_handlers.reporting.text import arranged
from token_handlers.sinks.sql.groups import Groups
from token_handlers.usage import EXACT, UsageTotals

_NUMBERS = tuple(name for name in UsageTotals.model_fields if name not in ("cost", "cache_saved_cost"))


def added(several: Iterable[UsageTotals]) -> UsageTotals:
    """Return the sum of totals; an amount is unknown where it is unknown of each."""
    several = list(several)
    sums = {name: sum(getattr(totals, name) for totals in several) for name in _NUMBERS}
    amounts = {name: _known(getattr(totals, name) for totals in several) for name in ("cost", "cache_saved_cost")}
    return UsageTotals(**sums, **amounts)


def _known(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """Return the sum of what is known; None where nothing is, unless there is nothing at all."""
    several = list(amounts)
    known = [amount for amount in several if amount is not None]
    return functools.reduce(EXACT.add, known, Decimal(0)) if known or not several else None


def by_month(days: Mapping[str, UsageTotals]) -> dict[str, UsageTotals]:
    """Return totals by month of those by day (ISO dates)."""
    months: dict[str, list[UsageTotals]] = {}
    for day, totals in days.items():
        months.setdefault(day[:7], []).append(totals)
    return {month: added(several) for month, several in months.items()}


def most_expensive(groups: Mapping[str, UsageTotals], number: int) -> Groups:
    """Return the most expensive of the groups, and the sum of the others under "(other)"."""
    ordered = arranged("", groups)
    if len(ordered) <= number:
        return Groups(groups)
    rest = ordered[number:]
    return Groups({**dict(ordered[:number]), OTHER: added(totals for _, totals in rest)}, len(rest))
