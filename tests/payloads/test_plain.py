"""A plain answer's reader says what the general readers say of it."""

import copy
import gc
import itertools
import sys
import weakref
from typing import Any

import pytest
from anthropic import types as anthropic
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.payloads.test_junk import HOSTILE, Another, hostile_text
from tests.support.payload_samples import SAMPLES, both
from token_handlers.payloads import ReportedUsage, plain, read_any, read_message, read_payload
from token_handlers.payloads.plain import read_plain, read_plain_message
from token_handlers.payloads.reported import hint_of
from token_handlers.payloads.search import read_any_message

COUNT = st.integers(0, 40) | st.sampled_from([None, -1, True, 2.0, "3", 2**53])
OFTEN = st.integers(0, 40)
PROVIDERS = st.sampled_from([None, "openai", "azure", "anthropic", "Anthropic", "mistralai", "vercel", "xai", "x-ai"])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A dict with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


PROMPT = some(cached_tokens=COUNT, audio_tokens=OFTEN, cache_write_tokens=COUNT, image_tokens=OFTEN, text_tokens=COUNT)
COMPLETION = some(reasoning_tokens=COUNT, audio_tokens=OFTEN, accepted_prediction_tokens=COUNT)
CHAT = st.fixed_dictionaries(
    {"prompt_tokens": OFTEN, "completion_tokens": OFTEN},
    optional={
        "total_tokens": COUNT,
        "prompt_tokens_details": st.none() | PROMPT,
        "completion_tokens_details": st.none() | COMPLETION,
        "queue_time": st.floats(0, 1),
        "cost": st.sampled_from([None, 0.5]),
        "num_cached_tokens": COUNT,
    },
)
MESSAGES = st.fixed_dictionaries(
    {"input_tokens": OFTEN, "output_tokens": OFTEN},
    optional={
        "cache_read_input_tokens": st.none() | OFTEN,
        "cache_creation_input_tokens": COUNT,
        "cache_creation": st.none() | some(ephemeral_5m_input_tokens=COUNT, ephemeral_1h_input_tokens=OFTEN),
        "output_tokens_details": st.none() | some(thinking_tokens=COUNT),
        "server_tool_use": st.none() | some(web_search_requests=OFTEN),
        "inference_geo": st.sampled_from([None, "global", "us"]),
        "service_tier": st.sampled_from([None, "standard", "auto", ""]),
        "speed": st.sampled_from([None, "fast"]),
        "iterations": st.none() | st.just([{"type": "compaction", "input_tokens": 3, "output_tokens": 1}]),
    },
)
GIVEN = some(cache_read=COUNT, cache_creation=OFTEN, audio=OFTEN, ephemeral_5m_input_tokens=OFTEN, flex=OFTEN)
GENERATED = some(reasoning=COUNT, audio=OFTEN, image=OFTEN)
BLOCKS = st.lists(
    st.sampled_from(
        [{"type": "text"}, "text", {"type": "tool_use"}, {"type": "web_search_call"}, {"type": "image_url"}, {}]
    ),
    max_size=2,
)
MORE = st.sampled_from([None, {}, {"refusal": None}, {"annotations": [{"type": "url_citation"}]}])


def total_of(usage: dict[str, Any], sides: tuple[str, str], off: int) -> dict[str, Any]:
    """The usage with a total that is ``off`` from its sides."""
    return {**usage, "total_tokens": sum(usage[side] for side in sides) + off}


