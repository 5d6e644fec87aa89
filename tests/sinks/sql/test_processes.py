import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.ledgers import call, check_sums

# Threads and forks do not mix; the test is that they do where a ledger is concerned.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def run(place, program, status=0):
    """Run a Python program that may open the ledger to its end."""
    command = [sys.executable, "-c", f"{place.program}\n{program}"]
    assert status == subprocess.run(command, cwd=Path(__file__).parents[3], check=False, timeout=100).returncode


def test_threads_write_at_once(place):
    """Threads that give and flush lose nothing, while another reads."""
    with place.open() as ledger:
        done = threading.Event()
        seen = []

        def work(name):
            for number in range(200):
                ledger(call(f"{name}-{number}", session=name))
                if number % 50 == 0:
                    assert ledger.flush()

        def read():
            while not done.is_set():
                seen.append(ledger.totals())

        reader = threading.Thread(target=read)
        workers = [threading.Thread(target=work, args=(f"{number}",)) for number in range(8)]
        for thread in (reader, *workers):
            thread.start()
        for thread in workers:
            thread.join()
        done.set()
        reader.join()

        assert all(17 * totals.successful_requests == totals.prompt_tokens for totals in seen)
        assert 1600 == ledger.totals().successful_requests
        assert sorted(seen, key=lambda totals: totals.successful_requests) == seen
        check_sums(ledger)


def forked(work):
    """Run a function in a forked child, and check that it went well."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert 0 == os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork(place):
    """A forked child opens connections of its own, and does not write what its parent still has to write."""
    with place.open() as ledger:
        for turn in range(place.forks):
            for part in range(20):
                ledger(call(f"parent {turn} {part}", user="parent"))

            def work(turn=turn):
                assert 0 == ledger.waiting
                ledger(call(f"child {turn}", user="child"))
                assert ledger.flush()
                assert turn + 1 == ledger.totals(user="child").successful_requests

            forked(work)
            assert (turn + 1) * 21 == ledger.totals().successful_requests
        assert (0, 0) == (ledger.failed_writes, ledger.duplicates)
        check_sums(ledger)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing_flush_when_they_end(place, method):
    """What a worker gave is there when it has ended, though its end runs no atexit."""
    with place.open() as ledger:
        target, given = (ledger, call("worker")) if method == "fork" else (exec, place.program + GIVE)
        worker = multiprocessing.get_context(method).Process(target=target, args=(given,))
        worker.start()
        worker.join()

        assert 0 == worker.exitcode
        assert ["worker"] == [record.event_id for record in ledger.records()]


GIVE = """
from tests.support.ledgers import call
open_ledger()(call("worker"))
"""


def test_the_end_of_a_process_flushes(place):
    """What waits when a program ends is written, an error that nobody caught included."""
    run(place, GIVE.replace("worker", "a"))
    run(place, GIVE.replace("worker", "b") + "raise SystemExit(3)", 3)

    with place.open() as ledger:
        assert {"a", "b"} == {record.event_id for record in ledger.records()}


OPEN_CALL = """
from token_handlers import add_sink, track_tokens
from token_handlers.tracking.call import Call

class Open(Call):
    def estimate(self, text=None):
        return {"input_tokens": 5}, "test"

def open_one():
    call = Open()
    call.model = "gpt-4o"
"""


@pytest.mark.parametrize(
    "use",
    [
        "add_sink(open_ledger()); open_one()",
        "add_sink(print); ledger = open_ledger()\nwith track_tokens(sinks=[ledger]): open_one()",
    ],
)
def test_calls_open_at_the_end_are_kept(place, use):
    """A call that is still open when the process ends is in the ledger as an estimate, whichever came first at exit."""
    run(place, OPEN_CALL + use)

    with place.open() as ledger:
        assert {"gpt-4o": 5} == {model: totals.prompt_tokens for model, totals in ledger.by("model").items()}
        assert 1 == ledger.totals().estimated_requests
