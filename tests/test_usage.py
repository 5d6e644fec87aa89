from decimal import Decimal

import pytest
from pydantic import ValidationError

from token_handlers import Usage, UsageRecord, UsageTotals


def test_total_is_input_plus_output():
    """total_tokens is derived, and stands in the dump."""
    usage = Usage(input_tokens=17, output_tokens=12)

    assert 29 == usage.total_tokens
    assert 29 == usage.model_dump()["total_tokens"]
    assert usage == Usage.model_validate(usage.model_dump())


@pytest.mark.parametrize("value", [True, -1, 1.0, 1.5, float("nan"), float("inf"), "17", None, Decimal(3), [1]])
@pytest.mark.parametrize("name", ["input_tokens", "cache_read_tokens", "web_searches"])
def test_what_is_no_count_is_refused(name, value):
    """Bools, negatives, floats, NaN, strings and None are refused, and the error names the field and the value."""
    with pytest.raises(ValidationError) as caught:
        Usage(**{name: value})

    assert [name] == [error["loc"][0] for error in caught.value.errors()]
    assert repr(value) == repr(caught.value.errors()[0]["input"])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            {"input_tokens": 5, "cache_read_tokens": 9},
            "cache_read_tokens + cache_write_tokens (9) exceeds input_tokens (5)",
        ),
        (
            {"input_tokens": 9, "cache_read_tokens": 5, "cache_write_tokens": 5},
            "cache_read_tokens + cache_write_tokens (10) exceeds input_tokens (9)",
        ),
        ({"output_tokens": 1, "reasoning_tokens": 2}, "(2) exceeds output_tokens (1)"),
        (
            {"input_tokens": 9, "cache_write_tokens": 3, "cache_write_5m_tokens": 2, "cache_write_1h_tokens": 2},
            "cache_write_5m_tokens + cache_write_1h_tokens + cache_write_12h_tokens (4) exceeds cache_write_tokens (3)",
        ),
        ({"input_tokens": 5, "output_tokens": 1, "total_tokens": 9}, "total_tokens (9) is not"),
    ],
)
def test_impossible_breakdowns_are_refused(counts, message):
    """A part above its whole is refused by an error that names both numbers."""
    with pytest.raises(ValidationError) as caught:
        Usage(**counts)

    assert message in str(caught.value)


def test_unknown_fields_are_refused():
    """A misspelt unit is an error, not a silent nothing."""
    with pytest.raises(ValidationError, match="prompt_tokens"):
        Usage.model_validate({"prompt_tokens": 3})


def test_values_are_frozen():
    """Usage, records and totals can't be changed after the fact."""
    for value, name in ((Usage(), "input_tokens"), (UsageRecord(), "model"), (UsageTotals(), "prompt_tokens")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(value, name, 1)


def test_record_survives_json():
    """A record reads back as it was written, money included."""
    record = UsageRecord(usage=Usage(input_tokens=3), model="m", cost=Decimal("0.0000001"), tags={"a": "b"})

    assert record == UsageRecord.model_validate_json(record.model_dump_json())


def test_totals_without_a_cost():
    """An unknown cost is None, and 0.0 under the peer's name."""
    totals = UsageTotals(prompt_tokens=2, completion_tokens=3, unpriced_requests=1, cost=None)

    assert (5, None, 0.0) == (totals.total_tokens, totals.cost, totals.total_cost)
