"""token-handlers reconcile: a provider's own bill beside the ledger, day by day and model by model."""

import argparse
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

from token_handlers.cli.options import (
    Commands,
    WrongUsage,
    add_json,
    add_ledger,
    add_window,
    open_ledger,
    print_json,
    print_table,
    shown,
)
from token_handlers.settings import Settings

if TYPE_CHECKING:
    from token_handlers.reporting.bills.bill import ProviderBill
    from token_handlers.reporting.bills.calls import LedgerCalls
    from token_handlers.reporting.bills.reconciliation import Reconciliation, Tolerance

PROVIDERS = ("openai", "anthropic", "openrouter")

DAYS = 30
"""How many days are compared where --since says nothing else."""

FIRST_BILL = date(2020, 1, 1)
"""No provider here has a bill of days before."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "reconcile",
        help="a provider's own bill beside the ledger",
        description="Read a provider's bill, from its API or from an export, and set it beside the ledger: what each "
        "has of every day and model in UTC, the difference, and why. The last two days are shown and not judged, as "
        "the bill may still lack calls. The key is read from OPENAI_ADMIN_KEY, ANTHROPIC_ADMIN_KEY or "
        "OPENROUTER_MANAGEMENT_KEY. The exit status is 1 where a day differs by more than the tolerance, and neither "
        "the ledger nor the bill explains it.",
    )
    parser.add_argument("provider", choices=PROVIDERS, metavar="PROVIDER", help=", ".join(PROVIDERS))
    add_ledger(parser)
    add_window(parser)
    parser.add_argument("--by", choices=("day", "model"), default="day", help="what to sum by (default: day)")
    parser.add_argument(
        "--file", metavar="EXPORT", type=Path, action="append", help="an export instead of the API; may be repeated"
    )
    parser.add_argument("--project", metavar="ID", help="only this project or workspace of the account")
    text = "by how much a day may differ: a share such as 1%%, or USD such as 0.05 (default: 0.5%% or 0.01 USD)"
    parser.add_argument("--tolerance", type=_tolerance, help=text)
    parser.add_argument("--base-url", metavar="URL", help="another address of the provider's API")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the comparison; 1 where a day is above the tolerance."""
    from token_handlers.reporting.bills.calls import read_calls
    from token_handlers.reporting.bills.reconciliation import Tolerance, reconcile
    from token_handlers.reporting.bills.report import reconciliation_json
    from token_handlers.reporting.bills.sources import SOURCES

    source, now = SOURCES[options.provider], datetime.now(UTC)
    tolerance = options.tolerance or Tolerance()
    with open_ledger(options, read_only=True) as ledger:
        place, first = ledger.place, _first_day(ledger.by("day"))
        bill, since, until = _bill(options, *_window(options, first, now))
        # with those of the day before, as some may have ended on the first day
        records = ledger.records(since=since - timedelta(days=1), until=until)
        has_ids = any(row.call_id for row in bill.rows)
        calls = read_calls(shown(records, "calls"), options.provider, options.project, keep_ids=has_ids)
    result = reconcile(bill, calls, since, until, now)
    notes = [*bill.notes, *_notes(calls, result, first), *_accounts(bill, calls, source.ACCOUNT)]
    if options.json:
        compared = reconciliation_json(result, options.by, tolerance)
        print_json({"ledger": place, "provider": options.provider, **compared, "notes": notes})
    else:
        _print(options.by, f"{source.TITLE}'s bill", Path(place).name, result, tolerance, notes)
    return 1 if result.off(tolerance) else 0


def _print(
    by: str, bill: str, ledger: str, result: "Reconciliation", tolerance: "Tolerance", notes: Iterable[str]
) -> None:
    from token_handlers.reporting.bills.report import compared_table, reasons, verdict, wrapped

    first, last = result.since, result.until
    days = str(first) if first == last else f"{first} to {last}"
    if result.rows:
        print(f"{bill} beside {ledger}, {days}, USD, days in UTC", end="\n\n")
        print_table(*compared_table(result, by))
        print(*reasons(result, by), "", *wrapped(verdict(result, tolerance)), sep="\n")
    else:
        print(*wrapped(f"Nothing to compare, {days}: neither {bill} nor the ledger has a call."), sep="\n")
    for note in notes:
        print(*wrapped(note), sep="\n")


