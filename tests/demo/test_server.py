import asyncio
import gc
import http.client
import json
import math
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import anthropic
import httpx
import openai
import pytest

from token_handlers.demo.server.billing import Bill
from token_handlers.demo.server.server import LedgerServer
from token_handlers.demo.server.wire import Line

HI: Any = [{"role": "user", "content": "hi there"}]
HI_TOKENS = 8  # two words, 3 for the message, 3 for the prompt
ANSWER = "this answer is made of plain words so that counting is easy"
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture(scope="module")
def transport():
    """One HTTP client for all openai clients: each of its own would spend 30 ms on TLS that nobody uses."""
    with httpx.Client() as one:
        yield one


@pytest.fixture
def client(ledger, transport):
    """Make openai clients under modes."""

    def make(*, max_retries=0, **modes):
        url = ledger.url(**modes)
        return openai.OpenAI(base_url=url, api_key="none", max_retries=max_retries, http_client=transport)

    return make


@pytest.fixture
def ask(client):
    """Ask for a chat answer under modes; everything that is no mode goes to the client as ``body``."""

    def call(body=None, **modes):
        return client(**modes).chat.completions.create(**{"model": "gpt-4o-mini", "messages": HI, **(body or {})})

    return call


def post(url, path, body):
    """One request without any client's help: status and answer."""
    host, _, base = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host)
    connection.request("POST", f"/{base}{path}", body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content)


def stated(stream):
    """The usage that each chunk of a stream states."""
    usages = (chunk.usage for chunk in stream)
    return [usage and (usage.prompt_tokens, usage.completion_tokens) for usage in usages]


def test_answer_states_what_the_ledger_says(ask, ledger):
    """An answer's usage is the ledger's entry: words and punctuation, 3 for each message and 3 for the prompt."""
    answer = ask()

    (entry,) = ledger.entries()
    assert ANSWER == answer.choices[0].message.content
    assert (HI_TOKENS, 12) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert (HI_TOKENS, 12) == (entry.prompt_tokens, entry.completion_tokens)
    assert ("chat/completions", "gpt-4o-mini", "gpt-4o-mini-2024-07-18") == (entry.path, entry.model, entry.resolved)
    assert (True, True, 12, 200) == (entry.complete, entry.usage_sent, entry.sent, entry.status)
    assert Bill(requests=1, prompt_tokens=HI_TOKENS, completion_tokens=12) == ledger.total()


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ("asked", [None, None, None, None]),
        ("never", [None, None, None, None]),
        ("always", [None, None, None, None, (8, 2)]),
        ("last", [None, None, None, (8, 2)]),
        ("every", [(8, 0), (8, 1), (8, 2), (8, 2), (8, 2)]),
        ("doubled", [None, None, None, None, (8, 2), (8, 2)]),
        ("deltas", [(8, 0), (0, 1), (0, 1), (0, 0)]),
        ("negative", [(12, 0), (0, 1), (0, 1), (-4, 0)]),
    ],
)
def test_streams_state_usage_as_the_mode_says(ask, ledger, usage, expected):
    """Role, a chunk for each token, the end's reason, and usage where the mode puts it; the bill is always the same."""
    assert expected == stated(ask({"stream": True}, usage=usage, words=2))

    (entry,) = ledger.entries()
    assert Bill(requests=1, prompt_tokens=HI_TOKENS, completion_tokens=2) == ledger.total()
    assert (True, any(expected)) == (entry.complete, entry.usage_sent)


@pytest.mark.parametrize(("usage", "expected"), [("asked", [(8, 2)]), ("never", [])])
def test_streams_state_usage_when_asked(ask, usage, expected):
    """With include_usage the last chunk has the usage, unless the mode forbids it."""
    stream = ask({"stream": True, "stream_options": {"include_usage": True}}, usage=usage, words=2)

    assert expected == [usage for usage in stated(stream) if usage]


