import os
import signal
import sqlite3
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.ledgers import call, check_file, check_sums, mounts
from tests.support.usage_ledgers import fill
from token_handlers import TokenHandlersError
from token_handlers.sinks.sqlite import SQLiteLedger, file

# Threads and forks do not mix; the test is that they do where a ledger is concerned.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

PROGRAM = """
import sys
from tests.support.ledgers import call
from token_handlers.sinks.sqlite import SQLiteLedger

path, name, durability = sys.argv[1:4]
"""
WRITER = f"""{PROGRAM}
from itertools import count
from token_handlers.sinks.sqlite import file as sqlite_file

if name.endswith("a"):
    sqlite_file.WAL_LIMIT = 0  # a checkpoint after each commit
with SQLiteLedger(path, durability=durability) as ledger:
    for number in count():
        for part in range(5):
            labels = dict(session=f"{{number}}", user=name, tags={{"part": f"{{part}}"}})
            ledger(call(f"{{name}}-{{number}}-{{part}}", **labels))
        assert ledger.flush()
        print(number, flush=True)
"""


def start(program, *arguments, **options):
    """Start a Python program in a process of its own."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, **options)


def run(program, *arguments, **options):
    """Run a Python program to its end, and return what it printed."""
    process = start(program, *arguments, **options)
    printed, _ = process.communicate(timeout=60)
    assert 0 == process.returncode
    return printed


def ids(path):
    """Return the event ids that a ledger has, read by SQLite alone."""
    connection = sqlite3.connect(path)
    found = {event for (event,) in connection.execute("SELECT event_id FROM usage_event")}
    connection.close()
    return found


@pytest.mark.parametrize("durability", ["batch", "sync"])
def test_kill_at_any_moment(path, durability):
    """Of writers that are killed all that they had acknowledged is there, and nothing is torn."""
    for turn in range(3):
        writers = {f"{turn}{name}": start(WRITER, path, f"{turn}{name}", durability) for name in "ab"}
        numbers = {name: [writer.stdout.readline()] for name, writer in writers.items()}
        for (name, writer), more in zip(writers.items(), (6 * turn, 20), strict=True):
            numbers[name] += [writer.stdout.readline() for _ in range(more)]
            writer.kill()
        for name, writer in writers.items():
            numbers[name] += writer.communicate()[0].splitlines()
            assert -signal.SIGKILL == writer.returncode
        kept = ids(path)
        for name, acknowledged in numbers.items():
            assert {f"{name}-{int(number)}-{part}" for number in acknowledged for part in range(5)} <= kept

    check_file(path)
    with SQLiteLedger(path) as ledger:
        check_sums(ledger)


SHARER = f"""{PROGRAM}
with SQLiteLedger(path, durability=durability) as ledger:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(500):
        ledger(call(f"{{name}}-{{number}}", session=f"{{number % 7}}", user=name))
        ledger(call(f"shared-{{number}}", session="shared"))
    assert ledger.flush()
    assert 0 == ledger.failed_writes
"""


def test_four_processes_write_at_once(path):
    """Each call is counted once, whoever gives it, and nobody waits in vain; the file is made by whoever is first."""
    writers = [start(SHARER, path, name, "batch", stdin=subprocess.PIPE) for name in "abcd"]
    for writer in writers:
        writer.stdout.readline()
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert 0 == writer.returncode

    check_file(path)
    with SQLiteLedger(path) as ledger:
        assert 2500 == ledger.totals().successful_requests
        assert dict.fromkeys("abcd", 500) == {
            user: totals.successful_requests for user, totals in ledger.by("user").items()
        }
        check_sums(ledger)


def test_a_forked_child_does_not_keep_the_lock(path):
    """While a child lives on, its parent's death in the midst of a write holds up nobody."""
    with SQLiteLedger(path) as ledger:
        ready, release = os.pipe(), os.pipe()
        with ledger._file.writing():
            pass
        parent = os.fork()
        if not parent:
            try:
                with ledger._file._write_lock:  # as in the midst of a write
                    if not os.fork():
                        os.close(release[1])
                        os.read(release[0], 1)
                        os._exit(0)
                    os.write(ready[1], b"x")
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        os.read(ready[0], 1)
        os.waitpid(parent, 0)
        ledger(call("a"))
        assert ledger.flush(timeout=30)
        os.write(release[1], b"x")
        for end in (*ready, *release):
            os.close(end)


