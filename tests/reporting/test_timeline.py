from dataclasses import replace
from decimal import Decimal

import pytest

from tests.support.pages import BUDGET, IN_TIME, Reader
from tests.support.totals import CHEAP, DEAR, UNKNOWN
from token_handlers.reporting.budget_line import BudgetLine, BudgetMeter
from token_handlers.reporting.contents import InTime
from token_handlers.reporting.timeline import axis, by_kind, cost_chart, in_full, token_chart
from token_handlers.usage import UsageTotals


def test_cost_is_stacked_by_model():
    """Each bar says its day, its cost and its models; the legend says what each model cost."""
    markup = cost_chart(replace(IN_TIME, models={**IN_TIME.models, "(other)": {"2026-10-01": Decimal("0.5")}}))
    reader = Reader(markup)

    assert "Thu 1 Oct 2026: $3.00, 2 requests\ngpt-4o $3.00\nother models $0.50" == reader.texts["title"][0]
    assert "Fri 2 Oct 2026: $0.00, 0 requests" == reader.texts["title"][1]
    assert ["gpt-4o $3.00", "other models $0.50"] == [text for text in reader.texts["li"] if "script" not in text]
    assert {"model-0", "model-1", "model-other"} < {value for name, value in reader.attributes if name == "class"}


def test_weekends_are_shaded():
    """A Saturday is seen to be one."""
    assert 1 == cost_chart(IN_TIME).count('class="aim weekend"')


def test_a_chart_is_read_aloud():
    """A chart has a name that says what it shows, and its numbers as a table that a keyboard can scroll."""
    reader = Reader(cost_chart(IN_TIME))

    assert ("aria-label", "Cost by day: $3.10 in all, most on Thu 1 Oct 2026: $3.00.") in reader.attributes
    assert ("aria-label", "Cost by day, as a table") in reader.attributes
    assert ("tabindex", "0") in reader.attributes
    assert ["$3.00", "$3.00", "$0.00", "$0.00", "$0.00", "$0.00", "$0.10", "$0.00", "$0.10"] == reader.texts["td"]


def test_a_budget_line():
    """A budget is drawn at what a day of it is, where that does not flatten the bars."""
    assert "budget: $1.019 a day" in Reader(cost_chart(IN_TIME, BUDGET)).texts["li"]
    assert '<path class="budget" d="M0 66.05H120"/>' in cost_chart(IN_TIME, BUDGET)

    high = BudgetMeter(BudgetLine(Decimal(100), "day"), Decimal(0))
    assert "budget: $100.00 a day, above the chart" in Reader(cost_chart(IN_TIME, high)).texts["li"]
    assert 'd="M0 0.0H' not in cost_chart(IN_TIME, high)


def test_tokens_are_stacked_by_kind():
    """Each bar has what was cached, read, thought, written and embedded."""
    reader = Reader(token_chart(IN_TIME))

    assert ["Prompt, cached", "Prompt", "Reasoning", "Completion", "Embedding"] == reader.texts["li"]
    assert (
        "Thu 1 Oct 2026: 400 prompt, cached; 600 prompt; 50 reasoning; 150 completion; 30 embedding"
        == reader.texts["title"][0]
    )
    assert "Fri 2 Oct 2026: nothing" == reader.texts["title"][1]


def test_kinds_add_up():
    """What is stacked adds up to what was used."""
    assert {"prompt": 600, "cached": 400, "completion": 150, "reasoning": 50, "embedding": 30} == by_kind(DEAR)


@pytest.mark.parametrize(
    "in_time",
    [
        None,
        InTime("hour", {"2026-10-01T12:00Z": DEAR}),
        InTime("day", {"2026-10-01": UNKNOWN, "2026-10-02": UsageTotals()}),
    ],
    ids=["no time", "one bar", "no cost"],
)
def test_no_chart(in_time):
    """One bar, or none that is higher than nothing, is no chart."""
    assert "" == cost_chart(in_time)
    assert "" == token_chart(in_time)


def test_a_chart_that_is_cut():
    """A chart that leaves out what was longer ago says so."""
    in_time = InTime("month", {"2026-10": DEAR, "2026-11": CHEAP}, is_cut=True)

    assert ["Tokens by month, the last 2 months"] == Reader(token_chart(in_time)).texts["h2"]


def test_the_axis_of_days():
    """Few days have a date below some of them, more below Mondays, so that weeks are seen."""
    november = [f"2026-11-{day:02}" for day in range(1, 31)]

    assert ["1 Nov", "", "3 Nov", "", "5 Nov", "", "7 Nov", *[""] * 5] == axis("day", november[:7])
    assert {1: "2 Nov", 8: "9 Nov", 15: "16 Nov", 22: "23 Nov", 29: "30 Nov"} == {
        index: tick for index, tick in enumerate(axis("day", november)) if tick
    }


@pytest.mark.parametrize("number", [1, 5, 12, 13, 60, 92])
@pytest.mark.parametrize(("step", "label"), [("day", "2026-{:02}-{:02}"), ("month", "20{:02}-{:02}")])
def test_the_axis_has_room(step, label, number):
    """However many bars there are, at most seven have something below."""
    size = 28 if step == "day" else 12
    names = [label.format(index // size + 1, index % size + 1) for index in range(number)]

    assert max(number, 12) == len(axis(step, names))
    assert 1 <= sum(bool(tick) for tick in axis(step, names)) <= 7


def test_the_axis_of_hours():
    """Hours have the time below some of them, which are the same on each day."""
    hours = [f"2026-11-{day:02}T{hour:02}:00Z" for day in (1, 2) for hour in range(24)]

    assert ["00:00", "08:00", "16:00", "00:00", "08:00", "16:00"] == list(filter(None, axis("hour", hours)))
    assert ["23:00", "00:00"] == axis("hour", hours[23:25])[:2]


def test_in_full():
    """A tooltip has the weekday of a day and of an hour."""
    assert ("Thu 1 Oct 2026", "Thu 1 Oct 2026 12:00", "October 2026") == (
        in_full("day", "2026-10-01"), in_full("hour", "2026-10-01T12:00Z"), in_full("month", "2026-10")
    )  # fmt: skip
