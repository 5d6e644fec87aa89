from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from token_handlers.reporting.budget_line import BudgetLine
from token_handlers.reporting.contents import CHARTED_MODELS, MOST_BARS, MOST_ROWS, read_contents, read_projection
from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.usage import Usage, UsageRecord, UsageTotals

NOW = datetime(2026, 11, 20, 15, 40, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path):
    """An empty ledger."""
    with SQLiteLedger(tmp_path / "ledger.db") as empty:
        yield empty


def call(days, cost="1", model="gpt-4o", **fields):
    """Return a call so many days ago; parts of a day are hours."""
    given = {
        "cost": None if cost is None else Decimal(cost),
        "started_at": NOW - timedelta(days=days),
        "usage": Usage(input_tokens=10, output_tokens=1),
    }
    return UsageRecord(model=model, **{**given, **fields})


def read(ledger, **asked):
    """Return the contents of a page that is made now."""
    return read_contents(ledger, **{"title": "t", "now": NOW, "top": 100, **asked})


def test_an_empty_ledger(ledger):
    """There are totals of nothing, and no time."""
    contents = read(ledger, since="2026-11-01")

    assert (UsageTotals(), None, None, None) == (contents.total, contents.period, contents.in_time, contents.before)
    assert not any(contents.groups.values())


def test_days_without_calls_are_there(ledger):
    """A chart of days has those of the whole period, also after the last call."""
    ledger(call(5))
    in_time = read(ledger, since="2026-11-10").in_time

    assert ("day", 11, 1) == (in_time.step, len(in_time.totals), in_time.used)
    assert ("2026-11-10", "2026-11-20") == (min(in_time.totals), max(in_time.totals))


def test_one_call_is_one_hour(ledger):
    """A chart of hours begins with the first that has calls and ends with the last: one call is one of them."""
    ledger(call(0.5))

    assert ["2026-11-20T03:00Z"] == list(read(ledger).in_time.totals)
    ledger(call(0.375))
    assert [1, 0, 0, 1] == [totals.successful_requests for totals in read(ledger).in_time.totals.values()]


def test_months(ledger):
    """Three months and more are shown by month, ten years of them at most."""
    ledger(call(0))
    ledger(call(365 * 20))
    in_time = read(ledger).in_time

    assert ("month", MOST_BARS, True) == (in_time.step, len(in_time.totals), in_time.is_cut)
    assert "2026-11" == max(in_time.totals)


def test_models_of_each_day(ledger):
    """The most expensive models are apart, the others are summed, and all add up to the day."""
    for number in range(CHARTED_MODELS + 2):
        ledger(call(1, str(number + 1), f"m{number}"))
        ledger(call(3, "0.5", f"m{number}"))
    in_time = read(ledger).in_time

    assert [*(f"m{number}" for number in range(7, 1, -1)), "(other)"] == list(in_time.models)
    assert {"2026-11-17": Decimal(1), "2026-11-19": Decimal(3)} == in_time.models["(other)"]
    for day, totals in in_time.totals.items():
        assert (totals.cost or 0) == sum(costs.get(day, 0) for costs in in_time.models.values())


def test_a_model_without_a_cost_has_no_colour(ledger):
    """What has no known cost is not in a chart of cost."""
    ledger(call(1, None, "my-llama"))
    ledger(call(2))

    assert ["gpt-4o"] == list(read(ledger).in_time.models)


def test_the_period_before(ledger):
    """The change is against as much time before the start that was asked for; without one there is none."""
    ledger(call(1, "3"))
    ledger(call(15, "2"))
    ledger(call(30, "100"))

    assert 2 == read(ledger, since="2026-11-10").before.cost
    assert None is read(ledger, since="2026-10-01", until="2026-11-30").before
    assert None is read(ledger).before


def test_a_projection_where_it_is_now(ledger):
    """A page of a time that is past has no projection."""
    ledger(call(1))
    ledger(call(40))

    assert read(ledger, since="2026-11-01").projection is not None
    assert None is read(ledger, until="2026-10-31").projection


def test_what_a_projection_is_of(ledger):
    """What this month cost is in it, of the eight weeks before the days, and what has no price is counted."""
    for days in range(1, 71):
        ledger(call(days, "2"))
    ledger(call(0.1, "1"))
    ledger(call(0.1, None))
    projection = read_projection(ledger, NOW)

    assert (Decimal(19 * 2 + 1), 56, 1) == (projection.so_far, projection.history_days, projection.unpriced_requests)
    assert Decimal("59.69") == round(projection.expected, 2)


def test_a_budget_since_its_month_began(ledger):
    """What a budget is compared with does not depend on the time that the page is of."""
    ledger(call(1, "3"))
    ledger(call(25, "5"))
    state = read(ledger, since="2026-11-20", budget=BudgetLine(Decimal(50), "month")).budget

    assert Decimal(3) == state.spent


def test_a_page_is_bounded(ledger):
    """A page lists so many sessions at most, whatever is asked for, and sums the others."""
    for number in range(MOST_ROWS + 5):
        ledger(call(1, session=f"s{number}"))
    sessions = read(ledger, top=10**9).groups["session"]

    assert (MOST_ROWS + 1, 5) == (len(sessions), sessions.others)
