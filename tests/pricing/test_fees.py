"""What is billed beside the tokens, by the worked values of the providers' pages."""

from decimal import Decimal

import pytest

from tests.support.prices import price
from token_handlers.pricing.fees import FEES

CALL = {"input_tokens": 1000, "output_tokens": 100}
GA, PREVIEW = {"web_search_tool": "web_search"}, {"web_search_tool": "web_search_preview"}


def fee(counts, model, provider, **call):
    """Return what events add to the cost of a call, and the doubts that they add."""
    call.setdefault("context", {})
    whole, tokens = (price({**CALL, **more}, model, provider, **call) for more in (counts, {}))
    return whole.cost - tokens.cost, [doubt for doubt in whole.doubts if doubt not in tokens.doubts]


@pytest.mark.parametrize(
    ("model", "provider", "counts", "context", "usd"),
    [
        ("gpt-5-mini", "openai", {"web_searches": 2}, {}, "0.02"),
        ("gpt-5-mini", "openai", {"web_searches": 2}, PREVIEW, "0.02"),
        ("gpt-5.3", "openai", {"web_searches": 1}, {}, "0.01"),
        ("gpt-4.1", "openai", {"web_searches": 2}, PREVIEW, "0.05"),
        ("gpt-4.1", "openai", {"web_searches": 2}, GA, "0.02"),
        ("gpt-4o-mini", "openai", {"web_searches": 1}, PREVIEW, "0.025"),
        ("gpt-5.3", "openai", {"storage_searches": 4}, {}, "0.01"),
        ("claude-sonnet-4-5", "anthropic", {"web_searches": 3}, {}, "0.03"),
        ("grok-4.6", "xai", {"web_searches": 1, "social_searches": 2, "storage_searches": 2}, {}, "0.02"),
        ("grok-4.6", "xai", {"code_executions": 3}, {}, "0.015"),
        ("kimi-k2.5", "moonshot", {"web_searches": 1}, {}, "0.005"),
        ("sonar-deep-research", "perplexity", {"web_searches": 4}, {}, "0.02"),
        ("sonar-pro", "perplexity", {"web_searches": 4}, {"search_context_size": "low"}, "0"),
    ],
)
def test_a_fee_with_a_count_is_exact(model, provider, counts, context, usd):
    """What was counted and has a rate adds just that."""
    assert (Decimal(usd), []) == fee(counts, model, provider, context=context)


@pytest.mark.parametrize(
    ("model", "provider", "counts", "context", "usd"),
    [
        ("gpt-4.1", "openai", {"web_searches": 1}, {}, "0.01"),
        ("gpt-4.1-mini", "openai", {"web_searches": 1}, GA, "0.0132"),
        ("gpt-4o-mini", "openai", {"web_searches": 1}, {}, "0.0112"),
        ("gpt-5", "openai", {"container_sessions": 2}, {}, "0.06"),
        ("gpt-4o", "azure", {"web_searches": 1}, {}, "0.014"),
        ("gpt-4o", "azure", {"container_sessions": 1}, {}, "0.033"),
        ("claude-opus-4-8", "google_anthropic_vertex", {"web_searches": 1}, {"region": "global"}, "0.01"),
        ("us.anthropic.claude-sonnet-4-6-v1:0", "bedrock", {"web_searches": 1}, {}, "0.01"),
        ("claude-sonnet-4-5", "anthropic", {"code_executions": 1}, {}, "0.0042"),
        ("gemini-2.5-flash", "google", {"web_searches": 1}, {}, "0.035"),
        ("gemini-3-flash-preview", "google", {"web_searches": 2}, {}, "0.028"),
        ("gemini-2.5-flash", "google", {"maps_searches": 1}, {}, "0.025"),
        ("gemini-3.8-flash", "google", {"maps_searches": 2}, {}, "0.028"),
        ("grok-4.6", "xai", {"sources": 4}, {}, "0.1"),
        ("mistral-small-latest", "mistral", {"web_searches": 1}, {}, "0.03"),
        ("openai/gpt-oss-120b", "groq", {"web_searches": 1}, {}, "0.005"),
    ],
)
def test_a_fee_that_is_not_certain_is_an_estimate(model, provider, counts, context, usd):
    """What may be free, or by a rate of another kind, adds what is likely, with one doubt."""
    added, doubts = fee(counts, model, provider, context=context)
    assert (Decimal(usd), 1) == (added, len(doubts))


