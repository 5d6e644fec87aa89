"""token-handlers report: what a ledger's calls used and cost, as a table, JSON or a page."""

import argparse
import difflib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from token_handlers.cli.options import (
    TOP,
    Commands,
    WrongUsage,
    add_json,
    add_ledger,
    add_top,
    add_window,
    open_ledger,
    print_json,
    print_table,
    quiet_log,
    shown,
    use_newest_prices,
)
from token_handlers.errors import TokenHandlersError
from token_handlers.pricing.freshness import PriceTable, current_table
from token_handlers.usage import UsageTotals

if TYPE_CHECKING:
    from token_handlers.reporting.budget_line import BudgetLine
    from token_handlers.reporting.what_if import Replacement, WhatIf
    from token_handlers.sinks.sql.groups import Groups
    from token_handlers.sinks.sql.ledger import SQLSink

LABELS = ("model", "provider", "session", "user", "node", "operation", "tag", "hour", "day", "month")
"""What --by takes beside the key of a tag."""


TAGS_SEARCHED = 1000
"""Among so many values of tags a key is looked for that is like one which was mistyped."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("report", help="what the calls in the ledger used and cost")
    add_ledger(parser)
    add_window(parser)
    text = f"what to sum by: {', '.join(LABELS)}, or the key of a tag (default: model)"
    parser.add_argument("--by", metavar="LABEL", default="model", help=text)
    add_top(parser, "models, sessions, ...")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page of it all, in one file")
    parser.add_argument("--title", metavar="TEXT", help="the page's title (default: the ledger's name)")
    parser.add_argument(
        "--project", action="store_true", help="add what this month will have cost at its end, by the last eight weeks"
    )
    text = (
        "what the same calls would have cost on another model, each at its day, tier and fees: on MODEL (or "
        "PROVIDER/MODEL) every LLM call, with FROM=MODEL those of one model; more than once; changes nothing"
    )
    add_cache(parser)
    parser.add_argument("--as", dest="as_models", metavar="MODEL", action="append", default=[], help=text)
    text = "USD a day, week, month or year, such as 50/month, that the page and --project compare with; stops no call"
    parser.add_argument("--budget", metavar="USD/WINDOW", type=_budget, help=text)
    add_json(parser)
    parser.set_defaults(run=run_report)


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add --cache."""
    text = "show what the provider's prompt cache was used for and saved, in place of all that was used"
    parser.add_argument("--cache", action="store_true", help=text)


def run(options: argparse.Namespace) -> int:
    """Print the table or the JSON of one label."""
    with open_ledger(options, read_only=True) as ledger:
        _print_totals(options, ledger, {})
    return 0


def run_report(options: argparse.Namespace) -> int:
    """Print the report, and write the page where one is asked for."""
    if options.title is not None and options.html is None:
        raise WrongUsage("--title is the page's: add --html FILE")
    if options.cache and options.as_models:
        raise WrongUsage("--cache and --as are two tables: ask for one of them")
    if options.budget is not None and options.html is None and not options.project:
        raise WrongUsage("--budget is compared on a page or with a projection: add --html FILE or --project")
    use_newest_prices()
    now = datetime.now(UTC)
    table = current_table(now.date())
    with open_ledger(options, read_only=True) as ledger:
        if options.html is not None:
            what_if = _what_if(options, ledger, "model") if options.as_models else None
            _write_page(options, ledger, now, table, what_if)
        added, lines = _projected(options, ledger, now) if options.project else ({}, [])
        print_it = _print_what_if if options.as_models else _print_totals
        print_it(options, ledger, {**added, "prices": table.as_json(now.date())})
    if table.is_old(now.date()):
        lines.append(f"{table.says(now.date())}.")
    if lines and not options.json:
        print("", *lines, sep="\n")
    return 0


def _print_totals(options: argparse.Namespace, ledger: "SQLSink", added: dict[str, object]) -> None:
    from token_handlers.counter.totals import OTHER
    from token_handlers.reporting.text import IN_TIME, cache_table, notes_on, totals_json, totals_table

    window = {"since": options.since, "until": options.until}
    top = options.top or (None if options.json or options.by in IN_TIME else TOP)
    total = ledger.totals(**window)
    groups = _groups(options, ledger, top)
    if not groups and options.by not in LABELS and total != UsageTotals():
        raise WrongUsage(_no_such_label(options.by, ledger))
    if options.json:
        told = totals_json(options.by, groups, total)
        print_json({"ledger": ledger.place, **window, **told, "others": groups.others, **added})
        return
    print_table(*(cache_table if options.cache else totals_table)(options.by, groups, total))
    notes = notes_on(options.by, groups, total)
    if groups.others:
        notes.insert(0, f"{OTHER} adds up {groups.others:,} more: --top N lists more of them, --top all all.")
    print(*([""] if notes else []), *notes, sep="\n", end="\n" if notes else "")


