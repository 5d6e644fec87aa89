"""What this month will have cost at its end, by the weekdays of the weeks before."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from token_handlers.reporting.amounts import counted, dollars
from token_handlers.reporting.period import midnight, next_month

HISTORY_DAYS = 56
"""From how many whole days before today a projection is made, at most: eight of each weekday."""

WEEKDAY_DAYS = 14
"""From how many days on each weekday has a mean of its own."""

INTERVAL_DAYS = 7
"""From how many days on an interval can be stated."""

_DAY = timedelta(days=1)
INTERVAL = 0.8
"""The share of cases in which the interval is right."""

_Z = 1.2816
"""Four of five of a normal distribution's values are this many standard deviations around its mean."""


@dataclass(frozen=True, slots=True)
class Projection:
    """What a month cost so far and will have cost at its end, in USD; the end of four months in five is within
    ``low`` and ``high``. Without enough days for that, these are None.
    """

    month: date
    so_far: Decimal
    expected: Decimal
    low: Decimal | None
    high: Decimal | None
    history_days: int
    by_weekday: bool
    unpriced_requests: int = 0

    @property
    def month_name(self) -> str:
        """The month, such as "November 2026"."""
        return f"{self.month:%B %Y}"


def project(
    costs: Mapping[date, Decimal], first_day: date, so_far: Decimal, now: datetime, unpriced_requests: int = 0
) -> Projection | None:
    """Return what the month of ``now`` will have cost, or None where no whole day has been seen before today.

    ``costs`` are USD by day in UTC; days from ``first_day`` (the first that had calls) to yesterday that are not in it
    cost nothing. Each weekday is expected to cost its mean in the last eight weeks. The interval takes into account how
    much days vary around these means, and how few days the means are of; days are taken to vary independently.
    """
    today = now.date()
    start = max(first_day, today - HISTORY_DAYS * _DAY)
    history = [(day, float(costs.get(day, 0))) for day in _days(start, today)]
    if not history:
        return None
    by_weekday = len(history) >= WEEKDAY_DAYS
    means = _Means(history, by_weekday=by_weekday)
    left = _left(now)
    rest = sum(share * means.of(day) for day, share in left)
    margin = means.margin(left) if len(history) >= INTERVAL_DAYS else None
    return Projection(
        month=today.replace(day=1),
        so_far=so_far,
        expected=so_far + _decimal(rest),
        low=None if margin is None else so_far + _decimal(max(rest - margin, 0.0)),
        high=None if margin is None else so_far + _decimal(rest + margin),
        history_days=len(history),
        by_weekday=by_weekday,
        unpriced_requests=unpriced_requests,
    )


def projection_lines(projection: Projection) -> list[str]:
    """Return the projection in sentences for people."""
    one = f"{projection.month_name}: {dollars(projection.so_far)} so far, about {dollars(projection.expected)}"
    lines = [f"{one} by its end{_interval(projection)}.", f"Projected from {basis(projection)}."]
    if projection.unpriced_requests:
        lines.append(f"{counted(projection.unpriced_requests, 'request')} of unknown cost: not in the projection.")
    return lines


def projection_json(projection: Projection) -> dict[str, object]:
    """Return the projection as JSON's types: money as texts of USD, an interval that is not known as null."""
    amounts = {name: getattr(projection, name) for name in ("so_far", "expected", "low", "high")}
    return {
        "month": f"{projection.month:%Y-%m}",
        **{name: None if amount is None else f"{amount:f}" for name, amount in amounts.items()},
        "interval": INTERVAL,
        "history_days": projection.history_days,
        "by_weekday": projection.by_weekday,
        "unpriced_requests": projection.unpriced_requests,
    }


def basis(projection: Projection) -> str:
    """Return what a projection is made from."""
    days = counted(projection.history_days, "whole day")
    return f"the last {days}, each weekday by itself" if projection.by_weekday else f"the mean of the last {days}"


def _interval(projection: Projection) -> str:
    if projection.low is None or projection.high is None:
        return f" (no interval: that takes {INTERVAL_DAYS} whole days)"
    return f" (80% interval: {dollars(projection.low)} to {dollars(projection.high)})"


class _Means:
    """The mean cost of a day, of each weekday where there are days enough, and how much days vary around it."""

    def __init__(self, history: Sequence[tuple[date, float]], *, by_weekday: bool) -> None:
        self._by_weekday = by_weekday
        groups: dict[int, list[float]] = {}
        for day, cost in history:
            groups.setdefault(self._group(day), []).append(cost)
        self._means = {group: statistics.fmean(costs) for group, costs in groups.items()}
        self._numbers = {group: len(costs) for group, costs in groups.items()}
        self._freedom = len(history) - len(groups)
        squares = sum((cost - self._means[group]) ** 2 for group, costs in groups.items() for cost in costs)
        self._variance = squares / self._freedom if self._freedom else 0.0

    def of(self, day: date) -> float:
        return self._means[self._group(day)]

    def margin(self, left: Sequence[tuple[date, float]]) -> float:
        """Return how far the sum of these shares of days may be from what is expected, in four of five cases."""
        shares: dict[int, float] = {}
        for day, share in left:
            shares[self._group(day)] = shares.get(self._group(day), 0.0) + share
        of_days = sum(share * share for _, share in left)
        of_means = sum(share * share / self._numbers[group] for group, share in shares.items())
        # Student's t for few days, by the first term of its expansion around the normal distribution.
        factor = _Z + (_Z**3 + _Z) / (4 * self._freedom)
        return factor * math.sqrt(self._variance * (of_days + of_means))

    def _group(self, day: date) -> int:
        return day.weekday() if self._by_weekday else 0


def _left(now: datetime) -> list[tuple[date, float]]:
    """Return the days that are left of the month, today first, and how much of each."""
    tomorrow = midnight(now.date()) + _DAY
    return [
        (now.date(), (tomorrow - now) / _DAY),
        *((day, 1.0) for day in _days(tomorrow.date(), next_month(now).date())),
    ]


def _days(start: date, end: date) -> list[date]:
    return [start + number * _DAY for number in range((end - start).days)]


def _decimal(amount: float) -> Decimal:
    return Decimal(f"{amount:.6g}")
