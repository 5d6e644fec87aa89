"""A reconciliation as a table, as lines that say why, and as JSON."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import groupby

from token_handlers.counter.tables import money, usd, usd_column
from token_handlers.reporting.amounts import counted
from token_handlers.reporting.bills.bill import COUNTED
from token_handlers.reporting.bills.compared import (
    EXPLAINED,
    NOISE,
    OF_CALLS,
    Cause,
    Compared,
    billed,
    unexplained,
)
from token_handlers.reporting.bills.reconciliation import Reconciliation, Tolerance
from token_handlers.reporting.text import Row, Table, printable

MOST_LINES = 10
"""How many differences that are not explained are named; JSON has all."""

_WIDTH, _FEWEST = 80, 5
_ALIKE = Decimal("0.005")
_REMEDIES = {
    "calls": "Calls that the ledger lacks went past the package (see `token-handlers doctor`) or by other keys of the "
    "account (see --project).",
    "extra": "Calls that the bill lacks were billed to another account, or another server answered them.",
    "price": "Where the price differs, `token-handlers price MODEL --explain` has the ledger's; set_price and "
    "set_multiplier change it.",
}
_Key = Callable[[Compared], str]


def compared_table(result: Reconciliation, by: str) -> Table:
    """Return what is compared by day or model, and the sum; counts are the bill's less the ledger's.

    Columns of counts in which nothing differs are left out, and by model all but one, as names need the room. A day
    that is not judged has an asterisk.
    """
    groups = [*_grouped(result.rows, by), ("Total", result.rows)]
    names = [f"{name}*" if by == "day" and name != "Total" and rows[0].is_open else name for name, rows in groups]
    costs = [
        usd_column([billed(rows) for _, rows in groups]),
        usd_column([sum((row.calls.all.cost for row in rows), Decimal(0)) for _, rows in groups]),
        usd_column([sum((row.difference for row in rows), Decimal(0)) for _, rows in groups]),
        usd_column([sum((row.explained for row in rows), Decimal(0)) for _, rows in groups]),
    ]
    header = [by.capitalize(), "Bill", "Ledger", "Difference", "Explained"]
    columns: list[Sequence[str | int]] = [names, *costs]
    for title, gaps in (
        ("Tokens ±", [_sum(row.tokens for row in rows) for _, rows in groups]),
        ("Requests ±", [_sum(row.requests for row in rows) for _, rows in groups]),
    ):
        if any(gaps) and (by == "day" or len(columns) == _FEWEST):
            header.insert(1, title)
            columns.insert(1, ["?" if gap is None else gap for gap in gaps])
    rows: list[Row] = [tuple(cells) for cells in zip(*columns, strict=True)]
    return Table(tuple(header), [(printable(str(row[0])), *row[1:]) for row in rows])


def reasons(result: Reconciliation, by: str) -> list[str]:
    """Return the lines that say why the bill and the ledger differ, and what to do."""
    causes = [(row, cause) for row in result.rows for cause in row.causes]
    known = [(row, cause) for row, cause in causes if cause.is_known]
    likely = sorted(((row, cause) for row, cause in causes if not cause.is_known), key=lambda each: -abs(each[1].cost))
    lines: list[str] = []
    days = dict.fromkeys(str(row.day) for row in result.rows if row.is_open)
    if days:
        named = "*" if by == "day" else f"{', '.join(days)}:"
        lines += wrapped(f"{named} Not judged, as the bill may still lack calls.")
    if known:
        kinds = dict.fromkeys(cause.kind for _, cause in known)
        summed = {kind: [cause for _, cause in known if cause.kind == kind] for kind in kinds}
        costs = usd_column([sum((cause.cost for cause in each), Decimal(0)) for each in summed.values()])
        lines += ["", "Explained (USD):"]
        lines += _hanging(costs, [_in_words(kind, each) for kind, each in summed.items()])
    if likely:
        costs = usd_column([cause.cost for _, cause in likely[:MOST_LINES]])
        texts = [f"{row.day} {printable(row.model)}: {printable(cause.text)}" for row, cause in likely[:MOST_LINES]]
        lines += ["", "Not explained (USD):", *_hanging(costs, texts)]
        if len(likely) > MOST_LINES:
            lines.append(f"  ... and {len(likely) - MOST_LINES:,} more: --json has all.")
        kinds = dict.fromkeys(cause.kind for _, cause in likely)
        lines += [line for kind in kinds if kind in _REMEDIES for line in wrapped(_REMEDIES[kind])]
        lines += _common_factor(result)
    return lines


def verdict(result: Reconciliation, tolerance: Tolerance) -> str:
    """Return whether the ledger equals the bill."""
    closed = [row for row in result.rows if not row.is_open]
    days = len({row.day for row in closed})
    allowed = _tolerance(tolerance)
    if not closed:
        return "No day is judged: the bill may still lack calls of these. Ask again in two days."
    off, left = result.off(tolerance), sum((abs(row.difference - row.explained) for row in closed), Decimal(0))
    if not off and left <= NOISE * len(closed):
        explained = any(row.explained for row in closed)
        return (
            f"The ledger equals the bill on {counted(days, 'day')}{', what is explained aside' if explained else ''}."
        )
    if not off:
        within = f"On {counted(days, 'day')} the ledger is within {allowed} a day of the bill"
        return f"{within}: {usd(left)} USD is not explained."
    named = ", ".join(map(str, off[:5])) + (", ..." if len(off) > 5 else "")
    return (
        f"Above the tolerance of {allowed} a day on {len(off)} of {counted(days, 'day')}: {named}. "
        f"{usd(unexplained(closed))} USD of {usd(billed(closed))} is not explained."
    )


def reconciliation_json(result: Reconciliation, by: str, tolerance: Tolerance) -> dict[str, object]:
    """Return all of it as JSON's types: money as texts of exact USD."""
    closed = [row for row in result.rows if not row.is_open]
    return {
        "since": str(result.since),
        "until": str(result.until),
        "tolerance": {"share": money(tolerance.share), "usd": money(tolerance.usd)},
        "above_tolerance": [str(day) for day in result.off(tolerance)],
        "unexplained": money(unexplained(closed)),
        "total": _numbers(result.rows),
        "by": by,
        "groups": {name: _numbers(rows) for name, rows in _grouped(result.rows, by)},
        "rows": [_row_json(row) for row in result.rows],
    }


