import asyncio

import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage, ImageBlock
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import PrivateAttr

from tests.support.bills import billed, counted
from tests.support.llama_index_clients import CLIENTS, MESSAGES, PROMPT, TOOLS, drain, make_llm, no_swallowed_faults
from token_handlers import track_tokens
from token_handlers.llama_index import report_stream_usage
from token_handlers.llama_index.calls import ModelCall
from token_handlers.tracking.recorder import discard


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher."""
    with no_swallowed_faults():
        yield


SYNC = {
    "chat": lambda llm: llm.chat(MESSAGES),
    "complete": lambda llm: llm.complete("What is the weather?"),
    "predict": lambda llm: llm.predict(PROMPT, city="Rome"),
    "chat_with_tools": lambda llm: llm.chat_with_tools(TOOLS, "What is 2 * 3?"),
    "predict_and_call": lambda llm: llm.predict_and_call(TOOLS, "What is 2 * 3?"),
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
    "stream_complete": lambda llm: list(llm.stream_complete("What is the weather?")),
    "stream": lambda llm: list(llm.stream(PROMPT, city="Rome")),
    "stream_chat_with_tools": lambda llm: list(llm.stream_chat_with_tools(TOOLS, "What is 2 * 3?")),
}
ASYNC = {
    "achat": lambda llm: llm.achat(MESSAGES),
    "acomplete": lambda llm: llm.acomplete("What is the weather?"),
    "apredict": lambda llm: llm.apredict(PROMPT, city="Rome"),
    "achat_with_tools": lambda llm: llm.achat_with_tools(TOOLS, "What is 2 * 3?"),
    "astream_chat": lambda llm: drain(llm.astream_chat(MESSAGES)),
    "astream_complete": lambda llm: drain(llm.astream_complete("What is the weather?")),
    "astream": lambda llm: drain(llm.astream(PROMPT, city="Rome")),
    "astream_chat_with_tools": lambda llm: drain(llm.astream_chat_with_tools(TOOLS, "What is 2 * 3?")),
}


def client(ledger, name, modes=None):
    """Return a client that asks for usage when it streams."""
    kind, settings = CLIENTS[name]
    return report_stream_usage(make_llm(ledger, kind, modes=modes, **settings))


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("way", SYNC)
def test_sync_calls_equal_the_bill(ledger, name, way):
    """Whatever method makes the call, and whatever reports the usage, the counter says what was billed, once."""
    with track_tokens() as counter:
        SYNC[way](client(ledger, name, {"cached": 4, "reasoning": 2}))

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("way", ASYNC)
async def test_async_calls_equal_the_bill(ledger, name, way):
    """The async methods as well."""
    with track_tokens() as counter:
        await ASYNC[way](client(ledger, name, {"cached": 4, "reasoning": 2}))

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


async def test_concurrent_calls_equal_the_bill(ledger):
    """Many calls at once, of one LLM, are each counted for themselves."""
    llm = client(ledger, "OpenAI")
    with track_tokens() as counter:
        streams = (drain(llm.astream_chat(MESSAGES)) for _ in range(2))
        await asyncio.gather(*(llm.achat(MESSAGES) for _ in range(5)), *streams)

    assert 7 == billed(ledger)["requests"]
    assert billed(ledger) == counted(counter)


def test_a_stream_without_usage_is_an_estimate(ledger, caplog):
    """What nobody reports is estimated near the bill, flagged, and one warning names the remedy."""
    llm = make_llm(ledger, OpenAILike, model="silent-1", is_chat_model=True)
    tokens = TokenCountingHandler(tokenizer=str.split)
    llm.callback_manager = CallbackManager([tokens])
    with track_tokens() as counter:
        list(llm.stream_chat(MESSAGES))
        list(llm.stream_chat(MESSAGES))

    bill = billed(ledger)
    assert (2, 2) == (counter.successful_requests, counter.estimated_requests)
    assert bill["prompt"] == pytest.approx(counter.prompt_tokens, rel=0.3)
    assert bill["completion"] == pytest.approx(counter.completion_tokens, rel=0.3)
    assert 1 == caplog.text.count("report_stream_usage(llm)")
    assert bill["prompt"] != tokens.prompt_llm_token_count  # and does not say so


def test_tools_are_in_an_estimate(ledger):
    """A stream's estimated prompt has its tools, which TokenCountingHandler leaves out."""
    llm = make_llm(ledger)
    tokens = TokenCountingHandler(tokenizer=str.split)
    llm.callback_manager = CallbackManager([tokens])
    with track_tokens() as counter:
        list(llm.stream_chat_with_tools(TOOLS * 5, "What is 2 * 3?"))

    assert 1 == counter.estimated_requests
    assert counter.prompt_tokens > 100 > 5 * tokens.prompt_llm_token_count


