"""The text of LangChain's messages, for estimates."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def message_pairs(messages: Iterable[Any]) -> tuple[list[tuple[str, str]], bool]:
    """Return each message's role and text, and whether images, audio or files were left out."""
    pairs, media = [], False
    for message in messages:
        text, left_out = message_text(message)
        pairs.append((str(getattr(message, "type", "user")), text))
        media = media or left_out
    return pairs, media


def message_text(message: Any) -> tuple[str, bool]:
    """Return a message's text with its tool calls, and whether images, audio or files were left out of it."""
    texts, media = [], False
    for text in _texts(getattr(message, "content", message)):
        if text is None:
            media = True
        else:
            texts.append(text)
    calls = getattr(message, "tool_calls", None) or ()
    texts.extend(f"{call.get('name', '')} {call.get('args', '')}" for call in calls)
    return "\n".join(texts), media


def _texts(content: Any) -> Iterator[str | None]:
    if isinstance(content, str):
        yield content
        return
    for block in content if isinstance(content, Iterable) else ():
        if isinstance(block, str):
            yield block
        elif isinstance(block, Mapping):
            text = next(
                (block[key] for key in ("text", "thinking", "reasoning") if isinstance(block.get(key), str)), None
            )
            if text is not None or block.get("type") not in ("tool_use", "tool_call", "function_call", "reasoning"):
                yield text