def _window(options: argparse.Namespace, first: date | None, now: datetime) -> tuple[date, date]:
    """Return the first and the last day: whole days in UTC, as a bill has no others."""
    from token_handlers.sinks.sql.questions import moment_ms
    from token_handlers.sinks.sql.rows import EPOCH

    until = now.date()
    if options.until is not None:
        until = min(until, (EPOCH + timedelta(milliseconds=moment_ms("until", options.until, end=True) - 1)).date())
    since = until - timedelta(days=DAYS)
    if options.since is not None:
        since = max(FIRST_BILL, (EPOCH + timedelta(milliseconds=moment_ms("since", options.since))).date())
    elif first is not None and first <= until:
        since = max(since, first)
    if since > until:
        raise WrongUsage(
            f"the window, {since} to {until}, has no day that a bill could have: change --since or --until"
        )
    return since, until


def _first_day(days: Iterable[str]) -> date | None:
    """Return the first day of a ledger that a calendar has."""
    found = [date.fromisoformat(day) for day in days if len(day) == len("2020-01-01") and day[0].isdigit()]
    return min(found, default=None)


def _bill(options: argparse.Namespace, since: date, until: date) -> "tuple[ProviderBill, date, date]":
    """Return the bill and its days; an export says itself which it has, where no others are asked for."""
    from token_handlers.reporting.bills.api import BillUnavailable, checked_key
    from token_handlers.reporting.bills.bill import UnreadableBill
    from token_handlers.reporting.bills.export_file import read_exports
    from token_handlers.reporting.bills.sources import SOURCES

    source = SOURCES[options.provider]
    if options.file:
        bill = read_exports(options.file, source, [other for other in SOURCES.values() if other is not source])
        if options.project:
            bill.rows[:] = [row for row in bill.rows if row.account == options.project]
        days = {row.day for row in bill.rows}
        since = min(days) if days and options.since is None else since
        until = max(days) if days and options.until is None else until
        return bill, since, max(since, until)
    settings = Settings()
    keys = {
        "openai": settings.openai_admin_key,
        "anthropic": settings.anthropic_admin_key,
        "openrouter": settings.openrouter_management_key,
    }
    try:
        key = checked_key(keys[options.provider], source.KEY, source.TITLE)
    except BillUnavailable as error:
        raise WrongUsage(str(error)) from None
    base_url = options.base_url or source.BASE_URL
    try:
        return source.read_api(base_url, key, since, until, options.project), since, until
    except UnreadableBill as error:
        raise BillUnavailable(f"{base_url} gave no bill of {source.TITLE}: {error}: check --base-url") from None


def _accounts(bill: "ProviderBill", calls: "LedgerCalls", name: str) -> list[str]:
    """Return how to compare one account where the bill is of several and no call says of which it is."""
    accounts = sorted({row.account for row in bill.rows if row.account})
    if len(accounts) < 2 or calls.projects:
        return []
    named = ", ".join(accounts[:3]) + (", ..." if len(accounts) > 3 else "")
    return [f"The bill is of {len(accounts)} {name}s ({named}): --project ID compares one of them."]


def _notes(calls: "LedgerCalls", result: "Reconciliation", first: date | None) -> list[str]:
    from token_handlers.reporting.amounts import counted

    notes = []
    if first is None:
        notes.append("The ledger has no call at all.")
    elif any(cause.kind == "calls" and row.day <= first for row in result.rows for cause in row.causes):
        notes.append(f"The ledger begins on {first}: what was billed before its first call is not in it.")
    if calls.elsewhere:
        left_out = counted(calls.elsewhere, "request")
        notes.append(f"{left_out} of no known provider {'is' if calls.elsewhere == 1 else 'are'} left out.")
    return notes


def _tolerance(text: str) -> "Tolerance":
    from token_handlers.reporting.bills.reconciliation import Tolerance

    try:
        number = Decimal(text.removesuffix("%"))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise argparse.ArgumentTypeError(f"a share such as 1%, or USD such as 0.05, is not {text!r}")
    if text.endswith("%"):
        return Tolerance(number / 100, Decimal(0))
    return Tolerance(Decimal(0), number)