def test_cumulative_usage_starts_anew_for_each_choice(ask, ledger):
    """With several choices, one follows the other; the last chunk has the sum."""
    expected = [(8, 0), (8, 1), (8, 1), (8, 0), (8, 1), (8, 1), (8, 2)]

    assert expected == stated(ask({"stream": True, "n": 2}, usage="every", words=1))
    assert 2 == ledger.total().completion_tokens


def test_never_states_no_usage(client, ledger):
    """Every endpoint's answer may lack its usage; it is billed all the same."""
    silent = client(usage="never")

    assert silent.chat.completions.create(model="m", messages=HI).usage is None
    assert silent.completions.create(model="m", prompt="hi").usage is None
    assert silent.responses.create(model="m", input="hi").usage is None
    assert silent.embeddings.create(model="m", input="hi").usage is None
    assert [False] * 4 == [entry.usage_sent for entry in ledger.entries()]
    assert 3 == sum(entry.completion_tokens == 12 for entry in ledger.entries())


def test_details_are_inside_their_wholes(ask, ledger):
    """Cached, written and audio tokens are part of the prompt, reasoning is part of the output."""
    usage = ask(cached=4, written=2, reasoning=3, audio=5, cost="0.25", tier="flex").usage

    (entry,) = ledger.entries()
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    assert (HI_TOKENS, 15) == (usage.prompt_tokens, usage.completion_tokens)
    assert (4, 2, 5) == (prompt.cached_tokens, prompt.cache_write_tokens, prompt.audio_tokens)
    assert (3, 5) == (completion.reasoning_tokens, completion.audio_tokens)
    assert (4, 2, 3) == (entry.cached_tokens, entry.cache_write_tokens, entry.reasoning_tokens)
    assert (0.25, Decimal("0.25"), "flex") == (usage.cost, entry.cost, entry.tier)


def test_parts_never_exceed_the_prompt(ask, ledger):
    """A mode that states more cached tokens than the prompt has gets them all; the prompt's size can be stated too."""
    ask(cached=100, written=100)
    ask(prompt=5000, cached=100, written=100)

    assert [(8, 8, 0), (5000, 100, 100)] == [
        (entry.prompt_tokens, entry.cached_tokens, entry.cache_write_tokens) for entry in ledger.entries()
    ]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("dated", "gpt-4o-mini-2024-07-18"), ("echo", "gpt-4o-mini"), ("acme/big,v=2", "acme/big,v=2"), ("omit", None)],
)
def test_answers_name_the_model_that_the_mode_says(ask, ledger, mode, expected):
    """The name in answers and chunks: with its date as OpenAI does, echoed, another one, or none at all."""
    named = [ask(model=mode), *ask({"stream": True}, model=mode, words=1)]

    assert {expected} == {getattr(one, "model", None) for one in named}
    assert {expected} == {entry.resolved for entry in ledger.entries()}


def test_requested_tier_is_served(ask):
    """A requested service tier is served, ``auto`` is the default one."""
    assert ["priority", "default"] == [ask({"service_tier": tier}).service_tier for tier in ("priority", "auto")]


def test_max_tokens_cuts_the_text(ask, ledger):
    """A limit ends the text early, says so, and only what was generated is billed."""
    answer = ask({"max_completion_tokens": 3})

    assert ("this answer is", "length") == (answer.choices[0].message.content, answer.choices[0].finish_reason)
    assert 3 == ledger.total().completion_tokens


def test_legacy_completions_bill_best_of_and_every_prompt(client, ledger):
    """Two prompts with n=2 of best_of=3 return four choices and bill six."""
    answer = client().completions.create(model="instruct", prompt=["hi there", "you"], n=2, best_of=3)

    assert ([0, 1, 2, 3], 72) == ([choice.index for choice in answer.choices], answer.usage.completion_tokens)
    assert Bill(requests=1, prompt_tokens=3, completion_tokens=72) == ledger.total()


