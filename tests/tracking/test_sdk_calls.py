import asyncio
import functools
import logging
import threading
from base64 import b64encode
from decimal import Decimal
from types import ModuleType
from typing import Any

import anthropic
import botocore.session
import cohere
import groq
import httpx
import ollama
import openai
import pytest
from google import genai
from langchain_openai import ChatOpenAI
from mistralai.client import Mistral
from pydantic import BaseModel

from tests.support.answer_server import Reply, body, events, lines, relaying_app
from tests.support.event_frames import frame
from tests.support.provider_answers import (
    CHAT,
    CHAT_STREAM,
    GEMINI,
    GEMINI_STREAM,
    MESSAGE,
    MESSAGE_STREAM,
    RESPONSE,
    RESPONSE_STREAM,
    chunk,
)
from token_handlers import (
    Budget,
    BudgetExceeded,
    TokenCounter,
    Usage,
    UsageRecord,
    install,
    shared_counter,
    track_tokens,
    uninstall,
    usage_from_payload,
)
from token_handlers.lifecycle import Warnings
from token_handlers.tracking import gates
from token_handlers.tracking.call import open_calls
from token_handlers.tracking.sdk_calls import left_out

MESSAGES = [{"role": "user", "content": "Hi"}]
ASKED = {"model": "gpt-4o-mini", "messages": MESSAGES}
EMBEDDED = {
    "object": "list",
    "model": "text-embedding-3-small",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
    "usage": {"prompt_tokens": 100, "total_tokens": 100},
}
COMPLETION = {**CHAT, "object": "text_completion", "choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}]}
MISTRAL = {**CHAT, "model": "mistral-small-latest"}
COHERE = {
    "id": "c14c80c3",
    "finish_reason": "COMPLETE",
    "message": {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
    "usage": {
        "billed_units": {"input_tokens": 100, "output_tokens": 20},
        "tokens": {"input_tokens": 130, "output_tokens": 20},
    },
}


class Answer(BaseModel):
    """What a chat's answer is parsed into."""

    sea: str


def openai_client(server, **options):
    """Return a client of the loopback server that tries once."""
    return openai.OpenAI(api_key="sk-1", base_url=server.url + "/v1", **{"max_retries": 0, **options})


def gemini_client(server):
    """Return a client of the loopback server."""
    return genai.Client(api_key="key", http_options={"base_url": server.url})


def chat(server):
    """Ask by the openai package."""
    with openai_client(server) as client:
        client.chat.completions.create(**ASKED)


def raw(server):
    """Ask for the answer before it is parsed."""
    with openai_client(server) as client:
        client.chat.completions.with_raw_response.create(**ASKED)


def parse(server):
    """Ask for an answer that fits a class."""
    with openai_client(server) as client:
        client.chat.completions.parse(**ASKED, response_format=Answer)


def chat_stream(server):
    """Read a stream to its end."""
    with openai_client(server) as client:
        list(client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))


def completion(server):
    """Ask for a completion of a text."""
    with openai_client(server) as client:
        client.completions.create(model="gpt-4o-mini", prompt="Hi")


def response(server):
    """Ask the Responses API."""
    with openai_client(server) as client:
        client.responses.create(model="gpt-5-mini", input="Hi")


def response_stream(server):
    """Read a stream of the Responses API to its end."""
    with openai_client(server) as client:
        list(client.responses.create(model="gpt-5-mini", input="Hi", stream=True))


def embed(server):
    """Ask for embeddings."""
    with openai_client(server) as client:
        client.embeddings.create(model="text-embedding-3-small", input="the sea")


def async_chat(server):
    """Ask by the openai package's async client."""

    async def ask():
        async with openai.AsyncOpenAI(api_key="sk-1", base_url=server.url + "/v1", max_retries=0) as client:
            await client.chat.completions.create(**ASKED)

    asyncio.run(ask())


def async_chat_stream(server):
    """Read a stream of the async client to its end."""

    async def ask():
        async with openai.AsyncOpenAI(api_key="sk-1", base_url=server.url + "/v1", max_retries=0) as client:
            options = {"include_usage": True}
            stream = await client.chat.completions.create(**ASKED, stream=True, stream_options=options)
            async for _ in stream:
                pass

    asyncio.run(ask())


def message(server):
    """Ask by the anthropic package."""
    with anthropic.Anthropic(api_key="sk-1", base_url=server.url, max_retries=0) as client:
        client.messages.create(model="claude-opus-4-8", max_tokens=50, messages=MESSAGES)


def message_stream(server):
    """Read a stream by the anthropic package's helper."""
    with (
        anthropic.Anthropic(api_key="sk-1", base_url=server.url, max_retries=0) as client,
        client.messages.stream(model="claude-opus-4-8", max_tokens=50, messages=MESSAGES) as stream,
    ):
        stream.until_done()


def gemini(server):
    """Ask by the google-genai package."""
    with gemini_client(server) as client:
        client.models.generate_content(model="gemini-2.5-flash", contents="Hi")


def gemini_stream(server):
    """Read a stream by the google-genai package."""
    with gemini_client(server) as client:
        list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="Hi"))


