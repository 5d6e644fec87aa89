"""POST /chat/completions."""

from collections.abc import Iterator
from typing import Any

from token_handlers.demo.server.answers import Ask, Json, Message, Tool, count, count_prompt, message
from token_handlers.demo.server.work import Chunk, Step, Work, chunks, usage_object


def read(body: Json) -> Ask:
    """The ask of a chat request; also of Azure's, whose model may be the deployment's name."""
    messages = tuple(_message(one) for one in body["messages"])
    tools = body.get("tools") or ()
    wanted = body.get("response_format") or {}
    choices = body.get("n") or 1
    return Ask(
        model=body["model"],
        prompt_tokens=count_prompt(messages, *tools, wanted.get("json_schema")),
        messages=messages,
        tools=tuple(Tool(one["function"]["name"], one["function"].get("parameters") or {}) for one in tools),
        choice=tool_choice(body.get("tool_choice")),
        schema=_schema(wanted),
        limit=body.get("max_completion_tokens") or body.get("max_tokens"),
        choices=choices,
        billed_choices=choices,
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        tier=body.get("service_tier") or "",
    )


def tool_choice(wanted: str | Json | None) -> str:
    """``auto``, ``none``, ``required`` or a tool's name, out of the ways the APIs write it."""
    if isinstance(wanted, str):
        return "required" if wanted == "any" else wanted
    if not wanted or wanted["type"] == "allowed_tools":
        return "auto"
    return str(wanted.get("function", wanted)["name"])


def whole(work: Work) -> dict[str, Any]:
    """The answer in one piece."""
    answer = work.answer
    said: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    if answer.tool is not None:
        said = {**said, "content": None}
    finish = answer.end("tool_calls", "length", "stop")
    choices = [
        {"index": index, "message": said | _calls(work, index), "logprobs": None, "finish_reason": finish}
        for index in range(work.ask.choices)
    ]
    usage = {} if work.modes.usage == "never" else {"usage": usage_object(work, work.counts())}
    return {**_head(work, "chat.completion"), "choices": choices, **usage}


def stream(work: Work) -> Iterator[Chunk]:
    """The answer's chunks: the role, a piece each, the reason of the end, and usage where it is stated."""
    return chunks(work, _head(work, "chat.completion.chunk"), _steps)


def _steps(work: Work, index: int) -> Iterator[Step]:
    tool = work.answer.tool
    opening = {"role": "assistant", "content": None if tool is not None else "", "refusal": None}
    yield Step(_choice(index, opening), work.reasoning)
    if tool is not None:
        call = {"id": _call_id(work, index), "type": "function", "function": {"name": tool, "arguments": ""}}
        yield Step(_choice(index, {"tool_calls": [{"index": 0, **call}]}), count(tool), piece=True)
    for piece in work.answer.pieces:
        part: dict[str, Any] = {"index": 0, "function": {"arguments": piece}}
        delta = {"content": piece} if tool is None else {"tool_calls": [part]}
        yield Step(_choice(index, delta), 1, piece=True)
    yield Step(_choice(index, {}, work.answer.end("tool_calls", "length", "stop")))


def _choice(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def _calls(work: Work, index: int) -> dict[str, Any]:
    if work.answer.tool is None:
        return {}
    function = {"name": work.answer.tool, "arguments": work.answer.text}
    return {"tool_calls": [{"id": _call_id(work, index), "type": "function", "function": function}]}


def _call_id(work: Work, index: int) -> str:
    return f"call_{work.id}_{index}"


def _head(work: Work, kind: str) -> dict[str, Any]:
    return {**work.envelope("chatcmpl", kind), "service_tier": work.tier, "system_fingerprint": "fp_loopback"}


def _message(one: Json) -> Message:
    functions = [call["function"] for call in one.get("tool_calls") or ()]
    calls = [f"{function['name']} {function['arguments']}" for function in functions]
    return message(one["role"], one.get("content"), *calls)


def _schema(wanted: Json) -> Json | None:
    if wanted.get("type") == "json_schema":
        return wanted["json_schema"].get("schema") or {}
    return {} if wanted.get("type") == "json_object" else None
