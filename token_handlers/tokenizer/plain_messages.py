"""The text of prompts as the providers' APIs take them, for estimates: mappings with a role and content."""

import json
from collections.abc import Iterator, Mapping, Sequence

_CONTENT = ("content", "parts", "output", "response", "toolResult", "functionResponse")
_TEXTS = ("text", "thinking", "refusal", "arguments", "input_text")
_CALLS = ("functionCall", "function_call", "toolUse", "function")
_WITHOUT_TEXT = frozenset({"reasoning", "redacted_thinking", "cache_point"})
_SYSTEM = ("system", "instructions", "systemInstruction", "system_instruction")
_PROMPTS = (*_SYSTEM, "messages", "input", "contents", "prompt")

Pairs = list[tuple[str, str]]


def message_text(message: Mapping[str, object]) -> tuple[str, bool]:
    """Return a message's text with its tool calls, and whether images, audio or files were left out of it."""
    pieces = list(_pieces(message))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        pieces += _pieces(call)
    return "\n".join(piece for piece in pieces if piece is not None), None in pieces


def role_of(message: Mapping[str, object]) -> str:
    """Return a message's role, "user" where it has none."""
    role = message.get("role") or message.get("type")
    return role if isinstance(role, str) else "user"


def request_messages(body: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the messages of a request as a provider's API takes it, each a mapping with its role."""
    found: list[Mapping[str, object]] = []
    for name in _PROMPTS:
        role = "system" if name in _SYSTEM else "user"
        value = body.get(name)
        listed = value if isinstance(value, list) else [value] if value else []
        found += [
            each if isinstance(each, Mapping) and "role" in each else {"role": role, "content": [each]}
            for each in listed
        ]
    return found


def _pieces(value: object) -> Iterator[str | None]:
    """Yield the texts in a message or a block of it, None for what is no text, such as an image."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for each in value:
            yield from _pieces(each)
    elif isinstance(value, Mapping):
        yield from _of_mapping(value)


def _of_mapping(block: Mapping[str, object]) -> Iterator[str | None]:
    for key in _CALLS:
        if isinstance(call := block.get(key), Mapping):
            yield _call(call)
            return
    if "name" in block and ("input" in block or "arguments" in block):
        yield _call(block)
        return
    text = next((block[key] for key in _TEXTS if isinstance(block.get(key), str)), None)
    inner = next((block[key] for key in _CONTENT if block.get(key) is not None), None)
    if isinstance(text, str):
        yield text
    elif inner is not None:
        yield from _pieces(inner)
    elif block.get("type") not in _WITHOUT_TEXT and not ({"role", "tool_calls"} & block.keys()):
        yield None


def _call(call: Mapping[str, object]) -> str:
    given = next((call[key] for key in ("arguments", "args", "input") if call.get(key) is not None), "")
    written = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, default=str)
    return f"{call.get('name') or ''} {written}"
