from datetime import UTC, datetime
from decimal import Decimal

import pytest

from token_handlers.reporting.budget_line import BudgetLine, BudgetMeter

NOW = datetime(2026, 11, 19, 15, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50/month", BudgetLine(Decimal(50), "month")),
        ("$1.50 / Day", BudgetLine(Decimal("1.50"), "day")),
        ("1e3/year", BudgetLine(Decimal(1000), "year")),
        ("12/week", BudgetLine(Decimal(12), "week")),
    ],
)
def test_a_budget(text, expected):
    """A budget is USD for a day, a week, a month or a year."""
    assert expected == BudgetLine.parse(text)


@pytest.mark.parametrize(
    "text", ["50", "/month", "50/decade", "0/day", "-1/day", "nan/day", "inf/day", "1e400/day", "a/b/c"]
)
def test_no_budget(text):
    """What is no budget is refused with the text and with what would be one."""
    with pytest.raises(ValueError, match=r"such as 50/month or 1\.50/day, and not") as caught:
        BudgetLine.parse(text)

    assert repr(text) in str(caught.value)


def test_shares_of_a_budget():
    """A budget is spread over the hours, days and months of its time."""
    assert Decimal(1) == BudgetLine(Decimal(7), "week").each("day")
    assert Decimal(1) == BudgetLine(Decimal(24), "day").each("hour")
    assert Decimal(50) == BudgetLine(Decimal(50), "month").each("month")
    assert Decimal(5) == BudgetLine(Decimal(60), "year").each("month")


@pytest.mark.parametrize(
    ("window", "expected"),
    [("day", "2026-11-19"), ("week", "2026-11-16"), ("month", "2026-11-01"), ("year", "2026-01-01")],
)
def test_when_a_budget_began(window, expected):
    """Days, weeks from Monday, months and years begin at midnight in UTC."""
    assert f"{expected}T00:00:00+00:00" == BudgetLine(Decimal(1), window).window_start(NOW).isoformat()


def test_a_budget_in_words():
    """What is spent is said with its share; JSON has all digits."""
    state = BudgetMeter(BudgetLine(Decimal(50), "month"), Decimal("12.34567"))

    assert "Budget: $12.35 of $50.00 this month (25%)." == state.in_words(None)
    assert {"amount": "50", "window": "month", "spent": "12.34567"} == state.as_json()
