from decimal import Decimal

from tests.support.totals import CHEAP, DEAR, UNKNOWN
from token_handlers.reporting.text import exactness_notes, notes_on, totals_json, totals_table, totals_text
from token_handlers.usage import UsageTotals


def test_a_table_in_the_order_of_time():
    """Days stand in their order, other labels by cost."""
    groups = {"2026-01-02": CHEAP, "2026-01-01": UNKNOWN, "2026-01-03": DEAR}

    assert ["2026-01-01", "2026-01-02", "2026-01-03", "Total"] == [
        row[0] for row in totals_table("day", groups, DEAR).rows
    ]
    assert ["2026-01-03", "2026-01-02", "2026-01-01", "Total"] == [
        row[0] for row in totals_table("tag", groups, DEAR).rows
    ]


def test_what_others_add_up_to_comes_last():
    """The sum of the others is the last row before the total, however large."""
    groups = {"(other)": DEAR, "a": CHEAP}

    assert ["a", "(other)", "Total"] == [row[0] for row in totals_table("session", groups, DEAR).rows]
    assert ["a", "(other)", "Total"] == [row[0] for row in totals_table("day", groups, DEAR).rows]


def test_a_text_fits_a_terminal():
    """No line is longer than 80 columns, whatever the names and numbers are."""
    names = set(UsageTotals.model_fields) - {"cost", "saved_cost", "cache_saved_cost"}
    sizes = {name: 10**9 if name.endswith(("tokens", "cached")) else 10**6 for name in names}
    huge = UsageTotals(**sizes, cost=Decimal("123456.123456789"), cache_saved_cost=Decimal("-123456.123456789"))

    assert max(map(len, totals_text("session", {"s" * 200: huge}, huge).splitlines())) <= 80


def test_names_can_not_steer_a_terminal():
    """Line breaks and escape sequences in a name are not printed."""
    text = totals_text("session", {"a\x1b[31m\nb": CHEAP}, CHEAP)

    assert "a\ufffd[31m\ufffdb" in text
    assert "\x1b" not in text


def test_embeddings_have_a_column_where_there_are_some():
    """A report without embeddings has no column of zeros."""
    assert "Embedding" in totals_table("model", {}, DEAR).header
    assert "Embedding" not in totals_table("model", {}, CHEAP).header


def test_notes():
    """Notes say what is cached, reasoned, estimated, unpriced, rejected, saved, and what lacks the label."""
    total = UsageTotals(
        prompt_tokens=10,
        prompt_tokens_cached=5,
        successful_requests=3,
        failed_requests=2,
        cached_responses=1,
        saved_cost=Decimal("0.25"),
        cache_saved_cost=Decimal("0.5"),
    )

    assert [
        "5 (50%) of the prompt tokens came from the provider's cache.",
        "The provider's cache saved $0.50, at list prices.",
        "2 requests rejected: not billed.",
        "1 answer from LangChain's cache: not billed, saved 0.25 USD.",
        "2 requests without a session.",
    ] == notes_on("session", {"s": CHEAP}, total)
    assert [] == notes_on("model", {"m": CHEAP}, CHEAP)


def test_json_is_exact():
    """JSON has money as text, in full."""
    assert "0.10" == totals_json("model", {"m": CHEAP}, CHEAP)["total"]["cost"]


def test_one_amount_is_one_text():
    """The same cost is written the same in any table, with the points of a column below each other."""
    groups = {"a": UsageTotals(cost=Decimal("0.50319")), "b": UsageTotals(cost=Decimal("12.3"))}
    total = UsageTotals(cost=Decimal("12.80319"))

    assert ["12.30", " 0.5032", "12.80"] == [row[-1] for row in totals_table("model", groups, total).rows]


def test_remedies():
    """Each note on what is not exact says what to do about it."""
    notes = exactness_notes(UsageTotals(estimated_requests=1, unpriced_requests=2, failed_requests=3))

    assert [
        "1 request with an estimate: of their tokens or of a part of their cost.",
        "2 requests of unknown cost: not in the sum (see token-handlers reprice).",
        "3 requests rejected: not billed.",
    ] == [note.text for note in notes]
    assert all(note.remedy for note in notes)
    assert [] == exactness_notes(CHEAP)
