import itertools
import sys
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from tests.support.ledgers import NOON, call, check_sums
from tests.support.postgres_servers import LOG_BYTES, Postgres
from tests.support.redis_servers import SECRET
from token_handlers.errors import StoreUnavailable
from token_handlers.sinks.postgres import SQLLedger, store
from token_handlers.sinks.postgres.schema import summed
from token_handlers.sinks.sql import rollups
from token_handlers.sinks.sql.rows import milliseconds
from token_handlers.sinks.sql.schema import SUMS


@pytest.fixture
def ledger(postgres, schema):
    """An empty ledger."""
    with SQLLedger(postgres.url, schema) as empty:
        yield empty


def months(postgres, schema):
    """Return the partitions of a ledger, with the number of calls in each."""
    query = f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{schema}.usage_event'::regclass"
    names = [name for (name,) in postgres.run(query)]
    return {
        name.removeprefix(f"{schema}.usage_event_"): postgres.run(f"SELECT count(*) FROM {name}")[0][0]
        for name in names
    }


def test_months(postgres, schema, ledger):
    """Calls are in the partition of their month in UTC, the very old and very late ones in one each."""
    moments = {
        "1970": datetime(1970, 1, 1, tzinfo=UTC),
        "2019": datetime(2020, 1, 1, tzinfo=UTC) - timedelta(milliseconds=1),
        "2024-02": datetime(2024, 2, 29, 23, 59, tzinfo=UTC),
        "2024-03": datetime(2024, 3, 1, tzinfo=UTC),
        "9999": datetime(9999, 12, 31, tzinfo=UTC),
    }
    for name, moment in moments.items():
        ledger(call(name, started_at=moment))
    assert ledger.flush()

    ahead = f"{datetime.now(UTC) + timedelta(days=20):%Y_%m}"
    expected = {"before_2020": 2, "2024_02": 1, "2024_03": 1, "from_2100": 1, ahead: 0}
    assert expected == months(postgres, schema)
    assert list(moments) == [record.event_id for record in ledger.records()]
    assert {"1970-01-01", "2019-12-31", "2024-02-29", "2024-03-01", "9999-12-31"} == set(ledger.by("day"))
    check_sums(ledger)


def test_a_call_is_kept_once_whatever_its_month(ledger):
    """The event id alone tells a call, also where a time was made up when it was given."""
    ledger(call("a", started_at=NOON))
    ledger(call("a", started_at=NOON + timedelta(days=99)))
    assert ledger.flush()
    ledger(call("a", started_at=NOON - timedelta(days=99)))
    assert ledger.flush()

    assert (1, 2) == (ledger.totals().successful_requests, ledger.duplicates)


def test_writers_that_sum_while_others_write(postgres, schema, monkeypatch):
    """However writers, sums and repricing interleave, nothing is summed twice or left out."""
    monkeypatch.setattr(rollups, "ROLL_UP_AT", 20)
    monkeypatch.setattr(rollups, "AT_ONCE", 30)
    monkeypatch.setattr(store, "ROLL_UP_SECONDS", 0)
    ledgers = [SQLLedger(postgres.url, schema) for _ in range(4)]

    def work(number):
        own = ledgers[number]
        for each in range(150):
            labels = {"session": f"s{each % 5}", "user": f"u{number}", "tags": {"team": f"t{each % 3}"}}
            own(call(f"{number}-{each}", **labels))
            own(call(f"all-{each}", **labels, model=f"m{number}"))
            if each % 30 == number:
                own.flush()
        assert own.flush(60)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    ledgers[0].update_costs(lambda record: Decimal(2))
    for thread in threads:
        thread.join()
    ledgers[0].update_costs(lambda record: Decimal(3))

    assert 750 == ledgers[0].totals().successful_requests
    assert 2250 == ledgers[0].totals().cost
    check_sums(ledgers[0])
    ((summed,),) = postgres.run(
        f"SELECT sum(successful_requests) FROM {schema}.rollup_hour WHERE label = '' AND apart = 0"
    )
    assert 0 < summed
    for own in ledgers:
        own.close()


