"""Anthropic's bill: its analytics of cost and usage, or the older reports; and the exports of the Claude Console."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from pydantic import SecretStr

from token_handlers.reporting.bills.api import AdminKey, BillAPI, BillUnavailable, Params
from token_handlers.reporting.bills.bill import (
    UNCACHED,
    BillRow,
    Counts,
    ProviderBill,
    amount,
    check_currency,
    day_of,
    fields_of,
    listed,
    number,
    text_or_none,
)
from token_handlers.reporting.period import midnight

TITLE, ACCOUNT = "Anthropic", "workspace"
BASE_URL = "https://api.anthropic.com"
KEY = AdminKey(
    "an admin key of the organization (individual accounts have none)",
    "ANTHROPIC_ADMIN_KEY",
    "sk-ant-admin",
    "platform.claude.com/settings/admin-keys",
)
EXPORTS = "the cost or the usage that the Claude Console exports as CSV, or a page of its reports as JSON"
COLUMNS: tuple[frozenset[str], ...] = (
    frozenset({"usage_date_utc", "cost_usd"}),
    frozenset({"usage_date_utc", "usage_input_tokens_no_cache"}),
)

MOST_DAYS = 31
"""How many days one request may ask for."""

_BETA = {"anthropic-beta": "analytics-usage-cost-2026-08-24"}
_CENTS = Decimal("0.01")
_TOKENS = {
    "uncached_input_tokens": UNCACHED,
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write_tokens",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_tokens",
    "output_tokens": "output_tokens",
    # the exports' words
    "input_no_cache": UNCACHED,
    "input_cache_read": "cache_read_tokens",
    "input_cache_write_5m": "cache_write_tokens",
    "input_cache_write_1h": "cache_write_tokens",
    "output": "output_tokens",
}
_COST_TYPES = {"web_search": "web_searches", "code_execution": "code execution", "session_usage": "session usage"}


def read_api(base_url: str, key: SecretStr, since: date, until: date, account: str | None) -> ProviderBill:
    """Return the bill from one day to another (included), of one workspace where one is named.

    The analytics are a beta that some organizations don't have: theirs are the reports before it.
    """
    headers = {"x-api-key": key.get_secret_value(), "anthropic-version": "2023-06-01"}
    api = BillAPI(base_url, key, KEY, headers)
    try:
        return _read(api, since, until, account, _ANALYTICS, _BETA)
    except BillUnavailable as error:
        if error.status not in (400, 404):
            raise
    return _read(api, since, until, account, _REPORTS, {})


_ANALYTICS: Mapping[str, Params] = {
    "/v1/organizations/analytics/cost": (
        ("time_bucket_width", "1d"),
        ("limit", 1000),
        *(("group_by[]", each) for each in ("model", "workspace_id", "cost_type", "token_type")),
    ),
    "/v1/organizations/analytics/usage": (
        ("time_bucket_width", "1d"),
        ("limit", 1000),
        ("group_by[]", "model"),
        ("group_by[]", "workspace_id"),
    ),
}
_REPORTS: Mapping[str, Params] = {
    "/v1/organizations/cost_report": (
        ("bucket_width", "1d"),
        ("limit", MOST_DAYS),
        ("group_by[]", "workspace_id"),
        ("group_by[]", "description"),
    ),
    "/v1/organizations/usage_report/messages": (
        ("bucket_width", "1d"),
        ("limit", MOST_DAYS),
        ("group_by[]", "model"),
        ("group_by[]", "workspace_id"),
    ),
}


def _read(
    api: BillAPI,
    since: date,
    until: date,
    account: str | None,
    reports: Mapping[str, Params],
    headers: Mapping[str, str],
) -> ProviderBill:
    rows: list[BillRow] = []
    refreshed: list[datetime] = []
    chosen: Params = (("workspace_ids[]", account),) if account and reports is _ANALYTICS else ()
    for start, end in _windows(since, until):
        window: Params = (("starting_at", _rfc3339(start)), ("ending_at", _rfc3339(end)))
        for path, params in reports.items():
            for page in api.pages(path, (*window, *params, *chosen), headers):
                rows += rows_of(page)
                refreshed += _refreshed(page)
    if account:  # the older costs have no such filter
        rows = [row for row in rows if row.account == account]
    return ProviderBill(rows, min(refreshed, default=None))


def _windows(since: date, until: date) -> Iterator[tuple[date, date]]:
    end = until + timedelta(days=1)
    while since < end:
        later = min(since + timedelta(days=MOST_DAYS), end)
        yield since, later
        since = later


def rows_of(page: Mapping[str, object]) -> list[BillRow]:
    """Return the rows of a page: of cost or usage, of the analytics or of the older reports."""
    rows: list[BillRow] = []
    for entry in listed(page.get("data"), "data"):
        day = day_of(entry.get("starting_at"), "starting_at")
        if "results" in entry:
            results = listed(entry["results"], "results")
            rows += [_cost(day, each, each) if "amount" in each else _usage(day, each, each) for each in results]
        else:
            group = fields_of(entry.get("group"), "group")
            if "cost" in entry:
                rows.append(_cost(day, group, fields_of(entry["cost"], "cost")))
            else:
                rows.append(_usage(day, group, fields_of(entry.get("usage"), "usage")))
    return rows


def table_rows(line: Mapping[str, str]) -> Iterator[BillRow]:
    """Return the row of a line of an export, of cost or of usage; money is rounded to cents there."""
    day, account = day_of(line["usage_date_utc"], "usage_date_utc"), text_or_none(line.get("workspace"))
    if "cost_usd" in line:
        cost = amount(line["cost_usd"], "cost_usd")
        listed_at = amount(line["list_price_usd"], "list_price_usd") if line.get("list_price_usd") else None
        kind = _TOKENS.get(line.get("token_type") or "") or _fee_of(line.get("cost_type") or line.get("usage_type"))
        rounding = _CENTS / 2 if cost == cost.quantize(_CENTS) else Decimal(0)
        yield BillRow(day, line.get("model") or None, cost, kind, {}, None, account, listed_at, rounding)
        return
    written = (
        "usage_input_tokens_cache_write_5m",
        "usage_input_tokens_cache_write_1h",
        "usage_input_tokens_cache_read",
    )
    five, hour, read = (number(line.get(name), name) for name in written)
    uncached = number(line["usage_input_tokens_no_cache"], "usage_input_tokens_no_cache")
    counts = {
        "input_tokens": uncached + five + hour + read,
        "output_tokens": number(line.get("usage_output_tokens"), "usage_output_tokens"),
        "cache_read_tokens": read,
        "cache_write_tokens": five + hour,
        "web_searches": number(line.get("web_search_count"), "web_search_count"),
    }
    yield BillRow(day, line.get("model_version") or None, counts=counts, account=account)


def _cost(day: date, group: Mapping[str, object], money: Mapping[str, object]) -> BillRow:
    check_currency(money.get("currency"))
    kind = _TOKENS.get(str(group.get("token_type")))
    if kind is None:
        kind = _fee_of(text_or_none(group.get("cost_type")) or text_or_none(group.get("description")))
    listed_at = money.get("list_amount")
    return BillRow(
        day,
        text_or_none(group.get("model")),
        amount(money.get("amount"), "amount") * _CENTS,
        kind,
        account=text_or_none(group.get("workspace_id")),
        list_cost=None if listed_at is None else amount(listed_at, "list_amount") * _CENTS,
    )


def _fee_of(words: str | None) -> str:
    words = words or ""
    return _COST_TYPES.get(re.sub(r"\W+", "_", words.lower()), "" if words in ("tokens", "token") else words)


def _usage(day: date, group: Mapping[str, object], usage: Mapping[str, object]) -> BillRow:
    written = fields_of(usage.get("cache_creation") or {}, "cache_creation")
    writes = sum(number(written.get(f"ephemeral_{ttl}_input_tokens"), "cache_creation") for ttl in ("5m", "1h"))
    read = number(usage.get("cache_read_input_tokens"), "cache_read_input_tokens")
    tools = fields_of(usage.get("server_tool_use") or {}, "server_tool_use")
    counts: Counts = {
        "input_tokens": number(usage.get("uncached_input_tokens"), "uncached_input_tokens") + read + writes,
        "output_tokens": number(usage.get("output_tokens"), "output_tokens"),
        "cache_read_tokens": read,
        "cache_write_tokens": writes,
        "web_searches": number(tools.get("web_search_requests"), "web_search_requests"),
    }
    requests = usage.get("requests")
    return BillRow(
        day,
        text_or_none(group.get("model")),
        counts=counts,
        requests=None if requests is None else number(requests, "requests"),
        account=text_or_none(group.get("workspace_id")),
    )


def _refreshed(page: Mapping[str, object]) -> list[datetime]:
    """Return up to when a page says that it is complete."""
    try:
        moment = datetime.fromisoformat(str(page.get("data_refreshed_at")))
    except ValueError:
        return []
    return [moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)]


def _rfc3339(day: date) -> str:
    return midnight(day).strftime("%Y-%m-%dT%H:%M:%SZ")
