"""The tier, the speed and the place that served a call, by the worked values of the providers' pages."""

from decimal import Decimal

import pytest

from tests.support.prices import price
from token_handlers.pricing import set_multiplier, set_price
from token_handlers.pricing.adjustments import TIER_FACTORS

MILLION = {"input_tokens": 1_000_000}
TENTH = {"input_tokens": 100_000}
ROUTE = "http://127.0.0.1:80/v1/projects/p/locations/{}/publishers/google/models/m:generateContent"
IRELAND = "https://bedrock-runtime.eu-west-1.amazonaws.com"
EUROPE, CENTRAL = "https://eu.api.openai.com/v1", "https://us-central1-aiplatform.googleapis.com/v1"


@pytest.mark.parametrize(
    ("model", "provider", "base_url", "context", "usd"),
    [
        ("gpt-5.4", "openai", EUROPE, {}, "0.275"),
        ("gpt-5.4", "openai", "https://us.api.openai.com/v1", {}, "0.275"),
        ("gpt-6-sol-2026-10-01", "openai", EUROPE, {}, "0.22"),
        ("gpt-4.1", "openai", EUROPE, {}, "0.2"),
        ("gpt-5.2", "openai", EUROPE, {}, "0.175"),
        ("gpt-5.4", "openai", "https://api.openai.com/v1", {}, "0.25"),
        ("grok-4.6", "xai", "https://us.api.x.ai/v1", {}, "0.22"),
        ("grok-4.6", "xai", "https://api.x.ai/v1", {}, "0.2"),
        ("grok-4.5", "xai", "https://us.api.x.ai/v1", {}, "0.2"),
        ("grok-4.6", "openai", "http://gateway.example/v1", {}, "0.2"),
        (
            "google/gemini-3.8-flash",
            "openai",
            CENTRAL + "/projects/p/locations/us-central1/endpoints/openapi",
            {},
            "0.0825",
        ),
        ("gemini-3.8-flash", "google_vertexai", CENTRAL, {}, "0.0825"),
        ("gemini-3.8-flash", "google_vertexai", None, {"region": "europe-west4"}, "0.0825"),
        ("gemini-3.8-flash", "google_vertexai", "https://aiplatform.eu.rep.googleapis.com", {}, "0.0825"),
        ("gemini-3.8-flash", "google_vertexai", "https://aiplatform.googleapis.com", {}, "0.075"),
        ("gemini-3.8-flash", "google_genai", ROUTE.format("us-central1"), {}, "0.0825"),
        ("gemini-3.8-flash", "google_genai", ROUTE.format("global"), {}, "0.075"),
        ("gemini-3.8-flash", "google_genai", None, {}, "0.075"),
        ("gemini-3.8-flash", "google_genai", "https://generativelanguage.googleapis.com", {}, "0.075"),
        ("gemini-2.5-flash", "google_vertexai", CENTRAL, {}, "0.03"),
        ("claude-opus-4-8", "google_anthropic_vertex", "https://us-east5-aiplatform.googleapis.com", {}, "0.55"),
        ("claude-opus-4-8", "google_anthropic_vertex", None, {"region": "global"}, "0.5"),
        ("claude-opus-4-8", "anthropic", None, {"inference_geo": "us"}, "0.55"),
        ("claude-opus-4-8", "anthropic", None, {"inference_geo": "global"}, "0.5"),
        ("us.anthropic.claude-sonnet-4-6-v1:0", "bedrock", None, {}, "0.33"),
        ("global.anthropic.claude-sonnet-4-6-v1:0", "bedrock", None, {}, "0.3"),
        ("eu.anthropic.claude-sonnet-4-6-v1:0", "bedrock", IRELAND, {}, "0.33"),
        ("anthropic.claude-3-haiku-20240307-v1:0", "bedrock", IRELAND, {}, "0.025"),
        ("openai.gpt-5.4", "bedrock", IRELAND, {}, "0.275"),
        ("meta.llama3-70b-instruct-v1:0", "bedrock", "https://bedrock-runtime.us-west-2.amazonaws.com", {}, "0.265"),
        ("us.meta.llama3-3-70b-instruct-v1:0", "bedrock", None, {}, "0.072"),
    ],
)
def test_a_place_costs_what_its_page_says(model, provider, base_url, context, usd):
    """Regional hosts, Vertex AI's locations and Anthropic's geography are a tenth more, where they are, exactly."""
    found = price(TENTH, model, provider, base_url=base_url, context=context)
    assert (Decimal(usd), ()) == (found.cost, found.doubts)


