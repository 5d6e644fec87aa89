import traceback
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from tests.support.ledgers import call
from tests.support.redis_servers import SECRET
from tests.support.tls_front import Authority, tls_front
from token_handlers.errors import StoreUnavailable
from token_handlers.sinks.postgres import SQLLedger
from token_handlers.sinks.sqlite import SQLiteLedger


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Who signed the server's certificate."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def handshakes():
    """The version of TLS of each connection."""
    return []


@pytest.fixture
def port(postgres, authority, handshakes):
    """The port of a server that requires TLS."""
    with tls_front(postgres.port, authority.certificate("127.0.0.1"), handshakes) as port:
        yield port


def url_of(port, **options):
    """Return the URL of a role with a password."""
    query = "&".join(f"{name}={quote(str(value))}" for name, value in options.items())
    return f"postgresql://locked:{SECRET}@127.0.0.1:{port}/postgres?{query}"


@pytest.fixture(autouse=True)
def _owned_schema(postgres, schema):
    """The role may do what it likes in its schema."""
    postgres.run(f"CREATE SCHEMA {schema} AUTHORIZATION locked")


@pytest.mark.parametrize("mode", ["verify-full", "require", None])
def test_tls(port, authority, handshakes, schema, mode):
    """Records and questions go over TLS: with sslmode, and without one to a server that has it."""
    options = {"sslmode": mode} if mode else {}
    with SQLLedger(url_of(port, **options, sslrootcert=authority.path), schema) as ledger:
        for number in range(300):
            ledger(call(f"{number}"))
        assert ledger.flush()
        assert (300, 0) == (ledger.totals().successful_requests, ledger.failed_writes)

    assert ["TLSv1.3"] * 2 == handshakes


@pytest.mark.parametrize(
    ("host", "reason"),
    [(None, "certificate verify failed"), ("db.example", "does not match host name")],
)
def test_a_wrong_certificate(postgres, authority, schema, tmp_path, caplog, host, reason):
    """A certificate of another authority or host is one line that names the remedy, and records wait in the backlog."""
    other = Authority(tmp_path)
    certificate, trusted = (authority if host else other).certificate(host or "127.0.0.1"), authority.path
    with SQLiteLedger(tmp_path / "backlog.db") as file:
        with tls_front(postgres.port, certificate, []) as port:
            url = url_of(port, sslmode="verify-full", sslrootcert=trusted)
            ledger = SQLLedger(url, schema, capacity=5, backlog=file)
            for number in range(20):
                record = call(f"{number}", started_at=datetime.now(UTC))
                for sink in (file, ledger):
                    sink(record)
            assert not ledger.flush()
            with pytest.raises(StoreUnavailable, match=reason) as caught:
                ledger.totals()
        assert "let the server's certificate be for this host" in str(caught.value)
        assert [f"{caught.value}; up to 5 records wait, and writing is tried again"] == caplog.messages
        assert SECRET not in caplog.text + "".join(traceback.format_exception(caught.value)) + repr(ledger)
        assert 0 == ledger.lost
        ledger._writer._items.clear()
        ledger.close()

        with SQLLedger(postgres.url_of("locked"), schema, backlog=file) as ledger:
            assert ledger.flush(30)
            assert file.totals() == ledger.totals()


def test_a_server_that_requires_tls(port, schema):
    """Where the URL says no TLS, the remedy is what the URL needs."""
    with SQLLedger(url_of(port, sslmode="disable"), schema) as ledger:
        with pytest.raises(StoreUnavailable, match=r"wants TLS: add \?sslmode=verify-full") as caught:
            ledger.totals()
        assert SECRET not in "".join(traceback.format_exception(caught.value))
