import pytest

from token_handlers.sinks.sqlite import SQLiteLedger


@pytest.fixture
def path(tmp_path):
    """The path of a ledger that is not there yet."""
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path):
    """An empty ledger."""
    with SQLiteLedger(path) as empty:
        yield empty
