import json
import os
import shutil
import sqlite3
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.ledgers import call, check_sums, make_old
from token_handlers import TokenHandlersError
from token_handlers.cli import main
from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.sinks.sqlite import file as sqlite_file

# What an ordinary user may do, also where the tests run as root, whose Python others may not read: import all before.
READER = """
import contextlib, io, json, os, sys, tempfile
from token_handlers.cli import main
from token_handlers.sinks.sqlite import SQLiteLedger

def run(path, command):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main([*command.split(), "--ledger", path])
    return status, out.getvalue(), err.getvalue()

path, *commands = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    SQLiteLedger(f"{folder}/ledger.db").close()
    for command in commands:
        run(f"{folder}/ledger.db", command)
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(json.dumps([run(path, command) for command in commands]))
"""
# A program that is killed, so that calls are still in the log.
WRITER = """
import os, sys
from tests.support.ledgers import call
from token_handlers.sinks.sqlite import SQLiteLedger
ledger = SQLiteLedger(sys.argv[1])
ledger(call("in the log", session="s2"))
assert ledger.flush()
os.kill(os.getpid(), 9)
"""
ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path):
    """A folder that others may look into, as pytest's own may not be, and that is made writable at the end."""
    for parent in (tmp_path, *tmp_path.parents):
        if "pytest-of-" in str(parent):
            parent.chmod(0o755)
    place = tmp_path / "theirs"
    place.mkdir(mode=0o755)
    yield place
    place.chmod(0o755)


@pytest.fixture
def path(folder):
    """The path of a ledger with one call."""
    with SQLiteLedger(folder / "ledger.db") as ledger:
        ledger(call("first", session="s1"))
    return folder / "ledger.db"


def lock(path, *, file=0o444, folder=0o555, log=0o444, index=0o444):
    """Give a ledger's files and their folder the modes."""
    for end, mode in (("", file), ("-wal", log), ("-shm", index)):
        if Path(f"{path}{end}").exists():
            Path(f"{path}{end}").chmod(mode)
    path.parent.chmod(folder)


def read(path, *commands):
    """Run commands as an ordinary user; return their statuses, outputs and errors. The folder stays as it was."""
    before = files(path)
    command = [sys.executable, "-c", READER, path, *commands]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    assert before == files(path)
    return json.loads(result.stdout)


def total(path):
    """Return how many requests `report` finds as an ordinary user."""
    ((status, output, error),) = read(path, "report --json")
    assert (0, "") == (status, error)
    return json.loads(output)["total"]["successful_requests"]


def files(path):
    """Return the names, owners and sizes of what is beside a ledger."""
    return {(file.name, file.stat().st_uid, file.stat().st_size) for file in path.parent.iterdir()}


@pytest.mark.parametrize("modes", [{"folder": 0o777}, {"file": 0o644}, {}], ids=["file", "folder", "both"])
def test_what_may_only_be_read(path, modes):
    """A ledger that another user owns, or whose folder is, is reported on; nothing is made beside it."""
    lock(path, **modes)

    results = read(path, "report --json", "sessions", "export --json")
    assert [(0, "")] * 3 == [(status, error) for status, _, error in results]
    assert '"successful_requests": 1' in results[0][1]
    assert "s1" in results[1][1]
    assert '"event_id": "first"' in results[2][1]


def test_a_file_of_ones_own(path):
    """A ledger of mode 0400 is read by its owner."""
    path.chmod(0o400)
    if os.getuid() == 0:
        shutil.chown(path, 65534)

    assert 1 == total(path)


def test_calls_that_are_still_in_the_log(path):
    """What a killed program had not yet copied out of the log is in the report, where the log may be read."""
    subprocess.run([sys.executable, "-c", WRITER, path], cwd=ROOT, check=False, timeout=60)
    lock(path)

    assert 2 == total(path)


def test_while_its_owner_writes(path):
    """A ledger that is being written is reported on as it is at the time."""
    with SQLiteLedger(path) as ledger:
        for number in range(3):
            ledger(call(f"{number}"))
            ledger.flush()
            lock(path, folder=0o755)
            assert number + 2 == total(path)
            lock(path, file=0o600, log=0o600, index=0o600, folder=0o755)


@pytest.mark.parametrize(
    ("modes", "lost", "reason"),
    [
        ({"log": 0o000}, None, "ledger.db-wal, which may not be read: ask its owner for a report"),
        ({"index": 0o000}, None, "ledger.db-shm may not be read: ask its owner for a report"),
        ({}, "-shm", "ledger.db-shm is missing, so that the log has to be recovered: ask its owner for a report"),
        ({"folder": 0o777}, "-shm", "ledger.db-shm is missing, so that the log has to be recovered: ask its owner"),
        ({"file": 0o000}, None, "it may not be read: ask its owner"),
    ],
)
def test_what_can_not_be_read(path, modes, lost, reason):
    """A log that may not be read, or that must be recovered, is one line; the folder stays as it was."""
    subprocess.run([sys.executable, "-c", WRITER, path], cwd=ROOT, check=False, timeout=60)
    if lost:
        Path(f"{path}{lost}").unlink()
    lock(path, **modes)
    for status, output, error in read(path, "report", "sessions", "export --csv"):
        assert (1, "", 1) == (status, output, len(error.splitlines()))
        assert error.startswith(f"token-handlers: the ledger {path} can't be used: ")
        assert reason in error


