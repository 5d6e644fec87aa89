import json
import pickle

import pytest

from tests.support.provider_answers import (
    CHAT,
    CHAT_STREAM,
    GEMINI,
    GEMINI_STREAM,
    MESSAGE,
    MESSAGE_STREAM,
    RESPONSE,
    RESPONSE_STREAM,
    USAGE,
    chunk,
    gemini_part,
)
from token_handlers.http import ResponseUsage
from token_handlers.http.responses import read_body

SSE = "text/event-stream"


def sse(events, *, done=False, newline="\n"):
    """Return a stream's bytes."""
    text = "".join(f"data: {json.dumps(event, separators=(',', ':'))}{newline}{newline}" for event in events)
    return (text + (f"data: [DONE]{newline}{newline}" if done else "")).encode()


def fed(data, *, api="chat", provider=None, content_type=None, size=None, is_whole=True):
    """Return what was read of a body that came in pieces of a size: the counts, and whether they are final."""
    usage = ResponseUsage(api, provider, content_type)
    size = size or len(data)
    for start in range(0, len(data), size):
        usage.feed(data[start : start + size])
    usage.end(is_whole=is_whole)
    return read(usage)


def read(usage):
    """Return the counts that were read, and whether they are final."""
    reported, is_final, _, _ = usage.read()
    counts = None if reported is None else (reported.counts.get("input_tokens"), reported.counts.get("output_tokens"))
    return counts, is_final


ANSWERS = [
    ("chat", None, CHAT, CHAT_STREAM),
    ("messages", "anthropic", MESSAGE, MESSAGE_STREAM),
    ("responses", "openai", RESPONSE, RESPONSE_STREAM),
    ("gemini", "google", GEMINI, GEMINI_STREAM),
]


NO_OUTPUT = {"prompt_tokens": 100, "completion_tokens": 0, "total_tokens": 100}


@pytest.mark.parametrize(
    ("api", "answer", "is_doubted"),
    [
        ("chat", CHAT | {"usage": NO_OUTPUT}, True),
        ("chat", CHAT | {"usage": NO_OUTPUT, "choices": []}, False),
        ("messages", MESSAGE | {"usage": {"input_tokens": 60, "output_tokens": 0}}, True),
        ("messages", MESSAGE | {"usage": {"input_tokens": 60, "output_tokens": 0}, "content": []}, False),
        ("responses", RESPONSE | {"usage": RESPONSE["usage"] | {"output_tokens": 0, "total_tokens": 100}}, True),
        ("gemini", GEMINI | {"usageMetadata": {"promptTokenCount": 100, "totalTokenCount": 100}}, True),
        (
            "gemini",
            GEMINI | {"usageMetadata": {"promptTokenCount": 8, "totalTokenCount": 8}, "modelVersion": "gemma-3-27b-it"},
            False,
        ),
    ],
)
def test_an_output_of_zero_beside_text_is_doubted(api, answer, is_doubted):
    """An answer with text that states an output of 0 is doubted, for calls of SDKs, which keep no text to estimate."""
    usage = ResponseUsage(api, None, "application/json")
    usage.feed(json.dumps(answer).encode())
    usage.end(is_whole=True)

    assert is_doubted is ("text beside an output of 0" in usage.read().usage.doubts)


def test_a_usage_in_a_choice():
    """Moonshot's streams state their usage in the last choice."""
    ended = chunk(finish="stop")
    ended["choices"][0]["usage"] = USAGE

    assert ((100, 20), True) == fed(sse([chunk("Hel"), chunk("lo"), ended], done=True), content_type=SSE)


@pytest.mark.parametrize("size", [1, 7, 100, None])
@pytest.mark.parametrize(("api", "provider", "answer", "stream"), ANSWERS, ids=[each[0] for each in ANSWERS])
def test_body_and_stream_say_the_same_in_pieces_of_any_size(api, provider, answer, stream, size):
    """Pieces may end anywhere, in the middle of a marker, too."""
    whole = fed(json.dumps(answer).encode(), api=api, provider=provider, content_type="application/json", size=size)
    streamed = fed(sse(stream), api=api, provider=provider, content_type=SSE, size=size)

    assert ((100, 20), True) == whole == streamed


NO_NAMES = {"usage": USAGE, "response": {"model": "gpt-4o", "id": "r1", "service_tier": "Flex"}}


