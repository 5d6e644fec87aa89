import json
from decimal import Decimal

import pytest

from tests.support.ledgers import NOON, call
from tests.tracking.test_answers import WHOLE
from token_handlers import Usage, UsageRecord, track_tokens
from token_handlers.payloads import ReportedUsage
from token_handlers.pricing.price import Price
from token_handlers.sinks.sql.rows import divide_usd, record_of, row_of
from token_handlers.sinks.sql.schema import COLUMNS
from token_handlers.tracking import recorder
from token_handlers.tracking.call import Call
from token_handlers.tracking.result import FAILED, CallResult
from token_handlers.usage import CostPart, checked_counts

COUNTS = {"output_tokens": 20, "input_tokens": 100, "cache_read_tokens": 40, "reasoning_tokens": 0}
USAGE = ReportedUsage(COUNTS, model="gpt-4o-mini")
RESULT = CallResult(USAGE)
LABELS = {"session": "s", "user": "é", "tags": {"team": "x\0", "env": "y"}}
REGION = {"region": "eu-west-1", "speed": "fast"}

ODD = ("", "é", "x\0y", "\ud800", "\u241b", '"q"', "back\\slash", "line\nbreak", "\x01", '"""', '{}(),"')


@pytest.mark.parametrize("text", ODD)
def test_a_record_of_odd_texts(text):
    """A row has columns of COLUMNS, none of them null, and gives back the record it was made of."""
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

    assert set(row) <= set(COLUMNS)
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


class Ended:
    """A sink that keeps the callables which make its records."""

    def __init__(self):
        self.calls = []

    def __call__(self, record):
        raise AssertionError

    def defer(self, make):
        self.calls.append(make)


def ended(result, labels=(), **facts):
    """Return what a deferring sink gets when a call with these labels and attributes ends with a result."""
    sink = Ended()
    with track_tokens(sinks=[sink], **dict(labels)):
        one = Call()
        for name, value in {"model": "gpt-4o-mini", "provider": "openai", **facts}.items():
            setattr(one, name, value)
        recorder.finish(one, result)
    return sink.calls[0]._replace(made={})  # whatever other sinks have made of it


ENDS = {
    "plain": (RESULT, {}, {}),
    "labelled": (RESULT, LABELS, {"node": "n", "base_url": "https://eu.api.openai.com/v1"}),
    "estimated": (CallResult(USAGE, "estimated", "tiktoken", requests=3), {}, {}),
    "cached": (CallResult(USAGE, outcome="cached"), {}, {}),
    "failed": (FAILED, {}, {}),
    "unknown": (CallResult(ReportedUsage({})), {}, {}),
    "unpriced": (CallResult(ReportedUsage(COUNTS, model="no-such-model")), {}, {}),
    "stated": (CallResult(USAGE._replace(cost=Decimal("0.25"), service_tier="flex")), {}, {}),
    "doubted": (CallResult(USAGE._replace(context=REGION, doubts=("a search\0",))), {}, {}),
    "embeddings": (RESULT, {}, {"operation": "embeddings", "served": {"deployment": "d"}}),
    "answered": (RESULT, {}, {"answers": (WHOLE._replace(request_id="r", organization="o", project="p"),)}),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_call_that_ended_has_the_row_of_its_record(name):
    """A call that just ended is written without making its record, and has the row of that record."""
    result, labels, facts = ENDS[name]
    call_ended = ended(result, labels, **facts)
    row = row_of(call_ended)

    assert "record" not in call_ended.made
    assert None not in row.values()
    assert row == row_of(call_ended())
    assert row == row_of(call_ended)


@pytest.mark.parametrize(
    "result",
    [
        CallResult(USAGE._replace(billed={"input_tokens": 1})),
        CallResult(USAGE._replace(beside=(("gpt-4o", {"input_tokens": 1}),))),
        CallResult(USAGE._replace(model=b"gpt-4o-mini")),
    ],
)
def test_a_call_that_ended_and_needs_a_record(result):
    """A record is made of a call with rare fields, or with values that pydantic converts, and has the call's row."""
    call_ended = ended(result)
    row = row_of(call_ended)

    assert "record" in call_ended.made
    assert row == row_of(call_ended())


@pytest.mark.parametrize(
    ("counts", "reported"),
    [
        ({"input_tokens": True}, None),
        ({"input_tokens": -1}, None),
        ({"input_tokens": 1.0}, None),
        ({"input_tokens": None}, None),
        ({"no_such_tokens": 1}, None),
        ({"input_tokens": 1, "cache_read_tokens": 2}, None),
        ({"cache_write_5m_tokens": 2}, None),
        ({"input_tokens": 2, "total_tokens": 3}, None),
        ({"input_tokens": 2, "total_tokens": 2}, {"input_tokens": 2}),
        ({"input_tokens": 2, "cache_read_tokens": 2, "reasoning_tokens": 0}, "the same"),
        ({}, "the same"),
    ],
)
def test_counts_of_a_call_that_ended(counts, reported):
    """Counts that no Usage can have are refused with or without a record; others are what a Usage makes of them."""
    if reported is None:
        with pytest.raises(ValueError, match="token"):
            Usage(**counts)
        with pytest.raises(ValueError, match="token"):
            row_of(ended(RESULT)._replace(result=CallResult(ReportedUsage(counts))))
    else:
        assert (counts if reported == "the same" else reported) == checked_counts(counts)


@pytest.mark.parametrize(
    ("result", "cost"),
    [
        (RESULT, Decimal(-1)),
        (RESULT, Decimal("NaN")),
        (CallResult(USAGE, outcome="cached"), Decimal(-1)),
        (CallResult(USAGE._replace(context={"region": 5})), None),
        (CallResult(USAGE._replace(model=5)), None),
        (CallResult(USAGE, requests=10**13), None),
        (CallResult(ReportedUsage({"input_tokens": 10**13})), None),
    ],
)
def test_a_call_that_ended_with_what_no_ledger_can_hold(result, cost):
    """A ledger refuses a call that ended as it refuses its record."""
    price = None if cost is None else Price(cost, "user")
    for is_made in (True, False):
        call_ended = ended(RESULT)._replace(result=result, price=price)
        with pytest.raises((ValueError, ArithmeticError)):
            row_of(call_ended() if is_made else call_ended)


def test_all_fields_of_a_record():
    """A call that ended has every field of its record."""
    assert UsageRecord.model_fields.keys() == {"usage", *ended(RESULT).fields()}
