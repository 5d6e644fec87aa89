from decimal import Decimal
from typing import Any

import pytest
from google.genai import types
from llama_index.core.base.llms.types import CacheControl, CachePoint
from llama_index.core.llms import ChatMessage, TextBlock
from llama_index.llms.google_genai import GoogleGenAI
from llama_index.llms.openai import OpenAI
from pydantic import Field

from tests.support.answer_server import answering, body
from tests.support.llama_index_clients import MESSAGES, Answering, answer, no_swallowed_faults
from tests.support.provider_answers import CHAT, GEMINI
from token_handlers import http, track_tokens
from token_handlers.llama_index.model_names import base_url
from token_handlers.tracking import answers


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher."""
    with no_swallowed_faults():
        yield


class Claude(Answering):
    """A client of Anthropic's, as LlamaIndex's has its fields."""

    name: str = "Anthropic_LLM"
    model: str | None = "claude-opus-4-8"
    tools: list[dict[str, Any]] | None = None
    additional_kwargs: dict[str, Any] = Field(default_factory=dict)


WRITES = {"input_tokens": 100, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 1000, "output_tokens": 20}
PLAIN = {"input_tokens": 1000, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 100}
SPEED = "the speed 'fast' was asked for: which one served it, the stream does not say"


def end_of(usage, reason="end_turn"):
    """Return the last chunks of one of Anthropic's streams, as LlamaIndex passes them on."""
    return answer({"type": "content_block_delta"}), answer(
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}
    )


def recorded(llm, messages=MESSAGES, *, streamed=False):
    """Return the record of one call."""
    records = []
    with track_tokens() as counter:
        counter.on_record(records.append)
        _ = list(llm.stream_chat(messages)) if streamed else llm.chat(messages)
        counter.flush()
    (record,) = records
    return record


def marked(*ttls):
    """Return a prompt with marks of a cache."""
    marks = [CachePoint(cache_control=CacheControl(type="ephemeral", ttl=ttl)) for ttl in ttls]
    return [ChatMessage(role="user", blocks=[TextBlock(text="hi"), *marks])]


@pytest.mark.parametrize(
    ("messages", "cost", "doubts"),
    [
        (marked("1h"), "0.011", ()),
        (marked("5m"), "0.00725", ()),
        ([ChatMessage("hi", additional_kwargs={"cache_control": {"type": "ephemeral", "ttl": "1h"}})], "0.011", ()),
        (marked("5m", "1h"), "0.00725", ("cache writes whose lifetime the answer does not state",)),
        (MESSAGES, "0.00725", ("cache writes whose lifetime the answer does not state",)),
    ],
    ids=["an hour", "five minutes", "a message's mark", "both", "no mark"],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_how_long_a_cache_is_kept(messages, cost, doubts, streamed):
    """Cache writes of Claude's whose lifetime the response leaves out are kept for as long as the prompt says."""
    raw = {"type": "message", "model": "claude-opus-4-8", "usage": WRITES}
    record = recorded(Claude(answers=end_of(WRITES) if streamed else (answer(raw),)), messages, streamed=streamed)

    assert (Decimal(cost), doubts) == (record.cost, record.doubts)


@pytest.mark.parametrize(
    ("settings", "usage", "reason", "cost", "doubts"),
    [
        ({}, PLAIN, "end_turn", "0.0075", ()),
        ({"additional_kwargs": {"speed": "fast"}}, PLAIN, "end_turn", "0.015", (SPEED,)),
        ({"additional_kwargs": {"inference_geo": "us"}}, PLAIN, "end_turn", "0.00825", ()),
        ({}, {"output_tokens": 20, "input_tokens": 100}, "end_turn", "0.001",
         ("cached tokens, which LlamaIndex leaves out of streams",)),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, PLAIN, "end_turn", "0.0075",
         ("web searches, which LlamaIndex leaves out of streams",)),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
         {**PLAIN, "server_tool_use": {"web_search_requests": 2}}, "end_turn", "0.0275", ()),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, PLAIN, "end_turn", "0.0075",
         ("code executions, which LlamaIndex leaves out of streams",)),
        ({}, {**PLAIN, "output_tokens": 0}, "refusal", "0", ()),
    ],
    ids=["plain", "speed", "place", "an older server's", "a search", "counted searches", "code", "a refusal"],
)  # fmt: skip
def test_what_anthropics_streams_leave_out(settings, usage, reason, cost, doubts):
    """LlamaIndex drops a stream's first event: the place is the asked one, and the rest of it makes an estimate."""
    record = recorded(Claude(answers=end_of(usage, reason), **settings), streamed=True)

    assert (Decimal(cost), doubts) == (record.cost, record.doubts)


@pytest.fixture
def _unseen(monkeypatch):
    """Nobody watches the answers of HTTP clients."""
    with monkeypatch.context() as changed:
        changed.setenv("TOKEN_HANDLERS_HTTP", "off")
        http.detach()
        yield
    answers.watch()


@pytest.mark.usefixtures("_unseen")
def test_a_tier_that_was_asked_for():
    """The tier that an LLM asks for prices an answer that states none, and makes the cost an estimate."""
    whole = {name: value for name, value in CHAT.items() if name != "service_tier"}
    with answering(body({**whole, "model": "gpt-5-mini"})) as server:
        flex = OpenAI("gpt-5-mini", api_base=server.url, api_key="none", additional_kwargs={"service_tier": "flex"})
        record = recorded(flex)

    assert ("flex", Decimal("0.0000325")) == (record.service_tier, record.cost)
    assert "the service tier 'flex' was asked for" in record.doubts[0]


@pytest.mark.usefixtures("_unseen")
def test_where_googles_client_asks():
    """Google's client says which server it asks, and so at which location Vertex AI serves."""
    with answering(body(GEMINI)) as server:
        options = types.HttpOptions(
            base_url=server.url, client_args={"verify": False}, async_client_args={"ssl": False}
        )
        settings = {"api_key": "none", "max_tokens": 100, "context_window": 1000}
        llm = GoogleGenAI("gemini-2.5-flash", http_options=options, **settings)
        record = recorded(llm)

    assert "127.0.0.1" == record.host
    assert server.url == (base_url(llm) or "").rstrip("/")
