import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ledgers import call, check_file, check_sums, make_old, mounts
from tests.support.usage_ledgers import fill
from token_handlers import TokenHandlersError, Usage
from token_handlers.sinks.sql import rollups
from token_handlers.sinks.sql.schema import COLUMNS, EXPRESSIONS, SUMS
from token_handlers.sinks.sqlite import SQLiteLedger, file, location, schema
from token_handlers.sinks.sqlite import rollups as sqlite_rollups
from token_handlers.usage import MEASURES


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


def test_a_file_of_two_names_is_refused(path, tmp_path):
    """Who opens the other name sees neither lock nor log, so that calls would vanish: it is said, with the remedy."""
    fill(path, call("a"))
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "usage.db"
    other.hardlink_to(path)
    for name in (path, other):
        for settings in ({}, {"read_only": True}):
            with pytest.raises(TokenHandlersError, match=r"has 2 names \(hard links\): keep one of them"):
                SQLiteLedger(name, **settings)

    other.unlink()
    with SQLiteLedger(path) as ledger:
        assert 1 == ledger.totals().successful_requests


def test_a_file_that_gets_a_second_name(path, ledger):
    """A ledger that is linked while it is open takes what is given until it is opened again, and then says so."""
    ledger(call("a"))
    assert ledger.flush()
    path.with_name("other").hardlink_to(path)
    ledger(call("b"))
    assert ledger.flush()
    ledger._file.close()
    ledger(call("c"))
    assert not ledger.flush()

    path.with_name("other").unlink()
    assert ledger.flush()
    assert 3 == ledger.totals().successful_requests


MOUNTED = """
import sys
from token_handlers.sinks.sqlite import SQLiteLedger
try:
    SQLiteLedger(sys.argv[1])
except Exception as error:
    print(error)
"""


@pytest.mark.skipif(mounts() is None, reason="needs a user namespace, to mount a file")
def test_a_file_mounted_by_itself_is_refused(path, tmp_path):
    """A ledger that a container mounts without its folder has no log in common with others: mount the folder."""
    fill(path, call("a"))
    (tmp_path / "app data").mkdir()
    there = tmp_path / "app data" / "usage.db"
    there.touch()
    script = f'mount --bind {path} "{there}" && exec {sys.executable} -c "$0" "{there}"'
    done = subprocess.run(
        [*mounts(), "sh", "-c", script, MOUNTED],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )

    assert f"the ledger {there} can't be used: it is mounted without its folder: mount the folder" in done.stdout


KILLED = """
import os, sys
from tests.support.ledgers import call
from token_handlers.sinks.sqlite import SQLiteLedger
ledger = SQLiteLedger(sys.argv[1])
ledger(call("in the log"))
assert ledger.flush()
os.kill(os.getpid(), 9)
"""


def leave_log(path):
    """Let a process write to a ledger and be killed: its call is in the log alone."""
    subprocess.run([sys.executable, "-c", KILLED, path], cwd=Path(__file__).parents[3], check=False, timeout=60)
    assert path.with_name(f"{path.name}-wal").stat().st_size


def test_a_backup_in_the_place_of_a_ledger(path, tmp_path):
    """A ledger that is put where a killed one has left its log is not overwritten by that log: it is refused."""
    backup = fill(tmp_path / "backup.db", call("kept"))
    leave_log(path)
    backup.replace(path)
    before = path.read_bytes()
    for settings in ({}, {"read_only": True}):
        with pytest.raises(TokenHandlersError, match="is the log of a file that was in its place before"):
            SQLiteLedger(path, **settings)
    assert before == path.read_bytes()

    for end in ("-wal", "-shm"):
        path.with_name(f"ledger.db{end}").unlink()
    with SQLiteLedger(path) as ledger:
        assert ["kept"] == [record.event_id for record in ledger.records()]


