import asyncio
import contextlib
import copy
import gc
import json
import pickle
import threading

import anthropic
import cohere
import httpx
import httpx2
import openai
import pytest
import requests
from mistralai.client import Mistral

from tests.support.answer_server import Rerouted, answering_http2, body, events, lines
from tests.support.provider_answers import (
    CHAT,
    CHAT_STREAM,
    MESSAGE,
    MESSAGE_STREAM,
    RESPONSE,
    RESPONSE_STREAM,
    USAGE,
    chunk,
)
from token_handlers.errors import raise_faults
from token_handlers.http import exchange, responses

ASKED = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"
RIGHT = [((100, 20), True)]


def openai_client(server, **options):
    """Return a real client of the loopback server."""
    return openai.OpenAI(
        api_key="sk-1", base_url=server.url + "/v1", max_retries=options.pop("max_retries", 0), **options
    )


def anthropic_client(server):
    """Return a real client of the loopback server."""
    return anthropic.Anthropic(api_key="sk-1", base_url=server.url, max_retries=0)


# --- SDKs


def test_openai_chat(watcher, answers):
    """An answer's usage, model, ids and tier are told, with whose request it was."""
    answers.answer(body(CHAT, x_request_id="req_1", openai_organization="org-1", openai_project="proj-1"))
    with openai_client(answers) as client:
        client.chat.completions.create(**ASKED, max_tokens=50)

    [answer] = watcher.answers
    assert RIGHT == watcher.counts
    assert ("chat", "gpt-4o-mini", 50) == (answer.request.api, answer.request.model, answer.request.most_output_tokens)
    assert ("gpt-4o-mini-2024-07-18", "default") == (answer.model, answer.usage.service_tier)
    assert ("req_1", "chatcmpl-1", "org-1", "proj-1") == (
        answer.request_id, answer.response_id, answer.organization, answer.project,
    )  # fmt: skip
    assert (200, False, False, None) == (answer.status, answer.is_lost, answer.streamed, answer.error)


def test_openrouters_id(watcher, answers):
    """OpenRouter's bill knows a call by the answer's id, whatever request id a header has."""
    answers.answer(body({**CHAT, "id": "gen-1"}, x_request_id="req_1"))
    http_client = httpx.Client(transport=Rerouted(answers.url))
    with openai.OpenAI(api_key="sk-1", base_url="https://openrouter.ai/api/v1", http_client=http_client) as client:
        client.chat.completions.create(**ASKED)

    [answer] = watcher.answers
    assert ("openrouter", None, "gen-1") == (answer.request.provider, answer.request_id, answer.response_id)


def test_openai_chat_stream(watcher, answers):
    """A stream's usage is in its last chunk, and its reader stops at [DONE]."""
    answers.answer(events(CHAT_STREAM, done=True))
    with openai_client(answers) as client:
        texts = [
            each.choices[0].delta.content
            for each in client.chat.completions.create(**ASKED, stream=True)
            if each.choices
        ]

    assert ["Hel", "lo", None] == texts
    assert RIGHT == watcher.counts
    assert watcher.answers[0].streamed


async def test_openai_async(watcher, answers):
    """Asynchronous clients are seen as others are."""
    answers.answer(body(CHAT), events(CHAT_STREAM, done=True))
    async with openai.AsyncOpenAI(api_key="sk-1", base_url=answers.url + "/v1") as client:
        await client.chat.completions.create(**ASKED)
        async for _ in await client.chat.completions.create(**ASKED, stream=True):
            pass

    assert RIGHT * 2 == watcher.counts


def test_openai_responses(watcher, answers):
    """Whole and streamed, with the searches among the items."""
    answers.answer(body(RESPONSE), events(RESPONSE_STREAM, named=True))
    with openai_client(answers) as client:
        client.responses.create(model="gpt-5-mini", input="Hi", tools=[{"type": "web_search"}])
        list(client.responses.create(model="gpt-5-mini", input="Hi", stream=True))

    assert RIGHT * 2 == watcher.counts
    assert [1, 1] == [answer.usage.counts["web_searches"] for answer in watcher.answers]
    assert ["web_search"] == [tool.kind for tool in watcher.requests[0].tools]


