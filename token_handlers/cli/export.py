"""token-handlers export: the ledger's calls, as CSV or as JSON lines."""

import argparse
import csv
import json
import re

from token_handlers.cli.options import Commands, add_ledger, add_window, open_ledger, shown
from token_handlers.counter.tables import money
from token_handlers.usage import Usage, UsageRecord

COUNTS = tuple(Usage.model_fields)
LABELS = ("event_id", "started_at", "ended_at", "session", "user", "node", "model", "provider")
KINDS = ("operation", "outcome", "source", "method", "requests")
COLUMNS = (*LABELS, "tags", *KINDS, "cost", "cost_source", "saved_cost", *COUNTS)

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
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the calls in the order of time."""
    with open_ledger(options, read_only=True) as ledger:
        records = shown(ledger.records(since=options.since, until=options.until), "calls")
        if options.json:
            for record in records:
                print(json_line(record))
            return 0
        writer = csv.writer(_Output())
        writer.writerow(COLUMNS)
        writer.writerows(map(csv_row, records))
    return 0


class _Output:
    """Standard output, with plain line ends: csv quotes a carriage return only where its own lines end with one."""

    def write(self, line: str) -> None:
        print(line.removesuffix("\r\n"))


def json_line(record: UsageRecord) -> str:
    """Return a record as a line of JSON; what was not reported is absent."""
    usage = record.usage.model_dump(exclude={"total_tokens"}, exclude_unset=True)
    fields = record.model_dump(mode="json", exclude={"usage"}, exclude_none=True)
    return json.dumps({"usage": usage, **fields}, ensure_ascii=False)


def csv_row(record: UsageRecord) -> list[object]:
    """Return the values of COLUMNS."""
    values = {
        name: _protected(value) for name, value in record.model_dump(mode="json", exclude={"usage", "tags"}).items()
    }
    values["cost"] = None if record.cost is None else money(record.cost)
    values["saved_cost"] = None if record.saved_cost is None else money(record.saved_cost)
    values["tags"] = json.dumps(dict(record.tags), ensure_ascii=False) if record.tags else None
    values.update(record.usage.model_dump(exclude={"total_tokens"}, exclude_unset=True))
    return [values.get(name) for name in COLUMNS]


def _protected(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
