"""An OpenAI-compatible server on the loopback interface that writes down what it billed.

    with LedgerServer() as server:
        client = openai.OpenAI(base_url=server.url(usage="never", chan="t1"), api_key="none")
        ...
        server.total("t1")      # what a provider would have billed

Endpoints: chat/completions, responses, completions, embeddings, Anthropic's messages, GET models, and Azure's
deployment paths: whatever stands between the modes and the endpoint's name is ignored. A token is a word or a
punctuation mark; a prompt has 3 more for each message and 3 for itself, and its tools and schemas count as JSON.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Self

from token_handlers.demo.server.billing import Bill, Billed, Books
from token_handlers.demo.server.exchange import Desk
from token_handlers.demo.server.modes import modes_from, path_segment
from token_handlers.demo.server.wire import Line

BACKLOG = 512
SHUTDOWN_SECONDS = 10
WAIT_SECONDS = 10.0


class LedgerServer:
    """The server, in a thread of its own from ``with`` (or ``start``) to its end (or ``close``); port 0 takes any.

    How it behaves towards a client is written into the client's URL, so tests that use channels of their own share
    nothing. Its methods may be called from any thread. Those that wait block: in an event loop call them by
    ``asyncio.to_thread``.
    """

    def __init__(self, port: int = 0) -> None:
        self._wanted_port = port
        self._books = Books()
        self._lines: set[Line] = set()
        self._thread: threading.Thread | None = None
        self._running = threading.Event()
        self._desk: Desk
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self.port = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> Self:
        """Listen; an OSError says that the port is taken."""
        listener = socket.create_server(("127.0.0.1", self._wanted_port), backlog=BACKLOG)
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(listener,), name="ledger-server", daemon=True)
        self._thread.start()
        self._running.wait()
        return self

    def close(self) -> None:
        """Break open connections off, settle them, and end the thread; closing again does nothing."""
        if self._thread is None:
            return
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(SHUTDOWN_SECONDS)
        self._thread = None
        self._running.clear()

    def url(self, **modes: object) -> str:
        """A base URL, ending in /v1, whose requests are answered under these modes (see Modes).

        Clients that add to the path themselves, such as Azure's or Anthropic's, may be given it as it is.
        """
        segment = path_segment(modes_from(modes))
        return f"http://127.0.0.1:{self.port}{f'/m/{segment}' if segment else ''}/v1"

    def channel(self, chan: str, **modes: object) -> "Channel":
        """The server as one channel sees it; the modes hold in all of the channel's URLs that do not say otherwise."""
        return Channel(self, chan, **modes)

    def ledger(self, chan: str | None = None) -> list[Billed]:
        """The settled requests of a channel, or of all, in the order of settling."""
        return self._books.entries(chan)

    def total(self, chan: str | None = None) -> Bill:
        """The sum of the settled requests of a channel, or of all."""
        return self._books.total(chan)

    def release(self, chan: str) -> None:
        """Open the channel's gate for those who stand there and for all who come, until ``reset``."""
        self._loop.call_soon_threadsafe(lambda: self._desk.gate(chan).set())

    def wait_for(self, chan: str, requests: int = 1, timeout: float = WAIT_SECONDS) -> list[Billed]:
        """Block until the channel has that many settled requests, and return them; TimeoutError after ``timeout`` s."""
        self._books.wait_settled(chan, requests, timeout)
        return self.ledger(chan)

    def wait_at_gate(self, chan: str, requests: int = 1, timeout: float = WAIT_SECONDS) -> None:
        """Block until that many requests stand at the channel's gate; TimeoutError after ``timeout`` s."""
        self._books.wait_at_gate(chan, requests, timeout)

    def reset(self) -> None:
        """Forget all entries and counts; who waits at a gate goes on, later requests wait again."""
        self._books.clear()
        asyncio.run_coroutine_threadsafe(self._clear(), self._loop).result()

    async def _clear(self) -> None:
        self._desk.clear()

    def _run(self, listener: socket.socket) -> None:
        asyncio.run(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        self._loop, self._stop, self._desk = asyncio.get_running_loop(), asyncio.Event(), Desk(self._books)
        server = await self._loop.create_server(lambda: Line(self._desk.take, self._lines), sock=listener)
        self._running.set()
        await self._stop.wait()
        server.close()
        lines = list(self._lines)
        for line in lines:
            line.transport.abort()
        await asyncio.gather(*(line.closed.wait() for line in lines))


class Channel:
    """One channel of a server: a fresh ledger, without a server of its own."""

    def __init__(self, server: LedgerServer, chan: str, **modes: object) -> None:
        self.server, self.chan, self._modes = server, chan, modes

    def url(self, **modes: object) -> str:
        """A base URL of the channel under these modes."""
        return self.server.url(chan=self.chan, **{**self._modes, **modes})

    def entries(self) -> list[Billed]:
        """The channel's settled requests."""
        return self.server.ledger(self.chan)

    def total(self) -> Bill:
        """The sum of the channel's settled requests."""
        return self.server.total(self.chan)

    def release(self) -> None:
        """Open the channel's gate, for good."""
        self.server.release(self.chan)

    def wait_for(self, requests: int = 1, timeout: float = WAIT_SECONDS) -> list[Billed]:
        """Block until the channel has that many settled requests, and return them."""
        return self.server.wait_for(self.chan, requests, timeout)

    def wait_at_gate(self, requests: int = 1, timeout: float = WAIT_SECONDS) -> None:
        """Block until that many requests stand at the channel's gate."""
        self.server.wait_at_gate(self.chan, requests, timeout)
