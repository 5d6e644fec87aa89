"""One time limit for a whole HTTP exchange: httpx has one for each read, so that a server that drips has no end."""

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import ssl

    import httpx

_SHORTEST_SECONDS = 0.001
"""What an operation gets that begins when the time is up: httpx then raises its own time-out."""


class TimedExchange:
    """The exchange that is under way, and when it has to be over."""

    def __init__(self) -> None:
        self.end = float("inf")

    def left(self, timeout: float | None) -> float:
        """Return how many seconds an operation may take that has a time limit of its own."""
        left = max(self.end - time.monotonic(), _SHORTEST_SECONDS)
        return left if timeout is None else min(timeout, left)

    def read_body(self, response: "httpx.Response", most: int) -> bytes | None:
        """Return a body; None where it has more than so many bytes, or is packed although nobody asked for that.

        Raises httpx.ReadTimeout where it is not complete in time.
        """
        import httpx

        if response.headers.get("Content-Encoding", "identity") != "identity":
            return None
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > most:
                return None
            if time.monotonic() >= self.end:
                raise httpx.ReadTimeout("the answer was not complete in time")
        return bytes(body)


class _Stream(Protocol):
    """httpcore's connection to a server."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes: ...

    def write(self, buffer: bytes, timeout: float | None = None) -> None: ...

    def start_tls(
        self, ssl_context: "ssl.SSLContext", server_hostname: str | None = None, timeout: float | None = None
    ) -> "_Stream": ...

    def close(self) -> None: ...

    def get_extra_info(self, info: str) -> object: ...


class _Backend(Protocol):
    """httpcore's way to open connections."""

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: object) -> _Stream: ...

    def sleep(self, seconds: float) -> None: ...


class _LimitedStream:
    """A connection whose operations end with the exchange."""

    def __init__(self, stream: _Stream, exchange: TimedExchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._exchange.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._exchange.left(timeout))

    def start_tls(
        self, ssl_context: "ssl.SSLContext", server_hostname: str | None = None, timeout: float | None = None
    ) -> "_LimitedStream":
        left = self._exchange.left(timeout)
        return _LimitedStream(self._stream.start_tls(ssl_context, server_hostname, left), self._exchange)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class _LimitedBackend:
    """Opens connections whose operations end with the exchange."""

    def __init__(self, backend: _Backend, exchange: TimedExchange) -> None:
        self._backend = backend
        self._exchange = exchange

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: object) -> _LimitedStream:
        stream = self._backend.connect_tcp(host, port, timeout=self._exchange.left(timeout), **options)
        return _LimitedStream(stream, self._exchange)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


def limit(client: "httpx.Client") -> TimedExchange:
    """Make every operation of a client end with its exchange, through a proxy too, and return that.

    httpx passes on no other way to open connections; in a version that keeps it elsewhere each read has the time limit.
    """
    exchange = TimedExchange()
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001 (httpx has no way to say it)
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if backend is not None:
            pool._network_backend = _LimitedBackend(backend, exchange)  # type: ignore[union-attr]  # noqa: SLF001
    return exchange
