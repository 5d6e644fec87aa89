import sqlite3
import stat

import pytest

from tests.support.ledgers import call
from token_handlers import TokenHandlersError
from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.sinks.sqlite import location as sqlite_place
from token_handlers.sinks.sqlite import schema as sqlite_schema


@pytest.fixture
def path(tmp_path):
    """The path of a ledger that is not there yet."""
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path):
    """An empty ledger."""
    with SQLiteLedger(path) as empty:
        yield empty


def test_text_is_not_touched(path):
    """A file of something else is refused by name, and stays as it was, alone."""
    for text in ("my diary\n" * 1000, "hi"):
        path.write_text(text)
        with pytest.raises(TokenHandlersError, match="another path") as error:
            SQLiteLedger(path)

        assert str(path) in str(error.value)
        assert (text, [path]) == (path.read_text(), list(path.parent.iterdir()))


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_another_programs_database_is_not_touched(path, mode):
    """A SQLite file of something else is refused by name, and stays as it was, also while its program writes to it."""
    program = sqlite3.connect(path)
    program.execute(f"PRAGMA journal_mode = {mode}")
    program.execute("CREATE TABLE mine (a)")
    program.commit()
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(TokenHandlersError, match="another program's") as error:
            SQLiteLedger(path)
        assert str(path) in str(error.value)
        assert before == path.read_bytes()
        program.execute("INSERT INTO mine VALUES (1)")

    program.commit()
    program.close()
    assert not path.with_name("ledger.db.lock").exists()


def test_a_newer_ledger_is_not_touched(path):
    """A ledger of a version to come is refused with the remedy, and stays as it was."""
    SQLiteLedger(path).close()
    program = sqlite3.connect(path)
    program.execute("PRAGMA user_version = 99")
    program.close()
    before = path.read_bytes()

    with pytest.raises(TokenHandlersError, match="upgrade token_handlers"):
        SQLiteLedger(path)
    assert before == path.read_bytes()


def test_no_place_for_a_ledger(tmp_path, monkeypatch):
    """A folder, a path through a file, no path and memory are refused."""
    with pytest.raises(TokenHandlersError, match="it is no file"):
        SQLiteLedger(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(TokenHandlersError, match="choose another path"):
        SQLiteLedger(tmp_path / "file" / "ledger.db")
    for nowhere in ("", ":memory:"):
        with pytest.raises(ValueError, match="path of a file"):
            SQLiteLedger(nowhere)
    with pytest.raises(ValueError, match="'batch' or 'sync'"):
        SQLiteLedger(tmp_path / "ledger.db", durability="fast")


def test_an_old_sqlite_is_refused(path, monkeypatch):
    """A SQLite without STRICT tables is named with the remedy."""
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 36, 0))
    with pytest.raises(TokenHandlersError, match=r"needs 3\.37"):
        SQLiteLedger(path)


def test_network_file_systems_are_refused(path, tmp_path, monkeypatch):
    """Where the system tells it cheaply, a network file system is refused; the deepest mount counts."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/vda rw\n2 1 0:1 / {tmp_path}/net\\040work rw shared:1 - nfs4 host:/ rw\n"
    )
    assert "ext4" == sqlite_place.file_system(path, mounts)
    assert "nfs4" == sqlite_place.file_system(tmp_path / "net work" / "a" / "ledger.db", mounts)
    assert sqlite_place.file_system(path, tmp_path / "nothing") is None

    monkeypatch.setattr(sqlite_place, "file_system", lambda path: "nfs4")
    with pytest.raises(TokenHandlersError, match="nfs4"):
        SQLiteLedger(path)


def test_paths(tmp_path, monkeypatch):
    """A home folder is expanded, missing folders are made, an empty file becomes a ledger, links are followed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with SQLiteLedger("~/a/b/ledger?#%.db") as ledger:
        ledger(call("a"))
    assert (tmp_path / "a" / "b" / "ledger?#%.db").is_file()

    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with SQLiteLedger(tmp_path / "link") as ledger:
        ledger(call("a"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty").stat().st_size


def test_only_the_owner_can_read_it(path, ledger):
    """The file and those beside it have mode 0600, whatever the umask allows."""
    ledger(call("a"))
    ledger.flush()

    assert {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600, "ledger.db.lock": 0o600} == {
        file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()
    }


def test_an_older_ledger_is_migrated(path, monkeypatch):
    """Each version's statements run once, on a ledger of the version before, and user_version says so."""
    with SQLiteLedger(path) as old:
        old(call("a"))
    monkeypatch.setattr(
        sqlite_place, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, ("ALTER TABLE usage_event ADD COLUMN mood TEXT",))
    )
    for _ in range(2):
        with SQLiteLedger(path) as new:
            new(call("b"))
            assert 2 == new.totals().successful_requests

    program = sqlite3.connect(path)
    assert (len(sqlite_schema.MIGRATIONS) + 1,) == program.execute("PRAGMA user_version").fetchone()
    assert (2,) == program.execute("SELECT count(*) FROM usage_event WHERE mood IS NULL").fetchone()
    program.close()


def test_every_count_has_a_column(ledger, path):
    """Usage's fields and the table's columns are the same."""
    program = sqlite3.connect(path)
    columns = {row[1] for row in program.execute("PRAGMA table_info(usage_event)")}
    program.close()

    assert set(sqlite_schema.COLUMNS) | {"id"} == columns
