"""Calls without a seen HTTP answer: the request's parameters complete the event, or make it an estimate."""

from decimal import Decimal
from uuid import uuid4

import pytest
from langchain_core.messages import HumanMessage

from tests.langchain.test_providers import Shaped, Streaming, answer
from token_handlers import track_tokens
from token_handlers.langchain.asked import with_asked
from token_handlers.langchain.calls import Run
from token_handlers.payloads import ReportedUsage
from token_handlers.pricing import price_call
from token_handlers.tracking.call import open_calls, process_context

SAID = {"input_tokens": 1000, "output_tokens": 100}
WRITTEN = {**SAID, "input_token_details": {"cache_creation": 1000}}
OPUS, GEMINI, SOL = (
    {"model_name": "claude-opus-4-8", "model_provider": "anthropic"},
    {"model_name": "gemini-2.5-flash", "model_provider": "google_genai"},
    {"model_name": "gpt-5.6-sol", "model_provider": "openai"},
)
MARKED = [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
SOUND = [{"type": "media", "mime_type": "audio/mp3", "data": "aGk="}]
COMPACT = {"context_management": {"edits": [{"type": "compact_20260112"}]}}
CLAUDE = {"model_name": "us.anthropic.claude-sonnet-4-6-v1:0"}
GUARDED = {"guardrail_config": {"guardrailIdentifier": "g-1", "guardrailVersion": "1"}}
OTHER = {"fallbacks": [{"model": "claude-opus-4-8"}]}


def spent(kind, provider, metadata, asked, *, usage=None, prompt="hello"):
    """Return the cost of a call that asks for this, and whether it is an estimate."""
    model = kind(provider=provider, message=answer(usage or SAID, **metadata)).bind(**asked)
    with track_tokens() as counter:
        list(model.stream([HumanMessage(prompt)])) if kind is Streaming else model.invoke([HumanMessage(prompt)])
    return counter.cost, counter.estimated_requests


@pytest.mark.parametrize(
    ("kind", "provider", "metadata", "asked", "usd", "estimated"),
    [
        (Streaming, "anthropic", OPUS, {}, "0.0075", 0),
        (Streaming, "anthropic", OPUS, {"inference_geo": "us"}, "0.00825", 0),
        (Streaming, "anthropic", OPUS, {"speed": "fast"}, "0.015", 1),
        (Streaming, "anthropic", OPUS, {"model_kwargs": {"speed": "fast"}}, "0.015", 1),
        (Streaming, "anthropic", OPUS, COMPACT, "0.0075", 1),
        (Streaming, "anthropic", OPUS, OTHER, "0.0075", 1),
        (Shaped, "anthropic", OPUS, COMPACT, "0.0075", 0),
        (Shaped, "openai", {"model_name": "gpt-5"}, {"service_tier": "flex"}, "0.001125", 1),
        (Shaped, "openai", {"model_name": "gpt-5", "service_tier": "default"}, {"service_tier": "flex"}, "0.00225", 0),
        (Shaped, "openai", {"model_name": "gpt-5"}, {"tools": [{"type": "shell"}]}, "0.00225", 1),
        (Shaped, "openai", {"model_name": "gpt-5"}, {"tools": [{"type": "function"}]}, "0.00225", 0),
        (Streaming, "litellm", {"model_name": "openai/gpt-5"}, {}, "0.00225", 1),
        (Shaped, "amazon_bedrock", CLAUDE, GUARDED, "0.00495", 1),
        (Shaped, "amazon_bedrock", CLAUDE, {"guardrails": {"guardrailIdentifier": None}}, "0.00495", 0),
        (Shaped, "amazon_bedrock", CLAUDE, {}, "0.00495", 0),
        (
            Shaped,
            "google_genai",
            GEMINI,
            {"additional_headers": {"X-Vertex-AI-LLM-Request-Type": "shared"}},
            "0.00055",
            1,
        ),
    ],
)
def test_what_was_asked_for(kind, provider, metadata, asked, usd, estimated):
    """A place is where it was served; a tier and a speed need not be what served, and what LangChain drops is lost."""
    assert (Decimal(usd), estimated) == spent(kind, provider, metadata, asked)


SEARCHING = {"tools": [{"type": "builtin_function", "function": {"name": "$web_search"}}]}
MOONSHOT, GATEWAY = "https://api.moonshot.ai/v1", "http://gateway.example/v1"


@pytest.mark.parametrize(
    ("address", "asked", "prompt", "streamed", "lost"),
    [
        (MOONSHOT, {}, "hello", True, ["cached tokens"]),
        (MOONSHOT, {}, "hello", False, []),
        (MOONSHOT, SEARCHING, "hello", False, ["searches of Moonshot's"]),
        ("https://api.deepseek.com/v1", {}, "hello", True, ["cached tokens"]),
        ("https://api.together.xyz/v1", {}, "hello", True, ["cached tokens"]),
        ("https://api.x.ai/v1", {}, "hello", True, ["xAI's own cost"]),
        ("https://api.x.ai/v1", {}, "hello", False, []),
        (GATEWAY, {}, MARKED, True, ["cache writes"]),
        (GATEWAY, {}, MARKED, False, []),
        (GATEWAY, {}, "hello", True, []),
    ],
)
def test_what_openais_client_leaves_out_of_others_answers(address, asked, prompt, streamed, lost):
    """What OpenAI does not have: others' cached tokens, searches and costs, and Claude's cache writes at a gateway."""
    run = described("openai", {"openai_api_base": address}, prompt, asked)
    run.chunk = object() if streamed else None

    assert lost == [doubt.split(",")[0] for doubt in with_asked(run, ReportedUsage(SAID)).doubts]


@pytest.mark.parametrize(("region", "estimated"), [("us-east-1", 0), ("eu-west-2", 1)])
def test_bedrocks_region_is_the_clients(region, estimated):
    """Its rates are not the same everywhere, and the event does not say where it was served."""
    made = described("amazon_bedrock", {"region_name": region})
    assert {"region": region} == made.served
    counted = price_call(SAID, "meta.llama3-70b-instruct-v1:0", "amazon_bedrock", context=made.served)
    assert estimated == len(counted.doubts)


@pytest.mark.parametrize(("name", "served"), [("our-eu", {"deployment": "our-eu"}), ("gpt-5-mini", {})])
def test_azures_deployment_is_the_clients(name, served):
    """A user's prices are those of a deployment, which the model's name hides where both are given."""
    assert served == described("azure", {"model_name": "gpt-5-mini", "deployment_name": name}).served


@pytest.mark.parametrize(("made", "doubts"), [({"location": "global", "vertexai": True}, 1), ({"vertexai": False}, 0)])
def test_vertex_ais_traffic_is_an_estimate(made, doubts):
    """Some kinds of traffic have rates of their own, and only the answer names the kind; the Gemini API has none."""
    assert doubts == len(with_asked(described("google_genai", made), ReportedUsage(SAID)).doubts)


def described(provider, made, prompt="hello", asked=None):
    """Return a run of a client that was made so, as it is when it ends."""
    run = Run(process_context, uuid4(), [[HumanMessage(prompt)]], {"kwargs": made}, invocation=asked or {})
    run.metadata = {"ls_provider": provider}
    run.describe()
    open_calls.pop(run)
    return run


def test_the_marks_of_the_prompt_say_how_long_the_cache_is_kept():
    """LangChain leaves the lifetime out of Anthropic's streams, and servers like Anthropic's out of their answers."""
    raw = {"input_tokens": 0, "output_tokens": 100, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 1000}
    for kind, metadata in ((Streaming, OPUS), (Shaped, OPUS | {"usage": raw})):
        assert (Decimal("0.0125"), 0) == spent(kind, "anthropic", metadata, {}, usage=WRITTEN, prompt=MARKED)
        assert 1 == spent(kind, "anthropic", metadata, {}, usage=WRITTEN)[1]


def test_a_cache_that_is_kept_for_long_is_an_estimate():
    """OpenAI's writes for 24 hours have another rate than its page says of 30 minutes."""
    assert 1 == spent(Shaped, "openai", SOL, {"prompt_cache_retention": "24h"}, usage=WRITTEN)[1]
    assert 0 == spent(Shaped, "openai", SOL, {}, usage=WRITTEN)[1]


def test_sound_in_a_prompt_of_geminis_is_an_estimate():
    """LangChain's usage has it among the text, which costs a third."""
    assert 1 == spent(Shaped, "google_genai", GEMINI, {}, prompt=SOUND)[1]
    assert 0 == spent(Shaped, "google_genai", GEMINI, {})[1]
