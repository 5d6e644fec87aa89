"""POST /responses."""

from collections.abc import Iterator
from itertools import count as numbers
from typing import Any

from token_handlers.demo.server.answers import Ask, Json, Message, Tool, count, count_prompt, message
from token_handlers.demo.server.chat import tool_choice
from token_handlers.demo.server.work import Chunk, Work, written


def read(body: Json) -> Ask:
    """The ask of a Responses request; an earlier response that it refers to is not looked up."""
    given = body.get("input") or ""
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    system = [Message("system", body["instructions"])] if body.get("instructions") else []
    messages = (*system, *(_message(item) for item in items))
    tools = [tool for tool in body.get("tools") or () if tool["type"] == "function"]
    wanted = (body.get("text") or {}).get("format") or {}
    return Ask(
        model=body["model"],
        prompt_tokens=count_prompt(messages, *tools, wanted.get("schema")),
        messages=messages,
        tools=tuple(Tool(tool["name"], tool.get("parameters") or {}) for tool in tools),
        choice=tool_choice(body.get("tool_choice")),
        schema=wanted.get("schema") or {} if wanted.get("type") in ("json_schema", "json_object") else None,
        limit=body.get("max_output_tokens"),
        stream=bool(body.get("stream")),
        tier=body.get("service_tier") or "",
        body=body,
    )


def whole(work: Work) -> dict[str, Any]:
    """The finished response; its usage is missing only where the modes forbid it."""
    ended = "incomplete" if work.answer.cut else "completed"
    reason = {"reason": "max_output_tokens"} if work.answer.cut else None
    usage = None if work.modes.usage == "never" else _usage(work)
    return {**_response(work), "status": ended, "incomplete_details": reason, "output": [_item(work)], "usage": usage}


def stream(work: Work) -> Iterator[Chunk]:
    """The typed events from ``response.created`` to ``response.completed``, numbered."""
    opened = {**_response(work), "status": "in_progress", "output": [], "usage": None}
    events = _call_events(work) if work.answer.tool is not None else _text_events(work)
    full = whole(work)
    ending = Chunk({"type": f"response.{full['status']}", "response": full}, usage=full["usage"] is not None)
    number = numbers()
    for chunk in (
        Chunk({"type": "response.created", "response": opened}, work.reasoning),
        Chunk({"type": "response.in_progress", "response": opened}),
        *events,
        ending,
    ):
        data = {**chunk.data, "sequence_number": next(number)}
        yield chunk._replace(data=data, event=data["type"])


def _text_events(work: Work) -> Iterator[Chunk]:
    item = _item(work)
    part = item["content"][0]
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    opened = {**item, "status": "in_progress", "content": []}
    yield Chunk({"type": "response.output_item.added", "output_index": 0, "item": opened})
    yield Chunk({"type": "response.content_part.added", **place, "part": {**part, "text": ""}})
    for piece in work.answer.pieces:
        delta = {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
        yield Chunk(delta, tokens=1, piece=True)
    yield Chunk({"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []})
    yield Chunk({"type": "response.content_part.done", **place, "part": part})
    yield Chunk({"type": "response.output_item.done", "output_index": 0, "item": item})


def _call_events(work: Work) -> Iterator[Chunk]:
    item = _item(work)
    place = {"item_id": item["id"], "output_index": 0}
    opened = {**item, "status": "in_progress", "arguments": ""}
    added = {"type": "response.output_item.added", "output_index": 0, "item": opened}
    yield Chunk(added, tokens=count(item["name"]), piece=True)
    for piece in work.answer.pieces:
        delta = {"type": "response.function_call_arguments.delta", **place, "delta": piece}
        yield Chunk(delta, tokens=1, piece=True)
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield Chunk({"type": "response.function_call_arguments.done", **place, **done})
    yield Chunk({"type": "response.output_item.done", "output_index": 0, "item": item})


def _response(work: Work) -> dict[str, Any]:
    head = work.envelope("resp", "response")
    body = work.ask.body
    return {
        **head,
        "created_at": head.pop("created"),
        "error": None,
        "instructions": body.get("instructions"),
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "service_tier": work.tier,
        "text": body.get("text") or {"format": {"type": "text"}},
    }


def _item(work: Work) -> dict[str, Any]:
    if work.answer.tool is None:
        part = {"type": "output_text", "text": work.answer.text, "annotations": [], "logprobs": []}
        said = {"role": "assistant", "status": "completed", "content": [part]}
        return {"id": f"msg_{work.id}", "type": "message", **said}
    called = {"call_id": f"call_{work.id}", "name": work.answer.tool, "arguments": work.answer.text}
    return {"id": f"fc_{work.id}", "type": "function_call", "status": "completed", **called}


def _usage(work: Work) -> dict[str, Any]:
    counts = work.counts()
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached, **written(counts)},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.prompt + counts.completion,
    }


def _message(item: Json) -> Message:
    if item.get("type") == "function_call":
        return Message("assistant", f"{item['name']} {item['arguments']}")
    if item.get("type") == "function_call_output":
        return message("tool", item["output"])
    return message(item.get("role", "assistant"), item.get("content"))
