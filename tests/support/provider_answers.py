"""Small answers in the shapes of providers' APIs, whole and streamed."""

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
CHAT: dict = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini-2024-07-18",
    "service_tier": "default",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
    "usage": USAGE,
}


def chunk(content=None, *, finish=None, usage=None, **more):
    """Return a chunk of a chat stream; one with neither content nor finish has no choices."""
    choices = []
    if content is not None or finish is not None:
        choices = [{"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}]
    known = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini-2024-07-18"}
    return {**known, "choices": choices, "usage": usage, **more}


CHAT_STREAM = [chunk("Hel"), chunk("lo"), chunk(finish="stop"), chunk(usage=USAGE)]

MESSAGE: dict = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-8",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 60, "cache_read_input_tokens": 40, "output_tokens": 20},
}
MESSAGE_STREAM = [
    {
        "type": "message_start",
        "message": {
            **MESSAGE,
            "content": [],
            "stop_reason": None,
            "usage": {"input_tokens": 60, "cache_read_input_tokens": 40, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 20},
    },
    {"type": "message_stop"},
]

RESPONSE: dict = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "gpt-5-mini",
    "status": "completed",
    "output": [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
        },
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 120,
    },
}
RESPONSE_STREAM = [
    {
        "type": "response.created",
        "sequence_number": 0,
        "response": {**RESPONSE, "status": "in_progress", "output": [], "usage": None},
    },
    {
        "type": "response.output_text.delta",
        "sequence_number": 1,
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "Hello",
        "logprobs": [],
    },
    {"type": "response.completed", "sequence_number": 2, "response": RESPONSE},
]

GEMINI: dict = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "Hello"}]}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120},
    "modelVersion": "gemini-2.5-flash",
    "responseId": "gem-1",
}


def gemini_part(text, usage, *, finish=None, **more):
    """Return a chunk of a Gemini stream."""
    candidate = {"content": {"role": "model", "parts": [{"text": text}] if text else []}, "index": 0, **more}
    if finish is not None:
        candidate["finishReason"] = finish
    return {**GEMINI, "candidates": [candidate], "usageMetadata": usage}


GEMINI_STREAM = [
    gemini_part("Hel", {"promptTokenCount": 100, "candidatesTokenCount": 1, "totalTokenCount": 101}),
    gemini_part("lo", GEMINI["usageMetadata"], finish="STOP"),
]
