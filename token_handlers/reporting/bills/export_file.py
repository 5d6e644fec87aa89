"""A bill out of files: what a provider's dashboard exports, or an answer of its API that somebody kept."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from token_handlers.errors import TokenHandlersError
from token_handlers.reporting.bills.bill import BillRow, ProviderBill, UnreadableBill
from token_handlers.reporting.bills.sources import BillSource

MAX_FILE = 256 * 2**20
"""Bytes of a file that are read."""


def read_exports(paths: Sequence[Path], provider: BillSource, others: Iterable[BillSource]) -> ProviderBill:
    """Return the bill in files, such as one of cost and one of usage."""
    rows = [row for path in paths for row in _read(path, provider, others)]
    if rows and not any(row.cost for row in rows) and any(row.counts for row in rows):
        raise UnreadableBill(f"{_names(paths)} has usage and no cost: add the export of the cost with another --file")
    return ProviderBill(rows)


def _read(path: Path, provider: BillSource, others: Iterable[BillSource]) -> list[BillRow]:
    text = _text_of(path)
    try:
        return list(_rows(text, provider))
    except UnreadableBill as error:
        theirs = next((other.TITLE for other in others if _is_of(text, other)), None)
        looks = f"it looks like {theirs}'s" if theirs else str(error)
        raise UnreadableBill(
            f"{path} is no bill of {provider.TITLE}: {looks}; --file takes {provider.EXPORTS}"
        ) from None


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE:
            raise UnreadableBill(f"{path} has more than {MAX_FILE // 2**20} MiB: export fewer days")
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise TokenHandlersError(f"can't read {path}: {error.strerror}: name an export with --file") from None
    except UnicodeDecodeError:
        raise UnreadableBill(f"{path} is no text in UTF-8: --file takes an export as CSV or JSON") from None


def _rows(text: str, provider: BillSource) -> Iterator[BillRow]:
    if not text.strip():
        raise UnreadableBill("it is empty")
    if text.lstrip()[0] in "{[":
        for page in _pages(text):
            yield from provider.rows_of(page)
        return
    for line in _lines(text, provider):
        yield from provider.table_rows(line)


def _pages(text: str) -> Iterator[Mapping[str, object]]:
    """Yield the pages in JSON: one, a list of them, or one a line."""
    try:
        found = [json.loads(text, parse_float=Decimal)]
    except (ValueError, RecursionError):
        try:
            found = [json.loads(line, parse_float=Decimal) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise UnreadableBill(f"it is no JSON ({type(error).__name__})") from None
    for page in found[0] if len(found) == 1 and isinstance(found[0], list) else found:
        if not isinstance(page, Mapping) or "data" not in page:
            raise UnreadableBill("it has no data")
        yield page


def _lines(text: str, provider: BillSource) -> Iterator[dict[str, str]]:
    lines = io.StringIO(text, newline="")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        table = csv.DictReader(lines, delimiter=delimiter, restval="")
        columns = set(table.fieldnames or ())
        if not any(needed <= columns for needed in provider.COLUMNS):
            raise UnreadableBill(f"its columns are {', '.join(sorted(columns))[:80]}")
        for line in table:
            yield {name: value for name, value in line.items() if isinstance(name, str) and isinstance(value, str)}
    except csv.Error as error:
        raise UnreadableBill(f"it is no CSV ({error})") from None


def _is_of(text: str, provider: BillSource) -> bool:
    try:
        return next(_rows(text, provider), None) is not None
    except UnreadableBill:
        return False


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