def test_legacy_completions_stream(client, ledger):
    """A legacy stream joins to the same text; token ids count one each; best_of cannot be streamed."""
    make = client().completions.create
    chunks = list(make(model="instruct", prompt=[1, 2, 3], stream=True, stream_options={"include_usage": True}))

    assert ANSWER == "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert (3, 12) == (chunks[-1].usage.prompt_tokens, ledger.total().completion_tokens)
    with pytest.raises(openai.BadRequestError, match="best_of"):
        make(model="instruct", prompt="hi", best_of=2, stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_responses(client, ledger, stream):
    """The Responses API states its own usage vocabulary, in a stream with its completed event."""
    modes = {"cached": 2, "reasoning": 4}
    answer = client(**modes).responses.create(model="gpt-4o", instructions="be nice", input="hi there", stream=stream)
    if stream:
        events = list(answer)
        assert list(range(len(events))) == [event.sequence_number for event in events]
        answer = events[-1].response

    assert (ANSWER, "completed", "gpt-4o-2024-08-06") == (answer.output_text, answer.status, answer.model)
    assert (13, 2) == (answer.usage.input_tokens, answer.usage.input_tokens_details.cached_tokens)
    assert (16, 4) == (answer.usage.output_tokens, answer.usage.output_tokens_details.reasoning_tokens)
    expected = Bill(requests=1, prompt_tokens=13, completion_tokens=16, cached_tokens=2, reasoning_tokens=4)
    assert expected == ledger.total()


def test_cut_response_is_incomplete(client):
    """A response that its limit cut says why."""
    answer = client().responses.create(model="m", input="hi", max_output_tokens=2)

    assert ("incomplete", "max_output_tokens") == (answer.status, answer.incomplete_details.reason)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_bill_their_inputs(client, ledger, encoding):
    """Vectors have length 1 and the wanted size; inputs are billed as embedding tokens, ids one each."""
    make = client().embeddings.create
    answer = make(model="e", input=["cats, dogs", "mice"], dimensions=8, encoding_format=encoding)
    make(model="e", input=[[1, 2, 3], [4]])

    if encoding == "float":
        assert [1.0, 1.0] == [pytest.approx(math.hypot(*one.embedding)) for one in answer.data]
        assert 8 == len(answer.data[0].embedding)
    assert 4 == answer.usage.prompt_tokens
    assert Bill(requests=2, embedding_tokens=8) == ledger.total()


def test_azure_paths_take_the_deployment_for_the_model(ledger):
    """A deployment's path answers like the endpoint, whatever stands before and in its query."""
    url = ledger.url().removesuffix("/v1")
    path = "/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21"
    status, answer = post(url, path, json.dumps({"messages": HI}))

    assert (200, "my gpt") == (status, answer["model"])
    with openai.AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key="none") as azure:
        azure.chat.completions.create(model="gpt-4o", messages=HI)
    assert ["my gpt", "gpt-4o"] == [entry.model for entry in ledger.entries()]


def test_models_are_listed_and_not_billed(client, ledger):
    """GET models answers with names and leaves no entry."""
    assert "gpt-4o-mini" in [model.id for model in client().models.list()]
    assert [] == ledger.entries()


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_messages(ledger, stream):
    """Anthropic's input_tokens leave out the cache's; the bill's prompt includes them."""
    answer: Any
    asked: Any = {"model": "claude-haiku-4-5", "max_tokens": 100, "system": "be nice", "messages": HI}
    url = ledger.url(cached=3, written=2, reasoning=4)
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        if stream:
            with client.messages.stream(**asked) as events:
                answer = events.get_final_message()
        else:
            answer = client.messages.create(**asked)

    usage = answer.usage
    assert ANSWER == answer.content[0].text
    assert (8, 3, 2) == (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens)
    assert 16 == usage.output_tokens
    expected = Bill(requests=1, prompt_tokens=13, completion_tokens=16, cached_tokens=3, reasoning_tokens=4)
    assert expected == ledger.total()


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_tool_use(ledger, stream):
    """A tool is called once, its result is followed by text, and both are billed as they were stated."""
    tool = {"name": "weather", "input_schema": TOOL["parameters"]}
    asked: Any = {"model": "claude-haiku-4-5", "max_tokens": 100, "tools": [tool]}
    answers: list[Any] = []
    messages = list(HI)
    with anthropic.Anthropic(base_url=ledger.url(), api_key="none", max_retries=0) as client:
        for _ in range(2):
            if stream:
                with client.messages.stream(**asked, messages=messages) as events:
                    answers.append(events.get_final_message())
            else:
                answers.append(client.messages.create(**asked, messages=messages))
            result = {"type": "tool_result", "tool_use_id": answers[0].content[0].id, "content": "sunny"}
            messages += [{"role": "assistant", "content": answers[0].content}, {"role": "user", "content": [result]}]

    assert ["tool_use", "end_turn"] == [answer.stop_reason for answer in answers]
    assert {"city": "city"} == answers[0].content[0].input
    assert sum(answer.usage.input_tokens for answer in answers) == ledger.total().prompt_tokens
    assert sum(answer.usage.output_tokens for answer in answers) == ledger.total().completion_tokens


