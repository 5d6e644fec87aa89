import os
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.ledgers import check_file, check_sums
from tests.support.redis_servers import Valkey, call, free_port
from token_handlers.sinks.redis import RedisCounter
from token_handlers.sinks.sqlite import SQLiteLedger, backlog, location

# Each process has a counter of a fleet and the ledger that is its backlog, and gives both its records.
PROGRAM = """
import sys
from tests.support.redis_servers import call
from token_handlers.sinks.redis import RedisCounter
from token_handlers.sinks.sqlite import SQLiteLedger

path, url, name, durability = sys.argv[1:]
ledger = SQLiteLedger(path, durability=durability)
fleet = RedisCounter(url, batch=50, capacity=500, linger=0.01, timeout=2, backlog=ledger)
for number in range(1000):
    record = call(event_id=f"{name}-{number}", session=f"{number % 7}", user=name)
    ledger(record)
    fleet(record)
    if number % 100 == 0:
        print(number, flush=True)
assert ledger.flush()
print("given", flush=True)
sys.stdin.readline()
assert fleet.flush(60)
"""


def start(path, url, name, durability="batch"):
    """Start a process that counts for the fleet."""
    command = [sys.executable, "-c", PROGRAM, *map(str, (path, url, name, durability))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, cwd=Path(__file__).parents[3], text=True, **pipes)


def kill(process):
    """End a process by kill -9."""
    process.kill()
    process.communicate(timeout=60)
    assert -signal.SIGKILL == process.returncode


def until(process, line):
    """Read what a process prints up to a line."""
    while process.stdout.readline().strip() != line:
        assert process.poll() is None


def give(record, *sinks):
    """Give a record to sinks, as a recorded call reaches them."""
    for sink in sinks:
        sink(record)


def deliver(url, path, **options):
    """Let a new counter deliver what waits, and check that the server has what the ledger has, exactly."""
    with SQLiteLedger(path) as ledger:
        counter = RedisCounter(url, timeout=5, backlog=ledger, **options)
        assert counter.flush(30)
        check_equal(counter, ledger)
        assert ([], 0) == (ledger.unsent(1), counter.dropped)
        total = ledger.totals().successful_requests
        counter.close()
    return total


def check_equal(counter, ledger):
    """Check that a server has the totals of a ledger."""
    assert ledger.totals() == counter.totals()
    for label in ("session", "user", "model"):
        assert ledger.by(label) == counter.by(label)


def outbox(path):
    """Return the ids that a ledger has in its outbox."""
    connection = sqlite3.connect(path)
    ids = [number for (number,) in connection.execute("SELECT id FROM usage_outbox ORDER BY id")]
    connection.close()
    return ids


def test_killed_before_the_server_came(path):
    """What a process gave while the server was down arrives by the next one, though it was killed; all of it once."""
    valkey = Valkey()
    process = start(path, valkey.url, "first")
    until(process, "given")
    kill(process)

    with valkey:
        assert 1000 == deliver(valkey.url, path)
        assert 1000 == deliver(valkey.url, path)
    check_file(path)


def test_killed_at_any_moment(path, tmp_path):
    """Through kill -9 of the server and of its clients, the server has what the ledger has, nothing twice."""
    with Valkey(tmp_path, appendonly="yes", appendfsync="always") as valkey:
        for turn, line in enumerate(("100", "700")):
            processes = [start(path, valkey.url, f"{turn}{name}", how) for name, how in (("a", "sync"), ("b", "batch"))]
            until(processes[0], line)
            valkey.kill()
            kill(processes[0])
            until(processes[1], "given")
            valkey.start()
            if turn == 0:
                processes[1].communicate("flush\n", timeout=60)
            else:
                kill(processes[1])

        assert 2800 < deliver(valkey.url, path)
    with SQLiteLedger(path) as ledger:
        assert 2 == sum(1000 == totals.successful_requests for totals in ledger.by("user").values())
        check_sums(ledger)


def test_an_outage_that_memory_does_not_hold(ledger, path, tmp_path):
    """Beyond the capacity records wait in the ledger, through kill -9 and restarts of the server; nobody is told."""
    with Valkey(tmp_path, appendonly="yes", appendfsync="always") as valkey:
        counter = RedisCounter(valkey.url, capacity=20, batch=10, linger=0, timeout=5, backlog=ledger)
        for turn in range(3):
            for number in range(1000):
                give(call(event_id=f"{turn}-{number}", session=f"{number % 9}"), ledger, counter)
                if number == 500:
                    valkey.kill()
            valkey.start()

        assert counter.flush(30)
        check_equal(counter, ledger)
        assert (3000, 0, [0]) == (ledger.totals().successful_requests, counter.dropped, outbox(path))
        counter.close()