def _common_factor(result: Reconciliation) -> list[str]:
    """Return the line that corrects prices which all differ by the same factor, as those of a discount do."""
    factors = [
        (row.calls.all.cost + cause.cost) / row.calls.all.cost
        for row in result.rows
        for cause in row.causes
        if cause.kind == "price" and row.calls.all.cost
    ]
    if len(factors) < 2 or max(factors) - min(factors) > _ALIKE * max(factors):
        return []
    return wrapped(
        f'Every such price differs alike: token_handlers.set_multiplier("{factors[0]:.4g}", ...) corrects them.'
    )


def wrapped(text: str) -> list[str]:
    """Return the lines of a text, in which no date is broken."""
    return textwrap.wrap(text, _WIDTH, break_on_hyphens=False)


def _grouped(rows: Iterable[Compared], by: str) -> list[tuple[str, list[Compared]]]:
    key: _Key = (lambda row: row.model) if by == "model" else lambda row: str(row.day)
    return [(name, list(each)) for name, each in groupby(sorted(rows, key=key), key=key)]


def _numbers(rows: Sequence[Compared]) -> dict[str, object]:
    ledger = sum((row.calls.all.cost for row in rows), Decimal(0))
    return {
        "bill": money(billed(rows)),
        "ledger": money(ledger),
        "difference": money(sum((row.difference for row in rows), Decimal(0))),
        "explained": money(sum((row.explained for row in rows), Decimal(0))),
        "requests_difference": _sum(row.requests for row in rows),
        "tokens_difference": _sum(row.tokens for row in rows),
    }


def _row_json(row: Compared) -> dict[str, object]:
    ours = row.calls.all
    return {
        "day": str(row.day),
        "model": row.model,
        "open": row.is_open,
        **_numbers([row]),
        "bill_requests": row.bill.requests,
        "ledger_requests": ours.requests,
        "bill_counts": row.bill.counts,
        "ledger_counts": {name: ours.counts[name] for name in COUNTED if name in ours.counts},
        "estimated_requests": row.calls.estimated.requests,
        "unpriced_requests": row.calls.unpriced.requests,
        "causes": [_cause_json(cause) for cause in row.causes],
    }


def _cause_json(cause: Cause) -> dict[str, object]:
    return {
        "kind": cause.kind,
        "cost": money(cause.cost),
        "requests": cause.requests,
        "text": cause.text,
        "explained": cause.is_known,
    }


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Return the sum of what is known; None where nothing is."""
    found = [number for number in numbers if number is not None]
    return sum(found) if found else None


def _in_words(kind: str, causes: Sequence[Cause]) -> str:
    requests = sum(abs(cause.requests) for cause in causes)
    texts = sorted({cause.text for cause in causes if cause.text})
    named = ", ".join(map(printable, texts[:3])) + (", ..." if len(texts) > 3 else "")
    number = (f"{counted(requests, 'request')} " if requests else "calls ") if kind in OF_CALLS else ""
    return f"{number}{EXPLAINED[kind]}" + (f": {named}" if named else "")


def _hanging(costs: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return amounts with what they are for, in lines that are indented under the text."""
    width = max(map(len, costs))
    lines = []
    for cost, text in zip(costs, texts, strict=True):
        first = f"  {cost.ljust(width)}  "
        lines += textwrap.wrap(
            text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
        )
    return lines


def _tolerance(tolerance: Tolerance) -> str:
    parts = [f"{money(tolerance.share * 100)}%"] if tolerance.share else []
    parts += [f"{money(tolerance.usd)} USD"] if tolerance.usd or not parts else []
    return " or ".join(parts)
