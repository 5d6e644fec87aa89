from datetime import UTC, datetime, timedelta

import pytest

from token_handlers.reporting.period import Period, in_words, labels, next_month, period_of

NOW = datetime(2026, 11, 20, 15, 40, tzinfo=UTC)


def at(day, month=11, year=2026, hour=0):
    """Return a time in UTC."""
    return datetime(year, month, day, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("first", "last", "since", "until", "expected"),
    [
        ("2026-10-03", "2026-11-20", None, None, (at(3, 10), NOW)),
        ("2026-10-03", "2026-11-02", None, None, (at(3, 10), NOW)),
        ("2026-10-03", "2026-10-31", None, None, (at(3, 10), at(1))),
        ("2026-10-03", "2026-12-24", None, None, (at(3, 10), at(25, 12))),
        ("2026-11-05", "2026-11-06", at(1), None, (at(1), NOW)),
        ("2026-11-05", "2026-11-06", at(1), at(8), (at(1), at(8))),
        ("2026-11-05", "2026-11-06", at(1), at(1, 12), (at(1), NOW)),
        ("2026-10-05", "2026-10-06", at(1, 10), at(1, 12), (at(1, 10), at(7, 10))),
        ("2026-11-05", "2026-11-06", at(1, 1, 1), None, (at(1, 1, 1970), NOW)),
    ],
)
def test_the_period_of_a_report(first, last, since, until, expected):
    """It is what was asked for, up to now where there were calls in this month, else up to the last of them."""
    assert Period(*expected) == period_of(first, last, since, until, NOW)


def test_the_period_before():
    """What came before is as long, and ends where the period starts."""
    assert Period(at(12, 10), at(1)) == Period(at(1), at(21)).before()


@pytest.mark.parametrize(
    ("days", "step"), [(0.1, "hour"), (2, "hour"), (2.1, "day"), (92, "day"), (93, "month"), (4000, "month")]
)
def test_steps(days, step):
    """Bars are hours, days or months, as long as there are not too many."""
    assert step == Period(at(1), at(1) + timedelta(days=days)).step


def test_labels_have_no_gaps():
    """Every hour, day and month of a time is there, the end is not."""
    assert ["2026-02-27", "2026-02-28", "2026-03-01"] == labels("day", at(27, 2), at(2, 3))
    assert ["2026-11-01T23:00Z", "2026-11-02T00:00Z"] == labels("hour", at(1, hour=23), at(2, hour=1))
    assert ["2025-12", "2026-01", "2026-02"] == labels("month", at(31, 12, 2025), at(1, 3))
    assert 7 == len(labels("day", at(14), NOW))


def test_a_period_in_words():
    """Days are whole days, up to today; hours are said where it does not start at midnight."""
    assert "1 Nov to 20 Nov 2026 UTC" == in_words(Period(at(1), NOW))
    assert "1 Dec 2025 to 31 Jan 2026 UTC" == in_words(Period(at(1, 12, 2025), at(1, 2)))
    assert "Friday, 20 Nov 2026 UTC" == in_words(Period(at(20), NOW))
    assert "1 Nov 2026 09:00 to 20 Nov 2026 15:40 UTC" == in_words(Period(at(1, hour=9), NOW))


def test_the_next_month():
    """A month ends where the next begins, in any year."""
    assert (at(1, 1, 2027), at(1, 3)) == (next_month(at(31, 12)), next_month(at(1, 2)))


def test_now_is_in_a_period_up_to_now():
    """A period includes its start and its end."""
    period = Period(at(1), NOW)

    assert (True, True, False) == (
        period.includes(at(1)), period.includes(NOW), period.includes(NOW + timedelta(seconds=1))
    )  # fmt: skip