def mistral(server):
    """Ask by the mistralai package."""
    with Mistral(api_key="key", server_url=server.url) as client:
        client.chat.complete(model="mistral-small-latest", messages=MESSAGES)


def ask_cohere(server):
    """Ask by the cohere package."""
    with httpx.Client() as own:
        client = cohere.ClientV2(api_key="key", base_url=server.url, httpx_client=own)
        client.chat(model="command-r-08-2024", messages=MESSAGES)


def ask_groq(server, *, stream=False):
    """Ask by the groq package, which states a stream's usage in a field of its own."""
    with groq.Groq(api_key="key", base_url=server.url, max_retries=2) as client:
        answer = client.chat.completions.create(model="llama-3.3-70b-versatile", messages=MESSAGES, stream=stream)
        list(answer)


def ask_ollama(server, *, stream=False):
    """Ask by the ollama package."""
    with ollama.Client(host=server.url) as client:
        list(client.chat(model="llama3", messages=MESSAGES, stream=stream))


def generate(server):
    """Ask the ollama package for a completion."""
    with ollama.Client(host=server.url) as client:
        client.generate(model="llama3", prompt="Hi")


def bare(server):
    """Ask without any SDK."""
    with httpx.Client() as client:
        client.post(server.url + "/v1/chat/completions", json=ASKED)