@pytest.mark.parametrize(
    ("model", "provider", "call"),
    [
        ("claude-opus-4-8", "anthropic", {"context": {"inference_geo": "eu"}}),
        ("claude-opus-4-1", "anthropic", {"context": {"inference_geo": "us"}}),
        ("gemini-3.8-flash", "google_vertexai", {}),
        ("gemini-3-pro-preview", "google_vertexai", {"base_url": CENTRAL}),
        ("claude-opus-4-8", "google_anthropic_vertex", {}),
        ("gpt-chat-latest", "openai", {"base_url": EUROPE}),
        ("grok-4.6", "xai", {"base_url": "https://eu-west-1.api.x.ai/v1"}),
        ("meta.llama3-70b-instruct-v1:0", "bedrock", {"base_url": IRELAND}),
        ("meta.llama3-70b-instruct-v1:0", "bedrock", {"context": {"region": "eu-west-2"}}),
        ("eu.meta.llama3-2-1b-instruct-v1:0", "bedrock", {}),
    ],
)
def test_a_place_without_a_known_rate_is_an_estimate(model, provider, call, caplog):
    """The rate of the standard place is used, with one doubt and one warning that names the model."""
    found = price(TENTH, model, provider, **call)
    elsewhere = price(TENTH, model, provider, context={"region": "global"})

    assert elsewhere.cost == found.cost
    assert 1 == len(found.doubts)
    assert [] != [message for message in caplog.messages if f"{model!r}" in message and found.doubts[0] in message]


@pytest.mark.parametrize(
    ("model", "call", "usd"),
    [
        ("us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", {}, "0.36"),
        ("anthropic.claude-3-5-sonnet-20240620-v1:0", {"context": {"region": "us-gov-west-1"}}, "0.36"),
        ("amazon.nova-pro-v1:0", {"base_url": "https://bedrock-runtime.us-gov-east-1.amazonaws.com"}, "0.096"),
    ],
)
def test_govcloud_costs_a_fifth_more(model, call, usd):
    """Two tenths above the global rate, by a price list that is not Amazon's own."""
    found = price(TENTH, model, "bedrock", **call)
    assert (Decimal(usd), 1) == (found.cost, len(found.doubts))


def test_a_multiplier_of_a_region_takes_the_place_of_what_is_not_known_there():
    """Whoever says what a region of Bedrock's costs has no estimate."""
    set_multiplier("1.3", provider="aws", region="eu-west-1")
    found = price(TENTH, "meta.llama3-70b-instruct-v1:0", "bedrock", base_url=IRELAND)
    assert (Decimal("0.3445"), ()) == (found.cost, found.doubts)


@pytest.mark.parametrize(
    ("model", "cached"),
    [("gemini-2.5-flash", "0.003"), ("gemini-3-flash-preview", "0.005"), ("gemini-3.8-flash", "0.00375")],
)
@pytest.mark.parametrize("tier", ["flex", "batch"])
def test_cached_tokens_of_some_gemini_models_cost_the_full_rate_in_flex_and_batch(model, cached, tier):
    """Google's page halves all other tokens, and these for the newer models."""
    found = price({"input_tokens": 100_000, "cache_read_tokens": 100_000}, model, "google", service_tier=tier)
    assert (Decimal(cached), ()) == (found.cost, found.doubts)


@pytest.mark.parametrize(
    ("model", "doubts"), [("deepseek-v3.2", 1), ("grok-code-fast-1", 1), ("gpt-audio", 1), ("gpt-4o", 0)]
)
def test_what_azure_may_bill_by_rates_of_its_own_is_an_estimate(model, doubts):
    """Azure sells other makers' models; where price lists differ, the maker's rate is in doubt."""
    assert doubts == len(price(TENTH, model, "azure").doubts)


@pytest.mark.parametrize("day", [(2026, 6, 30), (2026, 7, 1)])
def test_vertex_locations_cost_more_since_july(day):
    """The newer Gemini models cost a tenth more outside the global endpoint since 1 July 2026."""
    found = price(TENTH, "gemini-3.5-flash", "google_vertexai", day, base_url=CENTRAL)
    factor = "1.1" if day[1] == 7 else "1"
    assert price(TENTH, "gemini-3.5-flash", "google_genai", day).cost * Decimal(factor) == found.cost


@pytest.mark.parametrize("day", [(2026, 3, 4), (2026, 3, 5)])
def test_a_plan_ends_where_a_place_begins_to_cost_more(day):
    """A plan that was made before the day of a change does not price a call after it, nor the other way round."""
    call = {"base_url": EUROPE}
    assert Decimal("0.275") == price(TENTH, "gpt-5.4", "openai", (2026, 3, 6), **call).cost
    assert Decimal("0.25" if day[2] == 4 else "0.275") == price(TENTH, "gpt-5.4", "openai", day, **call).cost


