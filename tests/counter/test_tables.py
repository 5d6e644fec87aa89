from decimal import Decimal

import pytest

from token_handlers import UsageTotals
from token_handlers.counter.tables import html_table, money, summary_lines, text_table, usage_table, usd, usd_column


def test_text_table():
    """Text is to the left, numbers to the right, and nothing trails."""
    expected = "Name   Tokens\n-----  ------\nshort       1\nwider   2,345"

    assert expected == text_table(("Name", "Tokens"), [("short", 1), ("wider", 2345)])


def test_a_table_without_rows():
    """Without rows the header stands alone."""
    assert "Name  Tokens\n----  ------" == text_table(("Name", "Tokens"), [])


def test_a_wide_label_gives_way():
    """The first column is cut, so that a table fits 80 columns; a number never is."""
    lines = text_table(("Name", "Tokens"), [("n" * 200, 10**12)]).splitlines()

    assert {80} == {len(line) for line in lines if not line.startswith("Name")} | {len(lines[0])}
    assert lines[2].startswith("nnn")
    assert "n…  1,000,000,000,000" in lines[2]


@pytest.mark.parametrize(
    ("width", "header", "left_out"),
    [
        (80, "Model Requests Prompt Completion Cost", ""),
        (50, "Model Prompt Completion Cost", "Requests"),
        (40, "Model Completion Cost", "Requests, Prompt"),
        (30, "Model Cost", "Requests, Prompt, Completion"),
        (5, "Model Cost", "Requests, Prompt, Completion"),
    ],
)
def test_narrow_tables_lose_whole_columns(width, header, left_out):
    """After the label, whole columns go, the rightmost last; no number is cut, and a last line names what is gone."""
    names = ("Model", "Requests", "Prompt", "Completion", "Cost")
    rows = [("anthropic.claude-3-5-sonnet-20241022-v2:0", 12, 3_703_700, 1_234_567, "12.35"), ("Total", 1, 2, 3, "4")]
    table = text_table(names, rows, width=width).splitlines()

    assert header.split() == table[0].split()
    assert not left_out or table[-1] == f"(no room for {left_out}: a wider terminal, or --json, has all)"
    assert "12.35" in table[2]
    assert "Prompt" not in header or "3,703,700" in table[2]
    assert width < 30 or max(map(len, table[:4])) <= width


def test_wide_characters():
    """A name in wide characters takes two columns for each, and is cut by what it takes."""
    lines = text_table(("Name", "Tokens"), [("東京" * 50, 1), ("a", 22)], width=40).splitlines()

    assert "…" in lines[2]
    assert len(lines[1]) == len(lines[3]) == len(lines[2]) + sum(char in "東京" for char in lines[2]) == 39


def test_usage_table():
    """The most expensive comes first, and what is zero everywhere is left out."""
    totals = {
        "cheap": UsageTotals(prompt_tokens=1, successful_requests=1, cost=Decimal("0.10")),
        "unknown": UsageTotals(successful_requests=1, estimated_requests=1, cost=None, unpriced_requests=1),
        "dear": UsageTotals(prompt_tokens=1234, successful_requests=1, cost=Decimal(3)),
    }

    assert [
        "Model    Requests  Prompt  Completion  Est.  Cost (USD)",
        "-------  --------  ------  ----------  ----  ----------",
        "dear            1   1,234           0     0  3.00",
        "cheap           1       1           0     0  0.10",
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
    """Money for programs is written in full, without exponents and trailing zeros."""
    assert text == money(cost and Decimal(cost))


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (None, "unknown"),
        ("0", "0.00"),
        ("3", "3.00"),
        ("0.1", "0.10"),
        ("0.00001725", "0.00001725"),
        ("0.000129634", "0.0001296"),
        ("12.3456", "12.35"),
        ("1234567.891", "1,234,567.89"),
        ("1E-9", "0.000000001"),
        ("1E+2", "100.00"),
    ],
)
def test_usd_for_people(cost, text):
    """An amount for people has four significant digits, cents at least, and no exponent."""
    assert text == usd(cost and Decimal(cost))


def test_a_column_of_usd():
    """The points of a column stand below each other."""
    assert ["1,234.00", "    0.0001296", "unknown"] == usd_column([Decimal(1234), Decimal("0.00012964"), None])


def test_printed_lines_have_no_exponent():
    """What print() shows of a cost is what a table shows; an unknown cost is said to be that."""
    assert "Total Cost (USD): $0.00001725" in summary_lines(UsageTotals(cost=Decimal("0.00001725")))
    assert "Total Cost (USD): unknown" in summary_lines(UsageTotals(cost=None, unpriced_requests=1))


def test_html_is_escaped():
    """Names are text, whatever they contain."""
    table = html_table([("<b>&", UsageTotals())])

    assert "&lt;b&gt;&amp;" in table
    assert "<b>" not in table