@st.composite
def messages(draw: st.DrawFn) -> tuple[Any, ...]:
    """A LangChain message: usage_metadata, response_metadata, provider, content, additional_kwargs."""
    raw: dict[str, Any] = draw(CHAT | MESSAGES)
    sides = ("prompt_tokens", "completion_tokens") if "prompt_tokens" in raw else ("input_tokens", "output_tokens")
    off = draw(st.sampled_from([0, 0, 0, 7]))
    if sides[0] == "prompt_tokens" and draw(st.booleans()):
        raw = total_of(raw, sides, off)
    cached: int = (raw.get("cache_read_input_tokens") or 0) + draw(st.just(0) | OFTEN)
    usage: dict[str, Any] = {"input_tokens": raw[sides[0]] + cached, "output_tokens": raw[sides[1]]}
    usage = total_of(usage, ("input_tokens", "output_tokens"), off)
    usage |= {"input_token_details": draw(GIVEN)} if draw(st.booleans()) else {}
    usage |= {"output_token_details": draw(GENERATED)} if draw(st.booleans()) else {}
    key = draw(st.sampled_from([None, "token_usage" if sides[0] == "prompt_tokens" else "usage"]))
    metadata: dict[str, Any] = {} if key is None else {key: raw}
    metadata |= draw(
        some(
            model_name=st.sampled_from(["gpt-4o", "gemini-2.5-flash", "Command-R", "", 5]),
            model=st.just("other"),
            model_provider=st.sampled_from(["openai", "anthropic"]),
            service_tier=st.sampled_from([None, "Flex", "auto", 5]),
            stop_reason=st.sampled_from([None, "end_turn", "refusal"]),
            cost=st.just(0.5),
            grounding_metadata=st.sampled_from([None, {}, {"web_search_queries": ["a"]}]),
            search_context_size=st.just("low"),
        )
    )
    return usage, metadata, draw(PROVIDERS), draw(st.none() | st.text(max_size=3) | BLOCKS), draw(MORE)


@given(message=messages())
def test_a_message_is_read_as_the_long_way_reads_it(message):
    """Where a LangChain message is plain, both ways say the same."""
    usage, metadata, provider, content, more = message
    found = read_plain_message(*message)

    assert found is None or read_any_message(usage, metadata, hint_of(provider), content, more) == found


@given(
    usage=CHAT,
    off=st.sampled_from([0, 0, 5]),
    provider=PROVIDERS,
    model=st.sampled_from(["m", "Command-R"]),
    more=st.sampled_from([{}, {"service_tier": "X"}]),
)
def test_a_completion_is_read_as_the_long_way_reads_it(usage, off, provider, model, more):
    """Where a chat completion is plain, as JSON or as an object, both ways say the same."""
    usage = total_of(usage, ("prompt_tokens", "completion_tokens"), off)
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": model, "choices": [], "usage": usage} | more
    for payload in (usage, body):
        found = read_plain(payload, provider)
        assert found is None or read_any(payload, provider) == found


@given(usage=MESSAGES, provider=PROVIDERS, content=st.none() | BLOCKS, reason=st.sampled_from(["end_turn", "refusal"]))
def test_an_answer_of_anthropic_s_is_read_as_the_long_way_reads_it(usage, provider, content, reason):
    """Where Anthropic's answer is plain, both ways say the same."""
    body = {"type": "message", "model": "claude", "content": content, "stop_reason": reason, "usage": usage}
    found = read_plain(body, provider)

    assert found is None or read_any(body, provider) == found


VALUES = st.sampled_from(
    [
        None,
        0,
        3,
        9,
        600,
        -1,
        -(2**70),
        2**53,
        2**70,
        True,
        False,
        2.0,
        9.0,
        "3",
        "",
        "auto",
        "Flex",
        "refusal",
        "message",
    ]
) | st.sampled_from(
    [{}, {"audio": 3}, {"cached_tokens": 1}, {"ephemeral_5m_input_tokens": 2}, [], [{}], b"x", Another()]
).map(copy.deepcopy)  # a test changes what it has drawn


def places(part: Any) -> list[tuple[Any, Any]]:
    """Every dict and list of an answer with each of its keys."""
    if not isinstance(part, dict | list):
        return []
    keys = list(part) if isinstance(part, dict) else range(len(part))
    return [place for key in keys for place in [(part, key), *places(part[key])]]


