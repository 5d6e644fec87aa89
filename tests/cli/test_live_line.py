import io
import os
import pty
import re
import subprocess
import sys
import termios
from textwrap import dedent

import pytest

from tests.support.command_line import CALL, COMMAND, run_command
from token_handlers import TokenCounter, Usage, UsageRecord
from token_handlers.cli.live_line import LiveLine

PROGRAM = CALL + dedent(
    """
    ask()
    print("half way", flush=True)
    input()
    ask()
    """
)


@pytest.fixture
def terminal():
    """A terminal of 10 rows and 60 columns: the file that a program writes to, and what reads it up to a text."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (10, 60))
    seen = []

    def read_until(text):
        while text not in "".join(seen):
            seen.append(os.read(master, 4096).decode())
        return "".join(seen)

    yield slave, read_until
    os.close(slave)
    os.close(master)


def test_a_line_that_updates(ledger, terminal):
    """On a terminal the last row says what was used so far while the program runs, and is given back at its end."""
    slave, read_until = terminal
    words = [*COMMAND, "run", "--live", "-c", PROGRAM, ledger.url()]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=slave, text=True) as process:
        assert "half way\n" == process.stdout.readline()
        first = read_until("| 1 call\x1b[K")
        process.stdin.write("\n")
        process.stdin.close()
        last = read_until("Total")
        assert 0 == process.wait(60)
    spent = ledger.total()

    assert 2 == spent.requests
    assert "\x1b[1;9r" in first
    assert re.search(r"\x1b\[10;1H\$0\.0000\d+ \| \d+ tokens \| 1 call\x1b\[K\x1b8", first)
    assert "\x1b[r\x1b[10;1H\x1b[K" in last
    assert last.rindex("\x1b[r") < last.index("Requests")


@pytest.mark.parametrize("options", [["--live"], []])
def test_nothing_without_a_terminal(ledger, options):
    """Where stderr is no terminal the output is the same as without --live."""
    done = run_command("run", *options, "-c", CALL + "ask()", ledger.url())

    assert 0 == done.returncode
    assert "\x1b" not in done.stderr
    assert ["", "Model"] == [line.partition(" ")[0] for line in done.stderr.splitlines()[:2]]


def test_a_dumb_terminal(terminal, monkeypatch):
    """A terminal that knows no escape sequences gets none."""
    slave, _ = terminal
    monkeypatch.setenv("TERM", "dumb")
    with open(slave, "w", closefd=False) as stream:
        line = LiveLine(TokenCounter(), stream)
        line.start()
        line.stop()

        assert not line._thread.is_alive()


def test_the_text():
    """The line shows the cost, the tokens, and the numbers of calls, failed calls and calls of unknown cost."""
    counter = TokenCounter()
    line = LiveLine(counter, io.StringIO())
    assert "$0.00 | 0 tokens | 0 calls" == line.text()
    usage = Usage(input_tokens=1_000, output_tokens=234)
    counter.add(UsageRecord(usage=usage, model="gpt-4o", cost="0.0123"))
    counter.add(UsageRecord(usage=Usage(input_tokens=1), operation="embeddings"))
    counter.add(UsageRecord(outcome="failed"))

    assert "$0.0123 | 1,235 tokens | 2 calls | 1 failed | 1 of unknown cost" == line.text()


def test_a_terminal_that_is_closed(terminal):
    """A program that closes its terminal goes on."""
    slave, _ = terminal
    stream = open(os.dup(slave), "w")  # noqa: PTH123, SIM115 (a descriptor; closed below)
    line = LiveLine(TokenCounter(), stream)
    line.start()
    stream.close()
    line.stop()

    assert not line._thread.is_alive()
    assert sys.stderr is not stream
