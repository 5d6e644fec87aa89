from decimal import Decimal

import pytest

from token_handlers.reporting.savings import cached_tokens, in_words, unknown_in_words
from token_handlers.reporting.text import cache_table, most_saving
from token_handlers.usage import UsageTotals

CACHED = {"prompt_tokens": 100, "prompt_tokens_cached": 60, "cache_write_tokens": 10}
SAVED = UsageTotals(**CACHED, cache_saved_cost=Decimal("0.5"))
LOST = UsageTotals(**CACHED, cache_saved_cost=Decimal("-0.25"))
UNKNOWN = UsageTotals(**CACHED, cache_saved_cost=None, unpriced_cache_tokens=70)


@pytest.mark.parametrize(
    ("totals", "expected"),
    [(SAVED, "saved $0.50"), (LOST, "cost $0.25 more than it saved"), (UNKNOWN, ""), (UsageTotals(), "")],
)
def test_in_words(totals, expected):
    """A loss is said as one, and what is not known is not said to be nothing."""
    assert expected == in_words(totals)


def test_tokens_without_a_price_are_said():
    """The tokens that the amount leaves out are counted, with what to do."""
    assert [] == unknown_in_words(SAVED)
    assert ["70 cached tokens saved an unknown amount (token-handlers reprice)."] == unknown_in_words(UNKNOWN)
    assert 70 == cached_tokens(UNKNOWN)


def test_the_table_of_a_cache():
    """Who saved most comes first, days in their order; what was never cached is not in the table."""
    groups = {"lost": LOST, "idle": UsageTotals(prompt_tokens=7), "saved": SAVED, "unknown": UNKNOWN}
    table = cache_table("model", groups, SAVED)

    assert ("Model", "Prompt", "Read", "Written", "Hit rate", "Saved (USD)") == table.header
    assert [
        ("saved", 100, 60, 10, "60%", " 0.50"),
        ("unknown", 100, 60, 10, "60%", "unknown"),
        ("lost", 100, 60, 10, "60%", "-0.25"),
        ("Total", 100, 60, 10, "60%", " 0.50"),
    ] == table.rows
    days = {"2026-10-02": SAVED, "2026-10-01": LOST}
    assert ["2026-10-01", "2026-10-02"] == [name for name, _ in most_saving("day", days)]