def test_first_requests_can_fail(ask, client, ledger):
    """``429x2`` refuses the channel's first two requests; the client's own retries are in the ledger, billed 0."""
    client(max_retries=2, status="429x2").chat.completions.create(model="gpt-4o-mini", messages=HI)

    assert [429, 429, 200] == [entry.status for entry in ledger.entries()]
    expected = Bill(requests=1, prompt_tokens=HI_TOKENS, completion_tokens=12, rejected=2)
    assert expected == ledger.total()


def test_one_request_can_fail(ask, ledger):
    """``500@2`` refuses the second request alone."""
    ask(status="500@2")
    with pytest.raises(openai.InternalServerError, match="told to answer 500"):
        ask(status="500@2")
    ask(status="500@2")

    assert [200, 500, 200] == [entry.status for entry in ledger.entries()]


def test_every_request_can_fail(ask, ledger):
    """A bare status refuses all, streams too, with the error type that belongs to it."""
    with pytest.raises(openai.AuthenticationError):
        ask(status=401)
    with pytest.raises(openai.RateLimitError):
        ask({"stream": True}, status=429)

    assert Bill(rejected=2) == ledger.total()


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/chat/completions", "no json", 400),
        ("/chat/completions", '{"model": "m"}', 400),
        ("/images/generations", "{}", 404),
    ],
)
def test_requests_that_make_no_sense_are_refused(ledger, path, body, expected):
    """What cannot be read, or is not served, is an HTTP error in the ledger."""
    status, answer = post(ledger.url(), path, body)

    assert (expected, "invalid_request_error") == (status, answer["error"]["type"])
    assert [expected] == [entry.status for entry in ledger.entries()]


@pytest.mark.parametrize(
    "modes",
    [{"usage": "maybe"}, {"colour": "red"}, {"words": "many"}, {"status": "teapot"}, {"cut": -1}, {"cost": "free"}],
)
def test_unknown_modes_are_named(server, modes):
    """A mode or value that does not exist is a ValueError where the URL is made."""
    (name,) = modes

    with pytest.raises(ValueError, match=name):
        server.url(**modes)


def test_unknown_modes_in_a_path_are_refused(server):
    """A path with an unknown mode is answered with 400 and its name."""
    status, answer = post(f"http://127.0.0.1:{server.port}/m/colour=red/v1", "/chat/completions", "{}")

    assert 400 == status
    assert "colour" in answer["error"]["message"]


@pytest.mark.parametrize("drop", ["close", "reset"])
@pytest.mark.parametrize(("pieces", "bill", "billed"), [(0, "sent", 2), (3, "sent", 5), (3, "full", 14)])
def test_cut_streams_break_after_so_many_pieces(ask, ledger, drop, pieces, bill, billed):
    """A stream that the server cuts is an error for the client, billed for its prompt and what was generated."""
    modes = {"bill": bill, "reasoning": 2}
    texts: list[str] = []
    with pytest.raises(httpx.TransportError):
        texts.extend(chunk.choices[0].delta.content for chunk in ask({"stream": True}, cut=pieces, drop=drop, **modes))

    (entry,) = ledger.entries()
    assert (HI_TOKENS, billed, 2) == (entry.prompt_tokens, entry.completion_tokens, entry.reasoning_tokens)
    assert (False, pieces + 2, False) == (entry.complete, entry.sent, entry.usage_sent)
    assert " ".join(["", *ANSWER.split()[:pieces]]).strip() == "".join(texts)


