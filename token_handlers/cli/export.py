"""token-handlers export: the ledger's calls, as CSV, JSON lines, FOCUS' charges or a Parquet file."""

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from token_handlers.cli.options import (
    Commands,
    add_ledger,
    add_window,
    open_ledger,
    quiet_log,
    shown,
    use_newest_prices,
)
from token_handlers.counter.tables import money
from token_handlers.errors import TokenHandlersError
from token_handlers.sinks.escapes import escaped
from token_handlers.usage import CostPart, Usage, UsageRecord

COUNTS = tuple(Usage.model_fields)
LABELS = ("event_id", "started_at", "ended_at", "session", "user", "node", "model", "provider")
KINDS = ("operation", "outcome", "source", "method", "requests")
ORIGINS = ("requested_model", "service_tier", "region", "host", "request_id", "organization", "project")
MONEY = ("cost", "saved_cost", "cache_saved_cost")
COLUMNS = (*LABELS, "tags", *KINDS, "cost_source", *MONEY, *COUNTS, "cost_breakdown", "doubts", *ORIGINS)

_ABSENT: tuple[object, ...] = (None, [], (), {})
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff0b\uff0d\uff1d\uff20]")
"""How a text begins that a spreadsheet takes for a formula, by a full-width sign too, or that looks protected."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export",
        help="the calls in the ledger, on standard output",
        description="Print the calls in the ledger in the order of time. In CSV a text that a spreadsheet would take "
        "for a formula, as it begins with = + - @, a tab or a line break, has an apostrophe before it, and so has one "
        "with such a sign after apostrophes: take one off to have the text as it was. JSON has all as it is.",
    )
    add_ledger(parser)
    add_window(parser)
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", action="store_true", help="as CSV with a header; what was not reported is empty")
    form.add_argument("--json", action="store_true", help="as JSON lines, which `ingest` reads")
    form.add_argument(
        "--focus",
        action="store_true",
        help="as CSV of FinOps' FOCUS 1.2: a row for each part of a call's cost; calls of unknown cost are left out",
    )
    form.add_argument("--parquet", metavar="FILE", type=Path, help="into a Parquet file, by pyarrow")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the calls in the order of time, or write them into a file."""
    with open_ledger(options, read_only=True) as ledger:
        records = shown(ledger.records(since=options.since, until=options.until), "calls")
        if options.parquet is not None:
            _write_parquet(records, options.parquet)
        elif options.json:
            for record in records:
                print(json_line(record))
        elif options.focus:
            _print_focus(records)
        else:
            writer = csv.writer(_Output())
            writer.writerow(COLUMNS)
            writer.writerows(map(csv_row, records))
    return 0


def _print_focus(records: Iterable[UsageRecord]) -> None:
    """Print the charges, and say on stderr how many calls are left out as nobody knows what they cost."""
    from token_handlers.reporting import focus

    use_newest_prices()
    writer = csv.DictWriter(_Output(), focus.COLUMNS)
    writer.writeheader()
    unpriced = 0
    with quiet_log():
        for record in records:
            unpriced += record.outcome == "success" and record.cost is None
            writer.writerows(
                {name: _protected(value) for name, value in row.items()} for row in focus.focus_rows(record)
            )
    if unpriced:
        calls = "1 call" if unpriced == 1 else f"{unpriced:,} calls"
        print(f"token-handlers: {calls} of unknown cost left out: see token-handlers reprice", file=sys.stderr)


def _write_parquet(records: Iterable[UsageRecord], path: Path) -> None:
    from token_handlers.reporting.parquet import write_parquet

    try:
        number = write_parquet(records, COLUMNS, path)
    except OSError as error:
        raise TokenHandlersError(f"can't write {path}: {error.strerror}: choose another file") from error
    print(f"{number:,} call{'' if number == 1 else 's'} written to {path}", file=sys.stderr)


class _Output:
    """Standard output, with plain line ends: csv quotes a carriage return only where its own lines end with one."""

    def write(self, line: str) -> None:
        print(line.removesuffix("\r\n"))


def json_line(record: UsageRecord) -> str:
    """Return a record as a line of JSON; what was not reported is absent."""
    usage = record.usage.model_dump(exclude={"total_tokens"}, exclude_unset=True)
    fields = {name: value for name, value in _plain(record).items() if value not in _ABSENT}
    line = json.dumps({"usage": usage, **fields}, ensure_ascii=False)
    return line if line.isprintable() else json.dumps({"usage": usage, **fields})  # half a surrogate pair, say


def csv_row(record: UsageRecord) -> list[object]:
    """Return the values of COLUMNS."""
    values = {name: _protected(value) for name, value in _plain(record).items()}
    for name in MONEY:
        amount = getattr(record, name)
        values[name] = None if amount is None else money(amount)
    values["tags"] = json.dumps(_escaped(dict(record.tags)), ensure_ascii=False) if record.tags else None
    values["cost_breakdown"] = "; ".join(map(_told, record.cost_breakdown)) or None
    values["doubts"] = "; ".join(map(escaped, record.doubts)) or None
    values.update(record.usage.model_dump(exclude={"total_tokens"}, exclude_unset=True))
    return [values.get(name) for name in COLUMNS]


def _told(part: CostPart) -> str:
    """Return one part of a cost in words: 1000 input_tokens at 2.50 per 1000000 = 0.0025."""
    made_by = f" of {escaped(part.model)}" if part.model else ""
    note = f" ({part.note})" if part.note else ""
    return f"{part.number} {part.unit}{made_by} at {money(part.rate)} per {part.per} = {money(part.cost)}{note}"


def _plain(record: UsageRecord) -> dict[str, object]:
    """Return a record's fields as JSON has them; pydantic's own way refuses half a surrogate pair."""
    numbers = record.model_dump(mode="json", include={*MONEY, "started_at", "ended_at", "cost_breakdown"})
    texts = record.model_dump(exclude={"usage", *numbers})
    return {name: numbers.get(name, texts.get(name)) for name in UsageRecord.model_fields if name != "usage"}


def _escaped(tags: dict[str, str]) -> dict[str, str]:
    return {escaped(name): escaped(value) for name, value in tags.items()}


def _protected(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = escaped(value)
    return f"'{text}" if _FORMULA.match(text) else text