def test_when_calls_are_summed(postgres, schema, ledger, monkeypatch):
    """Enough calls are summed when they have waited, very many or very many batches at once."""
    monkeypatch.setattr(rollups, "ROLL_UP_AT", 5)
    monkeypatch.setattr(store, "MANY", 20)
    numbers = itertools.count()

    def waiting(calls):
        for _ in range(calls):
            ledger(call(f"{next(numbers)}"))
        assert ledger.flush(30)
        return postgres.run(f"SELECT coalesce(sum(calls), 0) FROM {schema}.usage_batch")[0][0]

    assert [4, 10, 19, 0] == [waiting(calls) for calls in (4, 6, 9, 1)]
    assert [1, 2, 3, 4, 0] == [waiting(1) for _ in range(5)]
    assert 9 == waiting(9)
    postgres.run(f"UPDATE {schema}.usage_batch SET added_at = now() - interval '1 second'")
    assert 0 == waiting(1)
    check_sums(ledger)


def test_known_values_are_looked_up(postgres, schema, ledger):
    """A sum looks each session and user up by an index, also while the server has no statistics of the tables."""
    for number in range(20):
        ledger(call(f"{number}", session=f"{number}", user=f"{number}"))
    while ledger._store.write([]).has_more or ledger.waiting:
        assert ledger.flush(30)
    plan = postgres.run(f"SET search_path = {schema}", f"EXPLAIN {summed('batch = 1', rollups.sums_of(SUMS))}")
    lines = [line.strip() for (line,) in plan]
    found = [lines[number + 1] for number, line in enumerate(lines) if " on rollup_ever known" in line]

    assert 2 == len(found)
    assert all(condition.startswith("Index Cond") and "(value = came" in condition for condition in found)


def test_a_writer_that_may_not_read(postgres, schema, ledger, monkeypatch):
    """The guide's roles: one writes and sees no call, one reads and changes none."""
    monkeypatch.setattr(rollups, "ROLL_UP_AT", 2)
    monkeypatch.setattr(store, "ROLL_UP_SECONDS", 0)
    ledger(call("a"))
    assert ledger.flush()
    postgres.run(
        f"GRANT USAGE ON SCHEMA {schema} TO locked, outsider",
        f"GRANT SELECT ON {schema}.ledger_version TO locked",
        f"GRANT EXECUTE ON FUNCTION {schema}.write_calls, {schema}.roll_up TO locked",
    )
    with SQLLedger(postgres.url_of("locked"), schema) as writer:
        writer(call("a"))
        writer(call("b", started_at=NOON - timedelta(days=400)))
        assert writer.flush()
        assert 1 == writer.duplicates
        with pytest.raises(StoreUnavailable, match="permission denied"):
            writer.totals()
        for statement in ("SELECT * FROM usage_event", "DELETE FROM usage_event", "SELECT make_month('2024_01')"):
            with psycopg.connect(postgres.url_of("locked", SECRET)) as program:
                program.execute(f"SET search_path = {schema}")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    program.execute(statement)
    assert [(0,)] == postgres.run(f"SELECT count(*) FROM {schema}.usage_batch")
    postgres.run(
        f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {schema} FROM locked",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO locked",
    )

    with SQLLedger(postgres.url_of("locked"), schema, read_only=True) as reader:
        assert ledger.totals() == reader.totals()
        check_sums(reader)
    with SQLLedger(postgres.url_of("locked"), schema) as reader:
        reader(call("c"))
        assert not reader.flush()
        with pytest.raises(StoreUnavailable, match="permission denied"):
            reader.update_costs(lambda record: Decimal(1))
        reader._writer._items.clear()
    assert 2 == ledger.totals().successful_requests


