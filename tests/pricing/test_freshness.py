from datetime import date

import pytest
from genai_prices.data_snapshot import get_snapshot

from token_handlers.pricing.freshness import OLD_DAYS, PriceTable, current_table, newest_rate

REMEDY = "That is old: run `token-handlers prices update`, or upgrade genai-prices"


def test_the_installed_table():
    """Its age is that of its newest rate that holds already, not of its loading."""
    table = current_table(date(2026, 11, 29))

    assert table.name.startswith("genai-prices 0.")
    assert "2026-11-09" <= str(table.newest) <= "2026-11-29"
    assert table.models > 1000
    assert str(newest_rate(get_snapshot().providers, date(2026, 1, 1))) <= "2026-01-01"


@pytest.mark.parametrize(
    ("today", "old", "says"),
    [
        (date(2026, 11, 9), False, "prices are T: its newest rate is of 2026-11-09, today"),
        (date(2026, 11, 10), False, "prices are T: its newest rate is of 2026-11-09, 1 day ago"),
        (date(2027, 1, 8), False, "prices are T: its newest rate is of 2026-11-09, 60 days ago"),
        (
            date(2027, 1, 9),
            True,
            "prices are T: its newest rate is of 2026-11-09, 61 days ago. " + REMEDY,
        ),
    ],
)
def test_what_is_old(today, old, says):
    """A table is called old after OLD_DAYS, with the remedy."""
    table = PriceTable("T", date(2026, 11, 9), 10)

    assert (old, says) == (table.is_old(today), table.says(today))
    assert {"table": "T", "newest_rate": "2026-11-09", "age_days": (today - table.newest).days, "old": old} == (
        table.as_json(today)
    )
    assert OLD_DAYS == 60


def test_a_table_without_dates():
    """A table of which no rate has a date may be of any age."""
    table = PriceTable("T", None, 10)

    assert (True, None) == (table.is_old(date(2026, 11, 9)), table.age(date(2026, 11, 9)))
    assert "no rate has a date" in table.says(date(2026, 11, 9))