@given(data=st.data())
def test_a_common_answer_that_is_changed_is_read_as_the_long_way_reads_it(data):
    """However keys, their order and values of a common answer change, it is read as by the long way, or left to it."""
    index = data.draw(st.integers(0, len(COMMON) - 1))
    before, answer = copy.deepcopy(COMMON[index]), copy.deepcopy(COMMON[index])
    for _ in range(data.draw(st.integers(1, 3))):
        part, key = data.draw(st.sampled_from(places(answer)[1:]))
        change = data.draw(st.sampled_from(["set", "set", "add up", "drop", "add", "shuffle"]))
        if change == "set":
            part[key] = data.draw(VALUES)
        elif change == "add up" and type(part[key]) is int:
            part[key] += data.draw(st.integers(-9, 9))
        elif isinstance(part, dict):
            items = [(name, value) for name, value in part.items() if change != "drop" or name != key]
            items += [(data.draw(st.sampled_from(KEYS)), data.draw(VALUES))] if change == "add" else []
            part.clear()
            part.update(data.draw(st.permutations(items)))
    for each in (before, answer, before):
        found, expected = both_ways(each)
        assert found is None or found == expected
    assert None is not found


def both_ways(answer: list[Any]) -> tuple[ReportedUsage | None, ReportedUsage | None]:
    """What the short way and the long one say of a message of LangChain's, or of another answer and its provider."""
    if len(answer) == 2:
        return read_plain(*answer), read_any(*answer)
    usage, metadata, provider, content, more = answer
    return read_plain_message(*answer), read_any_message(usage, metadata, hint_of(provider), content, more)


@given(data=st.data())
def test_the_order_of_keys_is_no_matter(data):
    """A common answer is read the short way in any order of its keys."""
    answer = copy.deepcopy(data.draw(st.sampled_from(COMMON)))
    for part in [answer, *(part[key] for part, key in places(answer))]:
        if isinstance(part, dict):
            items = data.draw(st.permutations(list(part.items())))
            part.clear()
            part.update(items)
    found, expected = both_ways(answer)

    assert found is not None
    assert found == expected


@given(data=st.data(), sample=st.sampled_from(SAMPLES))
def test_every_shape_is_left_to_the_long_way_or_read_alike(data, sample):
    """A payload of any shape, some of its fields missing, is read alike or left."""
    payload = copy.deepcopy(sample.payload)
    if isinstance(payload, dict) and payload:
        payload.pop(data.draw(st.sampled_from(sorted(payload))))
    found = read_plain(payload, sample.provider)

    assert found is None or read_any(payload, sample.provider) == found


USAGE = {
    "prompt_tokens": 640,
    "completion_tokens": 75,
    "total_tokens": 715,
    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 600, "cache_write_tokens": None},
    "completion_tokens_details": {"audio_tokens": 0, "reasoning_tokens": 9, "rejected_prediction_tokens": None},
}
COUNTS = both(
    640, 75, cache_read_tokens=600, input_audio_tokens=0, reasoning_tokens=9, output_audio_tokens=0
)  # fmt: skip
METADATA = {
    "input_tokens": 640,
    "output_tokens": 75,
    "total_tokens": 715,
    "input_token_details": {"audio": 0, "cache_read": 600},
    "output_token_details": {"audio": 0, "reasoning": 9},
}
CLAUDE = {
    "input_tokens": 12,
    "output_tokens": 9,
    "cache_creation_input_tokens": 5,
    "cache_read_input_tokens": 3,
    "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 0},
    "service_tier": "standard",
    "inference_geo": "global",
}
CLAUDE_COUNTS = both(20, 9, cache_read_tokens=3, cache_write_tokens=5, cache_write_5m_tokens=5, cache_write_1h_tokens=0)

