"""What an answer's body leaves out and its headers or its request say."""

from decimal import Decimal

import pytest

from token_handlers.http.completion import completed
from token_handlers.http.requests import BilledTool, ProviderRequest
from token_handlers.payloads import GUARDED, UNNAMED_IMAGES, UNSTATED_LIFETIME, ReportedUsage

COUNTS = {"input_tokens": 100, "output_tokens": 10}
WRITTEN = {**COUNTS, "cache_write_tokens": 50}


def request(api="chat", provider=None, **asked):
    """Return a request that asks for this."""
    return ProviderRequest("https://x/v1", "x", "/v1", api, "chat", provider, **asked)


@pytest.mark.parametrize(
    ("asked", "headers", "stated", "tier", "doubts"),
    [
        (request("gemini", "google"), {"x-gemini-service-tier": "Flex"}, None, "flex", 0),
        (request("gemini", "google", service_tier="flex"), {"x-gemini-service-tier": "standard"}, None, "standard", 0),
        (request("gemini", "google", service_tier="FLEX"), {}, None, "flex", 1),
        (request("invoke"), {"x-amzn-bedrock-service-tier": "priority"}, "standard", "priority", 0),
        (request(service_tier="priority"), {}, None, "priority", 1),
        (request(service_tier="priority"), {}, "default", "default", 0),
        (request(service_tier="auto"), {}, None, None, 0),
        (request(), {"x-gemini-service-tier": "flex"}, None, None, 0),
    ],
)
def test_the_tier_that_served_is_in_a_header_else_the_asked_one_is_assumed(asked, headers, stated, tier, doubts):
    """What the body says of a tier comes first, but for Bedrock's, where the body's word is the model maker's."""
    usage = completed(ReportedUsage(COUNTS, service_tier=stated), asked, headers)
    assert (tier, doubts) == (usage.service_tier, len(usage.doubts))


@pytest.mark.parametrize(
    ("host", "headers", "is_free"),
    [
        ("gateway.ai.cloudflare.com", {"cf-aig-cache-status": "HIT"}, True),
        ("gateway.ai.cloudflare.com", {"cf-aig-cache-status": "MISS"}, False),
        ("api.portkey.ai", {"x-portkey-cache-status": "SEMANTIC HIT"}, True),
        ("portkey.example.com", {"x-portkey-cache-status": "HIT"}, True),
        ("api.portkey.ai", {"x-portkey-cache-status": "SEMANTIC MISS"}, False),
        ("oai.helicone.ai", {"helicone-cache": "hit"}, True),
        ("openrouter.ai", {"x-openrouter-cache-status": "HIT"}, True),
        ("openrouter.ai", {}, False),
        ("api.openai.com", {"helicone-cache": "HIT"}, False),
    ],
)
def test_what_a_gateway_has_kept_is_free(host, headers, is_free):
    """No provider is asked where a gateway's own cache answers; a provider's own host has no such cache."""
    usage = completed(ReportedUsage(COUNTS), request()._replace(host=host), headers)
    assert (Decimal(0) if is_free else None, COUNTS) == (usage.cost, usage.counts)


@pytest.mark.parametrize(
    ("host", "api", "kind", "counts", "doubts"),
    [
        ("api.z.ai", "chat", "web_search", COUNTS, 1),
        ("api.z.ai", "chat", "web_search", {**COUNTS, "web_searches": 1}, 0),
        ("api.z.ai", "chat", "retrieval", COUNTS, 0),
        ("127.0.0.1", "chat", "web_search", COUNTS, 1),
        ("127.0.0.1", "chat", "web_search_options", COUNTS, 0),
        ("127.0.0.1", "chat", "$web_search", COUNTS, 0),
        ("api.openai.com", "chat", "web_search", COUNTS, 0),
        ("us-central1-aiplatform.googleapis.com", "chat", "web_search_options", COUNTS, 1),
        ("generativelanguage.googleapis.com", "chat", "google_search", COUNTS, 1),
        ("generativelanguage.googleapis.com", "gemini", "googleSearch", COUNTS, 0),
        ("api.mistral.ai", "chat", "web_search", COUNTS, 1),
        ("api.groq.com", "chat", "browser_search", COUNTS, 0),
        ("api.example.com", "messages", "web_search_20250305", COUNTS, 0),
    ],
)
def test_a_search_that_a_provider_may_have_made_is_doubted(host, api, kind, counts, doubts):
    """A declared search makes an estimate at a provider whose answers may not count it, and at none that counts it."""
    asked = request(api)._replace(host=host, tools=(BilledTool(kind),))
    assert doubts == len(completed(ReportedUsage(counts), asked, {}).doubts)


def test_bedrocks_latency_is_in_a_header():
    """InvokeModel's answer has it beside the model's own body."""
    headers = {"x-amzn-bedrock-performanceconfig-latency": "optimized"}
    assert {"latency": "optimized"} == completed(ReportedUsage(COUNTS), request("invoke"), headers).context