GROQ_STREAM = [*CHAT_STREAM[:2], {**CHAT_STREAM[2], "x_groq": {"id": "req_1", "usage": CHAT_STREAM[3]["usage"]}}]
SAID = {"model": "llama3", "created_at": "2026-11-29T10:00:00Z", "message": {"role": "assistant", "content": "Hello"}}
ENDED = {**SAID, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
ENDED |= {"prompt_eval_count": 100, "eval_count": 20}
GENERATED = {**ENDED, "response": "Hello"}
PARSED = {**CHAT, "choices": [{**CHAT["choices"][0], "message": {"role": "assistant", "content": '{"sea": "calm"}'}}]}
CALLS: dict[
    str, Any
] = {  # the call, the answer, the prompt's tokens, and the cost, None: unpriced behind an unknown address
    "openai-chat": (chat, body(CHAT), 100, "0.000027"),
    "openai-raw": (raw, body(CHAT), 100, "0.000027"),
    "openai-parse": (parse, body(PARSED), 100, "0.000027"),
    "openai-stream": (chat_stream, events(CHAT_STREAM, done=True), 100, "0.000027"),
    "openai-completions": (completion, body(COMPLETION), 100, "0.000027"),
    "openai-responses": (response, body(RESPONSE), 100, "0.010065"),
    "openai-responses-stream": (response_stream, events(RESPONSE_STREAM, named=True), 100, "0.010065"),
    "openai-async": (async_chat, body(CHAT), 100, "0.000027"),
    "openai-async-stream": (async_chat_stream, events(CHAT_STREAM, done=True), 100, "0.000027"),
    "anthropic": (message, body(MESSAGE), 100, "0.00082"),
    "anthropic-stream": (message_stream, events(MESSAGE_STREAM, named=True), 100, "0.00082"),
    "google": (gemini, body(GEMINI), 100, "0.00008"),
    "google-stream": (gemini_stream, events(GEMINI_STREAM), 100, "0.00008"),
    "mistral": (mistral, body(MISTRAL), 100, "0.000027"),
    "cohere": (ask_cohere, body(COHERE), 130, None),
    "groq": (ask_groq, body(CHAT), 100, "0.000027"),
    "groq-stream": (functools.partial(ask_groq, stream=True), events(GROQ_STREAM, done=True), 100, "0.000027"),
    "ollama": (ask_ollama, body({**ENDED, "message": SAID["message"]}), 100, None),
    "ollama-stream": (functools.partial(ask_ollama, stream=True), lines([{**SAID, "done": False}, ENDED]), 100, None),
    "ollama-generate": (generate, body(GENERATED), 100, None),
    "httpx": (bare, body(CHAT), 100, "0.000027"),
}
EVERY = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(autouse=True)
def _stopped():
    """Stop automatic tracking after each test, in which every call ends."""
    before = set(open_calls)
    yield
    uninstall()
    assert set() == open_calls.keys() - before


@EVERY
def test_sdk_in_a_block(answers, name):
    """A call of an SDK in a block is one exact, priced request, under the block's labels."""
    ask, reply, prompt, cost = CALLS[name]
    answers.answer(reply)
    records = []
    with track_tokens(session="s1", user="u1", tags={"team": "a"}, sinks=[records.append]) as counter:
        ask(answers)

    assert (1, 0, prompt, 20) == (
        counter.successful_requests, counter.estimated_requests, counter.prompt_tokens, counter.completion_tokens,
    )  # fmt: skip
    assert [("s1", "u1", {"team": "a"}, "reported")] == [
        (record.session, record.user, record.tags, record.source) for record in records
    ]
    assert (None if cost is None else Decimal(cost)) == counter.cost
    assert (cost is None) == counter.unpriced_requests


def test_embeddings_in_a_block(answers):
    """Embeddings of an SDK are counted as such."""
    answers.answer(body(EMBEDDED))
    with track_tokens() as counter:
        embed(answers)

    assert (1, 0, 100) == (counter.successful_requests, counter.estimated_requests, counter.embedding_tokens)


EMBEDDED_BY_COHERE = {"id": "e1", "embeddings": [[0.1]], "texts": ["a"], "response_type": "embeddings_floats"}


def cohere_embeddings(billed):
    """Return Cohere's answer to a request for embeddings that bills this."""
    return body({**EMBEDDED_BY_COHERE, "meta": {"api_version": {"version": "1"}, "billed_units": billed}})


def test_requests_of_coheres_threads(answers):
    """cohere's client embeds by threads of its own, in which the block and its budget hold too."""
    answers.answer(cohere_embeddings({"input_tokens": 100}))
    with httpx.Client() as own, track_tokens(user="ada") as counter:
        client = cohere.Client(api_key="key", base_url=answers.url, httpx_client=own)
        client.embed(texts=["a"] * 100, model="embed-english-v3.0", input_type="search_query")
        sent = len(answers.asked)
        with track_tokens(budget=Budget(max_requests=1)):
            client.embed(texts=["a"], model="embed-english-v3.0", input_type="search_query")
            with pytest.raises(BudgetExceeded):
                client.embed(texts=["a"], model="embed-english-v3.0", input_type="search_query")

    assert sent + 1 == len(answers.asked) == counter.successful_requests
    assert {"ada": 100 * (sent + 1)} == {user: total.embedding_tokens for user, total in counter.by_user.items()}


def test_embedded_images_are_flagged(answers):
    """Cohere bills images by their number, which is no number of tokens: the request counts, and says so."""
    answers.answer(cohere_embeddings({"images": 1}))
    records = []
    with httpx.Client() as own, track_tokens(budget=Budget(max_requests=1), sinks=[records.append]) as counter:
        client = cohere.Client(api_key="key", base_url=answers.url, httpx_client=own)
        image = {"images": ["data:image/png;base64,iVBORw0KGgo="], "model": "embed-english-v3.0", "input_type": "image"}
        client.embed(**image)
        with pytest.raises(BudgetExceeded):
            client.embed(**image)

    assert (1, 1, 1, 0) == (
        len(answers.asked), counter.successful_requests, counter.estimated_requests, counter.embedding_tokens,
    )  # fmt: skip
    assert ("1 billed images",) == records[0].doubts


@pytest.mark.parametrize("way", ["agent", "inline agent", "knowledge base"])
def test_bedrocks_agents(answers, way):
    """What an agent's models used is in no answer, and is never nothing."""
    keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "made-up", "region_name": "us-west-2"}
    client = botocore.session.get_session().create_client("bedrock-agent-runtime", endpoint_url=answers.url, **keys)
    model, session = "us.amazon.nova-pro-v1:0", {"sessionId": "s-1", "inputText": "Hi"}
    base = {"knowledgeBaseId": "k-1", "modelArn": f"arn:aws:bedrock:us-west-2::inference-profile/{model}"}
    setting = {"type": "KNOWLEDGE_BASE", "knowledgeBaseConfiguration": base}
    said = frame("chunk", {"bytes": b64encode(b"Hello").decode()})
    answers.answer(Reply([said], headers={"Content-Type": "application/vnd.amazon.eventstream"}))
    with track_tokens() as counter:
        if way == "agent":
            list(client.invoke_agent(agentId="a-1", agentAliasId="b-1", **session)["completion"])
        elif way == "inline agent":
            list(
                client.invoke_inline_agent(foundationModel=model, instruction="Be brief" * 20, **session)["completion"]
            )
        else:
            answers.answer(body({"sessionId": "s-1", "output": {"text": "Hello"}, "citations": []}))
            client.retrieve_and_generate(input={"text": "Hi"}, retrieveAndGenerateConfiguration=setting)
    client.close()

    assert ["a-1" if way == "agent" else model] == list(counter.by_model)
    assert 1 == counter.estimated_requests