def test_a_backup_in_the_place_of_an_open_ledger(path, ledger, tmp_path, caplog):
    """What is given after a backup was moved over an open ledger goes into the backup; the log before is kept apart."""
    backup = fill(tmp_path / "backup.db", call("kept"), call("kept too"))
    ledger(call("before"))
    assert ledger.flush()
    assert 1 == ledger.totals().successful_requests
    backup.replace(path)
    assert ["kept", "kept too"] == [record.event_id for record in ledger.records()]
    ledger(call("after"))
    assert ledger.flush()

    assert ["kept", "kept too", "after"] == [record.event_id for record in ledger.records()]
    check_file(path)
    assert 1 == caplog.text.count("another file is in the place of the ledger")
    assert 1 == sum(file.name.startswith("ledger.db-wal.") for file in path.parent.iterdir())


def test_a_killed_ledger_that_is_moved(path, tmp_path):
    """A ledger that is moved with its log, its lock left behind, has all of its calls."""
    leave_log(path)
    for end in ("", "-wal"):
        path.with_name(f"ledger.db{end}").rename(tmp_path / f"moved.db{end}")
    with SQLiteLedger(tmp_path / "moved.db") as ledger:
        assert ["in the log"] == [record.event_id for record in ledger.records()]


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
    monkeypatch.setattr(location, "MOUNTS", mounts)
    assert "ext4" == location.file_system(path)
    assert "nfs4" == location.file_system(tmp_path / "net work" / "a" / "ledger.db")
    with pytest.raises(TokenHandlersError, match="nfs4"):
        SQLiteLedger(tmp_path / "net work" / "ledger.db")

    monkeypatch.setattr(location, "MOUNTS", tmp_path / "nothing")
    assert location.file_system(path) is None


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


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_ledger_is_migrated(path, version):
    """The first write brings an older ledger up to today's version, sums that it did not keep included, once."""
    make_old(path, version)
    for name in "ab":
        with SQLiteLedger(path) as ledger:
            ledger(call(name))
            check_sums(ledger)
            totals = ledger.totals(session="s")
            assert (30, 2, 40, 7) == (
                totals.cache_write_1h_tokens,
                totals.web_searches,
                totals.cache_write_tokens,
                totals.embedding_tokens,
            )

    program = sqlite3.connect(path)
    assert (schema.VERSION,) == program.execute("PRAGMA user_version").fetchone()
    assert (7,) == program.execute("SELECT count(*) FROM usage_event WHERE doubts IS NULL").fetchone()
    program.close()


def test_a_measure_more(path, monkeypatch):
    """A ledger from before a measure gets its column, and the sum of what the calls have of it, when it is opened."""
    with monkeypatch.context() as patch:
        older = tuple(name for name in SUMS if name != "web_searches")
        searches = EXPRESSIONS["web_searches"]
        for module in (schema, sqlite_rollups):
            patch.setattr(module, "SUMS", older)
        patch.setattr(schema, "MEASURE_VIEW", schema.MEASURE_VIEW.replace(searches, "0"))
        for module in (schema, location, file):
            patch.setattr(module, "VERSION", schema.VERSION - 1)
        patch.setattr(rollups, "ROLL_UP_AT", 1)
        fill(path, call("a", usage=Usage(input_tokens=5, web_searches=3)))

    with SQLiteLedger(path) as ledger:
        assert (3, 5) == (ledger.totals().web_searches, ledger.totals().prompt_tokens)
        check_sums(ledger)


def test_every_count_and_measure_has_a_column(ledger, path):
    """Usage's fields are columns of the calls, and the totals' numbers columns of their sums."""
    program = sqlite3.connect(path)
    calls, sums = (
        {row[1] for row in program.execute(f"PRAGMA table_info({table})")} for table in ("usage_event", "rollup_day")
    )
    program.close()

    assert {*COLUMNS, "id"} == calls
    assert set(Usage.model_fields) <= calls
    assert {measure.name for measure in MEASURES} <= sums


def test_a_url_is_no_path(tmp_path, monkeypatch):
    """SQLAlchemy's URLs are refused, and make no folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="not a sqlite:// URL"):
        SQLiteLedger("sqlite:///usage.db")

    assert [] == list(tmp_path.iterdir())
