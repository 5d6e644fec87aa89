"""What a reading says of itself: half, whole, empty, unreadable."""

import pytest

from tests.support.payload_samples import both
from token_handlers.payloads import ReportedUsage, is_empty, is_whole, read_payload, usage_from_payload

NO_COUNTS = ["12", 12.5, -5, float("inf"), float("nan"), 10**20, True, [12], {}]


@pytest.mark.parametrize(
    ("counts", "operation", "expected"),
    [
        (both(3, 4), "chat", True),
        (both(3, 0), "chat", True),
        (both(0, 0), "text_completion", True),
        ({"input_tokens": 3}, "chat", False),
        ({"output_tokens": 4}, "chat", False),
        ({"output_tokens": 4}, "embeddings", False),
        ({"input_tokens": 3}, "embeddings", True),
        ({"input_tokens": 3}, "rerank", True),
        ({"rerank_searches": 1}, "rerank", True),
        ({"rerank_searches": 1}, "chat", False),
    ],
)
def test_whole_is_both_sides(counts, operation, expected):
    """A chat is whole with input and output; what generates nothing is whole with its input or its searches."""
    assert expected is is_whole(ReportedUsage(counts), operation)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [(both(0, 0), True), (both(0, 0, cache_read_tokens=0), True), (both(1, 0), False), ({"rerank_searches": 1}, False)],
)
def test_empty_is_zeros_alone(counts, expected):
    """A usage of zeros beside a text is no bill."""
    assert expected is is_empty(ReportedUsage(counts))


@pytest.mark.parametrize("value", NO_COUNTS, ids=repr)
@pytest.mark.parametrize(
    ("named", "read"),
    [
        ("prompt_tokens", lambda bad: {"prompt_tokens": bad, "completion_tokens": 3}),
        ("input_tokens", lambda bad: {"input_tokens": bad, "output_tokens": 3}),
        ("promptTokens", lambda bad: {"promptTokens": bad, "completionTokens": 3}),
        ("promptTokenCount", lambda bad: {"promptTokenCount": bad, "candidatesTokenCount": 3}),
        ("inputTokens", lambda bad: {"usage": {"inputTokens": bad, "outputTokens": 3}}),
        ("prompt_eval_count", lambda bad: {"prompt_eval_count": bad, "eval_count": 3}),
    ],
)
def test_a_count_that_is_none_is_a_doubt_and_half_a_usage(named, read, value):
    """What is there but cannot be read is never 0: the side is not said, and the doubt names the field."""
    found = read_payload(read(value))

    assert {"output_tokens": 3} == found.counts
    assert not is_whole(found, "chat")
    assert [True] == [doubt.startswith(f"{named} is no count: ") for doubt in found.doubts]


def test_a_doubt_keeps_no_text():
    """The words of an unreadable field are not kept."""
    (doubt,) = read_payload({"prompt_tokens": "my secret", "completion_tokens": 3}).doubts

    assert "prompt_tokens is no count: a str" == doubt


def test_half_a_usage_is_told_from_a_stated_zero():
    """usage_from_payload's caller tells them apart by model_fields_set."""
    half, zero = ({"completion_tokens": 3, "prompt_tokens": stated} for stated in (None, 0))

    assert {"output_tokens"} == usage_from_payload(half).model_fields_set
    assert {"input_tokens", "output_tokens"} == usage_from_payload(zero).model_fields_set


@pytest.mark.parametrize(
    "half",
    [
        {"type": "message_delta", "usage": {"output_tokens": 3}},
        {"model": "llama3", "done": True, "eval_count": 3},
        {"llmOutput": {"tokenUsage": {"completionTokens": 3, "totalTokens": 12}}},
        {"tokenUsage": {"completionTokens": 3}},
        {"usage_metadata": {"output_tokens": 3}, "response_metadata": {}},
    ],
    ids=["message_delta", "ollama", "langchain.js output", "langchain.js", "langchain"],
)
def test_everyday_halves_read_as_half(half):
    """Shapes that state the output alone do not make an input of 0."""
    found = read_payload(half)

    assert {"output_tokens": 3} == found.counts
    assert not is_whole(found, "chat")


def test_fees_that_the_stated_cost_includes_are_no_doubt():
    """Where the biller states its price, tools without a rate of ours leave nothing open."""
    usage = {"input_tokens": 9, "input_tokens_details": {}, "output_tokens": 5}
    tools = {"server_side_tool_usage_details": {"image_generation_calls": 1}, "num_sources_used": 0}

    assert ("1 image_generation_calls",) == read_payload(usage | tools).doubts
    assert () == read_payload(usage | tools | {"cost_in_usd_ticks": 5}).doubts