STOPPED = f"""{PROGRAM}
from token_handlers.sinks.sqlite.file import LedgerFile
with SQLiteLedger(path)._file.writing():
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_a_stopped_writer(path, monkeypatch, caplog):
    """A writer that is stopped in the middle of a write holds nobody up for ever: who waits learns who it is."""
    fill(path, call("before", cost="2"))
    monkeypatch.setattr(file, "LOCK_SECONDS", 0.3)
    writer = start(STOPPED, path, "", "", stdin=subprocess.PIPE)
    assert "writing" == writer.stdout.readline().strip()
    writer.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
    try:
        with SQLiteLedger(path) as ledger:  # which needs no lock
            ledger(call("a"))
            assert not ledger.flush()
            assert 1 == ledger.totals().successful_requests
            assert f"process {writer.pid} (python" in caplog.text
            assert f"and is stopped: continue it (kill -CONT {writer.pid}), or end it" in caplog.text
            with pytest.raises(TokenHandlersError, match=f"process {writer.pid} .* more than 0.3 s"):
                ledger.update_costs(lambda record: Decimal(1))
            writer.send_signal(signal.SIGCONT)
            writer.communicate("go on\n", timeout=60)
            assert ledger.flush(30)
            assert 2 == ledger.totals().successful_requests
    finally:
        writer.kill()


def test_a_stopped_writer_and_a_new_ledger(path, monkeypatch):
    """Who opens a ledger that is still to be made while somebody has its lock gets an error in time."""
    monkeypatch.setattr(file, "LOCK_SECONDS", 0.1)
    with file.WriteLock(path), pytest.raises(TokenHandlersError, match=f"process {os.getpid()} .* more than 0.1 s"):
        SQLiteLedger(path)


FULL = f"""{PROGRAM}
import logging, resource
logging.basicConfig(stream=sys.stdout, format="%(message)s")
ledger = SQLiteLedger(path)
ledger(call("before"))
assert ledger.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
for number in range(3000):
    ledger(call(f"{{number}}", session=f"{{number}}"))
assert not ledger.flush()
assert ledger.failed_writes
assert 0 < ledger.waiting <= 3000
assert ledger.totals().successful_requests == 3001 - ledger.waiting
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert ledger.flush()
assert (0, 0) == (ledger.waiting, ledger.lost)
"""


def test_a_file_that_may_not_grow(path):
    """A disk quota disturbs nobody: what does not fit waits, and is written when there is room."""
    printed = run(FULL, path, "", "")

    assert 1 == len(printed.splitlines())
    assert f"the ledger {path} can't be used" in printed
    check_file(path)
    with SQLiteLedger(path) as ledger:
        assert 3001 == ledger.totals().successful_requests
        check_sums(ledger)


FULL_DISK = f"""{PROGRAM}
import os
from pathlib import Path
ledger = SQLiteLedger(path)
ledger(call("before"))
assert ledger.flush()
ballast = Path(path).with_name("ballast")
with ballast.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
for number in range(3000):
    ledger(call(f"{{number}}", session=f"{{number}}"))
assert not ledger.flush()
print(ledger._last_error)
assert ledger.totals().successful_requests == 3001 - ledger.waiting
ballast.unlink()
assert ledger.flush()
assert 3001 == ledger.totals().successful_requests
"""


NO_ROOM = f"""{PROGRAM}
import resource
from token_handlers import TokenHandlersError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    SQLiteLedger(path)
except TokenHandlersError as error:
    print(error)
"""


def test_no_room_for_a_new_ledger(path):
    """Where not even an empty ledger fits, that is said, and nothing is left that looks like one."""
    assert f"the ledger {path} can't be used" in run(NO_ROOM, path, "", "")
    assert {"ledger.db.lock"} == {file.name for file in path.parent.iterdir()}


@pytest.mark.skipif(mounts() is None, reason="needs a user namespace, to mount a small disk")
def test_a_full_disk(tmp_path):
    """On a disk that is full records wait, reads go on, and all is written when there is room again."""
    shell = f'mount -t tmpfs -o size=4m none {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}/ledger.db x x'
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [*mounts(), "sh", "-c", shell, FULL_DISK], cwd=root, capture_output=True, text=True, check=False, timeout=60
    )

    assert 0 == done.returncode, done.stderr
    assert "full" in done.stdout


READER = f"""{PROGRAM}
import os
from token_handlers import TokenHandlersError
if os.getuid() == 0:
    os.setuid(65534)
try:
    SQLiteLedger(path)
except TokenHandlersError as error:
    print(error)
"""


@pytest.mark.parametrize("read_only", ["the file", "the folder", "unreadable"])
def test_a_read_only_ledger_is_not_touched(path, read_only):
    """A file or folder that may not be written is refused with the remedy, and stays as it was."""
    SQLiteLedger(path).close()
    before = path.read_bytes()
    for folder in path.parents:
        if "pytest-of-" in str(folder):  # pytest's own, which are for their owner alone
            folder.chmod(0o755)
    path.parent.chmod(0o777 if read_only == "the file" else 0o555)
    path.chmod({"the file": 0o444, "the folder": 0o666, "unreadable": 0o000}[read_only])
    printed = run(READER, path, "", "")
    path.parent.chmod(0o700)
    path.chmod(0o600)

    assert f"the ledger {path} can't be used" in printed
    assert ("it is read-only" if read_only == "the file" else "read-only") in printed
    assert before == path.read_bytes()
