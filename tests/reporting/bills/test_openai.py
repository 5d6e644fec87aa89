from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import SecretStr

from tests.support.bill_pages import DAY, GPT, bucket, openai_cost, openai_day, openai_pages
from token_handlers.reporting.bills import openai
from token_handlers.reporting.bills.bill import UnreadableBill, summed

FIRST = DAY.date()


def test_the_api(bills):
    """Costs by line and usage by model, each of a project, from midnight to midnight in UTC, page by page."""
    bills.pages = openai_pages(openai_day(2))
    bills.pages["/organization/costs"].append({"data": [bucket([openai_cost("0.5", "o9, output")], day=1)]})
    key = SecretStr("sk-admin-1")
    bill = openai.read_api(bills.url, key, FIRST, FIRST + timedelta(days=1), "proj_a")
    asked = dict(bills.params("/organization/usage/completions")[0])

    assert (Decimal("0.5036"), 2, None) == (summed(bill.rows).cost, summed(bill.rows).requests, bill.complete_until)
    assert str(int(DAY.timestamp())) == asked["start_time"]
    assert str(int((DAY + timedelta(days=2)).timestamp())) == asked["end_time"]
    assert ("1d", "proj_a", "model") == (asked["bucket_width"], asked["project_ids[]"], asked["group_by[]"])


@pytest.mark.parametrize(
    ("line", "model", "kind"),
    [
        ("gpt-5-mini-2025-08-07, input", GPT, "uncached_tokens"),
        ("gpt-5-mini-2025-08-07, cached input", GPT, "cache_read_tokens"),
        ("gpt-5-mini-2025-08-07, output, flex", GPT, "output_tokens"),
        ("web search tool calls | gpt-4o", "gpt-4o", "web_searches"),
        ("file search tool calls | gpt-4o", "gpt-4o", "storage_searches"),
        ("code interpreter sessions | gpt-4o", "gpt-4o", "container_sessions"),
        ("gpt-5, something new", "gpt-5", "something new"),
        ("vector store storage", None, "vector store storage"),
        (None, None, ""),
    ],
)
def test_lines(line, model, kind):
    """A line's text says the model and the kind; one in neither form is kept under its own words."""
    [row] = openai.rows_of({"data": [bucket([openai_cost("0.25", line, 5)])]})

    assert (model, kind, Decimal("0.25")) == (row.model, row.kind, row.cost)


@pytest.mark.parametrize(
    ("quantity", "counts"), [(3, {"web_searches": 3}), ("3.0", {"web_searches": 3}), (0.003, {}), (None, {})]
)
def test_numbers_of_searches(quantity, counts):
    """A quantity counts searches where it is a whole number; the money is there in any case."""
    [row] = openai.rows_of({"data": [bucket([openai_cost(0.03, "web search tool calls | gpt-4o", quantity)])]})

    assert (counts, Decimal("0.03")) == (row.counts, row.cost)


def test_a_line_without_an_amount():
    """What costs nothing may have no amount."""
    [row] = openai.rows_of({"data": [bucket([{**openai_cost(0, "x"), "amount": None}])]})

    assert 0 == row.cost


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ({}, "data is no list"),
        ({"data": [1]}, "data is no JSON object: '1'"),
        ({"data": [bucket([openai_cost(0.5, "x", currency="eur")])]}, "the bill is in EUR, and a ledger is in USD"),
        ({"data": [bucket([openai_cost("much", "x")])]}, "amount is no amount of money: 'much'"),
        ({"data": [bucket([openai_cost(True, "x")])]}, "amount is no amount of money"),
        ({"data": [{"start_time": "soon", "results": [openai_cost(1, "x")]}]}, "start_time is no day: 'soon'"),
        ({"data": [bucket([{"model": "x", "num_model_requests": -1}])]}, "num_model_requests is no count: '-1'"),
    ],
)
def test_what_is_no_page(page, reason):
    """What a bill can't have is refused by name, and never taken for 0."""
    with pytest.raises(UnreadableBill, match=reason):
        openai.rows_of(page)
