"""What a provider's answer says it used, read from the bytes of its body as the client reads these.

Numbers and names are kept. Text is kept only while a usage may still be part of it: a body until it is whole, a line of
a stream until it is complete, an event with a usage until the next one of its type.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any, Protocol

from token_handlers.http.bodies import MOST_VECTOR_BYTES, Document, Frames, Lines, is_telling, parse
from token_handlers.http.events import AnswerReading, Event, Events, read_answer
from token_handlers.http.json_values import load

_LONG = frozenset({"embeddings", "rerank", "images", "audio"})
"""APIs whose answers may be long lists of vectors, images or sound."""


class _Body(Protocol):
    def feed(self, data: bytes) -> Iterable[Event | list[Any]]: ...

    def end(self, *, is_whole: bool) -> Iterator[Event | list[Any]]: ...


class ResponseUsage:
    """The usage of one answer, whose body is fed in pieces of any size as it comes out of the connection.

    ``feed`` takes decompressed bytes, ``feed_event`` an event that a client has parsed, ``end`` says that no more will
    come; ``read`` then returns what the answer says.
    """

    __slots__ = ("_api", "_body", "_content_type", "_events", "is_empty", "provider")

    def __init__(self, api: str, provider: str | None = None, content_type: str | None = None) -> None:
        self._api = api
        self._content_type = (content_type or "").lower()
        self._body: _Body | None = None
        self._events = Events()
        self.provider = provider
        self.is_empty = True

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        if not data:
            return
        self.is_empty = False
        if self._body is None:
            self._body = self._new_body(data)
        for event in self._body.feed(data):
            self._events.add(event)

    def feed_event(self, event: Event) -> None:
        """Take the next event of a stream that its client parses itself, and may take apart before the end."""
        self.is_empty = False
        self._events.add(deepcopy(event) if "metadata" in event else event)

    def feed_line(self, data: bytes) -> None:
        """Take the next event of a stream as JSON, out of a frame that its client parses."""
        self.is_empty = False
        if self._events.is_curious or is_telling(data):
            event = parse(data)
            if event is not None:
                self._events.add(event)

    def end(self, *, is_whole: bool = True) -> None:
        """Say that the body has come to its end, or with ``is_whole`` False that no more of it will be read."""
        body, self._body = self._body, None
        if body is not None:
            for event in body.end(is_whole=is_whole):
                self._events.add(event)
        if is_whole:
            self._events.ended = True

    def read(self) -> AnswerReading:
        """Return what the answer says; call it once, at the end."""
        return self._events.read(self.provider)

    def _new_body(self, data: bytes) -> _Body:
        kind, begin = self._content_type, data.lstrip()[:6]
        if "amazon.eventstream" in kind:
            return Frames(self._events)
        is_lines = "ndjson" in kind or "jsonl" in kind or "stream+json" in kind or self._api == "ollama"
        if "event-stream" in kind or is_lines or begin.startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
            return Lines(self._events)
        # vectors, images and sound have one usage near an end; of Google's vectors each has its own
        is_short = self._api in _LONG and self.provider != "google"
        return Document(self._events, is_short=is_short)


def read_body(api: str, provider: str | None, content_type: str | None, body: bytes) -> AnswerReading | None:
    """Return what a whole body says, None where it is not surely one JSON object, and so is left to `ResponseUsage`.

    Both say the same; this takes a fifth of the steps.
    """
    is_json = content_type is not None and content_type[:17] in ("application/json", "application/json;")
    if not is_json or api == "ollama" or (api in _LONG and len(body) > MOST_VECTOR_BYTES):
        return None
    answer = load(body)
    return read_answer(answer, provider) if isinstance(answer, dict) else None
