import sqlite3
from datetime import timedelta
from decimal import Decimal

import pytest

from tests.support.ledgers import call, check_file, check_sums, make_old
from token_handlers.sinks.sqlite import SQLiteLedger, location

DAY = timedelta(days=1)


def test_what_is_absurd_already_can_be_read(path):
    """A call that an older version let in, of the year 10,000 and a thousand million million tokens, stops nobody."""
    make_old(path)
    with SQLiteLedger(path) as ledger:
        absurd = next(ledger.records(session="absurd"))
        assert (9999, 10**15) == (absurd.started_at.year, absurd.usage.input_tokens)
        assert (1970, 5) == (absurd.ended_at.year, len(list(ledger.records())))
        assert "day 2932897 after 1970" in ledger.by("day")
        assert "hour 70389539 after 1970" in ledger.by("hour")
        seen, _ = ledger.update_costs(lambda record: Decimal(record.usage.input_tokens))
        assert 5 == seen
        assert Decimal(1) == ledger.totals(session="absurd").cost
        check_sums(ledger)


def test_a_closed_ledger(path):
    """close() flushes, may be called twice, leaves no log beside the file, and ends it for writing."""
    ledger = SQLiteLedger(path)
    ledger(call("a"))
    ledger.close()
    ledger.close()

    assert {"ledger.db", "ledger.db.lock"} == {file.name for file in path.parent.iterdir()}
    with pytest.raises(ValueError, match="closed"):
        ledger(call("b"))
    with SQLiteLedger(path) as again:
        assert 1 == again.totals().successful_requests


def test_a_file_that_was_removed_is_made_anew(path, ledger):
    """What is given after somebody removed the file goes into a new one, whoever makes it; reads follow."""
    with SQLiteLedger(path) as other:
        for sink in (ledger, other):
            sink(call("a"))
            assert sink.flush()
        path.unlink()
        for turn in range(3):
            for name, sink in (("b", ledger), ("c", other)):
                sink(call(f"{name}{turn}"))
                assert sink.flush()

        for sink in (ledger, other):
            assert ["b0", "c0", "b1", "c1", "b2", "c2"] == [record.event_id for record in sink.records()]
    check_file(path)


def test_a_file_that_another_program_replaced_is_not_touched(path, ledger):
    """Records wait while a foreign file is in the ledger's place, and go where the ledger comes back."""
    ledger(call("a"))
    ledger.flush()
    ledger._file.close()
    path.rename(path.with_name("mine.db"))
    program = sqlite3.connect(path)
    program.execute("CREATE TABLE mine (a)")
    program.close()
    before = path.read_bytes()
    ledger(call("b"))
    assert not ledger.flush()
    assert (before, 1) == (path.read_bytes(), ledger.waiting)

    path.with_name("mine.db").replace(path)
    assert ledger.flush()
    assert ["a", "b"] == [record.event_id for record in ledger.records()]


def test_the_log_stays_small(path, ledger):
    """What is past 4 MB in the write-ahead log is copied into the database, and the log starts again."""
    for number in range(30):
        for other in range(500):
            ledger(call(f"{number} {other}", session=f"session {other}", tags={"padding": "x" * 200}))
        assert ledger.flush()

    assert path.with_name("ledger.db-wal").stat().st_size < 3 * location.WAL_LIMIT
    assert path.stat().st_size > location.WAL_LIMIT
