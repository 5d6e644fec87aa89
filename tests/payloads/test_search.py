"""The chunks and events of one call's stream."""

from decimal import Decimal

import pytest
from langchain_core.messages import AIMessageChunk

from tests.support.payload_samples import both
from token_handlers.payloads import ReportedUsage, is_whole, read_payload

UNFINISHED = "the usage of an answer that went on after it"
USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}


def piece(text: str = "hi", finish: str | None = None, **more: object) -> dict[str, object]:
    """A chunk of a chat completion."""
    return {"model": "m", "choices": [{"delta": {"content": text} if text else {}, "finish_reason": finish}], **more}


def usage(**counts: object) -> dict[str, object]:
    """The chunk of a chat completion that has its usage alone."""
    return {"model": "m", "choices": [], "usage": USAGE | counts}


def test_usage_on_a_chunk_that_is_not_the_last():
    """The usage stands wherever it is, if no piece of the answer comes after it."""
    chunks = [piece(), usage(), piece("", "stop")]

    assert ReportedUsage(both(9, 5), None, None, "m") == read_payload(chunks)


def test_a_content_filter_chunk_after_the_usage():
    """What Azure sends after the usage is no piece of the answer."""
    chunks = [piece(), piece("", "stop"), usage(), {"choices": [{"content_filter_results": {}, "delta": {}}]}]

    assert () == read_payload(chunks).doubts


def test_of_two_usage_chunks_the_last_stands():
    """A running total ends with the whole; a usage of zeros behind it says nothing."""
    first, zeros = usage(completion_tokens=1, total_tokens=10), usage(**dict.fromkeys(USAGE, 0))

    assert both(9, 5) == read_payload([first, usage()]).counts
    assert both(9, 5) == read_payload([usage(), zeros]).counts
    assert both(0, 0) == read_payload([zeros]).counts


@pytest.mark.parametrize(
    "chunks",
    [
        [usage(), piece("more")],
        [piece(usage=USAGE), piece("more", usage=None)],
        [piece(usage=USAGE)],
    ],
    ids=["text after it", "text after a chunk with both", "a chunk with both, and no end"],
)
def test_a_usage_that_is_not_final_is_a_doubt(chunks):
    """A usage that the answer goes on after is not the bill."""
    assert (UNFINISHED,) == read_payload(chunks).doubts


def test_a_running_total_with_its_end_is_final():
    """A chunk with text, usage and the reason of its end is the last."""
    assert () == read_payload([piece(usage={**USAGE, "total_tokens": 14}), piece("end", "stop", usage=USAGE)]).doubts


def test_a_stated_cost_on_the_last_chunk():
    """OpenRouter's cost is read in a stream as in an answer."""
    found = read_payload([piece(), usage(cost=0.00204, is_byok=False)])

    assert ReportedUsage(both(9, 5), Decimal("0.00204"), None, "m") == found


