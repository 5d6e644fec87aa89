"""What several commands take and print: a ledger, a time, tables, JSON and progress."""

import argparse
import contextlib
import importlib.util
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from token_handlers.counter.tables import fit_table, not_shown, text_table
from token_handlers.errors import TokenHandlersError
from token_handlers.settings import Settings

if TYPE_CHECKING:
    from token_handlers.sinks.sql.ledger import SQLSink

T = TypeVar("T")


class WrongUsage(TokenHandlersError):
    """What was asked for lacks something; the exit status is 2."""


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 (it has no other name)

TOP = 100
"""How many models, sessions, ... are listed where nothing else is said."""

QUIET_SECONDS, TTY_SECONDS, LOG_SECONDS = 1.0, 0.2, 5.0
"""How long before progress is shown, and how often on a terminal and elsewhere."""

_AGO = re.compile(r"(?P<number>\d+)(?P<unit>[hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_DAYS_AGO = {"today": 0, "yesterday": 1}


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """Add --ledger."""
    text = "the ledger's file, or its URL: postgresql://user@host/database (default: AGENTSIGHT_TOKEN_LEDGER)"
    parser.add_argument("--ledger", metavar="PATH", help=text)


def add_window(parser: argparse.ArgumentParser) -> None:
    """Add --since and --until."""
    text = "a date in UTC, that day included, a time such as 2026-01-31T12:00Z, today, yesterday, or %s"
    parser.add_argument("--since", type=_moment, metavar="WHEN", help=text % "12h, 7d or 4w: so long ago")
    parser.add_argument("--until", type=_moment, metavar="WHEN", help=text % "so long ago")


def add_top(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --top."""
    text = f"list the N most expensive {what}, or all, and sum the others (default: {TOP}; with --json all)"
    parser.add_argument("--top", type=_top, metavar="N", help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="as JSON; money is a string of exact USD")


def ledger_name(options: argparse.Namespace) -> str:
    """Return the path, or the URL, that --ledger or the environment names."""
    from token_handlers.sinks.configured import is_url

    name = options.ledger or (Settings().token_ledger or "").strip()
    if not name:
        raise WrongUsage("there is no ledger to read: name one with --ledger PATH or AGENTSIGHT_TOKEN_LEDGER")
    try:
        return name if is_url(name) else str(Path(name).expanduser().absolute())
    except ValueError as error:
        raise WrongUsage(str(error)) from None


def check_window(options: argparse.Namespace) -> None:
    """Refuse a window that ends before it begins."""
    from token_handlers.sinks.sql.questions import moment_ms

    since, until = options.since, options.until
    if since is not None and until is not None and moment_ms("since", since) >= moment_ms("until", until, end=True):
        raise WrongUsage(f"--since {since} is not before --until {until}: no call can be in between")


def open_ledger(options: argparse.Namespace, *, create: bool = False, read_only: bool = False) -> "SQLSink":
    """Open the ledger that is named, which has to exist unless it may be created."""
    from token_handlers.sinks.configured import is_url, ledger_at

    name = ledger_name(options)
    if not create and not is_url(name) and _is_missing(Path(name)):
        raise TokenHandlersError(
            f"there is no ledger at {name}: make one with `token-handlers run --ledger {name} ...` or `ingest`"
        )
    try:
        ledger = ledger_at(name, read_only=read_only)
    except ValueError as error:
        raise WrongUsage(str(error)) from None
    _say_if_empty(ledger, getattr(options, "since", None), getattr(options, "until", None))
    return ledger


def _say_if_empty(ledger: "SQLSink", since: str | None, until: str | None) -> None:
    """Say on stderr that a window has no call, and when there were calls."""
    if (since or until) and not ledger.by("day", since=since, until=until):
        days = ledger.by("day")
        when = f"the ledger's calls are from {min(days)} to {max(days)}" if days else "the ledger has no call at all"
        asked = " ".join(f"{name} {moment}" for name, moment in (("since", since), ("until", until)) if moment)
        print(f"token-handlers: no call {asked}: {when}", file=sys.stderr)


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # the ledger itself says what is wrong
        return False
    return False


def print_table(header: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
    """Print a table on stdout, as wide as the terminal, by rich where that is installed; else plain in 80 columns."""
    if not sys.stdout.isatty():
        print(text_table(header, rows))
    elif importlib.util.find_spec("rich"):
        _print_rich(header, rows)
    else:
        print(text_table(header, rows, width=shutil.get_terminal_size().columns))


def print_json(value: object) -> None:
    """Print JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def shown(items: Iterable[T], what: str) -> Iterator[T]:
    """Yield the items, and say on stderr how many there were so far once that takes longer than a second."""
    started = told = time.monotonic()
    on_terminal = sys.stderr.isatty()
    pause, start, end = (TTY_SECONDS, "\r", "") if on_terminal else (LOG_SECONDS, "", "\n")
    number = 0
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - started > QUIET_SECONDS and now - told > pause:
            told = now
            print(f"{start}{number:,} {what} ...", end=end, file=sys.stderr, flush=True)
    if on_terminal and told > started:
        print(f"\r{number:,} {what}.   ", file=sys.stderr)


@contextlib.contextmanager
def quiet_log() -> Iterator[list[str]]:
    """Keep the log quiet, and yield what it would have said."""
    said: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    logger = logging.getLogger("token_handlers")
    logger.addFilter(keep)
    try:
        yield said
    finally:
        logger.removeFilter(keep)


def use_newest_prices() -> None:
    """Price by the table that `token-handlers prices update` has kept, where there is one."""
    from token_handlers.pricing.freshness import kept_path

    if os.access(kept_path(), os.R_OK):
        from token_handlers.pricing.updates import use_kept

        use_kept()


def _print_rich(header: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    fitted = fit_table(header, rows, width=console.width)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, right in zip(fitted.header, fitted.right, strict=True):
        table.add_column(Text(name), justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for row in fitted.rows:
        table.add_row(*map(Text, row))
    console.print(table)
    for line in not_shown(fitted.left_out):
        console.print(Text(line))


def count(text: str) -> int:
    """Return a number of tokens that was typed, with its thousands apart or not."""
    digits = text.replace(",", "").replace("_", "")
    if not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"a number, such as 1500, is not {text!r}")
    return int(digits)


def _top(text: str) -> int:
    if text == "all":
        return sys.maxsize
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a number such as 10, or all, is not {text!r}")
    return int(text)


def _moment(text: str) -> str:
    """Return an ISO time or date; what is said relative to now is turned into one."""
    from token_handlers.sinks.sql.questions import moment_ms

    today = datetime.now(UTC)
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return (today - timedelta(**{_UNITS[ago["unit"]]: int(ago["number"])})).isoformat(timespec="seconds")
        if text in _DAYS_AGO:
            return (today - timedelta(days=_DAYS_AGO[text])).date().isoformat()
        moment_ms("it", text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{error}; or write 7d, 12h, 4w, today or yesterday") from None
    return text
