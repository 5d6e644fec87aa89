import traceback
from time import monotonic

import pytest
from pydantic import SecretStr

from tests.support.ledgers import call
from tests.support.redis_servers import SECRET, black_hole, free_port, http_server, listening
from token_handlers import TokenHandlersError
from token_handlers.errors import StoreUnavailable
from token_handlers.sinks.postgres import SQLLedger


def failure(ledger):
    """Return what a ledger says of its server, and check that it tells no password, wherever it is looked for."""
    with pytest.raises(StoreUnavailable) as caught:
        ledger.totals()
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in told
    assert SECRET not in repr(ledger)
    ledger._writer._stopping = True
    return str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{SECRET}@host/db",
        f"{SECRET}",
        f"postgresql://user:{SECRET}%zz@host/db",
        f"postgresql://user:{SECRET}@host:port/db?{SECRET}",
        f"postgresql://user@host/db?passwort={SECRET}",
    ],
)
def test_a_url_that_is_none_is_not_quoted(url):
    """A mistyped URL may have the password anywhere: the error says what a URL is like, and nothing of this one."""
    with pytest.raises(ValueError, match="PostgreSQL URL") as caught:
        SQLLedger(url)

    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("junk", [None, 5, b"postgresql://"])
def test_what_is_no_url(junk):
    """A URL is a string, or one that is kept secret."""
    with pytest.raises(TypeError, match="url must be a string"):
        SQLLedger(junk)


@pytest.mark.parametrize("schema", ["", "Upper", "a b", 'a";', "a" * 41, 5])
def test_what_is_no_schema(schema):
    """A schema has a plain name, which needs no quotes."""
    with pytest.raises(ValueError, match="schema must be a name"):
        SQLLedger("postgresql://host/db", schema)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": 10**6}, {"capacity": 0}, {"capacity": 1.5}])
def test_absurd_numbers_are_refused(options):
    """Each error names the argument."""
    with pytest.raises(ValueError, match=next(iter(options))):
        SQLLedger("postgresql://host/db", **options)


def test_where_it_is():
    """A ledger is named by host, port, database and schema; the URL may say the schema too."""
    url = f"postgresql://user:{SECRET}@db:6543/usage?sslmode=require"
    with SQLLedger(SecretStr(url)) as ledger:
        assert "postgresql://db:6543/usage (schema token_handlers)" == ledger.place
    with SQLLedger(f"{url}&schema=shop") as ledger:
        assert "<SQLLedger postgresql://db:6543/usage (schema shop) waiting=0>" == repr(ledger)
    with SQLLedger(f"{url}&schema=shop", "other") as ledger:
        assert "postgresql://db:6543/usage (schema other)" == ledger.place


def test_a_wrong_password(postgres, schema):
    """A password that the server refuses is said, not shown."""
    with SQLLedger(postgres.url_of("locked", f"{SECRET}-wrong"), schema) as ledger:
        assert 'password authentication failed for user "locked": look at the URL\'s user and password' in failure(
            ledger
        )
    with SQLLedger(postgres.url_of("locked"), schema) as ledger:
        assert "permission denied for database postgres: let the schema's owner grant it" in failure(ledger)


def test_tls_on_one_side_only(postgres, schema):
    """Where only one side has TLS, the remedy names the URL's sslmode."""
    with SQLLedger(f"{postgres.url}?sslmode=require", schema) as ledger:
        assert "let the server have a certificate, or take sslmode out of the URL" in failure(ledger)
    with SQLLedger(postgres.url_of("outsider"), schema) as ledger:
        assert "the server wants TLS: add ?sslmode=verify-full, or require, to the URL" in failure(ledger)


def test_what_is_not_there(postgres, schema):
    """No server, no database, and a server of another kind are each named with the address."""
    port = free_port()
    with SQLLedger(f"postgresql://user:{SECRET}@127.0.0.1:{port}/db") as ledger:
        assert f"the ledger postgresql://127.0.0.1:{port}/db (schema token_handlers) can't be used: " in failure(ledger)
    with SQLLedger(postgres.url_of("postgres", database="nothing"), schema) as ledger:
        assert 'database "nothing" does not exist' in failure(ledger)
    with http_server() as port, SQLLedger(f"postgresql://user:{SECRET}@127.0.0.1:{port}/db", timeout=0.5) as ledger:
        assert "can't be used" in failure(ledger)


def test_a_black_hole(caplog):
    """A server that accepts and never answers slows no call, and a question only until its time-out."""
    with (
        listening(black_hole) as port,
        SQLLedger(f"postgresql://user:{SECRET}@127.0.0.1:{port}/db?connect_timeout=2", timeout=0.2) as ledger,
    ):
        ledger(call("a"))
        assert not ledger.flush(0.01)
        assert 1 == ledger.waiting
        assert "can't be used" in failure(ledger)
    assert "records that were not written: 1: " in caplog.messages[-1]
    assert SECRET not in caplog.text


def test_a_server_that_stops_answering(postgres, schema):
    """A question to a server that hangs ends with the time-out, and the next one is answered once it goes on."""
    with SQLLedger(postgres.url, schema, timeout=0.5) as ledger:
        ledger(call("a"))
        assert ledger.flush()
        assert 1 == ledger.totals().successful_requests
        postgres.pause()
        try:
            began = monotonic()
            with pytest.raises(StoreUnavailable, match=r"no answer within 0.5 s"):
                ledger.totals()
            assert monotonic() - began < 30
        finally:
            postgres.resume()
        assert 1 == ledger.totals().successful_requests


def test_a_lock_of_somebody_else(postgres, schema):
    """A table that another program has locked holds nobody up for longer than the time-out; what waits is kept."""
    import psycopg

    with SQLLedger(postgres.url, schema, timeout=0.3) as ledger:
        assert 0 == ledger.totals().successful_requests
        with psycopg.connect(postgres.url) as program:
            program.execute(f"LOCK TABLE {schema}.usage_key, {schema}.usage_batch IN ACCESS EXCLUSIVE MODE")
            ledger(call("a"))
            assert not ledger.flush()
            with pytest.raises(TokenHandlersError, match=r"ask for less|what locks its tables|lock timeout"):
                ledger.totals()
        assert ledger.flush(30) or ledger.flush(30)
        assert 1 == ledger.totals().successful_requests


def test_a_connection_that_was_closed_while_it_was_idle(postgres, schema):
    """A pooler or a restart that ends an idle connection is not noticed by who asks next."""
    with SQLLedger(postgres.url, schema) as ledger:
        ledger(call("a"))
        assert 1 == ledger.totals().successful_requests
        postgres.run("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

        assert 1 == ledger.totals().successful_requests
        ledger(call("b"))
        assert ledger.flush()
        assert (2, 0) == (ledger.totals().successful_requests, ledger.failed_writes)