DEPLOYED = "https://x.openai.azure.com/openai/deployments/{}/chat/completions"


@pytest.mark.parametrize(
    "call",
    [
        {"base_url": DEPLOYED.format("Our-EU")},
        {"base_url": DEPLOYED.format("our%2Deu")},
        {"context": {"deployment": "our-eu"}},
        {"requested": "our-eu"},
    ],
)
@pytest.mark.parametrize(
    ("say", "usd"),
    [
        (lambda: set_multiplier("1.1", provider="azure", model="our-eu"), "0.0275"),
        (lambda: set_price("our-eu", input_mtok=1), "0.1"),
        (lambda: set_price("our-eu", "azure", alias_of="gpt-5"), "0.125"),
        (lambda: set_price("our-eu", requests_kcount=5), "0.03"),
    ],
)
def test_a_deployment_of_azures_has_the_users_prices(call, say, usd):
    """Its name is in the address that was asked, or with the client, where the model's is another one."""
    say()
    assert Decimal(usd) == price(TENTH, "gpt-5-mini", "azure", **{"requested": "gpt-5-mini", **call}).cost


def test_azures_model_router_is_known_by_the_address_too():
    """The client may have been given the name of a model beside the deployment's."""
    found = price(TENTH, "gpt-5-mini", "azure", base_url=DEPLOYED.format("model-router"), requested="gpt-5-mini")
    assert (Decimal("0.039"), ()) == (found.cost, found.doubts)


@pytest.mark.parametrize(
    ("requested", "day", "usd", "doubts"),
    [
        ("model-router", (2026, 11, 25), "0.04015", 0),
        ("Model_Router-2", (2026, 11, 25), "0.04015", 0),
        ("model-router", (2025, 10, 1), "0.02615", 0),
        ("my-router", (2026, 11, 25), "0.02615", 1),
        ("gpt-5-mini", (2026, 11, 25), "0.02615", 0),
    ],
)
def test_azures_model_router_bills_the_prompt_beside_the_model(requested, day, usd, doubts):
    """0.14 USD for each million tokens of the prompt, cached or not, and nothing for the answer."""
    counts = {"input_tokens": 100_000, "cache_read_tokens": 2_000, "output_tokens": 800}
    found = price(counts, "gpt-5-mini-2025-08-07", "azure", day, requested=requested)
    assert (Decimal(usd), doubts) == (found.cost, len(found.doubts))


def test_a_place_multiplies_tokens_and_no_fees():
    """Cached tokens and output cost a tenth more too, a web search does not."""
    counts = {"input_tokens": 1000, "cache_read_tokens": 400, "output_tokens": 100, "web_searches": 1}
    plain = {**counts, "web_searches": 0}
    here, there = (price(plain, "claude-opus-4-8", "anthropic", context={"inference_geo": geo}) for geo in ("", "us"))

    assert here.cost * Decimal("1.1") == there.cost
    searched = price(counts, "claude-opus-4-8", "anthropic", context={"inference_geo": "us"})
    assert there.cost + Decimal("0.01") == searched.cost


def test_speed_and_place_multiply_each_other():
    """Opus 4.8 in fast mode, in the US: 5 x 2 x 1.1 USD per million tokens."""
    found = price(MILLION, "claude-opus-4-8", "anthropic", context={"speed": "fast", "inference_geo": "us"})
    assert (Decimal(11), ()) == (found.cost, found.doubts)


@pytest.mark.parametrize(("model", "speed"), [("claude-sonnet-4-5", "fast"), ("claude-opus-4-8", "warp")])
def test_a_speed_without_a_rate_is_an_estimate(model, speed):
    """The standard rate is used, and the doubt names the speed."""
    found = price(MILLION, model, "anthropic", context={"speed": speed})
    assert price(MILLION, model, "anthropic").cost == found.cost
    assert repr(speed) in found.doubts[0]


def test_a_batch_is_never_fast():
    """Anthropic's batches have no fast mode: an answer that says both is an estimate."""
    batch = price(MILLION, "claude-opus-4-8", "anthropic", service_tier="batch", context={"speed": "fast"})
    assert (Decimal("2.5"), 1) == (batch.cost, len(batch.doubts))