@pytest.mark.parametrize(
    ("api", "provider", "answer"),
    [
        *((api, provider, answer) for api, provider, answer, _ in ANSWERS),
        ("chat", "openai", CHAT | {"service_tier": "auto"}),
        ("chat", "openai", CHAT | {"service_tier": "Flex"}),
        ("chat", None, CHAT | {"service_tier": 3, "id": ""}),
        ("chat", None, CHAT | {"model": None}),
        ("chat", None, CHAT | {"usage": NO_OUTPUT}),
        ("chat", None, CHAT | {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}),
        ("chat", None, CHAT | {"usage": None}),
        ("chat", None, NO_NAMES),
        ("embeddings", "openai", {"model": "e", "data": [{"embedding": [0.1] * 9}], "usage": {"prompt_tokens": 7}}),
        ("chat", None, {}),
    ],
)
def test_body_that_comes_whole_says_the_same(api, provider, answer):
    """A body that comes whole, and is read in one step, says what it says in pieces."""
    data = f" {json.dumps(answer)}\n".encode()
    pieces = ResponseUsage(api, provider, "application/json")
    pieces.feed(data[:9])
    pieces.feed(data[9:])
    pieces.end()

    assert pieces.read() == read_body(api, provider, "application/json; charset=utf-8", data)


@pytest.mark.parametrize(
    ("api", "content_type", "data"),
    [
        ("chat", None, b"{}"),
        ("chat", SSE, b"{}"),
        ("chat", "application/jsonl", b"{}"),
        ("ollama", "application/json", b"{}"),
        ("gemini", "application/json", b"[{}]"),
        ("chat", "application/json", b"data: {}"),
        ("chat", "application/json", b"{} {}"),
        ("chat", "application/json", b"{"),
        ("chat", "application/json", b"\xff"),
        ("embeddings", "application/json", b"{}" + b" " * 64_000),
    ],
)
def test_body_that_is_not_plainly_one_object_is_read_in_pieces(api, content_type, data):
    """A body that may be a stream, is cut short or is too long is not read in one step."""
    assert read_body(api, None, content_type, data) is None


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_stream_is_known_without_its_media_type(newline):
    """Some servers send events as text/plain."""
    assert ((100, 20), True) == fed(sse(CHAT_STREAM, newline=newline), content_type="text/plain")


def test_gemini_streams_a_json_list_where_no_events_are_asked_for():
    """The elements of the list are its chunks."""
    assert ((100, 20), True) == fed(json.dumps(GEMINI_STREAM).encode(), api="gemini", size=7)


def test_stream_that_is_closed_after_its_usage_is_final():
    """The openai package stops reading at [DONE], others at the chunk without choices."""
    assert ((100, 20), True) == fed(sse(CHAT_STREAM), content_type=SSE, is_whole=False)


def test_stream_that_ends_before_its_usage_has_none():
    """A server that was not asked for usage states none."""
    assert (None, False) == fed(sse(CHAT_STREAM[:3], done=True), content_type=SSE)


def test_usage_is_not_final_when_content_comes_after_it():
    """What was generated after it is billed, too."""
    assert ((100, 20), False) == fed(sse([chunk(usage=USAGE), chunk("more")], done=True), content_type=SSE)


def test_usage_with_content_is_not_final_when_the_answer_ends_without_one():
    """It was a count on the way."""
    stream = [chunk("Hel", usage=USAGE), chunk(finish="stop")]

    assert ((100, 20), False) == fed(sse(stream, done=True), content_type=SSE)


def test_usage_with_content_is_not_final_when_the_stream_is_cut():
    """A running total of each chunk is the bill only at the end."""
    assert ((100, 1), False) == fed(
        sse(GEMINI_STREAM[:1]), api="gemini", provider="google", content_type=SSE, is_whole=False
    )


def test_anthropics_beginning_alone_is_not_final():
    """message_start states the prompt; message_delta, which has not come, the output."""
    assert ((100, None), False) == fed(
        sse(MESSAGE_STREAM[:3]), api="messages", provider="anthropic", content_type=SSE, is_whole=False
    )


def test_running_totals_are_not_added_up():
    """Servers such as vLLM repeat the prompt in each chunk."""
    totals = [{**USAGE, "completion_tokens": number, "total_tokens": 100 + number} for number in (1, 2, 20)]
    stream = [chunk("a", usage=usage) for usage in totals[:2]] + [chunk(finish="stop", usage=totals[2])]

    assert ((100, 20), True) == fed(sse(stream, done=True), content_type=SSE)


def test_increments_are_added_up():
    """Servers that state the prompt once and each chunk's own output mean increments."""
    usages = [{"prompt_tokens": prompt, "completion_tokens": 10, "total_tokens": prompt + 10} for prompt in (100, 0)]
    stream = [chunk("a", usage=usages[0]), chunk("b", usage=usages[1], finish="stop")]

    assert ((100, 20), True) == fed(sse(stream, done=True), content_type=SSE)


