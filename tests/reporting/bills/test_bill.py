from datetime import date
from decimal import Decimal

import pytest

from token_handlers.reporting.bills.bill import UNCACHED, BillRow, UnreadableBill, amount, day_of, plain_model, summed

DAY = date(2026, 3, 10)
COUNTS = {"input_tokens": 100, "cache_read_tokens": 20, "cache_write_tokens": 0, "output_tokens": 10, "web_searches": 2}


def bill(*costs):
    """Return a sum of COUNTS and of costs by kind."""
    return summed([BillRow(DAY, "m", counts=COUNTS), *(BillRow(DAY, "m", Decimal(cost), kind) for kind, cost in costs)])


def test_value_by_the_bills_own_rates():
    """Each kind costs what the bill's does; what the cache read is not paid twice."""
    rates = bill((UNCACHED, "0.8"), ("cache_read_tokens", "0.02"), ("output_tokens", "0.1"), ("web_searches", "0.02"))

    assert Decimal("0.94") == rates.value(COUNTS)
    assert Decimal("0.011") == rates.value({"input_tokens": 2, "cache_read_tokens": 1})
    assert Decimal("-0.01") == rates.value({"web_searches": -1})


@pytest.mark.parametrize(
    ("counts", "value"), [({"input_tokens": 5, "output_tokens": 6}, "0.11"), ({"web_searches": 1}, "0")]
)
def test_value_without_kinds(counts, value):
    """Where the bill has one amount for everything, each token costs the average, and searches cost nothing."""
    assert Decimal(value) == bill(("", "1.1")).value(counts)


def test_value_of_nothing():
    """A bill without tokens has no rates."""
    assert 0 == summed([]).value(COUNTS)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("Claude Sonnet 4.5", "claude-sonnet-4-5"),
        ("openai/gpt-4.1-mini-2025-04-14:free", "openai/gpt-4.1-mini:free"),
        ("gpt-4-0613", "gpt-4-0613"),
    ],
)
def test_names_of_models(name, plain):
    """Both sides' names of a model are one, without the date of a snapshot."""
    assert plain == plain_model(name)


@pytest.mark.parametrize(
    ("value", "expected"), [("$1,234.50", "1234.50"), (0.1, "0.1"), ("1e-7", "1e-7"), (None, "0"), ("", "0")]
)
def test_amounts(value, expected):
    """Money is read exactly, as it is written."""
    assert Decimal(expected) == amount(value, "amount")


@pytest.mark.parametrize("value", ["much", "nan", "Infinity", True, [], {}, "1e999999999", -(10**16)])
def test_what_is_no_amount(value):
    """What is no money is refused, and never 0."""
    with pytest.raises(UnreadableBill, match="amount is no amount of money"):
        amount(value, "amount")


@pytest.mark.parametrize(
    "value", [1773100800, "1773100800.0", "2026-03-10", "2026-03-10 23:59:59.5", "2026-03-11T00:30:00+01:00"]
)
def test_days(value):
    """A day is UTC's, whichever way it is written."""
    assert DAY == day_of(value, "day")
