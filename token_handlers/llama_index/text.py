"""The text in LlamaIndex's messages and responses, which is used for estimates alone."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

_MEDIA = ("image", "audio", "video", "document")
_TEXT = {"text"}

# No steps of ours for each message: a conversation may have many.
_kwargs_of, _blocks_of, _type_of, _text_of = map(attrgetter, ("additional_kwargs", "blocks", "block_type", "text"))


def message_pairs(messages: Any) -> tuple[list[tuple[str, str]], bool]:
    """Return each message's role and text, and whether images, audio or files were left out."""
    pairs, media = [], False
    for message in messages if isinstance(messages, Iterable) else ():
        text, left_out = message_text(message)
        role = getattr(message, "role", "user")
        pairs.append((str(getattr(role, "value", role)), text))
        media = media or left_out
    return pairs, media


def message_text(message: Any) -> tuple[str, bool]:
    """Return a message's text with its tool calls, and whether images, audio or files were left out of it."""
    texts, media, calls = [], False, False
    for block in getattr(message, "blocks", None) or ():
        kind = getattr(block, "block_type", None)
        if kind == "tool_call":
            calls = True
            texts.append(f"{block.tool_name} {block.tool_kwargs}")
        elif kind in _MEDIA:
            media = True
        else:
            text = getattr(block, "text", None) or getattr(block, "content", None)
            if isinstance(text, str):
                texts.append(text)
    if not calls:
        texts.extend(_older_calls(getattr(message, "additional_kwargs", None) or {}))
    return "\n".join(texts), media


def response_text(response: Any) -> str:
    """Return the text of a chat or completion response, tool calls included."""
    message = getattr(response, "message", None)
    if message is not None:
        return message_text(message)[0]
    text = getattr(response, "text", None)
    return text if isinstance(text, str) else ""


def plain_texts(messages: Any) -> list[str] | None:
    """Return the texts of messages that are text alone, as `message_text` has them; None where one is not."""
    if not isinstance(messages, Sequence):
        return []
    try:
        if any("tool_calls" in kwargs for kwargs in filter(None, map(_kwargs_of, messages))):
            return None
        each = list(map(_blocks_of, messages))
        blocks = list(chain.from_iterable(each))
        if {*map(_type_of, blocks)} - _TEXT:
            return None
        texts = list(map(_text_of, blocks))
    except (AttributeError, TypeError):
        return None
    if {*map(len, each)} == {1}:  # as nearly always
        return texts
    return ["\n".join(map(_text_of, own)) for own in each]


def _older_calls(kwargs: Any) -> Iterable[str]:
    """Tool calls as integrations kept them before there were blocks for them: the SDK's objects, or dicts."""
    calls = kwargs.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = _get(call, "function") or call
        yield f"{_get(function, 'name') or ''} {_get(function, 'arguments') or _get(function, 'input') or ''}"


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def split_tokens(tokenizer: Callable[[str], Sequence[object]], texts: Iterable[str]) -> int:
    """Return the number of tokens into which a handler's own tokenizer splits texts."""
    return sum(len(tokenizer(text)) for text in texts if text)


class StructuredAnswer:
    """What structured prediction returned, as LlamaIndex's responses look: it has text to estimate, and no usage."""

    raw = None

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    @property
    def text(self) -> str:
        """The answer as JSON, of each object where there are several."""
        answers = self._answer if isinstance(self._answer, list) else [self._answer]
        return "".join(one.model_dump_json() for one in answers if hasattr(one, "model_dump_json"))


def states_usage(raw: Any) -> bool:
    """Return whether a raw chunk states usage, other than of no tokens at all."""
    try:
        usage = (raw.get("usage") or raw.get("usage_metadata")) if type(raw) is dict else getattr(raw, "usage", None)
        if usage is None:
            return False
        numbers = usage if isinstance(usage, dict) else usage.__dict__
        for number in numbers.values():
            if type(number) is int and number:
                return True
    except Exception:  # noqa: BLE001 - a foreign object's own code runs here, and junk states nothing
        return False
    return False
