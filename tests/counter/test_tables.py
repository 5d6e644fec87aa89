from decimal import Decimal

import pytest

from token_handlers import UsageTotals
from token_handlers.counter.tables import html_table, money, text_table, usage_table


def test_text_table():
    """Text is to the left, numbers to the right, and nothing trails."""
    expected = "Name   Tokens\n-----  ------\nshort       1\nwider   2,345"

    assert expected == text_table(("Name", "Tokens"), [("short", 1), ("wider", 2345)])


def test_a_table_without_rows():
    """Without rows the header stands alone."""
    assert "Name  Tokens\n----  ------" == text_table(("Name", "Tokens"), [])


def test_wide_tables_are_cut():
    """The first column gives way, so that a table fits 80 columns."""
    lines = text_table(("Name", "Tokens"), [("n" * 200, 10**12)]).splitlines()

    assert {80} == {len(line) for line in lines if not line.startswith("Name")} | {len(lines[0])}
    assert lines[2].startswith("nnn")
    assert "n…  1,000,000,000,000" in lines[2]


def test_usage_table():
    """The dearest comes first, and what is zero everywhere is left out."""
    totals = {
        "cheap": UsageTotals(prompt_tokens=1, successful_requests=1, cost=Decimal("0.10")),
        "unknown": UsageTotals(successful_requests=1, estimated_requests=1, cost=None, unpriced_requests=1),
        "dear": UsageTotals(prompt_tokens=1234, successful_requests=1, cost=Decimal(3)),
    }

    assert [
        "Model    Requests  Prompt  Completion  Est.  Cost (USD)",
        "-------  --------  ------  ----------  ----  ----------",
        "dear            1   1,234           0     0  3",
        "cheap           1       1           0     0  0.1",
        "unknown         1       0           0     1  unknown",
    ] == usage_table(totals).splitlines()


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (None, "unknown"),
        ("0", "0"),
        ("10", "10"),
        ("0.00000150", "0.0000015"),
        ("1E-9", "0.000000001"),
        ("1E+2", "100"),
    ],
)
def test_money(cost, text):
    """Money is written in full, without exponents and trailing zeros."""
    assert text == money(cost and Decimal(cost))


def test_html_is_escaped():
    """Names are text, whatever they contain."""
    table = html_table([("<b>&", UsageTotals())])

    assert "&lt;b&gt;&amp;" in table
    assert "<b>" not in table
