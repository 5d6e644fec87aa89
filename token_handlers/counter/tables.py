"""Totals as lines of text, as an aligned table and as an HTML table."""

import html
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from token_handlers.usage import UsageTotals

_COLUMNS = ("Model", "Requests", "Prompt", "Completion", "Embed.", "Est.", "Cost (USD)")
_ALWAYS = 4
"""How many of the columns are shown whatever they hold."""
_GAP = "  "


def text_table(header: Sequence[str], rows: Iterable[Sequence[str | int]], *, width: int = 80) -> str:
    """Return aligned columns under a header: text to the left, numbers to the right with their thousands apart.

    Where the lines would be wider than ``width`` characters, the first column is cut.
    """
    rows = [tuple(row) for row in rows]
    right = [any(isinstance(row[index], int) for row in rows) for index in range(len(header))]
    cells = [tuple(header), *(tuple(cell if isinstance(cell, str) else f"{cell:,}" for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    widths[0] = max(widths[0] - max(excess, 0), len(header[0]))
    cells.insert(1, tuple("-" * width for width in widths))
    return "\n".join(_line(row, widths, right) for row in cells)


def usage_table(totals: Mapping[str, UsageTotals]) -> str:
    """Return an aligned table of named totals, the dearest first, without the columns in which all is zero."""
    dearest_first = sorted(totals.items(), key=lambda item: (-(item[1].cost or 0), item[0]))
    rows: list[tuple[str | int, ...]] = [(name, *_numbers(total), money(total.cost)) for name, total in dearest_first]
    kept = [index for index in range(len(_COLUMNS)) if index < _ALWAYS or any(row[index] for row in rows)]
    return text_table([_COLUMNS[index] for index in kept], [[row[index] for index in kept] for row in rows])


def html_table(totals: Iterable[tuple[str, UsageTotals]]) -> str:
    """Return an HTML table of named totals; names are escaped."""
    rows = [(name, *(f"{number:,}" for number in _numbers(total)), money(total.cost)) for name, total in totals]
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{_cells('th', _COLUMNS)}</tr>{body}</table>"


def money(cost: Decimal | None) -> str:
    """Return USD in full, without an exponent and without trailing zeros; an unknown cost is said to be one."""
    if cost is None:
        return "unknown"
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
        f"Total Cost (USD): ${totals.total_cost}",
    ]
    extras = (
        ("Embedding Tokens", totals.embedding_tokens, ""),
        ("Estimated Requests", totals.estimated_requests, " (no usage was reported: their tokens are estimates)"),
        ("Unpriced Requests", totals.unpriced_requests, " (not in the total cost: see token_handlers.set_price)"),
        ("Failed Requests", totals.failed_requests, " (rejected: not billed)"),
        ("Cached Responses", totals.cached_responses, f" (not billed: saved ${money(totals.saved_cost)})"),
    )
    return lines + [f"{name}: {number}{note}" for name, number, note in extras if number]


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    cut = [cell if len(cell) <= width else f"{cell[: width - 1]}…" for cell, width in zip(cells, widths, strict=True)]
    columns = zip(cut, widths, right, strict=True)
    return _GAP.join(cell.rjust(width) if end else cell.ljust(width) for cell, width, end in columns).rstrip()


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
