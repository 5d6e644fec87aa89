"""POST /messages, Anthropic's format: its input_tokens leave out what the cache read and wrote."""

from collections.abc import Iterator
from typing import Any

from token_handlers.demo.server.answers import Ask, Json, Message, Tool, count, count_prompt, message
from token_handlers.demo.server.chat import tool_choice
from token_handlers.demo.server.work import Chunk, Work


def read(body: Json) -> Ask:
    """The ask of a messages request."""
    system = [message("system", body["system"])] if body.get("system") else []
    messages = (*system, *(_message(one) for one in body["messages"]))
    tools = body.get("tools") or ()
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    return Ask(
        model=body["model"],
        prompt_tokens=count_prompt(messages, *tools, wanted.get("schema")),
        messages=messages,
        tools=tuple(Tool(tool["name"], tool.get("input_schema") or {}) for tool in tools),
        choice=tool_choice(_plain_choice(body.get("tool_choice"))),
        schema=wanted.get("schema"),
        limit=body["max_tokens"],
        stream=bool(body.get("stream")),
        tier="standard",
    )


def whole(work: Work) -> dict[str, Any]:
    """The answer in one piece."""
    given = work.answer.value() if work.answer.tool is not None else {}
    content = [_block(work, work.answer.text, given)]
    return {**_opened(work), "content": content, "stop_reason": _end(work), "usage": _usage(work)}


def stream(work: Work) -> Iterator[Chunk]:
    """The events from ``message_start``, which tells the input's usage, to ``message_delta`` with the whole."""
    started = {**_usage(work), "output_tokens": 1}
    # the stream's last usage does not say how long the cache keeps what was written, nor the tier
    ended = {name: number for name, number in _usage(work).items() if name not in ("cache_creation", "service_tier")}
    for chunk in (
        Chunk({"type": "message_start", "message": {**_opened(work), "usage": started}}, work.reasoning, usage=True),
        *_block_events(work),
        Chunk({"type": "message_delta", "delta": {"stop_reason": _end(work), "stop_sequence": None}, "usage": ended}),
        Chunk({"type": "message_stop"}),
    ):
        yield chunk._replace(event=chunk.data["type"])


def _block_events(work: Work) -> Iterator[Chunk]:
    tool = work.answer.tool
    opened = {"type": "content_block_start", "index": 0, "content_block": _block(work, "", {})}
    yield Chunk(opened, count(tool or ""), piece=tool is not None)
    kind, member = ("text_delta", "text") if tool is None else ("input_json_delta", "partial_json")
    for piece in work.answer.pieces:
        delta = {"type": kind, member: piece}
        yield Chunk({"type": "content_block_delta", "index": 0, "delta": delta}, tokens=1, piece=True)
    yield Chunk({"type": "content_block_stop", "index": 0})


def _opened(work: Work) -> dict[str, Any]:
    head = {"id": f"msg_{work.id}", "type": "message", "role": "assistant", "content": []}
    model = {} if work.model is None else {"model": work.model}
    return {**head, **model, "stop_reason": None, "stop_sequence": None}


def _block(work: Work, text: str, given: object) -> dict[str, Any]:
    if work.answer.tool is None:
        return {"type": "text", "text": text}
    return {"type": "tool_use", "id": f"toolu_{work.id}", "name": work.answer.tool, "input": given}


def _end(work: Work) -> str:
    return work.answer.end("tool_use", "max_tokens", "end_turn")


def _usage(work: Work) -> dict[str, Any]:
    written = work.written_tokens
    return {
        "input_tokens": work.prompt_tokens - work.cached_tokens - written,
        "cache_read_input_tokens": work.cached_tokens,
        "cache_creation_input_tokens": written,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": work.completion_tokens,
        "output_tokens_details": {"thinking_tokens": work.reasoning},
        "service_tier": work.tier,
    }


def _plain_choice(wanted: Json | None) -> str | Json | None:
    return wanted["type"] if wanted and wanted["type"] != "tool" else wanted


def _message(one: Json) -> Message:
    content = one["content"]
    parts = [] if isinstance(content, str) else content
    results = [part for part in parts if part["type"] == "tool_result"]
    calls = [f"{part['name']} {part['input']}" for part in parts if part["type"] == "tool_use"]
    if results:
        return Message("tool", " ".join(message("tool", part.get("content")).text for part in results))
    said = content if isinstance(content, str) else [part for part in parts if part["type"] != "tool_use"]
    return message(one["role"], said, *calls)
