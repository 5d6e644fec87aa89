import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from token_handlers.reporting.projection import (
    INTERVAL_DAYS,
    WEEKDAY_DAYS,
    Projection,
    project,
    projection_json,
    projection_lines,
)

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
"""A Friday, with half of itself and ten days left of its month: two each of Saturday, Sunday and Monday."""


def history(days, cost, now=NOON):
    """Return the USD of the days before a time, by a function of a date."""
    before = [now.date() - timedelta(days=number) for number in range(1, days + 1)]
    return {day: Decimal(str(cost(day))) for day in before}


def projected(costs, so_far="10", now=NOON):
    """Return the projection from all of these days."""
    return project(costs, min(costs, default=now.date()), Decimal(so_far), now)


def test_days_that_are_all_alike():
    """Half of today and each day that is left cost what a day costs, and nothing is in doubt."""
    projection = projected(history(56, lambda day: 2))

    assert (Decimal(31), Decimal(31), Decimal(31)) == (projection.expected, projection.low, projection.high)
    assert (56, True) == (projection.history_days, projection.by_weekday)


def test_weekdays():
    """Each weekday costs what it costs: half a Friday, six working days and four days at weekends are left."""
    projection = projected(history(56, lambda day: 1 if day.weekday() >= 5 else 8))

    assert Decimal(10) + 4 + 6 * 8 + 4 * 1 == projection.expected


def test_days_without_calls_cost_nothing():
    """Every second day without a call halves what a day costs."""
    costs = {day: cost for day, cost in history(13, lambda day: 2).items() if day.toordinal() % 2}
    projection = project(costs, NOON.date() - timedelta(days=12), Decimal(0), NOON)

    assert 12 == projection.history_days
    assert Decimal("10.5") == projection.expected


def test_only_the_last_eight_weeks():
    """What is longer ago says nothing of this month."""
    costs = history(70, lambda day: 100 if NOON.date() - day > timedelta(days=56) else 1)

    assert (56, Decimal("20.5")) == (projected(costs).history_days, projected(costs).expected)


@pytest.mark.parametrize(
    ("days", "by_weekday", "has_interval"),
    [
        (1, False, False),
        (INTERVAL_DAYS - 1, False, False),
        (INTERVAL_DAYS, False, True),
        (WEEKDAY_DAYS - 1, False, True),
        (WEEKDAY_DAYS, True, True),
    ],
)
def test_few_days(days, by_weekday, has_interval):
    """Weekdays have means of their own from two weeks on; an interval takes a week."""
    projection = projected(history(days, lambda day: day.toordinal() % 3))

    assert by_weekday == projection.by_weekday
    assert has_interval == (projection.low is not None and projection.high is not None)


def test_no_whole_day():
    """Before a whole day is over there is nothing to project from."""
    assert None is projected({NOON.date(): Decimal(5)})
    assert None is projected({})


def test_what_is_spent_is_spent():
    """The month does not end below what it cost already, however much days vary."""
    projection = projected(history(14, lambda day: 100 if day.day == 9 else 0), so_far="100")

    assert Decimal(100) == projection.low
    assert projection.high > projection.expected > 100


def test_the_last_moment_of_a_month():
    """At the end of a month nothing is left to come."""
    now = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    projection = projected(history(56, lambda day: 2, now), now=now)

    assert projection.expected == pytest.approx(Decimal(10), abs=Decimal("0.0001"))


def test_the_interval_is_right_four_times_in_five():
    """Of months that follow their weekdays with the same spread as before, about 80% end within the interval."""
    chance = random.Random(1)
    week = (10, 12, 11, 13, 9, 2, 1)
    hits = 0
    for _ in range(1000):
        costs = history(56, lambda day: max(chance.gauss(week[day.weekday()], 3), 0))
        rest = sum(
            share * max(chance.gauss(week[(4 + number) % 7], 3), 0) for number, share in enumerate([0.5, *[1] * 10])
        )
        projection = projected(costs, so_far="0")
        hits += projection.low <= Decimal(rest) <= projection.high

    assert 760 < hits < 850


PROJECTION = Projection(
    month=date(2026, 11, 1), so_far=Decimal("6.3256789"), expected=Decimal("8.73"), low=Decimal("8.178"),
    high=Decimal("9.282"), history_days=56, by_weekday=True, unpriced_requests=8,
)  # fmt: skip


def test_in_words():
    """People read where it stands, where it ends, between what, from what, and what is not in it."""
    assert [
        "November 2026: $6.326 so far, about $8.73 by its end (80% interval: $8.178 to $9.282).",
        "Projected from the last 56 whole days, each weekday by itself.",
        "8 requests of unknown cost: not in the projection.",
    ] == projection_lines(PROJECTION)
    assert [
        "November 2026: $10.00 so far, about $31.00 by its end (no interval: that takes 7 whole days).",
        "Projected from the mean of the last 1 whole day.",
    ] == projection_lines(projected(history(1, lambda day: 2)))


def test_as_json():
    """Programs get all digits, and null for an interval that is not known."""
    assert {
        "month": "2026-11", "so_far": "6.3256789", "expected": "8.73", "low": "8.178", "high": "9.282", "interval": 0.8,
        "history_days": 56, "by_weekday": True, "unpriced_requests": 8,
    } == projection_json(PROJECTION)  # fmt: skip
    assert projection_json(projected(history(1, lambda day: 2)))["low"] is None
