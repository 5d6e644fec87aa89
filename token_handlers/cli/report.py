"""token-handlers report: what a ledger's calls used and cost, as a table, JSON or a page."""

import argparse
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from token_handlers.cli.options import (
    TOP,
    Commands,
    add_json,
    add_ledger,
    add_top,
    add_window,
    open_ledger,
    print_json,
    print_table,
)
from token_handlers.errors import TokenHandlersError
from token_handlers.usage import UsageTotals

if TYPE_CHECKING:
    from token_handlers.sinks.sqlite.ledger import SQLiteLedger

LABELS = ("model", "session", "user", "day", "tag")


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("report", help="what the calls in the ledger used and cost")
    add_ledger(parser)
    add_window(parser)
    parser.add_argument("--by", choices=LABELS, default="model", help="what to sum by (default: model)")
    add_top(parser, "models, sessions, ...")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page of it all, in one file")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    from token_handlers.counter.counter import OTHER
    from token_handlers.reporting.text import IN_TIME, notes_on, totals_json, totals_table

    window = {"since": options.since, "until": options.until}
    with open_ledger(options, read_only=True) as ledger:
        top = options.top or (None if options.json or options.by in IN_TIME else TOP)
        groups, total = ledger.by(options.by, top=top, **window), ledger.totals(**window)
        if options.html is not None:
            _write_page(options, ledger)
    if options.json:
        told = totals_json(options.by, groups, total)
        print_json({"ledger": str(ledger.path), **window, **told, "others": groups.others})
        return 0
    print_table(*totals_table(options.by, groups, total))
    notes = notes_on(options.by, groups, total)
    if groups.others:
        notes.insert(0, f"{OTHER} adds up {groups.others:,} more: --top N lists more of them, --top all all.")
    print(*([""] if notes else []), *notes, sep="\n", end="\n" if notes else "")
    return 0


def _write_page(options: argparse.Namespace, ledger: "SQLiteLedger") -> None:
    from token_handlers.reporting.html import Contents, page
    from token_handlers.reporting.svg import MOST_DAYS, by_month

    window = {"since": options.since, "until": options.until}
    models, sessions = (ledger.by(label, top=options.top or TOP, **window) for label in ("model", "session"))
    step = "day"
    in_time: dict[str, UsageTotals] = ledger.by(step, **window)
    days = (date.fromisoformat(max(in_time)) - date.fromisoformat(min(in_time))).days + 1 if in_time else 0
    if days > MOST_DAYS:
        step, in_time = "month", by_month(in_time)
    elif days <= 2:
        step, in_time = "hour", ledger.by("hour", **window)
    contents = Contents(
        total=ledger.totals(**window),
        by_model=models,
        by_session=sessions,
        in_time=in_time,
        step=step,
        title=ledger.path.name,
        made_at=datetime.now(UTC),
        other_models=models.others,
        other_sessions=sessions.others,
    )
    try:
        options.html.write_text(page(contents), encoding="utf-8")
    except OSError as error:
        raise TokenHandlersError(f"can't write {options.html}: {error.strerror}: choose another file") from error
