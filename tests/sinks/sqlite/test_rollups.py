import os
from datetime import timedelta

import pytest

from tests.support.ledgers import NOON, call
from token_handlers import TokenHandlersError
from token_handlers.sinks.sql import rollups
from token_handlers.sinks.sql.queries import query_for
from token_handlers.sinks.sql.questions import dimension_of, window_of

DAY = timedelta(days=1)


def test_errors_of_reads_are_named(path, ledger):
    """A file that can't be read any more is a TokenHandlersError with its path."""
    ledger(call("a"))
    ledger.flush()
    ledger._file.close()
    os.truncate(path, 8192)

    with pytest.raises(TokenHandlersError, match=str(path)):
        ledger.totals()


@pytest.mark.parametrize("label", ["model", "session", "user", "day", "langgraph_node", "team", "tag"])
@pytest.mark.parametrize("asked", [{}, {"session": "s"}, {"user": "u"}, {"model": "m"}])
def test_later_calls_are_found_by_their_id(ledger, monkeypatch, label, asked):
    """What is not in the rollups yet is read by its id: never by an index of all calls, which grows with the ledger."""
    monkeypatch.setattr(rollups, "ROLL_UP_AT", 1)
    labels = {"session": "s", "user": "u", "tags": {"team": "t"}}
    ledger(call("a", **labels))
    ledger(call("b", **labels, started_at=NOON + 100 * DAY))
    assert ledger.flush()
    monkeypatch.setattr(rollups, "ROLL_UP_AT", 9)
    ledger(call("c", **labels))
    assert ledger.flush()
    window = window_of(**{"session": None, "user": None, "model": None, "since": None, "until": None, **asked})
    with ledger._store.reading() as reader:
        query = query_for(reader, dimension_of(label), window)
        later = [rows for _, rows in query.parts if "usage_measure.id >" in rows]
        plans = [reader.rows(f"EXPLAIN QUERY PLAN SELECT 1 FROM {rows}", query.given) for rows in later]

    for plan in plans:
        assert any("usage_event USING INTEGER PRIMARY KEY (rowid>?)" in step[3] for step in plan)
        assert not any("USING INDEX usage_event" in step[3] for step in plan)
    assert plans or len({*window.values(), dimension_of(label).label} - {""}) > 1