def _print_what_if(options: argparse.Namespace, ledger: "SQLSink", added: dict[str, object]) -> None:
    from token_handlers.reporting.text import IN_TIME
    from token_handlers.reporting.what_if import what_if_json, what_if_table

    what_if = _what_if(options, ledger, options.by)
    if options.json:
        window = {"since": options.since, "until": options.until}
        print_json({"ledger": ledger.place, **window, "by": options.by, **what_if_json(what_if), **added})
        return
    top = options.top or (None if options.by in IN_TIME else TOP)
    print_table(*what_if_table(options.by, what_if, top))
    print("", *what_if.notes(), sep="\n")


def _what_if(options: argparse.Namespace, ledger: "SQLSink", label: str) -> "WhatIf":
    from token_handlers.reporting.what_if import compare

    asked = [_replacement(text) for text in options.as_models]
    if sum(each.model is None for each in asked) > 1:
        raise WrongUsage("--as MODEL is about every call, so there is one of it: write FROM=MODEL for the others")
    records = shown(ledger.records(since=options.since, until=options.until), "calls")
    what_if = compare(records, asked, "langgraph_node" if label == "node" else label)
    if not what_if.groups and label not in LABELS and what_if.total.actual != UsageTotals():
        raise WrongUsage(_no_such_label(label, ledger))
    for each in what_if.unmatched:
        models = ledger.by("model", since=options.since, until=options.until)
        near = difflib.get_close_matches(str(each.model), models, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(models)) or 'none'}"
        raise WrongUsage(f"--as {each.asked}: no call in the report is of a model {each.model!r}: {hint}")
    return what_if


def _groups(options: argparse.Namespace, ledger: "SQLSink", top: int | None) -> "Groups":
    from token_handlers.reporting.sums import by_month, most_expensive

    label, since, until = options.by, options.since, options.until
    if label == "month":
        days = ledger.by("day", since=since, until=until)
        return most_expensive(by_month(days), top or sys.maxsize)
    return ledger.by("langgraph_node" if label == "node" else label, top=top, since=since, until=until)


def _no_such_label(label: str, ledger: "SQLSink") -> str:
    keys = dict.fromkeys(tag.partition("=")[0] for tag in ledger.by("tag", top=TAGS_SEARCHED))
    near = difflib.get_close_matches(label, [*LABELS, *keys], n=1, cutoff=0.7)
    hint = f"did you mean {near[0]}?" if near else f"--by takes {', '.join(LABELS)}, or the key of a tag"
    return f"no call in the report has a tag {label!r}: {hint}"


def _projected(options: argparse.Namespace, ledger: "SQLSink", now: datetime) -> tuple[dict[str, object], list[str]]:
    """Return the projection, and the budget beside it, as JSON's types and as lines of text."""
    from token_handlers.reporting.contents import read_budget, read_projection
    from token_handlers.reporting.projection import projection_json, projection_lines

    projection = read_projection(ledger, now)
    state = read_budget(ledger, options.budget, now) if options.budget else None
    told: dict[str, object] = {"projection": projection_json(projection) if projection else None}
    lines = (
        projection_lines(projection) if projection else ["No projection: the eight weeks before today have no call."]
    )
    if state is not None:
        told["budget"] = state.as_json()
        lines.append(state.in_words(projection))
    return told, lines


def _write_page(
    options: argparse.Namespace, ledger: "SQLSink", now: datetime, prices: PriceTable, what_if: "WhatIf | None"
) -> None:
    from token_handlers.reporting.contents import read_contents
    from token_handlers.reporting.page import page

    with quiet_log():  # that a model has no price is on the page
        contents = read_contents(
            ledger,
            title=options.title or f"Token usage: {Path(ledger.place).name}",
            now=now,
            top=options.top or TOP,
            since=options.since,
            until=options.until,
            budget=options.budget,
            prices=prices,
            what_if=what_if,
        )
    try:
        options.html.write_text(page(contents), encoding="utf-8")
    except OSError as error:
        raise TokenHandlersError(f"can't write {options.html}: {error.strerror}: choose another file") from error


def _replacement(text: str) -> "Replacement":
    from token_handlers.reporting.what_if import replacement_of

    try:
        return replacement_of(text)
    except ValueError as error:
        raise WrongUsage(f"--as {text}: {error}") from None


def _budget(text: str) -> "BudgetLine":
    from token_handlers.reporting.budget_line import BudgetLine

    try:
        return BudgetLine.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
