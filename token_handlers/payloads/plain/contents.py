"""Whether the content of an answer is plain: text and calls of the caller's own tools, which have no fees.

An SDK's object is known by the name of its type, so that its fields are read without running the application's code.
"""

from typing import Any

_BLOCKS = frozenset({"text", "tool_use", "thinking", "redacted_thinking", "reasoning", "refusal", "function_call",
                     "tool_call"})  # fmt: skip
_FEES = frozenset({"annotations", "executed_tools"})
_NOTHING: dict[str, Any] = {}

_MOST_TYPES = 256
_sdk_types: set[type] = set()
"""The types of the SDKs that have been seen: a few, and those of the models that answers are parsed into."""


def is_of_sdk(kind: type) -> bool:
    """Whether a type is one of OpenAI's or Anthropic's SDK."""
    if kind in _sdk_types:
        return True
    if not kind.__module__.startswith(("openai.", "anthropic.")):
        return False
    if len(_sdk_types) >= _MOST_TYPES:
        _sdk_types.clear()  # or the models of an application that makes one a request would never be freed
    _sdk_types.add(kind)
    return True


def fields_of(value: Any, names: frozenset[str]) -> dict[str, Any] | None:
    """The fields of an SDK's object whose type has one of these names; None with unknown fields, and of all else."""
    kind = type(value)
    if (kind not in _sdk_types and not is_of_sdk(kind)) or kind.__name__ not in names or value.__pydantic_extra__:
        return None
    fields: dict[str, Any] = value.__dict__
    return fields


def are_plain_blocks(content: Any) -> bool:
    """Whether an answer is text, or its blocks show neither a tool that is billed nor an image.

    An SDK makes a text's object of a block that it does not know: the ``type`` alone says which it is.
    """
    if content is None or type(content) is str:
        return True
    if type(content) is not list:
        return False
    for block in content:
        kind = type(block)
        if kind is not str:
            is_object = kind in _sdk_types or is_of_sdk(kind)
            name = (block.__dict__ if is_object else block if kind is dict else _NOTHING).get("type")
            if type(name) is not str or name not in _BLOCKS:
                return False
    return True


def are_plain_choices(choices: list[Any]) -> bool:
    """Whether the choices of a chat completion show neither citations nor tools that its provider ran."""
    for choice in choices:
        fields = choice if type(choice) is dict else _fields(choice)
        message: Any = fields["message"] if "message" in fields else fields.get("delta")
        fields = message if type(message) is dict else _fields(message)
        if not fields:
            return False
        if fields is message:
            if "executed_tools" in fields:
                return False
        elif message.__pydantic_extra__ and not _FEES.isdisjoint(message.__pydantic_extra__):
            return False  # where an SDK keeps what it does not know, as a chunk's citations
        notes, calls = fields.get("annotations"), fields.get("tool_calls")
        if notes is not None and (type(notes) is not list or notes):
            return False
        if calls is not None and not _are_callers_own(calls):
            return False
    return True


def _are_callers_own(calls: Any) -> bool:
    """Whether no tool call is a provider's: its built-in tools have names of their own."""
    if type(calls) is not list:
        return False
    names = [_fields(_fields(call).get("function")).get("name") for call in calls]
    return all(type(name) is str and not name.startswith("$") for name in names)


def _fields(value: Any) -> dict[str, Any]:
    if type(value) is dict:
        return value
    fields: dict[str, Any] = value.__dict__ if type(value).__module__.startswith("openai.") else {}
    return fields
