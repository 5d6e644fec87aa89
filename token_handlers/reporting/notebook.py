"""A counter in a notebook: the page's tables and shares, without its script and its time."""

from collections.abc import Mapping
from typing import Protocol

from token_handlers.reporting import label_tables, timeline
from token_handlers.reporting.amounts import dollars
from token_handlers.reporting.charts import share_bar
from token_handlers.reporting.contents import SECTIONS
from token_handlers.reporting.markup import Markup, tag
from token_handlers.reporting.package_data import read_data
from token_handlers.reporting.sums import most_expensive
from token_handlers.reporting.text import exactness_notes, sent
from token_handlers.usage import UsageTotals

ROWS = 10
"""How many values of a label are listed; the others are summed."""


class Counter(Protocol):
    """What is asked of a TokenCounter."""

    def snapshot(self) -> UsageTotals:
        """Return all totals."""

    def by(self, label: str) -> Mapping[str, UsageTotals]:
        """Return the totals by the values of a label."""


def counter_html(counter: Counter) -> str:
    """Return what a counter has counted as a piece of HTML, with its own style; names are escaped."""
    total = counter.snapshot()
    groups = {label: most_expensive(counter.by(label), ROWS) for label in SECTIONS}
    notes = [tag("p", note.text, class_="soft") for note in exactness_notes(total)]
    requests = f" · {sent(total):,} requests · {total.total_tokens:,} tokens"
    return tag(
        "div",
        tag("style", Markup(read_data("charts.css"))),
        tag("p", tag("b", dollars(total.cost)), requests),
        *_kinds(total),
        *notes,
        *(label_tables.label_section(label, each, total, scripted=False) for label, each in groups.items()),
        class_="token-usage in-notebook",
    )


def _kinds(total: UsageTotals) -> list[Markup]:
    """Return the tokens by kind as shares of one bar, and what its colours are."""
    numbers = timeline.by_kind(total)
    kinds = [(css, name) for css, name in timeline.KINDS if numbers[css]]
    whole = sum(numbers.values())
    if not whole:
        return []
    legend = timeline.legend([(css, f"{name} {numbers[css]:,}") for css, name in kinds])
    return [share_bar([(css, numbers[css] / whole) for css, _ in kinds]), legend]