def test_cut_answers_are_billed_in_full(ask, ledger):
    """Any other answer is generated before it is lost."""
    with pytest.raises(openai.APIConnectionError):
        ask(cut=0)

    (entry,) = ledger.entries()
    assert (False, 12, 0) == (entry.complete, entry.completion_tokens, entry.sent)


def test_left_streams_are_billed_until_the_server_notices(ask, ledger):
    """A client that leaves at the gate after three pieces pays for three."""
    with ask({"stream": True}, gate=3) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content == " is":
                break

    (entry,) = ledger.wait_for()
    assert (False, HI_TOKENS, 3, 3) == (entry.complete, entry.prompt_tokens, entry.completion_tokens, entry.sent)


def test_released_streams_go_on(ask, ledger):
    """A gate holds the stream until it is released, and then stays open for all that come."""
    stream = iter(ask({"stream": True}, gate=0, words=3))
    assert "" == next(stream).choices[0].delta.content
    ledger.wait_at_gate()
    assert [] == ledger.entries()

    ledger.release()
    assert ["this", " answer", " is", None] == [chunk.choices[0].delta.content for chunk in stream]
    assert 6 == len(list(ask({"stream": True}, gate=1, words=4)))
    assert Bill(requests=2, prompt_tokens=16, completion_tokens=7) == ledger.total()


def test_waiting_has_an_end(ledger):
    """Waiting for what does not come is a TimeoutError that says what is missing."""
    with pytest.raises(TimeoutError, match=f"0 of 1 settled requests of '{ledger.chan}'"):
        ledger.wait_for(timeout=0)
    with pytest.raises(TimeoutError, match="0 of 2 requests at the gate"):
        ledger.wait_at_gate(2, timeout=0)


@pytest.mark.parametrize(("stream", "mode", "billed"), [(False, "gate", 12), (False, "hold", 12), (True, "hold", 0)])
async def test_cancelled_calls_are_billed(ledger, stream, mode, billed):
    """A call that its client gives up before the answer is billed in full; of a stream, the prompt alone."""
    url = ledger.url(**{mode: 1})
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        call = client.chat.completions.create(model="gpt-4o-mini", messages=HI, stream=stream)
        task = asyncio.create_task(call)
        await asyncio.to_thread(ledger.wait_at_gate)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    (entry,) = await asyncio.to_thread(ledger.wait_for)
    assert (False, HI_TOKENS, billed, 0) == (entry.complete, entry.prompt_tokens, entry.completion_tokens, entry.sent)


def test_modes_at_their_default_leave_no_trace(server):
    """A mode at its default is not in the path."""
    assert server.url() == server.url(cut=None, words=12, hold=False, usage="asked")


def test_delays_change_nothing(ask, ledger):
    """Answers that are made to wait are the same."""
    ask(delay=1)

    assert 14 == len(list(ask({"stream": True}, delay=1, chunk_delay=1)))
    assert [True, True] == [entry.complete for entry in ledger.entries()]


def test_connections_are_kept_unless_the_mode_closes_them(server, chan):
    """A connection serves one request after the other, even sent at once; ``close`` and the client can end it."""
    body = json.dumps({"model": "m", "messages": HI})
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for modes, kept in (({}, True), ({}, True), ({"close": 1}, False)):
        url = server.url(chan=chan, **modes)
        connection.request("POST", url.split(str(server.port))[1] + "/chat/completions", body)
        answer = connection.getresponse()
        assert (200, not kept) == (answer.status, answer.will_close)
        answer.read()
    connection.close()

    head = f"POST /m/chan={chan}/v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(f"{head}\r\n{body}{head}Connection: close\r\n\r\n{body}".encode())
        with raw.makefile("rb") as answers:
            assert 2 == answers.read().count(b"200 OK")
    assert 5 == server.total(chan).requests


