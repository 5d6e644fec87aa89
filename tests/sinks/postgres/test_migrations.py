import threading

import pytest

from tests.support.ledger_places import BEFORE_LINES
from tests.support.ledgers import call, check_sums
from tests.support.postgres_servers import Postgres
from token_handlers import Usage
from token_handlers.errors import StoreUnavailable
from token_handlers.sinks.postgres import SQLLedger
from token_handlers.sinks.postgres.schema import VERSION
from token_handlers.sinks.sql.schema import LEVELS


def tables(postgres, schema):
    """Return the names of a schema's tables."""
    return {name for (name,) in postgres.run(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")}


def test_all_start_at_once(postgres, schema):
    """Ledgers that are the first to come at the same time make one schema, and the partitions, once."""
    ledgers = [SQLLedger(postgres.url, schema) for _ in range(6)]
    start = threading.Barrier(6)

    def work(number):
        start.wait()
        ledgers[number](call(f"{number}"))
        ledgers[number](call("same"))
        assert ledgers[number].flush()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 7 == ledgers[0].totals().successful_requests
    assert [(VERSION,)] == postgres.run(f"SELECT version FROM {schema}.ledger_version")
    assert [0] * 6 == [ledger.failed_writes for ledger in ledgers]
    for ledger in ledgers:
        ledger.close()


def test_an_older_ledger(postgres, schema):
    """A column and a measure that are missing are added, whatever time it takes, and who may read still may."""
    with SQLLedger(postgres.url, schema) as ledger:
        ledger(call("a", usage=Usage(input_tokens=5, web_searches=3), project="gone"))
    postgres.run(
        f"SET search_path = {schema}",
        "DROP VIEW usage_measure",
        "CREATE VIEW usage_measure AS SELECT 1 AS older",
        "GRANT SELECT ON usage_measure TO outsider, PUBLIC",
        "ALTER TABLE usage_event DROP COLUMN project",
        *(f"ALTER TABLE {level} DROP COLUMN web_searches" for level in LEVELS),
        f"UPDATE ledger_version SET version = {VERSION - 2}",
        "CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN PERFORM pg_sleep(2.5); RETURN NULL; END $$",
        "CREATE TRIGGER takes_time BEFORE INSERT ON usage_batch FOR EACH STATEMENT EXECUTE FUNCTION take_time()",
    )
    with pytest.raises(StoreUnavailable, match="an older token_handlers made it"):
        SQLLedger(postgres.url, schema, read_only=True).totals()

    with SQLLedger(postgres.url, schema, timeout=2) as ledger:
        assert 1 == ledger.totals().successful_requests
    postgres.run(f"DROP TRIGGER takes_time ON {schema}.usage_batch")
    with SQLLedger(postgres.url, schema) as ledger:
        assert (3, 5) == (ledger.totals().web_searches, ledger.totals().prompt_tokens)
        ledger(call("b", project="here"))
        assert [None, "here"] == sorted((record.project for record in ledger.records()), key=str, reverse=False)
        check_sums(ledger)
    may = "SELECT has_table_privilege('{}', '{}.usage_measure', 'SELECT')"
    assert [(True,)] == postgres.run(may.format("outsider", schema))


def test_a_ledger_from_before_write_calls(postgres, schema):
    """Who may write to a ledger of an older version may write to it when it is one of today's; its sums stay."""
    with SQLLedger(postgres.url, schema) as ledger:
        ledger(call("a"))
    postgres.run(
        f"SET search_path = {schema}",
        *BEFORE_LINES,
        f"GRANT USAGE ON SCHEMA {schema} TO locked",
        "GRANT SELECT ON ledger_version TO locked",
        "GRANT EXECUTE ON FUNCTION add_calls, roll_up TO locked",
        f"UPDATE ledger_version SET version = {VERSION - 1000}",
        "UPDATE rollup_state SET used = '{kept}'",
    )
    with SQLLedger(postgres.url, schema) as ledger:
        ledger(call("b"))
        assert 2 == ledger.totals().successful_requests
        check_sums(ledger)
        with SQLLedger(postgres.url_of("locked"), schema) as writer:
            writer(call("c"))
            assert writer.flush()
        assert 3 == ledger.totals().successful_requests
    assert [(["kept"], 3)] == postgres.run(
        f"SELECT used, (SELECT count(*) FROM {schema}.usage_batch) FROM {schema}.rollup_state"
    )
    assert [(False,)] == postgres.run(
        f"SELECT has_function_privilege('outsider', '{schema}.write_calls(text, text[])', 'EXECUTE')"
    )


def test_a_newer_ledger_is_left_alone(postgres, schema):
    """What a later version made is refused with the remedy, and stays as it is."""
    with SQLLedger(postgres.url, schema) as ledger:
        ledger(call("a"))
    postgres.run(f"UPDATE {schema}.ledger_version SET version = {VERSION + 1}")

    with SQLLedger(postgres.url, schema) as ledger:
        ledger(call("b"))
        assert not ledger.flush()
        with pytest.raises(StoreUnavailable, match=f"version {VERSION + 1}.*upgrade token_handlers"):
            ledger.totals()
        ledger._writer._items.clear()
    assert [(1,)] == postgres.run(f"SELECT count(*) FROM {schema}.usage_event")


def test_another_programs_schema_is_not_touched(postgres, schema):
    """A schema with tables of somebody else is refused, and has nothing more than before."""
    postgres.run(f"CREATE SCHEMA {schema}", f"CREATE TABLE {schema}.theirs (a integer)")
    with SQLLedger(postgres.url, schema) as ledger, pytest.raises(StoreUnavailable, match="another program's tables"):
        ledger.totals()

    assert {"theirs"} == tables(postgres, schema)


def test_a_schema_that_is_there_and_empty_is_taken(postgres, schema):
    """An owner who may not make schemas gets one, and needs no more."""
    postgres.run(f"CREATE SCHEMA {schema} AUTHORIZATION locked")
    with SQLLedger(postgres.url_of("locked"), schema) as ledger:
        ledger(call("a"))
        assert 1 == ledger.totals().successful_requests


def test_nothing_is_made_to_read(postgres, schema):
    """A ledger that is only read is not made where there is none."""
    with SQLLedger(postgres.url, schema, read_only=True) as ledger:
        with pytest.raises(StoreUnavailable, match="there is none"):
            ledger.totals()
        with pytest.raises(ValueError, match="opened to be read"):
            ledger(call("a"))

    assert set() == tables(postgres, schema)


def test_a_database_of_another_encoding(postgres, schema):
    """Where the database does not hold every text, none is kept there."""
    postgres.run(f"CREATE DATABASE {schema} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    url = postgres.url_of("postgres", database=schema)
    with SQLLedger(url) as ledger, pytest.raises(StoreUnavailable, match="encoding is LATIN1: choose one in UTF8"):
        ledger.totals()


def test_an_older_server(schema):
    """PostgreSQL 16 does as 18 does, also where its locale sorts words as people do."""
    with Postgres(16) as server, SQLLedger(server.url, schema) as ledger:
        for number, user in enumerate("aBcÄ"):
            ledger(call(f"{number}", user=user, session="s", tags={"team": user}))
        assert ledger.flush()

        assert {"B", "a", "c", "Ä"} == set(ledger.by("user"))
        assert 4 == ledger.totals(session="s").successful_requests
        check_sums(ledger)