def test_anthropic(watcher, answers):
    """Anthropic's package is on httpx2; its streams say the prompt first and the output last."""
    answers.answer(body(MESSAGE), events(MESSAGE_STREAM, named=True))
    asked = {"model": "claude-opus-4-8", "max_tokens": 50, "messages": ASKED["messages"]}
    with anthropic_client(answers) as client:
        client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            assert "Hello" == "".join(stream.text_stream)

    assert RIGHT * 2 == watcher.counts
    assert ["msg_1", "msg_1"] == [answer.response_id for answer in watcher.answers]


def test_raw_and_streaming_responses(watcher, answers):
    """The openai package's ways to get at the HTTP response are seen, too."""
    answers.answer(body(CHAT), body(CHAT, size=7), body(CHAT, size=7))
    with openai_client(answers) as client:
        client.chat.completions.with_raw_response.create(**ASKED).parse()
        with client.chat.completions.with_streaming_response.create(**ASKED) as response:
            assert CHAT == json.loads(response.read())
        with client.chat.completions.with_streaming_response.create(**ASKED) as response:
            assert CHAT == json.loads("".join(response.iter_text()))

    assert RIGHT * 3 == watcher.counts


@pytest.mark.parametrize("encoding", [None, "gzip", "br"])
@pytest.mark.parametrize("size", [7, None])
def test_compressed_bodies_and_streams(watcher, answers, encoding, size):
    """The client gets the same bytes, and so do we."""
    answers.answer(
        body(CHAT, size=size, encoding=encoding), events(CHAT_STREAM, done=True, size=size, encoding=encoding)
    )
    with openai_client(answers) as client:
        answer = client.chat.completions.create(**ASKED)
        chunks = list(client.chat.completions.create(**ASKED, stream=True))

    assert ("Hello", 4) == (answer.choices[0].message.content, len(chunks))
    assert RIGHT * 2 == watcher.counts


def test_retries_are_requests_of_their_own(watcher, answers):
    """Two refusals and an answer: one of three is billed."""
    refused = body({"error": {"message": "slow down"}}, status=429, retry_after_ms="1")
    answers.answer(refused, refused, body(CHAT))
    with openai_client(answers, max_retries=2) as client:
        client.chat.completions.create(**ASKED)

    assert [429, 429, 200] == [answer.status for answer in watcher.answers]
    assert [(None, False), (None, False), *RIGHT] == watcher.counts
    assert [False] * 3 == [answer.is_lost for answer in watcher.answers]


def test_request_that_is_sent_again_after_a_time_out_was_lost(watcher, answers):
    """The server answered and billed the first one, too."""
    late = body(CHAT)
    late.holds = threading.Event()
    answers.answer(late, body(CHAT))
    with openai_client(answers, max_retries=1, timeout=httpx.Timeout(10, read=0.2)) as client:
        client.chat.completions.create(**ASKED)
    late.holds.set()

    assert [(True, "ReadTimeout"), (False, None)] == [(answer.is_lost, answer.error) for answer in watcher.answers]
    assert [(None, False), *RIGHT] == watcher.counts


def test_ollama_streams_lines(watcher, answers):
    """The last line has the counts, and embeddings come in one."""
    stream = [
        {"model": "llama3.2", "message": {"role": "assistant", "content": "Hello"}, "done": False},
        {"model": "llama3.2", "done": True, "done_reason": "stop", "prompt_eval_count": 100, "eval_count": 20},
    ]
    embedded = {"model": "all-minilm", "embeddings": [[0.5]], "prompt_eval_count": 7}
    answers.answer(lines(stream, size=7), lines(stream[:1]), body(stream[1]), body(embedded))
    with httpx.Client(base_url=answers.url) as client:
        for _ in range(2):
            with client.stream("POST", "/api/chat", json=ASKED) as response:
                list(response.iter_lines())
        client.post("/api/chat", json={**ASKED, "stream": False})
        client.post("/api/embed", json={"model": "all-minilm", "input": "Hi"})

    assert [*RIGHT, (None, False), *RIGHT, ((7, None), True)] == watcher.counts


def test_cohere(watcher, answers):
    """What was billed stands beside what was read and written, in streams too."""
    usage = {
        "billed_units": {"input_tokens": 90, "output_tokens": 20},
        "tokens": {"input_tokens": 100, "output_tokens": 20},
    }
    message = {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}
    stream = [
        {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}},
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hello"}}}},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}},
    ]
    answers.answer(
        body({"id": "c1", "finish_reason": "COMPLETE", "message": message, "usage": usage}), events(stream, named=True)
    )
    with httpx.Client() as http_client:
        client = cohere.ClientV2("made-up", base_url=answers.url, httpx_client=http_client)
        client.chat(model="command-a", messages=ASKED["messages"])
        list(client.chat_stream(model="command-a", messages=ASKED["messages"]))

    assert RIGHT * 2 == watcher.counts
    assert [90, 90] == [answer.usage.billed["input_tokens"] for answer in watcher.answers]


