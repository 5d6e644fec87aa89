import json
from decimal import Decimal

import pytest

from tests.support.ledgers import NOON, call
from token_handlers import Usage
from token_handlers.sinks.sql.rows import divide_usd, record_of, row_of
from token_handlers.sinks.sql.schema import COLUMNS
from token_handlers.usage import CostPart

ODD = ("", "é", "x\0y", "\ud800", "\u241b", '"q"', "back\\slash", "line\nbreak", "\x01", '"""', '{}(),"')


@pytest.mark.parametrize("text", ODD)
def test_a_record_of_odd_texts(text):
    """A row has its columns in the order of COLUMNS, none of them null, and gives back the record it was made of."""
    record = call(
        "a" + text,
        usage=Usage(input_tokens=5, output_tokens=3, cache_read_tokens=2, web_searches=1),
        **dict.fromkeys(("model", "provider", "session", "user", "node", "request_id", "cost_source"), text),
        tags={"team": text, text: "x"},
        doubts=(text,),
        cost_breakdown=(
            CostPart("input_tokens", 5, Decimal("0.150"), 1_000_000, Decimal("7.5E-7"), text, None),
            CostPart(text, 0, Decimal("1E+2"), 1, Decimal("1E-9"), "", text),
        ),
        saved_cost=Decimal("0.25"),
        cache_saved_cost=Decimal("-0.125"),
        served={"speed": text},
        billed={"input_tokens": 4},
        beside=((text, {"input_tokens": 1}), (None, {"output_tokens": 1})),
        ended_at=NOON,
    )
    row = row_of(record)

    assert [name for name in COLUMNS if name in row] == list(row)
    assert None not in row.values()
    assert not any("\0" in value for value in row.values() if isinstance(value, str))
    assert record == record_of(dict.fromkeys(COLUMNS) | dict(row))
    assert str(record.cost_breakdown) == str(record_of(dict.fromkeys(COLUMNS) | dict(row)).cost_breakdown)
    assert all(json.loads(row[name]) for name in ("tags", "doubts", "cost_breakdown", "served", "billed", "beside"))


@pytest.mark.parametrize(
    ("cost", "parts"),
    [
        ("0", (0, 0)),
        ("-0.000000001", (-1, 0)),
        ("1E-18", (0, 1)),
        ("1.5E-18", (0, 2)),
        ("2.5E-18", (0, 2)),
        ("-0.5E-18", (0, 0)),
        ("-1E-18", (-1, 999_999_999)),
        ("999999.999999999999999999", (999_999_999_999_999, 999_999_999)),
        ("1E+5", (10**14, 0)),
    ],
)
def test_money(cost, parts):
    """USD are whole nano-USD and the rest in 1e-18 USD; what is finer is rounded half to even."""
    assert parts == divide_usd(Decimal(cost))


@pytest.mark.parametrize("cost", ["1E+6", "-1E+6", "1E+999"])
def test_more_money_than_a_call_may_cost(cost):
    """A call for a million USD is refused."""
    with pytest.raises(OverflowError, match="1000000 USD or more"):
        divide_usd(Decimal(cost))