def test_what_other_chunks_show_is_added():
    """Google's searches and Groq's tools may stand on another chunk than the usage."""
    ground = {"candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b"]}}], "modelVersion": "gemini-3-flash"}
    end = {
        "candidates": [{"finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14},
        "modelVersion": "gemini-3-flash",
    }
    tool = {"choices": [{"delta": {"executed_tools": [{"type": "search"}]}}]}

    assert ReportedUsage(both(9, 5, web_searches=2), None, None, "gemini-3-flash") == read_payload([ground, end])
    assert ("1 tools that Groq ran, whose fees are not stated",) == read_payload([tool, usage()]).doubts


def gemini(output: int, finish: str | None, *parts: str, thoughts: int = 0) -> dict[str, object]:
    """A chunk of a Gemini stream."""
    counts = {"promptTokenCount": 31, "candidatesTokenCount": output, "thoughtsTokenCount": thoughts}
    content = {"role": "model"} | ({"parts": [{"text": part} for part in parts]} if parts else {})
    candidate = {"content": content} | ({"finishReason": finish} if finish else {})
    return {"candidates": [candidate], "usageMetadata": counts | {"totalTokenCount": 31 + output + thoughts}}


def test_gemini_s_last_chunk_without_parts():
    """The whole usage is on the chunk that says why the answer ended, though it has no text."""
    found = read_payload([gemini(2, None, "hi"), gemini(18, "STOP", thoughts=55)])

    assert ReportedUsage(both(31, 73, reasoning_tokens=55)) == found


def test_a_gemini_stream_without_its_last_chunk_is_a_doubt():
    """Where a client leaves the last chunk out, what the one before it says is not the bill."""
    assert (UNFINISHED,) == read_payload([gemini(1, None, "hi"), gemini(2, None, "there")]).doubts


START = {
    "type": "message_start",
    "message": {
        "model": "claude-fable-5",
        "usage": {
            "input_tokens": 10,
            "output_tokens": 1,
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            "service_tier": "standard",
            "speed": "fast",
            "inference_geo": "us",
        },
    },
}


def delta(**counts: object) -> dict[str, object]:
    """The event that ends a Messages stream."""
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": counts}


def test_a_messages_stream_is_its_start_and_its_delta():
    """Lifetimes, tier, speed and place are on the first event alone, the output on the last."""
    found = read_payload([START, delta(output_tokens=7)])

    counts = both(40, 7, cache_write_tokens=30, cache_write_5m_tokens=10, cache_write_1h_tokens=20)
    place = {"speed": "fast", "inference_geo": "us"}
    assert ReportedUsage(counts, None, "standard", "claude-fable-5", context=place) == found


def test_a_messages_stream_that_broke_off_is_half():
    """Its first event states an output of a token, which is no count of what was written."""
    for chunks in (START, [START], [START, {"type": "content_block_start", "content_block": {"type": "text"}}]):
        found = read_payload(chunks)

        assert "output_tokens" not in found.counts
        assert not is_whole(found, "chat")


def test_a_delta_by_itself_is_half():
    """The last event states the output alone."""
    found = read_payload(delta(output_tokens=7))

    assert {"output_tokens": 7} == found.counts
    assert not is_whole(found, "chat")


def test_a_messages_stream_with_a_fallback_and_searches():
    """Attempts of other models are in the last event, searches in it or among the blocks."""
    attempts = [
        {"type": "message", "model": "claude-fable-5", "input_tokens": 10, "output_tokens": 3},
        {"type": "fallback_message", "model": "claude-opus-4-8", "input_tokens": 12, "output_tokens": 7},
    ]
    block = {"type": "content_block_start", "content_block": {"type": "web_search_tool_result", "content": []}}
    start = {"type": "message_start", "message": {"model": "claude-fable-5", "usage": {"input_tokens": 10}}}

    found = read_payload([start, block, delta(input_tokens=12, output_tokens=7, iterations=attempts)])

    assert both(22, 10, web_searches=1) == found.counts
    assert "claude-opus-4-8" == found.model
    assert (("claude-fable-5", both(10, 3)),) == found.beside


def test_a_responses_stream_is_its_last_response():
    """The response that completes a stream has all: usage, searches, tools and tier."""
    search = {"type": "web_search_call", "action": {"type": "search"}}
    whole = {
        "model": "gpt-5",
        "service_tier": "flex",
        "output": [search],
        "tools": [{"type": "web_search"}],
        "usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 5},
    }
    events = [
        {"type": "response.created", "response": {"model": "gpt-5", "service_tier": "auto", "usage": None}},
        {"type": "response.output_item.done", "item": search},
        {"type": "response.completed", "response": whole},
    ]

    counts = both(9, 5, cache_read_tokens=4, web_searches=1)
    expected = ReportedUsage(counts, None, "flex", "gpt-5", context={"web_search_tool": "web_search"})
    assert expected == read_payload(events)
    assert expected == read_payload(events[-1])


def test_a_bedrock_stream_is_its_metadata():
    """Converse streams end with an event that has usage, tier and latency."""
    metadata = {
        "usage": {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7},
        "serviceTier": {"type": "flex"},
        "performanceConfig": {"latency": "optimized"},
    }
    events = [{"messageStart": {"role": "assistant"}}, {"messageStop": {}}, {"metadata": metadata}]

    expected = ReportedUsage(both(5, 2), None, "flex", context={"latency": "optimized"})
    assert expected == read_payload(events)


def test_langchain_s_chunks_with_searches_among_their_content():
    """Blocks of every chunk count, and the last word of their metadata stands."""
    chunks = [
        AIMessageChunk(content=[{"type": "web_search_call", "action": {"type": "search"}}]),
        AIMessageChunk(
            content=[],
            usage_metadata={"input_tokens": 9, "output_tokens": 5, "total_tokens": 14},
            response_metadata={"model_name": "gpt-5", "service_tier": "default"},
        ),
    ]

    assert ReportedUsage(both(9, 5, web_searches=1), None, "default", "gpt-5") == read_payload(chunks)
