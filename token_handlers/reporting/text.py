"""Totals as a report: rows and notes, text and JSON. The page is in page.py."""

from collections.abc import Mapping
from typing import NamedTuple

from token_handlers.counter.tables import text_table, usd, usd_column
from token_handlers.counter.totals import OTHER
from token_handlers.reporting.amounts import counted, percent
from token_handlers.reporting.savings import cached_tokens, in_words, unknown_in_words
from token_handlers.usage import UsageTotals

Row = tuple[str | int, ...]
IN_TIME = ("day", "hour", "month")
"""Labels whose values are shown in their order; of others the most expensive comes first."""

_REMEDY_ESTIMATED = (
    "Where a stream reports no usage, `report_stream_usage(llm)` asks for it; "
    "`token-handlers guide why` lists the other reasons."
)
_REMEDY_UNPRICED = (
    "`token_handlers.set_price(model, ...)` prices the calls to come, `token-handlers reprice` those in the ledger."
)


class Note(NamedTuple):
    """One thing to know of totals, and what can be done about it."""

    text: str
    remedy: str


class Table(NamedTuple):
    """A header and its rows."""

    header: tuple[str, ...]
    rows: list[Row]


def totals_table(label: str, groups: Mapping[str, UsageTotals], total: UsageTotals) -> Table:
    """Return totals by a label, the most expensive first or in their order of time, and their sum as the last row."""
    named = [*arranged(label, groups), ("Total", total)]
    costs = usd_column([totals.cost for _, totals in named])
    header: tuple[str, ...] = (label.capitalize(), "Requests", "Prompt", "Completion", "Embedding", "Cost (USD)")
    rows: list[Row] = [
        (
            printable(name),
            sent(each),
            each.prompt_tokens,
            each.completion_tokens,
            each.embedding_tokens,
            cost,
        )
        for (name, each), cost in zip(named, costs, strict=True)
    ]
    if not total.embedding_tokens:
        header, rows = (*header[:4], header[5]), [(*row[:4], row[5]) for row in rows]
    return Table(header, rows)


def arranged(label: str, groups: Mapping[str, UsageTotals]) -> list[tuple[str, UsageTotals]]:
    """Return the groups of a label in the order in which they are shown, what others add up to at the end."""
    if label in IN_TIME:
        return sorted(groups.items(), key=lambda item: (item[0] == OTHER, item[0]))
    return sorted(
        groups.items(), key=lambda item: (item[0] == OTHER, -(item[1].cost or 0), -item[1].total_tokens, item[0])
    )


def cache_table(label: str, groups: Mapping[str, UsageTotals], total: UsageTotals) -> Table:
    """Return by a label what the provider's prompt cache was used for and saved, of the values that it was used by."""
    named = [*most_saving(label, groups), ("Total", total)]
    saved = usd_column([totals.cache_saved_cost for _, totals in named])
    rows: list[Row] = [
        (
            printable(name),
            each.prompt_tokens,
            each.prompt_tokens_cached,
            each.cache_write_tokens,
            percent(each.cache_hit_rate),
            amount,
        )
        for (name, each), amount in zip(named, saved, strict=True)
    ]
    return Table((label.capitalize(), "Prompt", "Read", "Written", "Hit rate", "Saved (USD)"), rows)


def most_saving(label: str, groups: Mapping[str, UsageTotals]) -> list[tuple[str, UsageTotals]]:
    """Return the groups that have cached tokens, in their order of time, else first those of which most was saved."""
    cached = [(name, totals) for name, totals in arranged(label, groups) if cached_tokens(totals)]
    if label in IN_TIME:
        return cached
    return sorted(cached, key=lambda item: (item[0] == OTHER, -(item[1].cache_saved_cost or 0)))


def totals_text(label: str, groups: Mapping[str, UsageTotals], total: UsageTotals) -> str:
    """Return the table in at most 80 columns, and what is to be known of it."""
    notes = "".join(f"\n{note}" for note in notes_on(label, groups, total))
    return text_table(*totals_table(label, groups, total)) + (f"\n{notes}" if notes else "")


def totals_json(label: str, groups: Mapping[str, UsageTotals], total: UsageTotals) -> dict[str, object]:
    """Return the totals as JSON's types: money as texts of exact USD."""
    return {
        "total": total.model_dump(mode="json"),
        "by": label,
        "groups": {name: each.model_dump(mode="json") for name, each in arranged(label, groups)},
    }


def notes_on(label: str, groups: Mapping[str, UsageTotals], total: UsageTotals) -> list[str]:
    """Return the shares of cached and reasoning tokens, what is not exact, and what lacks the label."""
    unlabelled = 0 if label in ("model", "tag") else sent(total) - sum(map(sent, groups.values()))
    shares = (
        (total.prompt_tokens_cached, total.prompt_tokens, "of the prompt tokens came from the provider's cache."),
        (total.reasoning_tokens, total.completion_tokens, "of the completion tokens were reasoning."),
    )
    notes = [f"{part:,} ({percent(part / whole)}) {text}" for part, whole, text in shares if part and whole]
    if saved := in_words(total):
        notes.append(f"The provider's cache {saved}, at list prices.")
    notes += unknown_in_words(total)
    notes += [note.text for note in exactness_notes(total)]
    if total.cached_responses:
        answers = counted(total.cached_responses, "answer")
        notes.append(f"{answers} from LangChain's cache: not billed, saved {usd(total.saved_cost)} USD.")
    return notes + ([f"{counted(unlabelled, 'request')} without a {label}."] if unlabelled > 0 else [])


def exactness_notes(total: UsageTotals) -> list[Note]:
    """Return what is estimated, unpriced or rejected."""
    notes = (
        (total.estimated_requests, "with an estimate: of their tokens or of a part of their cost.", _REMEDY_ESTIMATED),
        (total.unpriced_requests, "of unknown cost: not in the sum (see token-handlers reprice).", _REMEDY_UNPRICED),
        (total.failed_requests, "rejected: not billed.", "The provider's errors, in your own log, say why."),
    )
    return [Note(f"{counted(number, 'request')} {text}", remedy) for number, text, remedy in notes if number]


def sent(totals: UsageTotals) -> int:
    """Return how many requests were billed."""
    return totals.successful_requests


def printable(name: str) -> str:
    """Return a name as a terminal may show it: without line breaks and escape sequences."""
    return name if name.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in name)
