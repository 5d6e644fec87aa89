"""The bodies of answers, fed in pieces: what comes out of each are events, which `Events` takes."""

import json
import re
import struct
from base64 import b64decode
from collections.abc import Iterable, Iterator
from typing import Any

from token_handlers.http.events import Event, Events
from token_handlers.http.json_values import load

MOST_VECTOR_BYTES = 64_000
"""Bytes of a list of vectors that is read whole; of a longer one only the two ends are read."""

MOST_BODY_BYTES = 4_000_000
"""Bytes of a body or event that are kept until it is complete; of a longer one only the two ends are kept."""

HEAD, TAIL = 2_000, 4_000

_NAMES = re.compile(rb'(?<!\\)"(model|modelVersion|id|responseId|service_tier)"\s*:\s*"([^"\\]{1,200})"')
_USAGE = re.compile(rb'(?<!\\)"(usage|usageMetadata|usage_metadata|meta)"\s*:\s*(?=\{)')
_FRAME = struct.Struct(">II")  # an event stream's frame begins with its own length and its headers'


class Document:
    """A body that is one JSON value; ``is_short``: only the ends of a long one are kept."""

    def __init__(self, events: Events, *, is_short: bool = False) -> None:
        self._events = events
        self._pieces: list[bytes] = []
        self._size = 0
        self._most = MOST_VECTOR_BYTES if is_short else MOST_BODY_BYTES
        self._is_short = is_short

    def feed(self, data: bytes) -> Iterator[Event | list[Any]]:
        """Keep the piece."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > self._most and len(self._pieces) > 1:
            self._events.is_cut = not self._is_short
            self._pieces = [_ends(b"".join(self._pieces))]
            self._size = len(self._pieces[0])
        return iter(())

    def end(self, *, is_whole: bool) -> Iterator[Event | list[Any]]:
        """Yield what the body says; JSON that can be read is whole, whoever stopped reading after it."""
        data, self._pieces = b"".join(self._pieces), []
        value = parse(data, is_short=self._is_short) if is_whole else _load(data)
        if value is not None:
            self._events.ended = True
            if isinstance(value, dict):
                self._events.whole = value
            else:
                yield value


class Lines:
    """A stream of lines: server-sent events, or JSON values one a line."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._pending: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterable[Event | list[Any]]:
        """Return the events that are complete with this piece and say what the bill needs."""
        if self._pending or not data.endswith(b"\n"):
            whole, newline, rest = data.rpartition(b"\n")
            if not newline:
                self._hold(data)
                return ()
            data = b"".join((*self._pending, whole, newline))
            self._pending, self._size = ([rest] if rest else []), len(rest)
        return self._read(data) if self._events.is_curious or is_telling(data) else ()

    def end(self, *, is_whole: bool) -> Iterator[Event | list[Any]]:
        """Yield the last event, which may lack its end of line."""
        if self._pending:
            data, self._pending = b"".join(self._pending), []
            yield from self._read(data)

    def _hold(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size > MOST_BODY_BYTES:
            self._events.is_cut = True
            self._pending = [_ends(b"".join(self._pending))]
            self._size = len(self._pending[0])

    def _read(self, data: bytes) -> Iterator[Event | list[Any]]:
        for line in data.split(b"\n"):
            said = line.removeprefix(b"data:").strip()
            if said == b"[DONE]":
                self._events.ended = True
            elif said.startswith((b"{", b"[")) and (self._events.is_curious or is_telling(said)):
                value = parse(said)
                if value is not None:
                    yield value


class Frames:
    """Amazon's binary event stream, as it is sent: frames whose JSON may hold an event in base 64."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[Event | list[Any]]:
        """Yield the events of the frames that are complete with this piece."""
        pending = self._pending + data
        while len(pending) >= 12:
            size, headers = _FRAME.unpack_from(pending)
            if size < 16 + headers or size > MOST_BODY_BYTES:
                pending = b""
                break
            if len(pending) < size:
                break
            event = parse(pending[12 + headers : size - 4])
            pending = pending[size:]
            if isinstance(event, dict):
                yield _unpacked(event)
        self._pending = pending

    def end(self, *, is_whole: bool) -> Iterator[Event | list[Any]]:
        """Nothing is left in a frame that is not complete."""
        return iter(())


def _unpacked(event: Event) -> Event:
    packed = event.get("bytes")
    if isinstance(packed, str):
        inner = parse(b64decode(packed))
        return inner if isinstance(inner, dict) else event
    return event


def is_telling(data: bytes) -> bool:
    """Return whether bytes of a stream may say something about the bill; a false alarm does no harm."""
    if b"usage" in data:
        stated = data.count(b'"usage') - data.count(b'"usage":null') - data.count(b'"usage": null')
        if stated:
            return True
    return (
        b'_count"' in data
        or b"TokenCount" in data
        or b"billed_units" in data
        or b"groundingMetadata" in data
        or b"url_citation" in data
        or b"content_block_start" in data
        or b"executed_tools" in data
        or b'"$' in data
    )


def parse(data: bytes, *, is_short: bool = False) -> Event | list[Any] | None:
    """Return the JSON value; only usage, model and id of a long list of vectors, and of a value that was cut short."""
    ends = _decode_usage(data) if is_short and len(data) > MOST_VECTOR_BYTES else None
    if ends is not None:
        return ends
    value = _load(data)
    return _decode_usage(data) if value is None and len(data) > TAIL else value


def _load(data: bytes) -> Event | list[Any] | None:
    value = load(data)
    return value if isinstance(value, (dict, list)) else None


def _ends(data: bytes) -> bytes:
    return data[:HEAD] + b"\n" + data[-max(TAIL, HEAD) :]


def _decode_usage(data: bytes) -> Event | None:
    """Return the usage near the end of a long body, with the model and id at its beginning or end."""
    tail = data[-TAIL:]
    places = list(_USAGE.finditer(tail))
    if not places:
        return None
    found = places[-1]
    try:
        usage, _ = json.JSONDecoder().raw_decode(tail[found.end() :].decode(errors="replace"))
    except ValueError:
        return None
    named: Event = {}
    for key, value in _NAMES.findall(data[:HEAD] + tail):
        named.setdefault(key.decode(), value.decode(errors="replace"))
    return {**named, found[1].decode(): usage}