def test_four_processes_of_one_ledger(path, tmp_path):
    """Processes that share a ledger and a server deliver each other's calls, and count none twice."""
    valkey = Valkey()
    processes = [start(path, valkey.url, name) for name in "abcd"]
    for process in processes:
        until(process, "given")
    with valkey:
        for process in processes:
            process.stdin.write("flush\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=60)
            assert 0 == process.returncode

        assert 4000 == deliver(valkey.url, path)


@pytest.mark.parametrize("order", ["ledger first", "counter first"])
def test_whichever_is_given_first(valkey, namespace, ledger, path, order):
    """A record that arrives before it is written is not kept for the server; one without an id is counted once."""
    counter = RedisCounter(valkey.url, namespace, linger=0, timeout=5, backlog=ledger)
    sinks = (ledger, counter) if order == "ledger first" else (counter, ledger)
    for number in range(300):
        give(call(event_id=f"{number}") if number % 3 else call(), *sinks)
        if number % 100 == 0:
            assert counter.flush(10)
    assert counter.flush(10)
    assert ledger.flush()
    assert counter.flush(10)

    assert (300, [0]) == (counter.totals().successful_requests, outbox(path))
    check_equal(counter, ledger)
    counter.close()


def test_a_ledger_that_is_no_backlog(ledger, path):
    """Nothing is put into the outbox of a ledger that no counter has asked."""
    give(call(event_id="a"), ledger)
    ledger.flush()

    assert [] == outbox(path)


def test_becoming_a_backlog(ledger):
    """From the first time on that a counter asks all waits, whoever writes it, and so do the calls of 20 hours."""
    now = datetime.now(UTC)
    give(call(event_id="old", started_at=now - timedelta(hours=21)), ledger)
    give(call(event_id="recent", started_at=now - timedelta(hours=19)), ledger)
    assert ["recent"] == [record.event_id for record in ledger.unsent(10)]

    with SQLiteLedger(ledger.path) as other:
        give(call(event_id="ingested", started_at=now - timedelta(days=9)), other)
        give(call(event_id="recent"), other)
    assert ["recent", "ingested"] == [record.event_id for record in ledger.unsent(10)]
    assert ["recent"] == [record.event_id for record in ledger.unsent(1)]
    ledger.sent(["recent", "old"])
    assert ["ingested"] == [record.event_id for record in ledger.unsent(10)]


def test_a_record_is_sent_as_it_was(ledger):
    """Labels, tags, money and times of what waits are those that were given."""
    started = datetime.now(UTC).replace(microsecond=123_000)
    kept = call(event_id="a", session="s", user="ü", tags={"team": "red"}, started_at=started, ended_at=started)
    give(kept, ledger)

    assert [kept] == ledger.unsent(10)


@pytest.mark.parametrize("event_id", ["a'b", "a\0b", "ü\ud800", '"'])
def test_event_ids_may_be_anything(ledger, event_id):
    """Quotes, zeros and half surrogate pairs do not keep a call waiting for ever."""
    ledger.unsent(1)
    give(call(event_id=event_id), ledger)
    ledger.sent([event_id])
    ledger.flush()

    assert [] == ledger.unsent(10)


def test_a_ledger_that_can_not_be_written(valkey, namespace, ledger, path, monkeypatch, caplog):
    """While it is locked nothing raises or is sent twice; it is said once, and what arrived is noted afterwards."""
    monkeypatch.setattr(location, "BUSY_SECONDS", 0)
    give(call(event_id="a"), ledger)
    assert 1 == len(ledger.unsent(10))
    ledger._file.close()
    program = sqlite3.connect(path, isolation_level=None)
    program.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        ledger.sent(["a", "b"])
        assert [] == ledger.unsent(10)
    assert 1 == caplog.text.count("what it has for a Redis server waits")

    program.execute("ROLLBACK")
    program.close()
    give(call(event_id="b"), ledger)
    give(call(event_id="c"), ledger)
    assert ["c"] == [record.event_id for record in ledger.unsent(10)]


def test_a_backlog_that_is_no_sink(ledger, monkeypatch, caplog):
    """A ledger that is not given what its counter sends says so once: it keeps nothing for it."""
    monkeypatch.setattr(backlog, "MOST_AHEAD", 100)
    for number in range(30):
        ledger.sent([f"{number} {each}" for each in range(10)])

    assert 100 == len(ledger._unsent._ahead)
    assert [f"the ledger {ledger.path} is the backlog of a RedisCounter: make it a sink beside that"] == caplog.messages


def test_a_closed_ledger_still_answers(ledger, path):
    """A counter that is closed after its backlog can still note what arrived; no connection is left open."""
    give(call(event_id="a"), ledger)
    ledger.unsent(1)
    ledger.close()
    ledger.sent(["a"])
    assert [] == ledger.unsent(1)

    assert {"ledger.db", "ledger.db.lock"} == {file.name for file in path.parent.iterdir()}


def test_a_counter_that_was_closed_in_vain(namespace, ledger):
    """What a counter could not deliver when it was closed waits for the next one."""
    counter = RedisCounter(f"redis://127.0.0.1:{free_port()}", namespace, timeout=0.05, backlog=ledger)
    give(call(event_id="a"), ledger, counter)
    counter.close(0)

    assert ["a"] == [record.event_id for record in ledger.unsent(10)]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork(valkey, namespace, ledger):
    """A child of a fork goes on as the same fleet's process."""
    counter = RedisCounter(valkey.url, namespace, timeout=5, backlog=ledger)
    give(call(event_id="parent"), ledger, counter)
    child = os.fork()
    if not child:
        status = 1
        try:
            give(call(event_id="child"), ledger, counter)
            status = 0 if counter.flush(10) and ledger.flush() else 2
        finally:
            os._exit(status)
    assert 0 == os.waitpid(child, 0)[1]

    assert counter.flush(10)
    assert (2, []) == (counter.totals().successful_requests, ledger.unsent(1))
    counter.close()


def test_threads(valkey, namespace, ledger):
    """Threads that record while the counter delivers, also to the ledger alone, lose and double nothing."""
    counter = RedisCounter(valkey.url, namespace, batch=20, linger=0, capacity=50, timeout=5, backlog=ledger)

    def work(name):
        for number in range(250):
            give(call(event_id=f"{name}-{number}", session=name), ledger, counter)
            ledger(call(session="by hand"))

    threads = [threading.Thread(target=work, args=(f"{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counter.flush(30)
    assert (2000, 2000) == (counter.totals().successful_requests, ledger.totals().successful_requests)
    assert [] == ledger.unsent(1)
    counter.close()