def test_a_folder_of_others(path):
    """A ledger in a folder that this user may not look into is one line."""
    path.parent.chmod(0o700)
    error = f"token-handlers: the ledger {path} can't be used: Permission denied: choose another path\n"

    assert [[1, "", error]] == read(path, "report")


@pytest.fixture
def forbidden(monkeypatch):
    """Make this process one that may write no ledger, whoever runs it."""
    monkeypatch.setattr(sqlite_file, "may_write", lambda path: False)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("", "it may not be read"),
        ("-wal", "calls are still in .*-wal, which may not be read"),
        ("-shm", "-shm may not"),
    ],
)
def test_permissions_of_each_file(path, forbidden, monkeypatch, end, reason):
    """Each file that has to be read is asked for by itself."""
    subprocess.run([sys.executable, "-c", WRITER, path], cwd=ROOT, check=False, timeout=60)
    with SQLiteLedger(path, read_only=True) as ledger:
        assert 2 == ledger.totals().successful_requests

    monkeypatch.setattr(os, "access", lambda name, mode: str(name) != f"{path}{end}")
    with pytest.raises(TokenHandlersError, match=reason):
        SQLiteLedger(path, read_only=True)


def test_a_file_that_changes_while_it_is_read(path, forbidden):
    """What was read while somebody wrote to the file itself is refused; what was written is read the next time."""
    with SQLiteLedger(path, read_only=True) as ledger:
        assert 1 == ledger.totals().successful_requests
        changed = pytest.raises(TokenHandlersError, match="was written to while it was read: try again")
        with changed, ledger._asked(), SQLiteLedger(path) as owner:
            owner(call("second"))

        assert 2 == ledger.totals().successful_requests
        with SQLiteLedger(path) as owner:
            owner(call("third"))
            owner.flush()
            assert 3 == ledger.totals().successful_requests


@pytest.mark.parametrize("may", [True, False])
def test_a_ledger_of_before_is_not_migrated(path, forbidden, monkeypatch, may):
    """An older version is read as it is, also what only today's version sums."""
    monkeypatch.setattr(sqlite_file, "may_write", lambda path: may)
    path.unlink()
    make_old(path)
    before = path.read_bytes()
    with SQLiteLedger(path, read_only=True) as ledger:
        assert 30 == ledger.totals(session="s").cache_write_1h_tokens
        assert 5 == len(list(ledger.records()))
        check_sums(ledger)

    assert before == path.read_bytes()


@pytest.mark.parametrize("may", [True, False])
def test_other_files(tmp_path, may, monkeypatch):
    """What is no ledger is refused by name, and stays as it was, also where it may only be read."""
    monkeypatch.setattr(sqlite_file, "may_write", lambda path: may)
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("my diary\n" * 1000)
    program = sqlite3.connect(tmp_path / "other")
    program.execute("CREATE TABLE mine (a)")
    program.close()
    for name, reason in (
        ("empty", "it is empty"),
        ("text", "file is not a database"),
        ("other", "another program's"),
        ("missing", "No such file"),
        (".", "it is no file"),
    ):
        with pytest.raises(TokenHandlersError, match=reason):
            SQLiteLedger(tmp_path / name, read_only=True)

    assert {"empty", "text", "other"} == {file.name for file in tmp_path.iterdir()}


def test_it_takes_nothing(path, caplog):
    """A ledger that was opened to be read refuses records and other costs, and makes nothing."""
    with SQLiteLedger(path, read_only=True) as ledger:
        with pytest.raises(ValueError, match="opened to be read"):
            ledger(call("a"))
        with pytest.raises(TokenHandlersError, match="opened to be read: open it without read_only"):
            ledger.update_costs(lambda record: Decimal(2))
        assert [] == ledger.unsent(1)
        assert ledger.flush()

    assert "opened to be read" in caplog.text
    assert {"ledger.db", "ledger.db.lock"} == {file.name for file in path.parent.iterdir()}


def test_commands_do_not_lock_it(path, capsys):
    """Commands that only read make no lock beside a ledger."""
    Path(f"{path}.lock").unlink()
    statuses = [
        main([*command, "--ledger", str(path)])
        for command in (("report",), ("sessions",), ("export", "--json"), ("reprice", "--dry-run"))
    ]

    assert [0, 0, 0, 0] == statuses
    assert ["ledger.db"] == [file.name for file in path.parent.iterdir()]
