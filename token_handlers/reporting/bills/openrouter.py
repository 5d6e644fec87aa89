"""OpenRouter's bill: its activity by day, model and endpoint; and the export of its activity page, call by call."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta

from pydantic import SecretStr

from token_handlers.reporting.bills.api import AdminKey, BillAPI, Params
from token_handlers.reporting.bills.bill import BillRow, ProviderBill, amount, day_of, listed, number, text_or_none

TITLE, ACCOUNT = "OpenRouter", "workspace"
BASE_URL = "https://openrouter.ai/api/v1"
KEY = AdminKey(
    "a management key (a plain API key can't read it)",
    "OPENROUTER_MANAGEMENT_KEY",
    "sk-or-",
    "openrouter.ai/settings/management-keys",
)
EXPORTS = "the activity that openrouter.ai/activity exports as CSV, or an answer of /activity as JSON"
COLUMNS: tuple[frozenset[str], ...] = (frozenset({"created_at", "cost_total", "model_permaslug"}),)

DAYS = 30
"""How many days the API goes back."""


def read_api(base_url: str, key: SecretStr, since: date, until: date, account: str | None) -> ProviderBill:
    """Return the bill from one day to another (included), of one workspace where one is named.

    The API has the last 30 days that are over, and no pages.
    """
    api = BillAPI(base_url, key, KEY, {"Authorization": f"Bearer {key.get_secret_value()}"})
    params: Params = (("workspace_id", account),) if account else ()
    rows = [row for page in api.pages("/activity", params) for row in rows_of(page)]
    first = datetime.now(UTC).date() - timedelta(days=DAYS)
    note = f"OpenRouter's API has the last {DAYS} days alone: for those before {first} name an export with --file."
    return ProviderBill([row for row in rows if since <= row.day <= until], notes=(note,) if since < first else ())


def rows_of(page: Mapping[str, object]) -> list[BillRow]:
    """Return the rows of an answer."""
    return [_row(entry) for entry in listed(page.get("data"), "data")]


def table_rows(line: Mapping[str, str]) -> Iterator[BillRow]:
    """Return the row of a line of the export, which is one call."""
    counts = {ours: number(line.get(theirs), theirs) for ours, theirs in _COLUMNS.items() if theirs in line}
    cost = amount(line["cost_total"], "cost_total") + amount(line.get("byok_usage_inference"), "byok_usage_inference")
    day, call_id = day_of(line["created_at"], "created_at"), text_or_none(line.get("generation_id"))
    yield BillRow(day, _named(line), cost, "", counts, 1, call_id=call_id)


_COLUMNS = {
    "input_tokens": "tokens_prompt",
    "output_tokens": "tokens_completion",
    "cache_read_tokens": "tokens_cached",
}


def _row(entry: Mapping[str, object]) -> BillRow:
    # with one's own key OpenRouter bills its fee, and the provider what it took: a ledger has both
    cost = amount(entry.get("usage"), "usage") + amount(entry.get("byok_usage_inference"), "byok_usage_inference")
    counts = {
        "input_tokens": number(entry.get("prompt_tokens"), "prompt_tokens"),
        "output_tokens": number(entry.get("completion_tokens"), "completion_tokens"),
    }
    requests = number(entry.get("requests"), "requests")
    return BillRow(day_of(entry.get("date"), "date"), _named(entry), cost, "", counts, requests)


def _named(entry: Mapping[str, object]) -> str | None:
    """Return the model's name, the short one before that with the date of its snapshot."""
    name = text_or_none(entry.get("model")) or text_or_none(entry.get("model_permaslug"))
    variant = text_or_none(entry.get("variant"))
    return f"{name}:{variant}" if name and variant and variant != "standard" and ":" not in name else name