def test_model_provider_and_cost(ledger):
    """A record has the model that answered, the class that asked, a price, and no text."""
    records = []
    with track_tokens(sinks=[records.append]):
        make_llm(ledger).chat(MESSAGES)

    (record,) = records
    assert ("gpt-4o-mini-2024-07-18", "openai_llm", "chat") == (record.model, record.provider, record.operation)
    assert record.started_at <= record.ended_at


def test_a_model_for_one_call(ledger):
    """A model that is named for one call overrides the LLM's own."""
    with track_tokens() as counter:
        make_llm(ledger, modes={"model": "omit"}).chat(MESSAGES, model="gpt-4.1-nano")

    assert ["gpt-4.1-nano"] == list(counter.by_model)


def test_a_local_server_is_not_priced_as_openai(ledger):
    """A model that OpenAI does not have, at a server that is not OpenAI's, has no price."""
    with track_tokens() as counter:
        make_llm(ledger, OpenAILike, model="llama-3-mine", is_chat_model=True).chat(MESSAGES)

    assert (None, 1) == (counter.cost, counter.unpriced_requests)


def test_the_host_decides_the_price(ledger):
    """OpenAI's own ids are priced behind a gateway as well."""
    with track_tokens() as counter:
        make_llm(ledger, modes={"prompt": 1_000_000, "words": 1}).chat(MESSAGES)

    assert counter.total_cost > 0.15


def test_report_stream_usage_is_a_copy(ledger):
    """The LLM that was given stays as it is; the copy has its manager, and what was asked for besides."""
    llm = make_llm(ledger, additional_kwargs={"user": "u", "stream_options": {"x": 1}})
    copy = report_stream_usage(llm)

    assert {"user": "u", "stream_options": {"x": 1}} == llm.additional_kwargs
    assert {"user": "u", "stream_options": {"x": 1, "include_usage": True}} == copy.additional_kwargs
    assert llm.callback_manager is copy.callback_manager


def test_report_stream_usage_leaves_others_alone(ledger):
    """What reports by itself is returned as it is; what is no LLM is a TypeError."""
    responses = make_llm(ledger, OpenAIResponses)

    assert responses is report_stream_usage(responses)
    with pytest.raises(TypeError, match="takes a LlamaIndex LLM, not str"):
        report_stream_usage("gpt-4o")  # type: ignore[type-var]


def opened(prompt, llm, **kwargs):
    """Return a call of an LLM as its start event leaves it."""
    call = ModelCall()
    call.prompt, call.kwargs, call.instance = prompt, kwargs, llm
    discard(call)
    return call


@pytest.mark.parametrize("text", ["", "a", "one more word " * 50, "žluťoučký kůň", "日本語 " * 20, "🦜🔗" * 9])
def test_a_bound_is_no_less_than_the_estimate(text):
    """What a budget reserves while its limit is far is never less than what it would reserve near it."""
    llm = OpenAI(model="gpt-4o-mini", api_key="sk-1")
    messages = [ChatMessage(role=role, content=text) for role in ("system", "user", "assistant")]
    for call in (opened(messages, llm), opened(text, llm)):
        assert call.prompt_bound() >= call.estimate_prompt()


@pytest.mark.parametrize(
    ("message", "kwargs"),
    [
        (ChatMessage(role="user", blocks=[ImageBlock(url="http://127.0.0.1/a.png")]), {}),
        (ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [{"function": {}}]}), {}),
        (ChatMessage(role="user", content="hi"), {"tools": [{"type": "function"}]}),
        (ChatMessage(role="user", content="hi"), {"response_format": {"type": "json_schema", "json_schema": {}}}),
    ],
)
def test_what_is_not_plain_text_has_no_bound(message, kwargs):
    """Images, tool calls, tools and schemas are estimated."""
    assert opened([message], None, **kwargs).prompt_bound() is None


class Limited(OpenAI):
    """An LLM that says its limit in an attribute that pydantic does not know."""

    _generation_config: dict = PrivateAttr(default_factory=lambda: {"max_output_tokens": 31})


class Computed(OpenAI):
    """An LLM that computes its limit."""

    @property
    def max_completion_tokens(self):
        return 37


@pytest.mark.parametrize(
    ("kind", "settings", "kwargs", "expected"),
    [
        (OpenAI, {}, {}, 0),
        (OpenAI, {"max_tokens": 7}, {}, 7),
        (OpenAI, {"max_tokens": 7}, {"max_tokens": 5}, 5),
        (OpenAI, {"additional_kwargs": {"max_completion_tokens": 9}}, {}, 9),
        (Limited, {}, {}, 31),
        (Computed, {}, {}, 37),
    ],
)
def test_the_output_that_a_call_allows(kind, settings, kwargs, expected):
    """The call's own limit goes first, then the LLM's: a field, a private attribute or a property."""
    assert expected == opened("hi", kind(model="gpt-4o-mini", api_key="sk-1", **settings), **kwargs).max_output()
