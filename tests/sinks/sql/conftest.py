import pytest

from tests.support.ledger_places import PostgresPlaceOfTest, SQLitePlace
from token_handlers.sinks.postgres import store


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Let calls be summed as soon as enough wait."""
    monkeypatch.setattr(store, "ROLL_UP_SECONDS", 0)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """Where a ledger is to be that is not there yet: a file, or a schema of a server."""
    if request.param == "sqlite":
        return SQLitePlace(tmp_path / "ledger.db")
    return PostgresPlaceOfTest(request.getfixturevalue("postgres"), request.getfixturevalue("schema"))


@pytest.fixture
def ledger(place):
    """An empty ledger."""
    with place.open() as empty:
        yield empty
