import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.ledgers import call, check_sums
from tests.support.postgres_servers import Postgres
from tests.support.redis_servers import free_port
from token_handlers.errors import StoreUnavailable
from token_handlers.sinks.postgres import SQLLedger
from token_handlers.sinks.sqlite import SQLiteLedger

# Each process gives its records to a ledger on a server and, where a path is given, to the file that is its backlog.
PROGRAM = """
import sys
from datetime import UTC, datetime
from tests.support.ledgers import call
from token_handlers.sinks.postgres import SQLLedger
from token_handlers.sinks.sqlite import SQLiteLedger

url, schema, name, count, path = sys.argv[1:]
file = SQLiteLedger(path) if path else None
ledger = SQLLedger(url, schema, timeout=5, capacity=300 if path else 20_000, backlog=file)
for number in range(int(count)):
    record = call(f"{name}-{number}", session=f"{number % 7}", user=name, started_at=datetime.now(UTC))
    for sink in (file, ledger):
        if sink is not None:
            sink(record)
    if number % 100 == 0:
        print(number, flush=True)
        if path == "":
            ledger.flush(0.01)
assert file is None or file.flush()
print("given", flush=True)
sys.stdin.readline()
assert ledger.flush(60) or ledger.flush(60)
"""


def start(url, schema, name, count=1000, path=""):
    """Start a process that writes."""
    command = [sys.executable, "-c", PROGRAM, *map(str, (url, schema, name, count, path))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=Path(__file__).parents[3], text=True, **pipes)


def until(process, line):
    """Read what a process prints up to a line."""
    while process.stdout.readline().strip() != line:
        assert process.poll() is None


def test_processes_and_a_server_that_is_killed(tmp_path):
    """Through kill -9 and restarts of the server in the middle of batches, each process's records are kept once."""
    with Postgres() as server:
        processes = [start(server.url, "fleet", name) for name in "abc"]
        for line in ("200", "600"):
            until(processes[0], line)
            server.kill()
            server.start()
        for process in processes:
            process.communicate("flush\n", timeout=60)
            assert 0 == process.returncode

        with SQLLedger(server.url, "fleet") as ledger:
            assert {"a": 1000, "b": 1000, "c": 1000} == {
                name: totals.successful_requests for name, totals in ledger.by("user").items()
            }
            check_sums(ledger)


def test_failover():
    """When the primary is killed in the middle of batches and its standby promoted, each record is there once.

    The URL names both. Until then the standby can be read, and says of writes what it is.
    """
    with Postgres() as primary, primary.standby() as standby:
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"
        with SQLLedger(url, "fleet") as ledger:
            ledger(call("first", user="first"))
        with SQLLedger(standby.url, "fleet") as ledger:
            assert 1 == ledger.totals().successful_requests
            with pytest.raises(StoreUnavailable, match="read-only transaction: it is a standby: name all hosts"):
                ledger.update_costs(lambda record: Decimal(1))
        processes = [start(url, "fleet", name) for name in "ab"]
        for process in processes:
            until(process, "400")
        primary.kill()
        for process in processes:
            until(process, "700")
        standby.promote()
        for process in processes:
            process.communicate("flush\n", timeout=60)
            assert 0 == process.returncode

        with SQLLedger(url, "fleet") as ledger:
            assert (
                f"postgresql://127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres (schema fleet)"
                == ledger.place
            )
            assert {"first": 1, "a": 1000, "b": 1000} == {
                name: totals.successful_requests for name, totals in ledger.by("user").items()
            }
            check_sums(ledger)


def test_a_process_that_is_killed_in_an_outage(postgres, schema, tmp_path):
    """What a killed process had in its backlog while the server was away arrives by the next one, once."""
    path = tmp_path / "backlog.db"
    nowhere = f"postgresql://127.0.0.1:{free_port()}/postgres"
    process = start(nowhere, schema, "killed", 700, path)
    until(process, "given")
    process.kill()
    process.communicate(timeout=60)
    assert -signal.SIGKILL == process.returncode

    for _ in range(2):
        with SQLiteLedger(path) as file, SQLLedger(postgres.url, schema, backlog=file) as ledger:
            assert ledger.flush(30)
            assert file.totals() == ledger.totals()
            assert (700, []) == (ledger.totals().successful_requests, file.unsent(1))
            check_sums(ledger)


def test_more_than_memory_holds(postgres, schema, tmp_path):
    """While the server is away later records wait in the backlog, and nothing is lost or told; without one they are."""
    with SQLiteLedger(tmp_path / "backlog.db") as file:
        ledger = SQLLedger(postgres.url, schema, capacity=50, backlog=file)
        alone = SQLLedger(postgres.url, f"{schema}_alone", capacity=50)
        ledger.totals()
        alone.totals()
        with postgres.refusing():
            for number in range(1500):
                record = call(f"{number}")
                for sink in (file, ledger, alone):
                    sink(record)
            assert (0, 1500 - alone.waiting) == (ledger.lost, alone.lost)
            assert ledger.waiting <= 50 + 1000
        assert ledger.flush(30) or ledger.flush(30)
        assert file.totals() == ledger.totals()
        ledger.close()
        alone.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_64_processes(postgres, schema):
    """Processes that all begin at once make one schema, and each record is kept once, whoever gives it."""
    children = []
    for number in range(64):
        child = os.fork()
        if not child:
            status = 1
            try:
                with SQLLedger(postgres.url, schema, timeout=60) as ledger:
                    for name in ("all", f"{number}", f"{number // 2}-two"):
                        ledger(call(name, session=name))
                    status = 0 if ledger.flush(120) and not ledger.failed_writes else 2
            finally:
                os._exit(status)
        children.append(child)
    assert [0] * 64 == [os.waitpid(child, 0)[1] for child in children]

    with SQLLedger(postgres.url, schema) as ledger:
        assert {"all", *map(str, range(64)), *(f"{number}-two" for number in range(32))} == {
            record.event_id for record in ledger.records()
        }
        assert 1 + 64 + 32 == ledger.totals().successful_requests
