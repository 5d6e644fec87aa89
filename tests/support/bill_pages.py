"""Pages of providers' bills in the documented shapes, with numbers of our own, and the calls that they bill."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from token_handlers.usage import Usage, UsageRecord

DAY = datetime(2026, 3, 10, tzinfo=UTC)
GPT, CLAUDE, ROUTED = "gpt-5-mini-2025-08-07", "claude-sonnet-4-6", "openai/gpt-4.1-mini"


def call(model=GPT, provider="openai", sent=4000, received=400, cost="0.0018", day=0, **fields):
    """Return a record of a call of a day, at ten in the morning."""
    cached = fields.pop("cached", 0)
    usage = Usage(input_tokens=sent, output_tokens=received, cache_read_tokens=cached, **fields.pop("counts", {}))
    started = fields.pop("started_at", DAY + timedelta(days=day, hours=10))
    return UsageRecord(
        usage=usage,
        model=model,
        provider=provider,
        cost=None if cost is None else Decimal(cost),
        started_at=started,
        ended_at=fields.pop("ended_at", started + timedelta(seconds=2)),
        **fields,
    )


def bucket(results, day=0):
    """Return a day of OpenAI's."""
    start = int((DAY + timedelta(days=day)).timestamp())
    return {"object": "bucket", "start_time": start, "end_time": start + 86_400, "results": results}


def openai_cost(value, line_item, quantity=None, project="proj_a", currency="usd"):
    """Return a result of OpenAI's costs."""
    return {
        "object": "organization.costs.result",
        "amount": {"value": value, "currency": currency},
        "line_item": line_item,
        "quantity": quantity,
        "project_id": project,
        "api_key_id": None,
    }


def openai_usage(requests, sent, received, cached=0, model=GPT, project="proj_a"):
    """Return a result of OpenAI's usage."""
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": sent,
        "input_cached_tokens": cached,
        "input_cache_write_tokens": 0,
        "output_tokens": received,
        "num_model_requests": requests,
        "model": model,
        "project_id": project,
    }


def openai_day(requests=2, day=0, project="proj_a", factor=1):
    """Return a day's costs and its usage: so many calls as `call` makes."""
    costs = [
        openai_cost(round(0.001 * requests * factor, 9), f"{GPT}, input", 4000 * requests, project),
        openai_cost(round(0.0008 * requests * factor, 9), f"{GPT}, output", 400 * requests, project),
    ]
    return bucket(costs, day), bucket([openai_usage(requests, 4000 * requests, 400 * requests, project=project)], day)


def openai_pages(*days):
    """Return the pages of OpenAI's three reports, of these days."""
    return {
        "/organization/costs": [{"object": "page", "data": [costs for costs, _ in days]}],
        "/organization/usage/completions": [{"object": "page", "data": [usage for _, usage in days]}],
        "/organization/usage/embeddings": [{"object": "page", "data": []}],
    }


def _times(day):
    start = DAY + timedelta(days=day)
    return {
        "starting_at": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "ending_at": f"{start + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}",
    }


def anthropic_cost(amount, token_type=None, cost_type="tokens", model=CLAUDE, day=0, workspace="wrkspc_1", listed=None):
    """Return a row of Anthropic's analytics of cost, in cents."""
    group = {"model": model, "cost_type": cost_type, "token_type": token_type, "workspace_id": workspace}
    cost = {"amount": amount, "list_amount": listed or amount, "currency": "USD", "requests": None}
    return {**_times(day), "group": group, "cost": cost}


def anthropic_usage(requests, uncached, read, five, hour, received, searches=0, day=0, workspace="wrkspc_1"):
    """Return a row of Anthropic's analytics of usage."""
    usage = {
        "uncached_input_tokens": uncached,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour},
        "output_tokens": received,
        "server_tool_use": {"web_search_requests": searches},
        "requests": requests,
        "total_tokens": uncached + read + five + hour + received,
    }
    return {**_times(day), "group": {"model": CLAUDE, "workspace_id": workspace}, "usage": usage}


ANTHROPIC_COSTS = [
    anthropic_cost("12", "uncached_input_tokens"),
    anthropic_cost("0.3", "cache_read_input_tokens"),
    anthropic_cost("1.875", "cache_creation.ephemeral_5m_input_tokens"),
    anthropic_cost("1.2", "cache_creation.ephemeral_1h_input_tokens"),
    anthropic_cost("9", "output_tokens"),
    anthropic_cost("2", cost_type="web_search"),
]
ANTHROPIC_USAGE = [anthropic_usage(1, 40_000, 10_000, 5_000, 2_000, 6_000, searches=2)]
ANTHROPIC_CALL = call(
    "claude-sonnet-4-6-20260217",
    "anthropic",
    57_000,
    6_000,
    "0.26375",
    cached=10_000,
    counts={"cache_write_tokens": 7_000, "cache_write_1h_tokens": 2_000, "web_searches": 2},
)
"""What ANTHROPIC_COSTS and ANTHROPIC_USAGE bill, to the last digit."""


def activity(usage, requests, sent, received, day=0, model=ROUTED, byok=0):
    """Return a row of OpenRouter's activity."""
    return {
        "date": f"{DAY + timedelta(days=day):%Y-%m-%d}",
        "model": model,
        "model_permaslug": f"{model}-2025-04-14",
        "endpoint_id": "3f0c8d62-0000-4000-8000-000000000001",
        "provider_name": "OpenAI",
        "usage": usage,
        "byok_usage_inference": byok,
        "requests": requests,
        "prompt_tokens": sent,
        "completion_tokens": received,
        "reasoning_tokens": 0,
    }