def test_mistral(watcher, answers):
    """Its package is on httpx, and its streams end with a usage."""
    answers.answer(body(CHAT), events([chunk("Hel"), chunk("lo", finish="stop", usage=USAGE)], done=True))
    with Mistral(api_key="made-up", server_url=answers.url) as client:
        client.chat.complete(**ASKED)
        with client.chat.stream(**ASKED) as stream:
            list(stream)

    assert RIGHT * 2 == watcher.counts


# --- httpx


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_redirect_is_one_request(watcher, answers, library):
    """A 307 repeats the request inside the client."""
    answers.answer(body({}, status=307, location=PATH), body(CHAT))
    with library.Client(follow_redirects=True) as client:
        client.post(answers.url + "/moved" + PATH, json=ASKED)

    assert 2 == len(answers.asked)
    assert RIGHT == watcher.counts


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_streams_read_in_every_way(watcher, answers, library):
    """By bytes, raw bytes, text, lines, at once, and with an event loop."""
    answers.answer(events(CHAT_STREAM, size=7, encoding="gzip"))

    async def read_async(client):
        async with client, client.stream("POST", answers.url + PATH, json=ASKED) as response:
            async for _ in response.aiter_lines():
                pass

    with library.Client() as client:
        for way in ("iter_bytes", "iter_raw", "iter_text", "iter_lines", "read"):
            with client.stream("POST", answers.url + PATH, json=ASKED) as response:
                list(getattr(response, way)())
    asyncio.run(read_async(library.AsyncClient()))

    assert RIGHT * 6 == watcher.counts


@pytest.mark.parametrize("headers", [[], [("X-Request-ID", "req_1"), ("Content-Type", "application/json")]])
def test_headers_of_any_case_and_none(watcher, headers):
    """A header is found however its name is written; an answer without any is read all the same."""

    def answer(_):
        response = httpx.Response(200, content=json.dumps(CHAT).encode())
        response.headers = httpx.Headers(headers)
        return response

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        client.post("http://mock" + PATH, json=ASKED)

    assert RIGHT == watcher.counts
    assert [dict(headers).get("X-Request-ID")] == [answer.request_id for answer in watcher.answers]


