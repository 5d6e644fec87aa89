"""One request from its arrival to its line in the ledger."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import count
from time import time
from typing import Any, NamedTuple
from urllib.parse import unquote

from token_handlers.demo.server import chat, completions, embeddings, messages, responses
from token_handlers.demo.server.answers import Answer, Ask, Json, compose
from token_handlers.demo.server.billing import EMBEDDINGS, Billed, Books
from token_handlers.demo.server.modes import Modes, read_segment
from token_handlers.demo.server.wire import Line, Request, sse
from token_handlers.demo.server.work import Chunk, Work

MODES = re.compile(r"/m/([^/]*)/")
DEPLOYMENT = re.compile(r"/deployments/([^/]+)/")
ENDPOINT = re.compile(r"/(chat/completions|completions|responses|embeddings|messages)$")
MODELS = ("gpt-4o-mini", "gpt-4o", "text-embedding-3-small")
KINDS = {401: "authentication_error", 429: "rate_limit_error"}
# the openai client waits half a second and more after a Retry-After of 0, but takes a millisecond at its word
RETRY = "Retry-After: 0\r\nRetry-After-Ms: 1\r\n"


class ServedApi(NamedTuple):
    """An endpoint: how its requests are read, and its answers written."""

    read: Callable[[Json], Ask]
    whole: Callable[[Work], dict[str, Any]]
    stream: Callable[[Work], Iterator[Chunk]] | None = None
    terminator: bytes = b""


DONE = b"data: [DONE]\n\n"
APIS = {
    "chat/completions": ServedApi(chat.read, chat.whole, chat.stream, DONE),
    "completions": ServedApi(completions.read, completions.whole, completions.stream, DONE),
    "responses": ServedApi(responses.read, responses.whole, responses.stream),
    "messages": ServedApi(messages.read, messages.whole, messages.stream),
    EMBEDDINGS: ServedApi(embeddings.read, embeddings.whole),
}


class Refusal(Exception):
    """A request that is answered with an HTTP error and billed nothing."""

    def __init__(self, entry: Billed, message: str) -> None:
        super().__init__(message)
        self.entry = entry


class Desk:
    """Takes requests in, under the modes of their paths; lives in the server's event loop, but for its books."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self._gates: dict[str, asyncio.Event] = {}
        self._requests: Counter[str] = Counter()
        self._ids = count(1)

    def take(self, line: Line, request: Request) -> asyncio.Task[None]:
        """Start answering; the request is in the ledger even when the client leaves at once."""
        loop, path = asyncio.get_running_loop(), request.path.partition("?")[0]
        if request.method == "GET" and path.endswith("/models"):
            return loop.create_task(_list_models(line))
        try:
            exchange = self._open(line, path, request.body)
        except Refusal as refusal:
            self.books.settle(refusal.entry)
            return loop.create_task(_refuse(line, refusal))
        task = loop.create_task(exchange.run())
        task.add_done_callback(lambda _: exchange.settle_broken())
        return task

    def gate(self, chan: str) -> asyncio.Event:
        """The channel's gate; a released one stays open."""
        return self._gates.setdefault(chan, asyncio.Event())

    def clear(self) -> None:
        """Close all gates for later requests, let those through that wait, and count every channel from 1 again."""
        for gate in self._gates.values():
            gate.set()
        self._gates.clear()
        self._requests.clear()

    def _open(self, line: Line, path: str, content: bytes) -> "ServedExchange":
        try:
            modes = _modes(path)
        except ValueError as error:
            raise Refusal(Billed("", path, "", status=400), str(error)) from error
        if modes.close:
            line.leave_after()
        if (found := ENDPOINT.search(path)) is None:
            raise Refusal(Billed(modes.chan, path, "", status=404), f"there is no {path}")
        api, entry = APIS[found[1]], Billed(modes.chan, found[1], "")
        try:
            body = _body(path, content)
            entry = replace(entry, model=body["model"], stream=bool(body.get("stream")))
            work = self._work(found[1], api.read(body), modes)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise Refusal(replace(entry, status=400), f"bad request: {error!r}") from error
        self._fail_on_order(entry, modes)
        return ServedExchange(self, line, api, entry, work)

    def _work(self, endpoint: str, ask: Ask, modes: Modes) -> Work:
        reasoning = 0 if endpoint in ("completions", EMBEDDINGS) else modes.reasoning
        answer = Answer(()) if endpoint == EMBEDDINGS else compose(ask, modes)
        return Work(ask, answer, modes, next(self._ids), int(time()), reasoning)

    def _fail_on_order(self, entry: Billed, modes: Modes) -> None:
        self._requests[modes.chan] += 1
        fault = modes.fault()
        if fault is not None and fault.hits(self._requests[modes.chan]):
            raise Refusal(replace(entry, status=fault.status), f"the server was told to answer {fault.status}")