@pytest.mark.parametrize(("requested", "doubts"), [("claude-opus-5-5-fast", 1), ("claude-opus-5-5", 0)])
def test_a_deployment_that_is_called_fast_may_be(requested, doubts):
    """Azure sells fast mode as deployments of their own, whose answers do not say so."""
    found = price(MILLION, "claude-opus-5-5", "azure", requested=requested)
    assert (price(MILLION, "claude-opus-5-5", "anthropic").cost, doubts) == (found.cost, len(found.doubts))


@pytest.mark.parametrize(
    ("model", "provider", "tier", "day", "usd"),
    [
        ("gpt-6-astra", "openai", "ultrafast", (2026, 11, 25), "6"),
        ("gpt-5", "openai", "priority", (2026, 9, 1), "0.25"),
        ("gpt-5", "openai", "flex", (2025, 12, 1), "0.0625"),
        ("gpt-4o", "openai", "batch", (2025, 1, 15), "0.125"),
        ("gpt-5.6-sol", "openai", "flex", (2026, 8, 20), "0.25"),
        ("gpt-5.6-sol", "openai", "flex", (2026, 8, 21), "0.2"),
        ("claude-3-haiku-20240307", "anthropic", "batch", (2026, 11, 25), "0.0125"),
        ("claude-opus-4-5", "anthropic", "batch", (2026, 1, 5), "0.25"),
        ("gemini-2.5-flash", "google", "flex", (2026, 11, 25), "0.015"),
        ("gemini-2.5-flash", "google", "priority", (2026, 11, 25), "0.054"),
        ("gemini-3.8-flash", "google_vertexai", "ON_DEMAND_PRIORITY", (2026, 11, 25), "0.135"),
        ("llama-3.3-70b-versatile", "groq", "flex", (2026, 11, 25), "0.059"),
        ("llama-3.3-70b-versatile", "groq", "on_demand", (2026, 11, 25), "0.059"),
        ("claude-opus-4-8", "anthropic", "standard", (2026, 11, 25), "0.5"),
    ],
)
def test_a_tier_costs_what_it_did_on_the_day(model, provider, tier, day, usd):
    """The tier that served prices the call, also before the day from which genai-prices has its rates."""
    call = {"context": {"region": "global"}} if "vertex" in provider else {}
    found = price(TENTH, model, provider, day, service_tier=tier, **call)
    assert (Decimal(usd), ()) == (found.cost, found.doubts)


@pytest.mark.parametrize(
    ("model", "provider", "tier", "factor"),
    [
        ("gpt-4o", "openai", "scale", "1"),
        ("claude-opus-4-8", "anthropic", "priority", "1"),
        ("gpt-5", "azure", "batch", "0.5"),
        ("gpt-5", "azure", "priority", "1"),
        ("us.anthropic.claude-sonnet-4-6-v1:0", "bedrock", "priority", "1.75"),
        ("us.anthropic.claude-sonnet-4-6-v1:0", "bedrock", "flex", "0.5"),
        ("us.anthropic.claude-sonnet-4-6-v1:0", "bedrock", "reserved", "1"),
        ("gemini-3.8-flash", "google", "provisioned_throughput", "1"),
        ("grok-4.6", "xai", "priority", "1"),
        ("llama-3.3-70b-versatile", "groq", "performance", "1"),
        ("command-a", "cohere", "priority", "1"),
    ],
)
def test_a_tier_without_a_known_rate_is_an_estimate(model, provider, tier, factor):
    """The standard rate, or what is likely, is used, and the doubt names the tier."""
    found = price(TENTH, model, provider, service_tier=tier)
    assert price(TENTH, model, provider).cost * Decimal(factor) == found.cost
    assert tier in found.doubts[0]


@pytest.mark.parametrize(
    ("model", "latency", "factor", "doubts"),
    [
        ("us.amazon.nova-pro-v1:0", "optimized", "1.25", 1),
        ("us.amazon.nova-pro-v1:0", "standard", "1", 0),
        ("us.amazon.nova-lite-v1:0", "optimized", "1", 1),
    ],
)
def test_optimized_latency_is_an_estimate(model, latency, factor, doubts):
    """Bedrock's page has no rates of it."""
    found = price(TENTH, model, "bedrock", context={"latency": latency})
    assert price(TENTH, model, "bedrock").cost * Decimal(factor) == found.cost
    assert doubts == len(found.doubts)


def test_the_first_rule_of_a_tier_is_not_hidden_by_another():
    """No two rules are about the same seller, tier and models."""
    keys = [(rule.seller, rule.models, rule.tier) for rule in TIER_FACTORS]
    assert sorted(set(keys)) == sorted(keys)