def test_mock_and_asgi_transports_are_seen(watcher):
    """They are below the client; a mock's answer is there before anybody reads it."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(CHAT).encode()})

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as client:
            await client.post("http://app" + PATH, json=ASKED)

    with httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, json=CHAT))) as client:
        client.post("http://mock" + PATH, json=ASKED)
        with client.stream("POST", "http://mock" + PATH, json=ASKED) as response:
            response.read()
    asyncio.run(ask())

    assert RIGHT * 3 == watcher.counts


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_http2(watcher, library):
    """The body comes in frames of one connection, and is seen as any other."""
    with answering_http2(json.dumps(CHAT).encode()) as url, library.Client(http1=False, http2=True) as client:
        answer = client.post(url + PATH, json=ASKED)
        with client.stream("POST", url + PATH, json=ASKED) as streamed:
            streamed.read()

    assert ("HTTP/2", CHAT) == (answer.http_version, streamed.json())
    assert RIGHT * 2 == watcher.counts


def test_dropped_connection_is_lost(watcher, answers):
    """Nothing of the answer came, although the request was sent."""
    reply = body(CHAT)
    reply.drops_at_once = True
    answers.answer(reply)
    with httpx.Client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.post(answers.url + PATH, json=ASKED)

    assert [(True, None, "RemoteProtocolError")] == [
        (answer.is_lost, answer.status, answer.error) for answer in watcher.answers
    ]


def test_body_that_is_cut_off_is_lost(watcher, answers):
    """The answer began, so it was billed."""
    reply = body(CHAT, size=20)
    reply.pieces, reply.drops = reply.pieces[:3], True
    answers.answer(reply)
    with httpx.Client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.post(answers.url + PATH, json=ASKED)

    assert [(None, False)] == watcher.counts
    assert watcher.answers[0].is_lost


def test_nothing_listens(watcher):
    """A request that never reached a server is not lost."""
    with httpx.Client() as client, pytest.raises(httpx.ConnectError):
        client.post("http://127.0.0.1:9" + PATH, json=ASKED)
    with requests.Session() as session, pytest.raises(requests.ConnectionError):
        session.post("http://127.0.0.1:9" + PATH, json=ASKED)

    assert [False, False] == [answer.is_lost for answer in watcher.answers]


def test_other_requests_are_nobodys(watcher, answers):
    """A GET of a stored answer, another path, another body: none of these is billed by tokens."""
    answers.answer(body(CHAT))
    with httpx.Client() as client:
        client.get(answers.url + "/v1/responses/resp_1")
        client.post(answers.url + "/v1/orders", json=ASKED)
        client.post(answers.url + "/v1/embeddings", json={"usage": 1})
        client.post(answers.url + PATH, content=b"no json")
        client.post(answers.url + PATH, content=iter([b"{}"]))
        client.post(answers.url + "/v1/messages/count_tokens", json=ASKED)

    assert [] == watcher.requests


def test_nothing_is_looked_at_while_nothing_is_wanted(watcher, answers):
    """The observer is asked, and that is all."""
    watcher.is_wanting = False
    answers.answer(body(CHAT))
    with httpx.Client() as client:
        client.post(answers.url + PATH, json=ASKED)

    assert ([], []) == (watcher.requests, watcher.answers)


def test_stream_closed_or_dropped_after_a_piece(watcher, answers):
    """It is told of once, and is not final."""
    answers.answer(events(CHAT_STREAM, size=50))
    with httpx.Client() as client:
        with client.stream("POST", answers.url + PATH, json=ASKED) as response:
            next(response.iter_bytes())
        response = client.send(client.build_request("POST", answers.url + PATH, json=ASKED), stream=True)
        next(response.iter_bytes())
        del response
        gc.collect()

    assert [(None, False)] * 2 == watcher.counts


def test_body_that_nobody_reads_is_lost(watcher, answers):
    """It was billed, and no number of it was seen."""
    answers.answer(body(CHAT))
    with httpx.Client() as client, client.stream("POST", answers.url + PATH, json=ASKED):
        pass

    assert [(True, 200)] == [(answer.is_lost, answer.status) for answer in watcher.answers]


async def test_async_stream_that_is_cancelled(watcher, answers):
    """The task ends as it would without us, and the answer is not final."""
    reply = events(CHAT_STREAM, size=50)
    reply.gates = [threading.Event() for _ in reply.pieces]
    reply.gates[0].set()
    answers.answer(reply)
    first = asyncio.Event()

    async def read():
        async with httpx.AsyncClient() as client, client.stream("POST", answers.url + PATH, json=ASKED) as response:
            async for _ in response.aiter_bytes():
                first.set()

    task = asyncio.create_task(read())
    await first.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    for gate in reply.gates:
        gate.set()

    assert task.cancelled()
    assert [(None, False)] == watcher.counts


def test_nothing_is_read_ahead(watcher, answers):
    """A piece is with its reader before the server sends the next one."""
    reply = events(CHAT_STREAM)
    data = b"".join(reply.pieces)
    reply.pieces = [each + b"\n\n" for each in data.split(b"\n\n")[:-1]]
    reply.gates = [threading.Event() for _ in reply.pieces]
    answers.answer(reply)
    read = []
    reply.gates[0].set()
    with httpx.Client() as client, client.stream("POST", answers.url + PATH, json=ASKED) as response:
        for piece in response.iter_bytes():
            read.append(piece)
            if len(read) < len(reply.gates):
                reply.gates[len(read)].set()

    assert reply.pieces == read
    assert RIGHT == watcher.counts


def test_responses_can_be_pickled_and_clients_copied(watcher, answers):
    """Nothing of ours is in what users copy and store."""
    answers.answer(body(CHAT))
    with openai_client(answers) as client, client.copy(timeout=9) as twin:
        twin.chat.completions.create(**ASKED)
    with requests.Session() as session:
        session.post(answers.url + PATH, json=ASKED)
        again = copy.deepcopy(session)
        streamed = again.post(answers.url + PATH, json=ASKED, stream=True)
        stored = pickle.loads(pickle.dumps(streamed))
        pickle.loads(pickle.dumps(again)).close()
        again.close()
    with httpx.Client() as plain:
        kept = pickle.loads(pickle.dumps(plain.post(answers.url + PATH, json=ASKED)))

    assert [CHAT, CHAT] == [stored.json(), kept.json()]
    assert RIGHT * 4 == watcher.counts


def test_fault_of_ours_does_not_reach_the_client(watcher, answers, monkeypatch, caplog):
    """It is logged once, and the answer has no usage."""
    answers.answer(body(CHAT), events(CHAT_STREAM, done=True))

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(exchange, "read_body", fail)
    for body_class in ("Document", "Lines"):
        monkeypatch.setattr(responses, body_class, fail)
    raise_faults(False)
    with contextlib.closing(openai_client(answers)) as client:
        answer = client.chat.completions.create(**ASKED)
        chunks = list(client.chat.completions.create(**ASKED, stream=True))
    raise_faults(True)

    assert ("Hello", 4) == (answer.choices[0].message.content, len(chunks))
    assert [(None, False)] * 2 == watcher.counts
    assert 1 == len([record for record in caplog.records if "MemoryError" in record.getMessage()])


@pytest.mark.parametrize("library", [httpx, httpx2, requests], ids=lambda library: library.__name__)
def test_headers_are_known_by_any_case(watcher, answers, library):
    """An answer's headers are read in whatever case a server sends them."""
    answers.answer(body(CHAT, X_Request_ID="r1", OpenAI_Organization="o1", Server_Timing="a"))
    library.post(answers.url + PATH, json=ASKED)

    assert [("r1", "o1", None)] == [(each.request_id, each.organization, each.project) for each in watcher.answers]


