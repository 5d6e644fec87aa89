import pytest

from token_handlers.sinks.postgres.call_text import text_of
from token_handlers.sinks.sql.schema import COLUMNS


def test_the_text_of_calls():
    """A call is a row of all columns, in which a null is nothing, and quotes and backslashes are behind a backslash."""
    rest = "," * (len(COLUMNS) - 3)
    calls = [
        {"event_id": 'a"b', "ts_ms": 5, "ended_ms": -6},
        {"event_id": "", "ts_ms": 0},
        {"event_id": '"""\\'},
    ]

    assert f'("a\\"b",5,-6{rest})"""("",0,{rest})"""("\\"\\"\\"\\\\",,{rest})' == text_of(calls)
    assert "" == text_of([])


def test_columns_in_another_order():
    """Values come into the columns of their names, in whatever order they are given; what is no column is refused."""
    assert text_of([{"event_id": "a", "ts_ms": 1}]) == text_of([{"ts_ms": 1, "event_id": "a"}])
    with pytest.raises(ValueError, match="unknown is no column"):
        text_of([{"event_id": "a", "unknown": 1}])