def test_bedrocks_reranker(answers):
    """Bedrock states nothing of what reranking is billed by, which is one search for each 100 documents, at least."""
    answers.answer(body({"results": [{"index": 0, "relevanceScore": 0.5}]}))
    keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "made-up", "region_name": "us-east-1"}
    client = botocore.session.get_session().create_client("bedrock-agent-runtime", endpoint_url=answers.url, **keys)
    source = {"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": "the sea"}}}
    model = {"modelArn": "arn:aws:bedrock:us-west-2::foundation-model/cohere.rerank-v3-5:0"}
    asked = {
        "queries": [{"type": "TEXT", "textQuery": {"text": "boats"}}],
        "sources": [source] * 101,
        "rerankingConfiguration": {
            "type": "BEDROCK_RERANKING_MODEL",
            "bedrockRerankingConfiguration": {"modelConfiguration": model, "numberOfResults": 1},
        },
    }
    with track_tokens(budget=Budget(max_requests=1)) as counter:
        client.rerank(**asked)
        with pytest.raises(BudgetExceeded):
            client.rerank(**asked)
    client.close()

    assert (1, 1, 2) == (len(answers.asked), counter.estimated_requests, counter.rerank_searches)
    assert Decimal("0.004") == counter.cost
    assert ["cohere.rerank-v3-5:0"] == list(counter.by_model)


def test_refusals_that_litellm_hides(answers):
    """LiteLLM makes an error of its own of what its clients raise: the budget's comes out, from coroutines too."""
    litellm: Any = ModuleType("litellm")

    class APIError(Exception):
        """LiteLLM's."""

    def completion(server):
        try:
            chat(server)
        except Exception as error:
            raise APIError(str(error)) from error

    async def acompletion(server):
        completion(server)

    litellm.completion, litellm.acompletion = completion, acompletion
    answers.answer(body({"error": {}}, status=500))
    gates._wrap(litellm)
    with track_tokens(budget=Budget(max_tokens=1)):
        with pytest.raises(BudgetExceeded):
            litellm.completion(answers)
        with pytest.raises(BudgetExceeded):
            asyncio.run(litellm.acompletion(answers))
    assert [] == answers.asked
    with track_tokens(), pytest.raises(APIError):
        litellm.completion(answers)
    gates.restore()
    gates.watch()
    assert completion is litellm.completion


