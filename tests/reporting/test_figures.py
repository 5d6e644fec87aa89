from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.support.pages import BUDGET, NOTHING, NOW, PROJECTION, Reader, contents
from token_handlers.reporting.budget_line import BudgetLine, BudgetMeter
from token_handlers.reporting.figures import budget, figures, header
from token_handlers.reporting.period import Period
from token_handlers.usage import UsageTotals


def texts(markup, tag="dd"):
    """Return the texts in a tag."""
    return Reader(markup).texts.get(tag, [])


def test_header():
    """A page says its title, its time, and when it was made."""
    assert ["1 Oct to 3 Oct 2026 UTC · made 2026-10-20 12:30 UTC"] == texts(header(contents()), "p")
    assert ["made 2026-10-20 12:30 UTC"] == texts(header(NOTHING), "p")


def test_figures():
    """People see cost, its change, what is not exact in it, an average day, the month's end, requests and tokens."""
    assert [
        "$3.00", "▲ 20% more than the $2.50 of the 3 days before", "1 request estimated", "1 request without a price",
        "$1.00", "over 3 days",
        "≈ $12.00", "$3.00 so far", "$9.00 to $15.00 in four of five cases",
        "from the last 19 whole days, each weekday by itself",
        "4", "1,000", "200", "30",
    ] == texts(figures(contents()))  # fmt: skip
    assert "By the end of October" in texts(figures(contents()), "dt")


def test_figures_of_nothing():
    """What is not there is left out."""
    assert ["Cost", "Requests"] == texts(figures(NOTHING), "dt")
    assert ["$0.00", "0"] == texts(figures(NOTHING))


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ("3", "as much as the $3.00 of the 3 days before"),
        ("4", "▼ 25% less than the $4.00 of the 3 days before"),
        ("0.03", "▲ 100.0 times the $0.03 of the 3 days before"),
    ],
)
def test_changes(before, change):
    """A change is said as more or less, or as so many times."""
    assert change in texts(figures(contents(before=UsageTotals(cost=Decimal(before)))))


@pytest.mark.parametrize("before", [None, UsageTotals(), UsageTotals(cost=None, unpriced_requests=1)])
def test_no_change(before):
    """Nothing is compared with nothing, nor with what is not known."""
    assert not [text for text in texts(figures(contents(before=before))) if "before" in text]


def test_a_change_of_hours():
    """A short time is compared with as many hours."""
    period = Period(NOW - timedelta(hours=5), NOW)

    assert "▲ 20% more than the $2.50 of the 5 hours before" in texts(figures(contents(period=period)))


def test_a_cost_that_is_not_known():
    """A cost that is unknown is said to be, and has no average and no change."""
    shown = texts(figures(contents(total=UsageTotals(cost=None, successful_requests=1, unpriced_requests=1))))

    assert ["unknown", "1 request without a price"] == shown[:2]
    assert "≈ $12.00" == shown[2]


def test_a_budget():
    """A budget is said with what is left of it, and what the month's end leaves."""
    markup = budget(contents(budget=BUDGET))

    assert ["$3.00 of $31.00 this month: 9.7%", "By the end of October 2026 about $12.00"] == texts(markup, "span")
    assert ["$28.00 left", "within the budget"] == texts(markup, "b")
    assert '<rect class="projected" x="9.68" width="29.03"' in markup


def test_a_budget_that_is_passed():
    """What is over is said, spent and projected."""
    state = BudgetMeter(BudgetLine(Decimal(2), "month"), Decimal(3))

    assert ["over by $1.00", "over by $10.00"] == texts(budget(contents(budget=state)), "b")
    assert '<rect class="over" x="0.00" width="100.00"' in budget(contents(budget=state))


def test_a_budget_of_another_time():
    """Only a month has a projection."""
    state = BudgetMeter(BudgetLine(Decimal(20), "week"), Decimal(3))

    assert ["$3.00 of $20.00 this week: 15%"] == texts(budget(contents(budget=state)), "span")
    assert "" == budget(contents())


def test_few_days():
    """A projection from less than a week has no interval."""
    projection = replace(PROJECTION, low=None, high=None, by_weekday=False, history_days=1)

    assert ["≈ $12.00", "$3.00 so far", "from the mean of the last 1 whole day"] == texts(
        figures(contents(projection=projection, period=Period(NOW, datetime(2026, 10, 20, 13, tzinfo=UTC))))
    )[4:7]
