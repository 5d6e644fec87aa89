from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from pydantic import SecretStr

from tests.support.bill_pages import ANTHROPIC_COSTS, ANTHROPIC_USAGE, DAY, anthropic_cost
from token_handlers.reporting.bills import anthropic
from token_handlers.reporting.bills.api import BillUnavailable
from token_handlers.reporting.bills.bill import summed

FIRST, KEY = DAY.date(), SecretStr("sk-ant-admin01-1")
COST, USAGE = "/v1/organizations/analytics/cost", "/v1/organizations/analytics/usage"


def test_the_analytics(bills):
    """Cost and usage, in pieces of 31 days, with the beta's header; the bill is complete up to the oldest refresh."""
    fresh = {"data_refreshed_at": "2026-03-12T05:00:00Z"}
    bills.pages = {
        COST: [{"data": ANTHROPIC_COSTS[:4], **fresh}, {"data": ANTHROPIC_COSTS[4:], **fresh}],
        USAGE: [{"data": ANTHROPIC_USAGE, "data_refreshed_at": "2026-03-12T04:00:00Z"}],
    }
    bill = anthropic.read_api(bills.url, KEY, FIRST, FIRST + timedelta(days=40), "wrkspc_1")
    total = summed(bill.rows)
    asked = [dict(params) for params in bills.params(USAGE)]

    assert (Decimal("0.26375") * 2, 2, 4) == (total.cost, total.requests, total.counts["web_searches"])
    assert datetime(2026, 3, 12, 4, tzinfo=UTC) == bill.complete_until
    assert [("2026-03-10T00:00:00Z", "2026-04-10T00:00:00Z"), ("2026-04-10T00:00:00Z", "2026-04-20T00:00:00Z")] == [
        (params["starting_at"], params["ending_at"]) for params in asked
    ]
    assert {"wrkspc_1"} == {params["workspace_ids[]"] for params in asked}
    [headers] = {tuple(sorted(headers.items())) for _, _, headers in bills.asked}
    assert ("analytics-usage-cost-2026-08-24", "sk-ant-admin01-1") == (
        dict(headers)["anthropic-beta"], dict(headers)["x-api-key"],
    )  # fmt: skip


def test_the_older_reports(bills):
    """An organization without the analytics has the reports before them, of which a workspace is picked out."""
    times = {"starting_at": "2026-03-10T00:00:00Z", "ending_at": "2026-03-11T00:00:00Z"}
    cost = {"currency": "USD", "amount": "12", "workspace_id": "wrkspc_1", "cost_type": "tokens", "model": "claude-x"}
    search = {"currency": "USD", "amount": "2", "description": "Web Search Usage", "cost_type": "web_search"}
    usage = {
        "uncached_input_tokens": 10,
        "cache_read_input_tokens": 3,
        "cache_creation": {"ephemeral_1h_input_tokens": 4, "ephemeral_5m_input_tokens": 5},
        "output_tokens": 7,
        "server_tool_use": {"web_search_requests": 2},
        "model": "claude-x",
        "workspace_id": "wrkspc_1",
    }
    results = [{**cost, "token_type": "uncached_input_tokens"}, {**search, "workspace_id": None, "model": None}]
    bills.pages = {
        "/v1/organizations/cost_report": [{"data": [{**times, "results": results}]}],
        "/v1/organizations/usage_report/messages": [{"data": [{**times, "results": [usage]}]}],
    }
    whole = anthropic.read_api(bills.url, KEY, FIRST, FIRST, None)
    part = anthropic.read_api(bills.url, KEY, FIRST, FIRST, "wrkspc_1")

    assert {"uncached_tokens": Decimal("0.12"), "web_searches": Decimal("0.02")} == summed(whole.rows).costs
    assert (22, 7, 9) == tuple(
        summed(part.rows).counts[name] for name in ("input_tokens", "output_tokens", "cache_write_tokens")
    )
    assert Decimal("0.12") == summed(part.rows).cost


def test_a_refused_key_is_not_taken_for_a_missing_report(bills):
    """Only where the analytics are not there are the older reports read."""
    bills.fail(403)

    with pytest.raises(BillUnavailable, match="set ANTHROPIC_ADMIN_KEY"):
        anthropic.read_api(bills.url, KEY, FIRST, FIRST, None)
    assert 1 == len(bills.asked)


def test_other_costs():
    """Code executions and sessions have no model, and keep their names."""
    rows = anthropic.rows_of(
        {
            "data": [
                anthropic_cost("5", cost_type="code_execution", model=None),
                anthropic_cost("7", cost_type="session_usage", model=None),
            ]
        }
    )

    assert [(None, "code execution", Decimal("0.05")), (None, "session usage", Decimal("0.07"))] == [
        (row.model, row.kind, row.cost) for row in rows
    ]