def test_added_by_hand(answers):
    """A record of an answer that a counter has counted adds nothing to it, by the answer's id."""
    answers.answer(body(CHAT))
    with track_tokens() as counter, openai_client(answers) as client:
        answer = client.chat.completions.create(**ASKED)
        counter.add(UsageRecord(usage=usage_from_payload(answer), model=answer.model))
        counter.add(UsageRecord(usage=usage_from_payload(answer.model_dump()), model=answer.model))
        counter.add(UsageRecord(usage=Usage(input_tokens=100), request_id=answer.id))
        answers.answer(events(CHAT_STREAM, done=True))
        chunks = list(client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
        counter.add(UsageRecord(usage=usage_from_payload(chunks)))

    assert (2, 200) == (counter.successful_requests, counter.prompt_tokens)
    counter.add(UsageRecord(usage=usage_from_payload({**CHAT, "id": "chatcmpl-2"})))
    assert 3 == counter.successful_requests
    other = TokenCounter()
    other.add(UsageRecord(usage=usage_from_payload(answer)))
    assert 1 == other.successful_requests


def test_added_by_hand_without_an_id(answers, caplog, monkeypatch):
    """A record that may be the same call, by its tokens, is added, and one warning says how it would not be."""
    monkeypatch.setattr("token_handlers.counter.counter._ADDED_AGAIN", Warnings())  # whatever other tests added
    answers.answer(body(CHAT))
    with track_tokens() as counter, openai_client(answers) as client:
        usage = client.chat.completions.create(**ASKED).usage
        counter.add(UsageRecord(usage=Usage(input_tokens=1)))
        assert [] == caplog.messages
        for _ in range(2):
            counter.add(UsageRecord(usage=usage_from_payload(usage)))

    assert 4 == counter.successful_requests
    assert ["100 in and 20 out" in message for message in caplog.messages] == [True]


@EVERY
def test_budget_refuses_before_anything_is_sent(answers, name):
    """The call over the limit is not sent, however often its SDK tries; the one before it was."""
    ask, reply, _, _ = CALLS[name]
    answers.answer(reply)
    budget = Budget(max_requests=1)
    with track_tokens(budget=budget) as counter:
        ask(answers)
        with pytest.raises(BudgetExceeded):
            ask(answers)

    assert (1, 1) == (len(answers.asked), counter.successful_requests)
    assert (1, 0) == (budget.spent().requests, budget.held().requests)


@pytest.mark.parametrize(("limit", "sent"), [("0.005", 0), ("0.015", 1)])
def test_fees_of_declared_tools_are_held(answers, limit, sent):
    """A budget holds what the tools may be billed for that a request declares, before it is sent."""
    answers.answer(body(RESPONSE))
    with track_tokens(budget=Budget(max_cost=limit)), openai_client(answers) as client:
        asked = {"model": "gpt-5-mini", "input": "Hi", "tools": [{"type": "web_search"}], "max_output_tokens": 50}
        for _ in range(sent):
            client.responses.create(**asked)
        with pytest.raises(BudgetExceeded):
            client.responses.create(**asked)

    assert sent == len(answers.asked)


def test_refusal_comes_once_and_above_retries(answers):
    """An SDK that would take a refusal for a lost connection gets it above its retries, as the budget's own error."""
    answers.answer(body(CHAT))
    budget = Budget(max_cost="0.0000001")
    with track_tokens(budget=budget), openai_client(answers, max_retries=3) as client, pytest.raises(BudgetExceeded):
        client.chat.completions.create(**ASKED)

    assert [] == answers.asked


def test_rejected_and_sent_again(answers):
    """Attempts that a provider rejects before it answers are one request under a budget, and what is held is let go."""
    answers.answer(body({"error": {}}, status=500), body(CHAT))
    budget = Budget(max_requests=3)
    with track_tokens(budget=budget) as counter, openai_client(answers, max_retries=1) as client:
        client.chat.completions.create(**ASKED)

    assert (2, 1, 0) == (len(answers.asked), counter.successful_requests, counter.estimated_requests)
    assert (1, 0) == (budget.spent().requests, budget.held().requests)


@pytest.mark.parametrize("budget", [None, Budget(max_requests=9)], ids=["no-budget", "budget"])
def test_sent_and_lost(answers, budget):
    """An attempt that was sent and lost is a flagged request of its own beside the one that was answered."""
    answers.answer(Reply([], drops_at_once=True), body(CHAT))
    with track_tokens(budget=budget) as counter, openai_client(answers, max_retries=1) as client:
        client.chat.completions.create(**ASKED)

    assert (2, 2, 1) == (len(answers.asked), counter.successful_requests, counter.estimated_requests)
    assert 20 == counter.completion_tokens
    assert budget is None or 0 == budget.held().requests


def test_lost_attempts_of_a_frameworks_call(answers):
    """A framework's call whose SDK sent a second time is two requests, and flagged."""
    answers.answer(Reply([], drops_at_once=True), body(CHAT))
    model = ChatOpenAI(model="gpt-4o-mini", api_key="sk-1", base_url=answers.url + "/v1", max_retries=1)
    with track_tokens() as counter:
        model.invoke("Hi")

    assert 2 == len(answers.asked)
    assert (2, 100, 20) == (counter.successful_requests, counter.prompt_tokens, counter.completion_tokens)
    assert counter.estimated_requests > 0


def test_never_twice_under_a_framework(answers):
    """The answer to a framework's call is that call's."""
    answers.answer(body(CHAT))
    records = []
    with track_tokens(sinks=[records.append]) as counter:
        ChatOpenAI(model="gpt-4o-mini", api_key="sk-1", base_url=answers.url + "/v1").invoke("Hi")

    assert (1, 1, 100) == (len(records), counter.successful_requests, counter.prompt_tokens)


def test_left_out(answers, caplog):
    """sdk_calls=False leaves the SDKs' calls out of a block, and says so once."""
    answers.answer(body(CHAT))
    left_out.forget()
    with caplog.at_level(logging.WARNING, "token_handlers"), track_tokens(sdk_calls=False) as counter:
        chat(answers)
        chat(answers)

    assert (2, 0) == (len(answers.asked), counter.successful_requests)
    assert 1 == len([line for line in caplog.messages if "sdk_calls=False" in line])


@pytest.mark.parametrize(("handler_type", "counted"), [("auto", 1), ("langchain", 0), ("llamaindex", 0)])
def test_automatic_tracking(answers, handler_type, counted):
    """install("auto") counts the SDKs' calls outside of blocks, a framework's name alone does not."""
    answers.answer(body(CHAT))
    before = shared_counter().successful_requests
    install(handler_type)
    chat(answers)

    assert counted == shared_counter().successful_requests - before


def test_automatic_budget(answers):
    """install(budget=) refuses the SDKs' calls as well."""
    answers.answer(body(CHAT))
    install(budget=Budget(max_requests=1))
    chat(answers)
    with pytest.raises(BudgetExceeded):
        chat(answers)

    assert 1 == len(answers.asked)


def test_stream_without_usage_is_an_estimate(answers):
    """A stream that leaves the usage out, of any address, is one flagged request."""
    answers.answer(events([chunk("Hel"), chunk("lo"), chunk(finish="stop")], done=True))
    with track_tokens() as counter, openai_client(answers) as client:
        list(client.chat.completions.create(**ASKED, stream=True))

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)


