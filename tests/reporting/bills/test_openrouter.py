from datetime import UTC, datetime, timedelta
from decimal import Decimal

from pydantic import SecretStr

from tests.support.bill_pages import DAY, activity
from token_handlers.reporting.bills import openrouter
from token_handlers.reporting.bills.bill import summed

FIRST, KEY = DAY.date(), SecretStr("sk-or-v1-1")


def test_the_api(bills):
    """All days of one answer, of which those asked for are kept; one's own keys' cost is in it, as in a ledger."""
    bills.pages = {"/activity": [{"data": [activity(0.5, 2, 10, 5, byok=0.25), activity(9, 1, 1, 1, day=5)]}]}
    bill = openrouter.read_api(bills.url, KEY, FIRST, FIRST + timedelta(days=1), None)
    total = summed(bill.rows)

    assert (Decimal("0.75"), 2, {"input_tokens": 10, "output_tokens": 5}) == (total.cost, total.requests, total.counts)
    assert [[]] == bills.params("/activity")


def test_days_that_the_api_has_no_more(bills):
    """Days before the last 30 are said to be missing, and how to have them."""
    bills.pages = {"/activity": [{"data": []}]}
    today = datetime.now(UTC).date()
    old = openrouter.read_api(bills.url, KEY, today - timedelta(days=31), today, "wrk")
    new = openrouter.read_api(bills.url, KEY, today - timedelta(days=29), today, None)

    assert (1, ()) == (len(old.notes), new.notes)
    assert "name an export with --file" in old.notes[0]
    assert [("workspace_id", "wrk")] == bills.params("/activity")[0]