class ServedExchange:
    """A request that is being answered, and billed."""

    def __init__(self, desk: Desk, line: Line, api: ServedApi, entry: Billed, work: Work) -> None:
        self._desk, self._line, self._api, self._work = desk, line, api, work
        self._entry = replace(
            entry,
            resolved=work.model,
            prompt_tokens=work.prompt_tokens,
            cached_tokens=work.cached_tokens,
            cache_write_tokens=work.written_tokens,
            tier=work.tier,
            cost=Decimal(work.modes.cost) if work.modes.cost else None,
        )
        self._settled = False
        self._sent = self._reasoned = self._pieces = 0
        self._told = False

    async def run(self) -> None:
        """Wait as the modes say, then answer, at once or in a stream."""
        modes = self._work.modes
        if modes.delay:
            await asyncio.sleep(modes.delay / 1000)
        if modes.hold or (modes.gate is not None and not self._work.ask.stream):
            await self._pass_gate()
        if self._api.stream is not None and self._work.ask.stream:
            await self._stream(self._api.stream(self._work))
        elif modes.cut is not None:
            self._drop()
        else:
            self._answer()

    def settle_broken(self) -> None:
        """Write down what an answer that did not come to its end is billed."""
        if self._settled:
            return
        work = self._work
        if self._work.ask.stream and work.modes.bill == "sent":
            self._settle(self._sent, self._reasoned, complete=False)
        else:
            self._settle(work.completion_tokens, work.counts().reasoning, complete=False)

    def _answer(self) -> None:
        work = self._work
        body = self._api.whole(work)
        self._sent, self._told = work.completion_tokens, body.get("usage") is not None
        self._settle(work.completion_tokens, work.counts().reasoning, complete=True)
        self._line.answer(200, body)

    async def _stream(self, chunks: Iterator[Chunk]) -> None:
        self._line.open_stream()
        last = next(chunks)
        try:
            for chunk in chunks:
                await self._send(last)
                last = chunk
        except _Cut:
            self._drop()
            return
        self._note(last)
        # whoever has read the stream's end finds it in the ledger
        self._settle(self._sent, self._reasoned, complete=True)
        self._line.close_stream(sse(last.data, last.event) + self._api.terminator)

    async def _send(self, chunk: Chunk) -> None:
        if chunk.piece:
            if not self._pieces:
                await self._reach(0)
            if self._work.modes.chunk_delay:
                await asyncio.sleep(self._work.modes.chunk_delay / 1000)
        self._line.send(sse(chunk.data, chunk.event))
        self._note(chunk)
        await self._line.flushed()
        if chunk.piece:
            self._pieces += 1
            await self._reach(self._pieces)

    async def _reach(self, pieces: int) -> None:
        if self._work.modes.gate == pieces:
            await self._pass_gate()
        if self._work.modes.cut == pieces:
            raise _Cut

    async def _pass_gate(self) -> None:
        chan = self._work.modes.chan
        self._desk.books.at_gate(chan, 1)
        try:
            await self._desk.gate(chan).wait()
        finally:
            self._desk.books.at_gate(chan, -1)

    def _note(self, chunk: Chunk) -> None:
        self._sent += chunk.tokens
        self._reasoned += 0 if chunk.piece else chunk.tokens
        self._told = self._told or chunk.usage

    def _drop(self) -> None:
        # whoever has seen the connection break finds it in the ledger
        self.settle_broken()
        self._line.drop(reset=self._work.modes.drop == "reset")

    def _settle(self, completion: int, reasoning: int, *, complete: bool) -> None:
        self._settled = True
        entry = replace(
            self._entry,
            completion_tokens=completion,
            reasoning_tokens=reasoning,
            complete=complete,
            sent=self._sent,
            usage_sent=self._told,
        )
        self._desk.books.settle(entry)


class _Cut(Exception):
    """The stream is to be broken off here."""


def _modes(path: str) -> Modes:
    found = MODES.match(path)
    return read_segment(found[1]) if found else Modes()


def _body(path: str, content: bytes) -> dict[str, Any]:
    body = dict(json.loads(content))
    deployment = DEPLOYMENT.search(path)
    if deployment and not body.get("model"):
        body["model"] = unquote(deployment[1])
    return body


async def _refuse(line: Line, refusal: Refusal) -> None:
    status = refusal.entry.status
    error = {"message": str(refusal), "type": KINDS.get(status, "invalid_request_error"), "param": None, "code": None}
    line.answer(status, {"type": "error", "error": error}, RETRY if status == 429 or status >= 500 else "")


async def _list_models(line: Line) -> None:
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "loopback"} for name in MODELS]
    line.answer(200, {"object": "list", "data": models})