def test_what_is_no_http_is_dropped(server):
    """Bytes that are no request end the connection without an answer."""
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"hello\r\n\r\n")
        assert b"" == raw.recv(10)


async def test_streams_wait_for_slow_readers():
    """While its client does not read, a stream is held."""
    line = Line(lambda line, request: pytest.fail("nothing was asked"), set())
    line.pause_writing()
    held = asyncio.create_task(line.flushed())
    assert (set(), {held}) == await asyncio.wait({held}, timeout=0.01)

    line.resume_writing()
    await held


def test_streams_end_with_their_reader(server, chan):
    """Of a long stream whose reader leaves, only what was generated until then is billed."""
    body = json.dumps({"model": "m", "messages": HI, "stream": True})
    head = f"POST /m/chan={chan},words=100000/v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(f"{head}{body}".encode())
        assert raw.recv(15) == b"HTTP/1.1 200 OK"

    (entry,) = server.wait_for(chan)
    assert not entry.complete
    assert 100_000 > entry.completion_tokens


def test_many_clients_at_once(ledger):
    """Every one of 64 concurrent clients gets its answer, and each is billed once."""
    url, body = ledger.url(), json.dumps({"model": "m", "messages": HI})
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: post(url, "/chat/completions", body), range(128)))

    assert {200} == {status for status, _ in answers}
    assert 128 == len({answer["id"] for _, answer in answers})
    assert Bill(requests=128, prompt_tokens=128 * HI_TOKENS, completion_tokens=128 * 12) == ledger.total()


def test_channels_do_not_see_each_other(server):
    """Each channel has its own ledger; without a name the server's has all."""
    with LedgerServer() as own:
        for chan, words in (("a", 1), ("b", 2), ("b", 3)):
            post(own.url(chan=chan, words=words), "/chat/completions", json.dumps({"model": "m", "messages": HI}))

        assert [1, 2, 3] == [entry.completion_tokens for entry in own.ledger()]
        assert (1, 5, 6) == tuple(own.total(chan).completion_tokens for chan in ("a", "b", None))
        assert own.url() == f"http://127.0.0.1:{own.port}/v1"
        assert [] == server.ledger("no such channel")


def test_reset_forgets_and_releases():
    """After a reset the ledger is empty, faults count from 1 again, and who stood at a gate is through."""
    body = json.dumps({"model": "m", "messages": HI})
    with LedgerServer() as own, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, own.url(hold=1, chan="a"), "/chat/completions", body)
        assert [500, 200] == [post(own.url(status="500x1"), "/chat/completions", body)[0] for _ in range(2)]
        own.wait_at_gate("a")

        own.reset()
        assert 200 == waiting.result()[0]
        assert [500] == [post(own.url(status="500x1"), "/chat/completions", body)[0]]
        assert Bill(requests=1, prompt_tokens=8, completion_tokens=12, rejected=1) == own.total()


def test_closing_breaks_off_what_is_open(recwarn):
    """Streams at a gate and idle connections do not keep the server; what was open is settled; it may start again."""
    threads = threading.active_count()
    own = LedgerServer().start()
    with openai.OpenAI(base_url=own.url(gate=1, chan="a"), api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(model="m", messages=HI, stream=True)
        own.wait_at_gate("a")
        own.close()
        own.close()
        with pytest.raises(httpx.TransportError):
            list(stream)

    assert [(False, 1)] == [(entry.complete, entry.completion_tokens) for entry in own.ledger("a")]
    assert threads == threading.active_count()
    with own:
        assert 200 == post(own.url(), "/chat/completions", json.dumps({"model": "m", "messages": HI}))[0]
    gc.collect()
    assert [] == list(recwarn)


def test_a_taken_port_is_an_error():
    """The caller learns at once that the port is taken."""
    with LedgerServer() as own, pytest.raises(OSError, match="in use"):
        LedgerServer(own.port).start()
