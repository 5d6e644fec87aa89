"""Totals as lines of text, as an aligned table and as an HTML table; and how an amount of USD is written for people."""

import html
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import NamedTuple

from token_handlers.usage import UsageTotals

UNKNOWN = "unknown"
DIGITS = 4
"""How many significant digits of an amount of USD people see; JSON and CSV have all of them."""

_COLUMNS = ("Model", "Requests", "Prompt", "Completion", "Embed.", "Est.", "Cost (USD)")
_ALWAYS = 4
"""How many of the columns are shown whatever they hold."""
_GAP = "  "
_SHORTEST_LABEL = 12
"""Characters that the first column keeps before other columns go."""
_ROUNDING = Context(prec=60, rounding=ROUND_HALF_EVEN)


class FittedTable(NamedTuple):
    """A table that fits a width: cells as text, which columns are numbers, and the names of columns left out."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    right: tuple[bool, ...]
    left_out: tuple[str, ...]


def text_table(header: Sequence[str], rows: Iterable[Sequence[str | int]], *, width: int = 80) -> str:
    """Return aligned columns under a header: text to the left, numbers to the right with their thousands apart.

    Where the lines would be wider than ``width`` characters, the first column is cut, then whole columns are left out,
    the rightmost last, and a last line names them. A number is never cut.
    """
    table = fit_table(header, rows, width=width)
    widths = _widths(table.header, table.rows)
    cells = [table.header, tuple("-" * each for each in widths), *table.rows]
    lines = [_line(row, widths, table.right) for row in cells]
    return "\n".join([*lines, *not_shown(table.left_out)])


def fit_table(header: Sequence[str], rows: Iterable[Sequence[str | int]], *, width: int) -> FittedTable:
    """Return a table's cells, made to fit a width in characters as `text_table` says."""
    rows = [tuple(row) for row in rows]
    right = [any(isinstance(row[index], int) for row in rows) for index in range(len(header))]
    cells = [tuple(cell if isinstance(cell, str) else f"{cell:,}" for cell in row) for row in rows]
    widths = _widths(header, cells)
    kept = list(range(len(header)))
    shortest = min(widths[0], max(_width(header[0]), _SHORTEST_LABEL)) if widths else 0
    while len(kept) > 2 and shortest + _rest(widths, kept) > width:
        del kept[1]
    label = max(width - _rest(widths, kept), shortest)
    return FittedTable(
        tuple(header[index] for index in kept),
        [tuple(_cut(row[index], label) if index == 0 else row[index] for index in kept) for row in cells],
        tuple(right[index] for index in kept),
        tuple(name for index, name in enumerate(header) if index not in kept),
    )


def not_shown(left_out: Sequence[str]) -> list[str]:
    """Return the line that names the columns which a table has no room for, if there are any."""
    return [f"(no room for {', '.join(left_out)}: a wider terminal, or --json, has all)"] if left_out else []


def usage_table(totals: Mapping[str, UsageTotals]) -> str:
    """Return an aligned table of named totals, the most expensive first, without the columns in which all is zero."""
    most_expensive_first = sorted(totals.items(), key=lambda item: (-(item[1].cost or 0), item[0]))
    costs = usd_column([total.cost for _, total in most_expensive_first])
    named = zip(most_expensive_first, costs, strict=True)
    rows: list[tuple[str | int, ...]] = [(name, *_numbers(total), cost) for (name, total), cost in named]
    kept = [index for index in range(len(_COLUMNS)) if index < _ALWAYS or any(row[index] for row in rows)]
    return text_table([_COLUMNS[index] for index in kept], [[row[index] for index in kept] for row in rows])


def html_table(totals: Iterable[tuple[str, UsageTotals]]) -> str:
    """Return an HTML table of named totals; names are escaped."""
    rows = [(name, *(f"{number:,}" for number in _numbers(total)), usd(total.cost)) for name, total in totals]
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{_cells('th', _COLUMNS)}</tr>{body}</table>"


def usd(cost: Decimal | None) -> str:
    """Return USD for people, with four significant digits: 0.003188, 12.35, 1,234.50, and "unknown" for None.

    Never with an exponent, never with fewer than two places, and no digit before the point is rounded away.
    """
    if cost is None:
        return UNKNOWN
    places = max(2, DIGITS - 1 - cost.adjusted()) if cost else 2
    whole, _, fraction = f"{_ROUNDING.quantize(cost, Decimal(1).scaleb(-places)):,f}".partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def usd_column(costs: Sequence[Decimal | None]) -> list[str]:
    """Return what `usd` does for each, padded so that the decimal points stand below each other."""
    parts = [usd(cost).partition(".") for cost in costs]
    whole = max((len(before) for before, point, _ in parts if point), default=0)
    return [before.rjust(whole) + point + after if point else before for before, point, after in parts]


def money(cost: Decimal | None) -> str:
    """Return USD in full, for programs: without an exponent and without trailing zeros; "unknown" for None."""
    if cost is None:
        return UNKNOWN
    text = f"{cost:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def summary_lines(totals: UsageTotals) -> list[str]:
    """Return the lines that get_openai_callback prints, then what is not exact, not priced or not billed."""
    lines = [
        f"Tokens Used: {totals.total_tokens}",
        f"\tPrompt Tokens: {totals.prompt_tokens}",
        f"\t\tPrompt Tokens Cached: {totals.prompt_tokens_cached}",
        f"\tCompletion Tokens: {totals.completion_tokens}",
        f"\t\tReasoning Tokens: {totals.reasoning_tokens}",
        f"Successful Requests: {totals.successful_requests}",
        f"Total Cost (USD): {_dollars(totals.cost)}",
    ]
    extras = (
        ("Embedding Tokens", totals.embedding_tokens, ""),
        ("Estimated Requests", totals.estimated_requests, " (no usage was reported: their tokens are estimates)"),
        ("Unpriced Requests", totals.unpriced_requests, " (not in the total cost: see token_handlers.set_price)"),
        ("Failed Requests", totals.failed_requests, " (rejected: not billed)"),
        ("Cached Responses", totals.cached_responses, f" (not billed: saved {_dollars(totals.saved_cost)})"),
    )
    if totals.prompt_tokens_cached or totals.cache_write_tokens:
        lines.append(f"Prompt Cache Saved (USD): {_dollars(totals.cache_saved_cost)}")
    return lines + [f"{name}: {number}{note}" for name, number, note in extras if number]


def _dollars(cost: Decimal | None) -> str:
    return UNKNOWN if cost is None else f"${usd(cost)}"


def _rest(widths: Sequence[int], kept: Sequence[int]) -> int:
    """Return how wide all is beside the first column."""
    return sum(widths[index] for index in kept[1:]) + len(_GAP) * (len(kept) - 1)


def _widths(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(_width, column)) for column in zip(header, *rows, strict=True)]


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for each wide character of East Asia."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while text and _width(text) > width - 1:
        text = text[: width - 1] if len(text) > width else text[:-1]
    return f"{text}…"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    columns = zip(cells, widths, right, strict=True)
    padded = [(" " * (width - _width(cell)), cell, end) for cell, width, end in columns]
    return _GAP.join(space + cell if end else cell + space for space, cell, end in padded).rstrip()


def _numbers(totals: UsageTotals) -> tuple[int, ...]:
    return (
        totals.successful_requests,
        totals.prompt_tokens,
        totals.completion_tokens,
        totals.embedding_tokens,
        totals.estimated_requests,
    )


def _cells(tag: str, values: Iterable[str]) -> str:
    return "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)
