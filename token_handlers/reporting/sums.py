"""Totals added up: days to months, and all but the most expensive to what the others used."""

import functools
from collections.abc import Iterable, Mapping
from decimal import Decimal

from token_handlers.counter.counter import OTHER
from token_handlers.reporting.text import arranged
from token_handlers.sinks.sql.groups import Groups
from token_handlers.usage import EXACT, UsageTotals

_NUMBERS = tuple(name for name in UsageTotals.model_fields if name != "cost")


def added(several: Iterable[UsageTotals]) -> UsageTotals:
    """Return the sum of totals; its cost is unknown where each of those that have requests has an unknown one."""
    several = list(several)
    sums = {name: sum(getattr(totals, name) for totals in several) for name in _NUMBERS}
    known = [totals.cost for totals in several if totals.cost is not None]
    cost = functools.reduce(EXACT.add, known, Decimal(0))
    return UsageTotals(**sums, cost=cost if known or not several else None)


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