@pytest.mark.parametrize(
    ("model", "size", "usd", "doubts"),
    [
        ("sonar", "low", "0.005", 0),
        ("sonar", "medium", "0.008", 0),
        ("sonar", "high", "0.012", 0),
        ("sonar-pro", "low", "0.006", 0),
        ("sonar-reasoning-pro", "high", "0.014", 0),
        ("sonar", "", "0.005", 1),
        ("sonar", "huge", "0.005", 1),
    ],
)
def test_perplexity_bills_a_request_by_its_context_size(model, size, usd, doubts):
    """The size that the answer states decides; without one, the lowest is assumed."""
    found = price({"input_tokens": 0}, model, "perplexity", (2026, 9, 1), context={"search_context_size": size})
    assert (Decimal(usd), doubts) == (found.cost, len(found.doubts))


def test_sonar_is_an_estimate_since_its_end():
    """Since 27 September 2026 Perplexity bills these calls otherwise, and only its own word tells."""
    doubts = [
        price(CALL, "sonar", "perplexity", (2026, 9, day), context={"search_context_size": "low"}).doubts
        for day in (26, 27)
    ]
    assert [0, 1] == [len(each) for each in doubts]


def test_openrouter_without_its_own_cost_is_an_estimate():
    """The route of a call decides what it cost, and the key that paid for it."""
    assert 1 == len(price(CALL, "openai/gpt-4o", "openrouter").doubts)


@pytest.mark.parametrize(
    ("model", "usd"),
    [("gpt-4o-search-preview", "0.025"), ("gpt-4o-mini-search-preview", "0.025"), ("gpt-5-search-api", "0.01")],
)
@pytest.mark.parametrize("searches", [0, 1])
def test_search_models_of_chat_are_billed_one_search(model, usd, searches):
    """Their answers count none: one a request is assumed, whether a reader counted it too or not."""
    found = price({"input_tokens": 0, "web_searches": searches}, model, "openai")
    assert (Decimal(usd), 1) == (found.cost, len(found.doubts))


@pytest.mark.parametrize(
    ("model", "provider", "unit"),
    [
        ("gpt-5", "openai", "sources"),
        ("gpt-5", "openai", "code_executions"),
        ("deepseek-flash", "deepseek", "web_searches"),
        ("gemini-3.8-flash", "google", "storage_searches"),
        ("us.amazon.nova-lite-v1:0", "bedrock", "web_searches"),
        ("command-a", "cohere", "rerank_searches"),
    ],
)
def test_an_event_without_a_rate_is_never_free(model, provider, unit, caplog):
    """The cost is without it and an estimate, with one warning; where nothing else cost, it is unknown."""
    found = price({**CALL, unit: 3}, model, provider)
    assert price(CALL, model, provider).cost == found.cost
    assert 1 == len(found.doubts)
    assert 1 == len([message for message in caplog.messages if found.doubts[0] in message])
    assert price({"input_tokens": 0, unit: 3}, model, provider) is None
    assert () == price({**CALL, unit: 0}, model, provider).doubts


@pytest.mark.parametrize(
    ("model", "provider", "units", "usd"),
    [
        ("rerank-v3.5", "cohere", 2, "0.004"),
        ("rerank-english-v3.0", "cohere", 1, "0.002"),
        ("rerank-v4.0-pro", "cohere", 1, "0.0025"),
        ("cohere.rerank-v3-5:0", "bedrock", 2, "0.004"),
        ("amazon.rerank-v1:0", "bedrock", 1, "0.001"),
    ],
)
def test_rerankers_are_billed_by_search_unit(model, provider, units, usd):
    """genai-prices has none of them: their price is our own."""
    found = price({"rerank_searches": units}, model, provider)
    assert (Decimal(usd), "token_handlers", ()) == found[:3]


def test_every_fee_can_be_reached():
    """No fee is hidden by an earlier one about the same seller, models, key and circumstances."""
    keys = [(each.seller, each.models, each.key, tuple(each.when.items()), each.since) for each in FEES]
    assert sorted(set(keys), key=str) == sorted(keys, key=str)
