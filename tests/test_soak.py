import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(name, *options):
    """Run one of the soaks in a process of its own, where nothing else is counted; return its status and output."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", f"tests.benchmarks.{name}", *map(str, options)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_totals_are_the_bill():
    """After hundreds of calls of both frameworks in threads and tasks, every scope's counter is the server's bill."""
    status, output = run("soak", "--calls", 300, "--threads", 12, "--tasks", 12, "--seed", 1, "--no-resets")

    assert 0 == status, output
    assert "\n0 differences\n" in output


def test_resets_add_up_to_the_bill():
    """What the resets of a counter return while others count adds up to the bill: nothing is lost or counted twice."""
    status, output = run("soak", "--calls", 300, "--threads", 12, "--tasks", 12, "--seed", 2)

    assert 0 == status, output


def test_finalizers_count_and_never_wait():
    """Calls that the garbage collector ends, in the middle of anything, count once, and no thread waits for ever."""
    status, output = run("finalizers", "--moments", 50, "--streams", 400)

    assert 0 == status, output


def test_nothing_grows():
    """Calls, blocks, sessions and runs that never end leave nothing behind, beyond tables of a fixed size."""
    sizes = "--calls", 300, "--blocks", 2_000, "--open", 500
    status, output = run("memory", *sizes, "--limit", 150, "--tables", 200)

    assert 0 == status, output