def test_error_whose_body_a_hook_has_taken(watcher, answers):
    """An error whose body a hook of the client has read piece by piece is recorded without reading it again."""
    answers.answer(body({"error": {"message": "no"}}, status=500))
    taken = []
    with (
        httpx.Client(event_hooks={"response": [lambda response: taken.extend(response.iter_raw())]}) as client,
        client.stream("POST", answers.url + PATH, json=ASKED),
    ):
        pass

    assert [(500, None, False)] == [(answer.status, answer.usage, answer.is_lost) for answer in watcher.answers]
    assert b"no" in b"".join(taken)


# --- clients on clients


async def test_client_that_sends_by_another_is_seen_once(watcher, answers):
    """The openai package may send by httpx, and that by aiohttp."""
    answers.answer(body(CHAT), events(CHAT_STREAM, done=True))
    async with openai.AsyncOpenAI(
        api_key="sk-1", base_url=answers.url + "/v1", http_client=openai.DefaultAioHttpClient()
    ) as client:
        await client.chat.completions.create(**ASKED)
        async for _ in await client.chat.completions.create(**ASKED, stream=True):
            pass

    assert RIGHT * 2 == watcher.counts


async def test_requests_at_once_are_told_apart(watcher, answers):
    """Each answer comes with its own request, whichever ends first."""
    answers.answer(body(CHAT))
    models = [f"model-{number}" for number in range(20)]
    async with openai.AsyncOpenAI(api_key="sk-1", base_url=answers.url + "/v1", max_retries=0) as client:
        await asyncio.gather(*(client.chat.completions.create(**{**ASKED, "model": model}) for model in models))

    assert sorted(models) == sorted(answer.request.model for answer in watcher.answers)
    assert RIGHT * 20 == watcher.counts


# --- requests


def test_requests_in_every_way(watcher, answers):
    """At once, by pieces, by lines, and from a session's redirects."""
    answers.answer(events(CHAT_STREAM, size=7, encoding="gzip"))
    with requests.Session() as session:
        assert b"chatcmpl-1" in session.post(answers.url + PATH, json=ASKED).content
        for way in (
            lambda response: list(response.iter_content(10)),
            lambda response: list(response.iter_lines()),
            lambda response: response.text,
        ):
            way(session.post(answers.url + PATH, json=ASKED, stream=True))
        answers.answer(body({}, status=307, location=PATH), body(CHAT))
        session.post(answers.url + "/moved" + PATH, json=ASKED)

    assert RIGHT * 5 == watcher.counts


def test_requests_raw_body_is_not_seen(watcher, answers):
    """What is read past the response is lost, and so flagged."""
    answers.answer(body(CHAT))
    with requests.Session() as session:
        response = session.post(answers.url + PATH, json=ASKED, stream=True)
        assert CHAT == json.loads(response.raw.read(decode_content=True))
        response.close()
        session.post(answers.url + PATH, json=ASKED, stream=True)
        gc.collect()

    assert [(None, True), (None, True)] == [(answer.usage, answer.is_lost) for answer in watcher.answers]
