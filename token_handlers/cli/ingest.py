"""token-handlers ingest: calls that others wrote down, a JSON object a line, into the ledger."""

import argparse
import sys
from collections.abc import Iterator
from typing import BinaryIO

from token_handlers.cli.ingest_lines import BadLine, record_of_line
from token_handlers.cli.options import Commands, add_json, add_ledger, open_ledger, print_json, shown, use_newest_prices
from token_handlers.errors import TokenHandlersError

FLUSH_EVERY = 5000
"""Lines after which what was read is written: a ledger lets only so many wait."""

LONGEST_LINE = 16 * 2**20
"""Bytes of the longest line that is read: JSON takes a multiple of that in memory."""

MOST_NAMED = 20
"""How many bad lines are named; --json names all."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ingest",
        help="read usage from a file of JSON lines into the ledger",
        description="Each line is what LangChain.js hands to handleLLMEnd, any provider's response or usage, or what "
        "`export --json` wrote; it may be wrapped with labels: {runId, session, user, tags, timestamp, model, "
        "provider, output}. A call whose id (or else whose line) the ledger has is not added again, so that a file "
        "may be read twice. A line that states only a part of the usage is an estimate. Lines that can't be read are "
        "named, and the exit status is 1.",
    )
    parser.add_argument("file", metavar="FILE", help="a file of JSON lines; - is standard input")
    add_ledger(parser)
    parser.add_argument("--provider", metavar="NAME", help="whose payloads they are, where a line does not say")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read the file."""
    use_newest_prices()
    bad: list[dict[str, object]] = []
    kept = 0
    with open_ledger(options, create=True) as ledger, _open(options.file) as file:
        for number, line in shown(enumerate(file, 1), "lines"):
            if not line.strip():
                continue
            try:
                ledger(record_of_line(_checked(line), options.provider))
            except BadLine as error:
                bad.append({"line": number, "error": str(error)})
                continue
            kept += 1
            if kept % FLUSH_EVERY == 0:
                ledger.flush()
        if not ledger.flush() or ledger.lost:
            raise TokenHandlersError(f"not everything could be written to {ledger.place}: see above, and ingest again")
        known = ledger.known
    if options.json:
        print_json({"ledger": ledger.place, "added": kept - known, "already_there": known, "bad": bad})
    else:
        unread = f", {len(bad):,} could not be read" if bad else ""
        print(f"{kept - known:,} added, {known:,} already there{unread}: the ledger {ledger.place}")
    for each in bad[:MOST_NAMED]:
        print(f"line {each['line']}: {each['error']}", file=sys.stderr)
    if len(bad) > MOST_NAMED:
        print(f"... and {len(bad) - MOST_NAMED:,} more lines: --json names them all", file=sys.stderr)
    return 1 if bad else 0


def _checked(line: bytes) -> bytes:
    if len(line.rstrip(b"\r\n")) > LONGEST_LINE:
        raise BadLine(f"longer than {LONGEST_LINE:,} bytes")
    return line


class _Lines:
    """The lines of a file, or of standard input."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __enter__(self) -> Iterator[bytes]:
        """Return the lines; of one that is longer than LONGEST_LINE only a beginning, which is longer as well."""
        return iter(self._next_line, b"")

    def _next_line(self) -> bytes:
        line = self._file.readline(LONGEST_LINE + 1)
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = self._file.readline(LONGEST_LINE + 1)
        return line

    def __exit__(self, *error: object) -> None:
        if self._file is not sys.stdin.buffer:
            self._file.close()


def _open(name: str) -> _Lines:
    if name == "-":
        return _Lines(sys.stdin.buffer)
    try:
        return _Lines(open(name, "rb"))  # noqa: PTH123 (closed by _Lines)
    except OSError as error:
        raise TokenHandlersError(
            f"can't read {name}: {error.strerror}: ingest takes a file of JSON lines, or -"
        ) from None