@pytest.mark.parametrize(
    ("model", "lifetimes", "counts", "expected", "doubts"),
    [
        ("claude-opus-4-8", {"1h"}, WRITTEN, {**WRITTEN, "cache_write_1h_tokens": 50}, ()),
        ("anthropic/claude-opus-4.8", {"5m"}, WRITTEN, {**WRITTEN, "cache_write_5m_tokens": 50}, ()),
        ("claude-opus-4-8", {"5m", "1h"}, WRITTEN, WRITTEN, (UNSTATED_LIFETIME,)),
        ("claude-opus-4-8", set(), WRITTEN, WRITTEN, (UNSTATED_LIFETIME,)),
        ("claude-opus-4-8", {"1h"}, {**WRITTEN, "cache_write_5m_tokens": 50}, None, ()),
        ("claude-opus-4-8", {"1h"}, COUNTS, None, ()),
        ("gpt-5.6-sol", set(), WRITTEN, None, ()),
    ],
)
def test_the_lifetime_of_claudes_cache_writes_is_that_of_the_prompts_marks(model, lifetimes, counts, expected, doubts):
    """Where the marks have several, or cannot be seen, the cost is an estimate."""
    asked = request("messages", model=model, cache_lifetimes=frozenset(lifetimes))
    usage = completed(ReportedUsage(counts), asked, {})
    assert (counts if expected is None else expected, doubts) == (usage.counts, usage.doubts)


@pytest.mark.parametrize(
    ("kinds", "context"),
    [
        (["web_search_preview_2025_03_11"], {"web_search_tool": "web_search_preview"}),
        (["web_search", "file_search"], {"web_search_tool": "web_search"}),
        (["web_search", "web_search_preview"], {}),
        ([], {}),
    ],
)
def test_which_web_search_it_was_is_what_was_declared(kinds, context):
    """An answer need not repeat its tools."""
    asked = request("responses", tools=tuple(map(BilledTool, kinds)))
    assert context == completed(ReportedUsage({**COUNTS, "web_searches": 1}), asked, {}).context
    assert {} == completed(ReportedUsage(COUNTS), asked, {}).context


def test_what_the_answer_says_comes_first():
    """The size of a search's context and the cache's retention are the request's where the answer has none."""
    asked = request(search_context_size="high", cache_retention="24h")
    stated = ReportedUsage(COUNTS, context={"search_context_size": "low"})
    assert {"search_context_size": "low"} == completed(stated, asked, {}).context
    expected = {"search_context_size": "high", "cache_retention": "24h"}
    assert expected == completed(ReportedUsage(WRITTEN), asked, {}).context


def test_the_images_model_is_what_was_declared():
    """The tokens of images have a model's price; a request that names none leaves it open."""
    usage = ReportedUsage(COUNTS, beside=((None, {"output_tokens": 5}),), doubts=(UNNAMED_IMAGES,))
    asked = request("responses", tools=(BilledTool("image_generation", model="gpt-image-1.5"),))
    named = completed(usage, asked, {})
    assert ((("gpt-image-1.5", {"output_tokens": 5}),), ()) == (named.beside, named.doubts)
    assert usage == completed(usage, request("responses", tools=(BilledTool("image_generation"),)), {})


def test_litellms_cache_is_free():
    """Its proxy sends the key of what its cache answers, and with it the usage of the call that filled the cache."""
    assert Decimal(0) == completed(ReportedUsage(COUNTS), request(), {"x-litellm-cache-key": "a1"}).cost


def test_a_guardrail_that_is_asked_for_is_billed_beside_the_model():
    """Its units are in an answer only where its trace is asked for too."""
    asked = request("converse", "aws", is_guarded=True)
    assert (GUARDED,) == completed(ReportedUsage(COUNTS), asked, {}).doubts
    assert (GUARDED,) == completed(ReportedUsage(COUNTS, doubts=(GUARDED,)), asked, {}).doubts


def test_a_tool_of_novas_whose_uses_the_answer_does_not_count_is_a_doubt():
    """Amazon bills its web search by use, and Converse says nothing of it in the usage."""
    asked = request("converse", "aws", tools=(BilledTool("systemTool"),))
    assert 1 == len(completed(ReportedUsage(COUNTS), asked, {}).doubts)
    assert 0 == len(completed(ReportedUsage(COUNTS), request("converse", "aws"), {}).doubts)


@pytest.mark.parametrize(("lifetimes", "unstated"), [({"1h"}, ()), (set(), (UNSTATED_LIFETIME,))])
def test_the_prompts_marks_hold_for_an_iterations_cache_writes_too(lifetimes, unstated):
    """A compaction's writes are as old as the answer's own."""
    asked = request("messages", model="claude-opus-4-8", cache_lifetimes=frozenset(lifetimes))
    part = {"input_tokens": 90, "cache_write_tokens": 30}
    usage = completed(ReportedUsage(WRITTEN, beside=((None, part),)), asked, {})
    timed = {**part, "cache_write_1h_tokens": 30} if lifetimes else part
    assert (((None, timed),), unstated) == (usage.beside, usage.doubts)


def test_a_stated_cost_has_all_of_it():
    """How long a cache is kept and which tier served are in it already."""
    stated = ReportedUsage(WRITTEN, Decimal("0.002"))
    asked = request(model="anthropic/claude-sonnet-4.5", service_tier="flex")
    assert stated == completed(stated, asked, {})