TOOL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHOICE = {
    "index": 0,
    "finish_reason": "stop",
    "message": {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": [TOOL]},
}
COMMON: list[list[Any]] = [
    [METADATA, {"token_usage": USAGE, "model_name": "m", "service_tier": "default"}, "openai", "hi", {"refusal": None}],
    [
        {
            "input_tokens": 20,
            "output_tokens": 9,
            "total_tokens": 29,
            "input_token_details": {
                "cache_read": 3,
                "cache_creation": 0,
                "ephemeral_5m_input_tokens": 5,
                "ephemeral_1h_input_tokens": 0,
            },
        },
        {
            "usage": CLAUDE | {"output_tokens_details": {"thinking_tokens": 4}, "speed": None},
            "stop_reason": "end_turn",
            "model": "claude",
            "model_provider": "anthropic",
        },
        None,
        [{"type": "text", "text": "hi"}, {"type": "tool_use"}],
        {},
    ],
    [
        {"input_tokens": 20, "output_tokens": 9, "total_tokens": 29, "input_token_details": {"cache_read": 3}},
        {"finish_reason": "STOP", "grounding_metadata": {}, "model_name": "gemini-2.5-flash"},
        "google_genai",
        "hi",
        {},
    ],
    [{"id": "1", "object": "chat.completion", "model": "m", "choices": [CHOICE], "usage": USAGE}, "openai"],
    [
        {
            "id": "1",
            "type": "message",
            "model": "claude",
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
            "usage": CLAUDE | {"cache_creation": None, "server_tool_use": None},
        },
        "anthropic",
    ],
    [{"type": "message", "model": "claude", "usage": {"input_tokens": 5, "output_tokens": 7}}, None],
    [USAGE, None],
]
"""LangChain's messages, and other answers with their provider."""
KEYS = sorted({key for answer in COMMON for part, key in places(answer) if isinstance(part, dict)} | {"cost", "flex"})


def completion(**message: object) -> ChatCompletion:
    """An answer of OpenAI's client."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi", **message}}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
    return ChatCompletion.model_validate(body)


def chunk(**delta: object) -> ChatCompletionChunk:
    """The last chunk of a stream of OpenAI's client."""
    choice = {"index": 0, "finish_reason": "stop", "delta": {"role": "assistant", "content": "hi", **delta}}
    body = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return ChatCompletionChunk.model_validate({**body, "usage": USAGE})


def claude_s_answer(*blocks: dict[str, Any], **usage: object) -> dict[str, Any]:
    """What LlamaIndex makes of an answer of Anthropic's client, whose own way it is to make a block's object."""
    body = {"id": "1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn"}
    content = [{"type": "text", "text": "hi"}, {"type": "tool_use", "id": "1", "name": "f", "input": {}}]
    answer = dict(anthropic.Message.model_validate({**body, "content": content, "usage": CLAUDE | usage}))
    unlike = [anthropic.TextBlock.model_construct(**block) for block in blocks]
    return {**answer, "content": [*answer["content"], *unlike]}


def test_the_common_answers_are_plain():
    """What most calls end with is read the short way, to the same end as the long one."""
    tool = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for answer in (completion(), completion(tool_calls=[tool]), completion().model_dump(exclude_none=True), chunk()):
        assert ReportedUsage(COUNTS, None, None, "m") == read_plain(answer, "openai") == read_any(answer, "openai")
    answer = claude_s_answer()
    expected = ReportedUsage(CLAUDE_COUNTS, None, "standard", "claude")
    assert expected == read_plain(answer, None) == read_any(answer)


def test_the_common_messages_are_plain():
    """OpenAI's, Anthropic's and bare messages are read the short way, tool calls and all."""
    openai = (METADATA, {"token_usage": USAGE, "model_name": "m", "logprobs": None}, "openai", "", {"refusal": None})
    details = {"cache_read": 3, "cache_creation": 0, "ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 0}
    usage = {"input_tokens": 20, "output_tokens": 9, "total_tokens": 29, "input_token_details": details}
    claude = (usage, {"usage": CLAUDE, "model_name": "claude"}, "anthropic", [{"type": "tool_use"}], {})
    bare = ({"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}, {}, None, "hi", {})

    assert ReportedUsage(COUNTS, None, None, "m") == read_plain_message(*openai)
    assert ReportedUsage(CLAUDE_COUNTS, None, "standard", "claude") == read_plain_message(*claude)
    assert ReportedUsage(both(3, 4)) == read_plain_message(*bare)


@pytest.mark.parametrize(
    "answer",
    [
        completion(annotations=[{"type": "url_citation", "url_citation": dict.fromkeys(("title", "url"), "x")
                                 | dict.fromkeys(("start_index", "end_index"), 1)}]),
        chunk(annotations=[{"type": "url_citation", "url_citation": {"url": "x"}}]),
        completion(executed_tools=[{"type": "search"}]),
        chunk(executed_tools=[{"type": "search"}]),
        completion(tool_calls=[{"id": "1", "type": "function", "function": {"name": "$web_search", "arguments": ""}}]),
        claude_s_answer(server_tool_use={"web_search_requests": 1, "web_fetch_requests": 0}),
        claude_s_answer(speed="fast"),
        claude_s_answer(inference_geo="us"),
        claude_s_answer(iterations=[]),
        claude_s_answer({"type": "compaction", "content": "so far"}),
    ],
    ids=["citations", "a chunk's citations", "tools that ran", "tools that ran for a chunk", "a built-in tool",
         "searches", "fast", "in one place", "iterations", "a block that the SDK does not know"],
)  # fmt: skip
def test_what_shows_more_than_tokens_is_not_plain(answer):
    """Whatever changes the price is left to the readers of every shape."""
    assert None is read_plain(answer, None)
    assert None is not read_payload(answer)


@pytest.mark.parametrize("make", [*HOSTILE, hostile_text])
@pytest.mark.parametrize("key", ["service_tier", "model_name", "model_provider", "stop_reason", "token_usage", "usage"])
def test_junk_in_a_message_is_passed_over(key, make):
    """What raises whatever one does with it leaves the message's own usage readable."""
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}

    assert both(3, 4) == read_message(usage, {key: make()}).counts
    assert both(3, 4) == read_message(usage, {}, content=make(), additional_kwargs=make()).counts
    assert both(3, 4) == read_message(usage | {"input_token_details": make()}, {}).counts


@pytest.mark.parametrize("make", [*HOSTILE, hostile_text])
@pytest.mark.parametrize("key", ["type", "content", "stop_reason", "model", "choices", "service_tier"])
def test_junk_in_an_answer_is_passed_over(key, make):
    """The same holds for the provider's answers."""
    for usage in (USAGE, {"input_tokens": 640, "output_tokens": 75}):
        found = read_payload({"type": "message", "usage": usage, key: make()})
        assert (640, 75) == (found.counts["input_tokens"], found.counts["output_tokens"])


def test_two_usages_that_differ_in_their_details_are_not_plain():
    """A detail that one usage states is not taken for part of a whole that only the other one states."""
    details = {"cache_read": 3, "cache_creation": 0, "ephemeral_1h_input_tokens": 0}
    usage = {"input_tokens": 20, "output_tokens": 9, "total_tokens": 29, "input_token_details": details}
    message = (usage, {"usage": CLAUDE}, "anthropic", "hi", {})

    assert None is read_plain_message(*message)
    assert 0 == read_message(usage, {"usage": CLAUDE}, "anthropic").counts["cache_write_5m_tokens"]


def test_few_readers_are_kept():
    """However many shapes of answers there are, the memory for them is bounded."""
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    names = ("id", "object", "created", "status", "type", "role")
    for keys in itertools.permutations(names):
        assert ReportedUsage(both(3, 4)) == read_plain_message(usage, dict.fromkeys(keys), None, "hi", {})

    assert 256 >= max(len(plain._readers), len(plain._latest))


def test_models_that_answers_are_parsed_into_are_freed():
    """An application may make a model for each request: of the types that its answers have few are kept."""
    kinds = weakref.WeakSet()
    for number in range(1_000):
        names = {"__module__": "openai.types.chat.parsed_chat_completion", "__pydantic_extra__": None}
        kind = type(f"ParsedChatCompletion[Answer{number}]", (), names)
        kinds.add(kind)
        assert read_plain(kind(), "openai") is None
    gc.collect()

    assert len(kinds) <= 257  # the last one is a variable's, too


def test_a_plain_message_takes_few_calls():
    """The hot path is short: 3 Python calls for a message of OpenAI's client, after the first of its shape."""
    calls = itertools.count()
    metadata = {"token_usage": USAGE, "model_name": "m", "model_provider": "openai"}

    def read():
        read_message(METADATA, metadata, "openai", content="hi", additional_kwargs={"refusal": None})

    read()
    sys.setprofile(lambda frame, event, argument: next(calls) if event == "call" else None)
    try:
        read()
    finally:
        sys.setprofile(None)

    assert 4 == next(calls)  # with the one of this test
