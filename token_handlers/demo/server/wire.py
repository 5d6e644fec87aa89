"""HTTP/1.1 as the loopback server speaks it: keep-alive, bodies of a stated length, and chunked event streams."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, cast

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
TERMINATOR = b"0\r\n\r\n"


class Request(NamedTuple):
    """One HTTP request."""

    method: str
    path: str
    body: bytes


class Line(asyncio.Protocol):
    """A client's connection; ``serve`` starts a task for each request, one at a time.

    When the client goes away the task is cancelled at once, so that nothing is generated for nobody.
    """

    def __init__(self, serve: Callable[["Line", Request], asyncio.Task[None]], lines: set["Line"]) -> None:
        self._serve, self._lines = serve, lines
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._keep = True
        self._writable = asyncio.Event()
        self._writable.set()
        self.transport: asyncio.Transport
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport; asyncio has set TCP_NODELAY on it."""
        self.transport = cast(asyncio.Transport, transport)
        self._lines.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what is being answered."""
        self._lines.discard(self)
        self.closed.set()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and start on a request when it is there in full."""
        self._buffer += data
        self._advance()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable.set()

    async def flushed(self) -> None:
        """Let others run, and wait while the client reads too slowly; a lost connection cancels here."""
        await asyncio.sleep(0)
        await self._writable.wait()

    def leave_after(self) -> None:
        """Close the connection after the answer, and say so in its head."""
        self._keep = False

    def answer(self, status: int, body: dict[str, Any], headers: str = "") -> None:
        """Send a JSON answer."""
        content = json.dumps(body, separators=(",", ":")).encode()
        self._open(status, f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n{headers}", content)

    def open_stream(self) -> None:
        """Send the head of an event stream."""
        self._open(200, "Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n")

    def send(self, event: bytes) -> None:
        """Send one event."""
        self.transport.write(_chunk(event))

    def close_stream(self, event: bytes) -> None:
        """Send the last event together with the stream's end."""
        self.transport.write(_chunk(event) + TERMINATOR)

    def drop(self, *, reset: bool) -> None:
        """Break the connection off, once what was sent is out: by a FIN in the middle of the body, or by a RST."""
        if reset:
            # the peer may have been quicker
            with contextlib.suppress(OSError):
                handle = self.transport.get_extra_info("socket")
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._keep = False
        self.transport.close()

    def _open(self, status: int, headers: str, content: bytes = b"") -> None:
        leaving = "" if self._keep else "Connection: close\r\n"
        head = f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}\r\n{headers}{leaving}\r\n"
        self.transport.write(head.encode() + content)

    def _advance(self) -> None:
        if self._task is not None or self.transport.is_closing():
            return
        try:
            request, self._keep = _parse(self._buffer)
        except ValueError:
            self.transport.abort()
            return
        if request is not None:
            self._task = self._serve(self, request)
            self._task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not self._keep:
            self.transport.close()
        self._advance()


def sse(data: dict[str, Any], event: str) -> bytes:
    """A server-sent event."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _parse(buffer: bytearray) -> tuple[Request | None, bool]:
    """The first request in the buffer, taken out of it, and whether the client keeps the connection."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None, True
    start, *lines = buffer[:end].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    size = int(headers.get("content-length") or 0)
    if len(buffer) < end + 4 + size:
        return None, True
    body = bytes(buffer[end + 4 : end + 4 + size])
    del buffer[: end + 4 + size]
    method, path = start.split(" ")[:2]
    return Request(method, path, body), headers.get("connection", "").lower() != "close"


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)