def test_answer_of_zeros_is_an_estimate(answers):
    """An answer whose usage is nothing but zeros does not say what it used."""
    answers.answer(body({**CHAT, "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}))
    with track_tokens() as counter:
        chat(answers)

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert counter.prompt_tokens > 0


def test_stream_that_is_broken_off(answers):
    """A stream that its reader leaves is one flagged request, and holds nothing of a budget."""
    gate = threading.Event()
    reply = events(CHAT_STREAM, size=300, done=True)
    reply.gates = [threading.Event(), gate]
    reply.gates[0].set()
    answers.answer(reply)
    budget = Budget(max_requests=5)
    with track_tokens(budget=budget) as counter, openai_client(answers) as client:
        stream = client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})
        next(iter(stream))
        stream.close()
    gate.set()

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert (1, 0) == (budget.spent().requests, budget.held().requests)


def test_answer_that_the_client_cannot_parse(answers):
    """An answer of 200 that fails in the client is billed by what it says."""
    answers.answer(body({**CHAT, "choices": [{**CHAT["choices"][0], "message": {"content": "no JSON"}}]}))
    with track_tokens() as counter, pytest.raises(ValueError, match="JSON"):
        parse(answers)

    assert (1, 0, 100) == (counter.successful_requests, counter.estimated_requests, counter.prompt_tokens)


def test_errors_before_the_sending_are_free():
    """A client's own TypeError, an address that nobody listens at, and a name that nobody has, cost nothing."""
    with track_tokens(budget=Budget(max_requests=1)) as counter:
        for url in ("http://127.0.0.1:9/v1", "http://no.such.name.invalid/v1"):
            with openai.OpenAI(api_key="sk-1", base_url=url, max_retries=0) as client:
                with pytest.raises(TypeError):
                    client.chat.completions.create(**ASKED, colour="blue")
                with pytest.raises((openai.APIConnectionError, BudgetExceeded)):
                    client.chat.completions.create(**ASKED)

    assert (0, 0, 0) == (counter.successful_requests, counter.estimated_requests, counter.prompt_tokens)


def test_an_application_in_the_process_counts_once(answers):
    """A request to an application in this process, which asks a provider itself, is the provider's call alone."""
    from fastapi.testclient import TestClient

    answers.answer(body(CHAT))
    with track_tokens() as counter, TestClient(relaying_app(answers.url, ASKED)) as client:
        client.post("/v1/chat/completions", json=ASKED)

    assert (1, 100, 20) == (counter.successful_requests, counter.prompt_tokens, counter.completion_tokens)


def test_an_applications_own_server_is_nobodys(answers):
    """A request that looks like a provider's to a server that is none is no call, however it answers."""
    answers.answer(body({"ok": True}))
    with track_tokens() as counter, httpx.Client() as client:
        client.post(answers.url + "/chat", json={"messages": []})

    assert (0, 0) == (counter.successful_requests, counter.failed_requests)
