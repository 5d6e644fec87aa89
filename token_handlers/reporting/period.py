"""The time that a page shows, in UTC: from when to when, in hours, days or months, and what came before it."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

Step = Literal["hour", "day", "month"]

MOST_HOURS = timedelta(days=2)
"""Up to this length a chart has a bar for each hour."""

MOST_DAYS = timedelta(days=92)
"""Up to this length a chart has a bar for each day, beyond it for each month."""

_DAY = timedelta(days=1)
_FORMATS: dict[Step, str] = {"hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}
_INSTANT = timedelta(microseconds=1)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Period:
    """The time from ``start`` to ``end`` (not included), both in UTC."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        """How long it is."""
        return self.end - self.start

    @property
    def days(self) -> float:
        """How many days it has, parts of a day included."""
        return self.length / _DAY

    @property
    def step(self) -> Step:
        """What a bar of a chart stands for."""
        if self.length <= MOST_HOURS:
            return "hour"
        return "day" if self.length <= MOST_DAYS else "month"

    def before(self) -> "Period":
        """Return the time of the same length just before it."""
        return Period(self.start - self.length, self.start)

    def includes(self, moment: datetime) -> bool:
        """Return whether a moment is in it, or is its very end: a period up to now includes now."""
        return self.start <= moment <= self.end


def period_of(first: str, last: str, since: datetime | None, until: datetime | None, now: datetime) -> Period:
    """Return the period of a report whose first and last days with calls are these (ISO dates).

    It starts with ``since``, else with the first day. It ends with ``until`` where that is past, else now where there
    were calls in this month, else with the last day: a ledger from last year does not have a year of empty days.
    """
    start = max(since, _EARLIEST) if since else midnight(first)
    end_of_last = midnight(last) + _DAY
    this_month = midnight(now.date().replace(day=1))
    end = now if this_month < end_of_last <= now + _DAY else end_of_last
    if until is not None:
        end = until if until <= now else min(until, end)
    return Period(start, max(end, start + _INSTANT))


def labels(step: Step, start: datetime, end: datetime) -> list[str]:
    """Return the labels of the hours, days or months from the start to the end (not included), without gaps."""
    last = (end - _INSTANT).strftime(_FORMATS[step])
    found = [start.strftime(_FORMATS[step])]
    moment = start
    while found[-1] < last:
        moment = _next(step, moment)
        found.append(moment.strftime(_FORMATS[step]))
    return found


def moment_of(step: Step, label: str) -> datetime:
    """Return when an hour, a day or a month begins."""
    return datetime.strptime(label, _FORMATS[step]).replace(tzinfo=UTC)


def midnight(day: date | str) -> datetime:
    """Return when a day begins, in UTC."""
    day = date.fromisoformat(day) if isinstance(day, str) else day
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def next_month(moment: datetime) -> datetime:
    """Return when the month after a moment begins."""
    return midnight((moment.date().replace(day=1) + timedelta(days=32)).replace(day=1))


def in_words(period: Period) -> str:
    """Return the period as people read it: its days, or its minutes where it starts within a day."""
    first, last = period.start, period.end - _INSTANT
    if midnight(first.date()) != first:
        return f"{in_figures(first)} {first:%H:%M} to {in_figures(period.end)} {period.end:%H:%M} UTC"
    if first.date() == last.date():
        return f"{first:%A}, {in_figures(first)} UTC"
    start = in_figures(first) if first.year != last.year else f"{first.day} {first:%b}"
    return f"{start} to {in_figures(last)} UTC"


def in_figures(day: date) -> str:
    """Return a day as people read it: 3 Oct 2026."""
    return f"{day.day} {day:%b %Y}"


def _next(step: Step, moment: datetime) -> datetime:
    if step == "month":
        return next_month(moment)
    return moment + (_DAY if step == "day" else timedelta(hours=1))