def test_several_prompts_of_one_stream_are_doubtful():
    """Two prompts that differ are neither a running total nor an increment."""
    usages = [{"prompt_tokens": prompt, "completion_tokens": 10, "total_tokens": prompt + 10} for prompt in (50, 100)]
    body = ResponseUsage("chat", content_type=SSE)
    body.feed(sse([chunk("a", usage=usages[0]), chunk("b", usage=usages[1], finish="stop")], done=True))
    body.end()
    reading = body.read().usage

    assert reading is not None
    assert 1 == len(reading.doubts)


def test_usage_of_zeros_is_none():
    """An answer with text was billed, whatever its server forgot to count."""
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

    assert (None, False) == fed(json.dumps({**CHAT, "usage": zeros}).encode())
    assert (None, False) == fed(sse([*CHAT_STREAM[:3], chunk(usage=zeros)], done=True), content_type=SSE)


def test_text_about_usage_is_not_taken_for_it():
    """A quotation mark in a text is escaped, and a tool's arguments are a text."""
    stream = [*CHAT_STREAM[:2], chunk('{"usage":{"prompt_tokens":1,"completion_tokens":1}}'), *CHAT_STREAM[2:]]

    assert ((100, 20), True) == fed(sse(stream), content_type=SSE)


def test_long_body_is_read_at_its_ends():
    """The usage, model and id of 2 MB of vectors are found without reading these."""
    vectors = [{"object": "embedding", "index": 0, "embedding": [0.123456789] * 160_000}]
    answer = {
        "object": "list",
        "data": vectors,
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    data = json.dumps(answer).encode()
    usage = ResponseUsage("embeddings", "openai", "application/json")
    for start in range(0, len(data), 10_000):
        usage.feed(data[start : start + 10_000])
    usage.end()

    assert ((7, None), True) == read(usage)
    assert "text-embedding-3-small" == usage.read().model


def test_long_body_with_searches_is_read_whole():
    """Searches are billed, and stand among the items, before the text."""
    long = {**RESPONSE, "output": [*RESPONSE["output"], {"type": "message", "content": [{"text": "a" * 100_000}]}]}
    usage = ResponseUsage("responses", "openai", "application/json")
    usage.feed(json.dumps(long).encode())
    usage.end()

    assert 1 == usage.read().usage.counts["web_searches"]


def test_fees_of_tools_stand_in_other_events_than_the_usage():
    """Gemini's grounding comes with a chunk of its own."""
    grounding = {"webSearchQueries": ["a", "b"], "groundingChunks": []}
    usages = [{"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}]
    stream = [gemini_part("a", usages[0], groundingMetadata=grounding), gemini_part("", usages[0], finish="STOP")]
    usage = ResponseUsage("gemini", "google", SSE)
    usage.feed(sse(stream))
    usage.end()

    assert 1 == usage.read().usage.counts["web_searches"]  # 2.5 bills by prompt


def test_tools_that_anthropic_ran_are_counted_in_streams():
    """Its code executions stand among the blocks alone, whose text is not kept."""
    block = {"type": "server_tool_use", "id": "s1", "name": "code_execution", "input": {"code": "secret"}}
    begun = {"type": "content_block_start", "index": 0, "content_block": block}
    usage = ResponseUsage("messages", "anthropic", SSE)
    usage.feed(sse([MESSAGE_STREAM[0], begun, *MESSAGE_STREAM[1:]]))
    usage.end()

    assert b"secret" not in pickle.dumps(usage)
    assert 1 == usage.read().usage.counts["code_executions"]


def test_no_text_is_left_after_an_answer_was_read():
    """Of a body the usage is kept, of a stream no line without one."""
    usage = ResponseUsage("chat", None, SSE)
    usage.feed(sse([chunk("secret " * 10), *CHAT_STREAM]))

    assert b"secret" not in pickle.dumps(usage)


@pytest.mark.parametrize("data", [b"<html>", b"{", b"null", b"[1, 2]", b"data: {\n\n", b"\xff\xfe", b"{}"])
def test_other_bodies_have_no_usage(data):
    """A proxy's error page is none."""
    assert (None, False) == fed(data)


def test_moonshots_search_is_in_a_chunk_of_its_own():
    """The call of its built-in tool comes before the usage."""
    called = {"tool_calls": [{"index": 0, "function": {"name": "$web_search", "arguments": "{}"}}]}
    asked = {**chunk(), "choices": [{"index": 0, "delta": called, "finish_reason": None}]}
    usage = ResponseUsage("chat", "moonshotai", SSE)
    usage.feed(sse([chunk("Hel"), asked, chunk(finish="tool_calls"), chunk(usage=USAGE)], done=True))
    usage.end()
    assert 1 == usage.read().usage.counts["web_searches"]
