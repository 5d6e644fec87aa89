"""OpenAI's bill: its organization's costs by line, and its usage by model; and the exports of its dashboard."""

import re
from collections.abc import Iterator, Mapping
from datetime import date, timedelta

from pydantic import SecretStr

from token_handlers.reporting.bills.api import AdminKey, BillAPI, Params
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

TITLE, ACCOUNT = "OpenAI", "project"
BASE_URL = "https://api.openai.com/v1"
KEY = AdminKey(
    "an admin key of the organization",
    "OPENAI_ADMIN_KEY",
    "sk-admin-",
    "platform.openai.com/settings/organization/admin-keys",
)
EXPORTS = "the costs or the usage that the dashboard exports as CSV, or a page of /organization/costs or /usage as JSON"

COLUMNS: tuple[frozenset[str], ...] = (
    frozenset({"start_time", "amount_value"}),
    frozenset({"start_time", "num_model_requests"}),
)

_TOKENS_LINE = re.compile(r"(?P<model>[^,|]+), (?P<kind>.+)")
_FEE_LINE = re.compile(r"(?P<kind>.+?) \| (?P<model>.+)")
# What a line's words mean, the first that is in them.
_KINDS = (
    ("web search", "web_searches"),
    ("file search", "storage_searches"),
    ("code interpreter", "container_sessions"),
    ("container", "container_sessions"),
    ("cache write", "cache_write_tokens"),
    ("cached", "cache_read_tokens"),
    ("input", UNCACHED),
    ("output", "output_tokens"),
)
_FEE_COUNTS = frozenset({"web_searches", "storage_searches"})


def read_api(base_url: str, key: SecretStr, since: date, until: date, account: str | None) -> ProviderBill:
    """Return the bill from one day to another (included), of one project where one is named."""
    api = BillAPI(base_url, key, KEY, {"Authorization": f"Bearer {key.get_secret_value()}"})
    start, end = midnight(since), midnight(until + timedelta(days=1))
    window: Params = (("start_time", int(start.timestamp())), ("end_time", int(end.timestamp())))
    chosen: Params = (("project_ids[]", account),) if account else ()
    asked: Params = (*window, ("bucket_width", "1d"), ("group_by[]", "project_id"), *chosen)
    rows: list[BillRow] = []
    for path, others in (
        ("/organization/costs", (("limit", 180), ("group_by[]", "line_item"))),
        ("/organization/usage/completions", (("limit", 31), ("group_by[]", "model"))),
        ("/organization/usage/embeddings", (("limit", 31), ("group_by[]", "model"))),
    ):
        for page in api.pages(path, (*asked, *others)):
            rows += rows_of(page)
    return ProviderBill(rows)


def rows_of(page: Mapping[str, object]) -> list[BillRow]:
    """Return the rows of a page, of costs or of usage."""
    buckets = ((bucket, listed(bucket.get("results"), "results")) for bucket in listed(page.get("data"), "data"))
    return [row for bucket, results in buckets for result in results for row in _rows(bucket, result)]


def table_rows(line: Mapping[str, str]) -> Iterator[BillRow]:
    """Return the rows of a line of an export, of costs or of usage; a day without any has a line of empty fields."""
    if "amount_value" in line:
        if line["amount_value"]:
            money = {"value": line["amount_value"], "currency": line.get("amount_currency")}
            yield from _rows(line, {**line, "amount": money})
    elif line.get("num_model_requests"):
        yield from _rows(line, line)


def _rows(bucket: Mapping[str, object], result: Mapping[str, object]) -> Iterator[BillRow]:
    day, account = day_of(bucket.get("start_time"), "start_time"), text_or_none(result.get("project_id"))
    if "amount" in result:
        money = fields_of(result["amount"] or {}, "amount")
        check_currency(money.get("currency"))
        model, kind = _line(text_or_none(result.get("line_item")))
        quantity = amount(result.get("quantity"), "quantity")
        counts: Counts = {}
        if kind in _FEE_COUNTS and quantity > 0 and quantity == int(quantity):  # no page says in which unit it is
            counts = {kind: int(quantity)}
        yield BillRow(day, model, amount(money.get("value"), "amount"), kind, counts, account=account)
    else:
        model = text_or_none(result.get("model"))
        requests = number(result.get("num_model_requests"), "num_model_requests")
        yield BillRow(day, model, counts=_counts(result), requests=requests, account=account)


def _counts(result: Mapping[str, object]) -> Counts:
    names = {
        "input_tokens": "input_tokens",
        "output_tokens": "output_tokens",
        "cache_read_tokens": "input_cached_tokens",
        "cache_write_tokens": "input_cache_write_tokens",
    }
    return {ours: number(result.get(theirs), theirs) for ours, theirs in names.items()}


def _line(text: str | None) -> tuple[str | None, str]:
    """Return the model and the kind of a line's text; what is in neither form is a kind in its own words."""
    if text is None:
        return None, ""
    found = _TOKENS_LINE.fullmatch(text) or _FEE_LINE.fullmatch(text)
    if found is None:
        return None, text
    kind = next((kind for words, kind in _KINDS if words in found["kind"].lower()), found["kind"])
    return found["model"], kind