@pytest.mark.parametrize(
    ("state", "told"),
    [("disk_full", "free some space on the server"), ("serialization_failure", ""), ("deadlock_detected", "")],
)
def test_what_passes(postgres, schema, ledger, state, told, caplog):
    """A disk that is full, or a transaction that lost against another, keeps records waiting, and loses none."""
    ledger(call("before"))
    assert ledger.flush()
    postgres.run(
        f"SET search_path = {schema}",
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE {state}; END $$",
        "CREATE TRIGGER fails BEFORE INSERT ON usage_key EXECUTE FUNCTION fail()",
    )
    ledger(call("a"))
    assert not ledger.flush()
    assert (1, 0) == (ledger.waiting, ledger.lost)
    assert told in caplog.text

    postgres.run(f"DROP TRIGGER fails ON {schema}.usage_key")
    assert ledger.flush(30) or ledger.flush(30)
    assert 2 == ledger.totals().successful_requests


FILL = """
INSERT INTO {}.usage_event (batch, ts_ms, event_id, operation, outcome, source, requests, doubts)
SELECT 0, {}, 'filler ' || number, '', '', '', 0, repeat('x', 1900) FROM generate_series(1, {}) AS number
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of another process")
def test_a_server_without_room(schema, caplog):
    """A server that has no room for a table says so in one line, records wait, and all are kept once there is some."""
    with Postgres(file_bytes=LOG_BYTES) as server, SQLLedger(server.url, schema) as ledger:
        ledger(call("a"))
        assert ledger.flush()
        server.run(FILL.format(schema, milliseconds(NOON), 7500))
        with pytest.raises(psycopg.Error, match="could not extend file"):
            server.run(*[FILL.format(schema, milliseconds(NOON), 50)] * 30)
        for number in range(100):
            ledger(call(f"{number}", tags={"long": "x" * 1500}))
            if not ledger.flush():
                break
        assert 0 < ledger.waiting
        assert number + 2 - ledger.waiting == ledger.totals().successful_requests
        assert "can't be used: could not extend file" in caplog.messages[0]
        assert ": free some space on the server; up to 20000 records wait" in caplog.messages[0]

        server.run(f"DELETE FROM {schema}.usage_event WHERE event_id LIKE 'filler%'", f"VACUUM {schema}.usage_event")
        assert ledger.flush(30) or ledger.flush(30)
        assert (number + 2, 0, 1) == (ledger.totals().successful_requests, ledger.lost, len(caplog.messages))


def test_what_a_server_refuses_is_lost_alone(postgres, schema, ledger):
    """A record that the server will not keep is counted as lost; those beside it are kept."""
    assert 0 == ledger.totals().successful_requests
    postgres.run(f"ALTER TABLE {schema}.usage_event ADD CHECK (session <> 'refused')")
    for name in ("a", "refused", "b"):
        ledger(call(name, session=name))
    assert ledger.flush(30)

    assert (2, 1) == (ledger.totals().successful_requests, ledger.lost)


def test_a_role_of_other_habits(postgres, schema):
    """A role's own isolation, time zone, search path and date style change nothing."""
    settings = ("default_transaction_isolation = serializable", "TimeZone = 'Asia/Kolkata'", "search_path = public")
    postgres.run(
        "CREATE ROLE habits LOGIN SUPERUSER",
        *(f"ALTER ROLE habits SET {setting}" for setting in (*settings, "DateStyle = 'SQL, DMY'")),
    )
    with SQLLedger(postgres.url_of("habits"), schema) as ledger:
        for number in range(3):
            ledger(call(f"{number}", started_at=datetime(2026, 3, 1, tzinfo=UTC) - timedelta(hours=number)))
        assert ledger.flush()

        assert {"2026-02-28": 2, "2026-03-01": 1} == {
            day: totals.successful_requests for day, totals in ledger.by("day").items()
        }
        assert {"2026_02": 2, "2026_03": 1} == {name: size for name, size in months(postgres, schema).items() if size}
        check_sums(ledger)
