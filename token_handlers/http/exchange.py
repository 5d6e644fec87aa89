"""One request to a provider and its answer: opened where it is sent, answered once."""

from array import array
from asyncio import _get_running_loop, current_task
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import cache
from threading import get_ident
from time import monotonic
from typing import Any, NamedTuple, Protocol
from weakref import ref

from token_handlers.errors import BudgetExceeded, TokenHandlersError, absorb
from token_handlers.http.client_errors import status_of, was_sent
from token_handlers.http.completion import TELLING, Headers, completed
from token_handlers.http.events import AnswerReading
from token_handlers.http.requests import ProviderRequest
from token_handlers.http.responses import ResponseUsage, read_body
from token_handlers.payloads import ReportedUsage, read_payload


class ProviderAnswer(NamedTuple):
    """How a request to a provider ended.

    ``status`` is the HTTP status (None: no answer came). ``usage`` is what the answer reports (None: nothing); it is
    the bill only if ``is_final``, as otherwise more was generated after it. ``is_lost``: the request was sent and none
    of its answer was read, so the provider may have billed it. ``lost_attempts`` is how many attempts were lost before
    this one and repeated by botocore; other SDKs' retries are requests of their own. ``is_relayed``: the request went
    to a server in this process, such as a proxy, whose own request to the provider is counted instead. ``model`` is the
    one that answered. ``error`` is the class name of the exception that ended the request. ``chunk_seconds`` are the
    seconds from the sending to each chunk of a stream; empty unless somebody asks for them by `time_chunks`.
    """

    request: ProviderRequest
    status: int | None = None
    usage: ReportedUsage | None = None
    is_final: bool = False
    is_lost: bool = False
    lost_attempts: int = 0
    is_relayed: bool = False
    model: str | None = None
    request_id: str | None = None
    response_id: str | None = None
    organization: str | None = None
    project: str | None = None
    streamed: bool = False
    error: str | None = None
    chunk_seconds: tuple[float, ...] = ()


class Observer(Protocol):
    """Gets each request to a provider, and its answer. What it raises is logged once and never reaches the client.

    Only a BudgetExceeded of ``opened`` does: the request is not sent. This is the last line of defence, below the SDKs'
    retries: an SDK that takes any error for a lost connection retries in vain, and raises its own error.
    """

    def wants(self) -> bool:
        """Return whether anything is tracked; called first for every request of the process, so it must be cheap."""

    def opened(self, request: ProviderRequest) -> object | None:
        """Return the owner of a request, None where it has none; called where it is sent, in its thread and context.

        Raises BudgetExceeded where the request must not be sent.
        """

    def begun(self, owner: object) -> None:
        """Note that the provider began to answer in a stream, which the client may stop reading and leave open."""

    def answered(self, owner: object, answer: ProviderAnswer) -> None:
        """Take the answer, once for each request that has an owner.

        Called when the body was read to its end, closed, or collected as garbage: in any thread and in the middle of
        anything, so it must not wait for a lock.
        """


class RawAnswer(NamedTuple):
    """An answer as it was received, kept because the client may fail to parse it."""

    status: int
    headers: Headers
    body: bytes


class Flow:
    """The thread and the asyncio task that are sending a request, and the attempts that their client has made.

    ``lost_attempts`` is how many attempts were sent and not answered, ``raw`` the last answer; both only for clients
    whose transport is watched, too. ``is_relayed``: as in ProviderAnswer.
    """

    # Class attributes are the defaults, here and below: each request makes one, and sets few of them.
    is_over = is_relayed = False
    lost_attempts = 0
    raw: RawAnswer | None = None

    def __init__(self) -> None:
        loop = _get_running_loop()
        self.thread_and_task = get_ident(), 0 if loop is None else id(current_task(loop))

    def is_here(self) -> bool:
        """Return whether the code here runs in this thread and task."""
        return self.thread_and_task == Flow().thread_and_task


_outer: ContextVar[Flow | None] = ContextVar("token_handlers_http_outer", default=None)


def outer_flow() -> Flow | None:
    """Return the flow of the request that a client is sending around the code here, None without one."""
    flow = _outer.get()
    return None if flow is None or flow.is_over else flow


class harmless:  # noqa: N801 (reads as a word; contextlib's takes three times as long)
    """Context manager: log once what our code raises, and never let it reach the client."""

    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        contain(error, self._where)
        return True


def contain(error: Exception, where: str) -> None:
    """Handle an error as `harmless` does, in an except clause: for every request a `with` would be three calls more."""
    if isinstance(error, BudgetExceeded):  # absorb() lets it pass, which is right anywhere else
        error = TokenHandlersError(f"a budget cannot refuse what was sent: {error}")
    absorb(error, where)


MOST_CHUNKS = 10_000
"""How many chunks of a stream are timed."""

chunk_timers: dict[int, ref[object]] = {}
"""The sinks that want the times of chunks, by id; without one no time is taken."""


def time_chunks(sink: object) -> None:
    """Take the times of streams' chunks for a sink, until it is collected as garbage or `stop_timing` is called."""
    key = id(sink)

    def gone(_: object) -> None:
        chunk_timers.pop(key, None)

    chunk_timers[key] = ref(sink, gone)


def stop_timing(sink: object) -> None:
    """Take no more times for a sink."""
    chunk_timers.pop(id(sink), None)


class Exchange:
    """A request that has an owner, from its sending until its answer was read, closed or dropped, or it failed."""

    streamed = False
    _status: int | None = None
    _headers: Headers | None = None
    _usage: ResponseUsage | None = None
    _reading: AnswerReading | None = None  # of a body that came whole
    _token: Token[Flow | None] | None = None
    _chunks: "array[float] | None" = None
    _sent_at = 0.0

    def __init__(self, observer: Observer, owner: object, request: ProviderRequest) -> None:
        self._observer = observer
        self._owner = [owner]  # popped once: by a reader, or by the garbage collector while one is at it
        self.request = request
        self.flow = Flow()
        if chunk_timers:
            self._sent_at = monotonic()

    def __enter__(self) -> None:
        """Begin the sending: what another client sends inside this is the same request."""
        self._token = _outer.set(self.flow)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        flow, token = self.flow, self._token
        flow.is_over, self._token = True, None
        if token is not None:
            try:
                _outer.reset(token)
            except ValueError:  # a coroutine that was given up is closed in another context
                self._token = None
        raw, flow.raw = flow.raw, None
        if error is None:
            return
        is_unread = raw is not None and status_of(error) is None  # the client could not parse it
        if raw is not None and is_unread and self.start_response(raw.status, raw.headers, streamed=False):
            self.feed(raw.body)
            self._finish(is_whole=True, error=error)
        self.fail(error)

    def __del__(self) -> None:
        if getattr(self, "_owner", None):  # an error in __init__ leaves none
            self.close()

    def start_response(self, status: int, headers: Headers, *, streamed: bool) -> bool:
        """Take the status and headers; return whether to feed the body, which is not needed of an error."""
        try:
            self._status, self._headers, self.streamed = status, headers, streamed
            if chunk_timers and streamed and self.request.streamed:
                self._chunks = array("d")
            if 200 <= status < 300:
                self._usage = ResponseUsage(self.request.api, self.request.provider, headers.get("content-type"))
                if streamed and self._owner:
                    self._observer.begun(self._owner[0])
                return True
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the client's
            contain(error, "reading an answer's head")
        self.close()
        return False

    def take_response(self, status: int, headers: Headers, body: bytes, *, streamed: bool) -> None:
        """Take an answer whose body has been read already."""
        if not streamed and 200 <= status < 300:
            request = self.request
            try:
                self._reading = read_body(request.api, request.provider, headers.get("content-type"), body)
            except Exception as error:  # noqa: BLE001 - as above
                contain(error, "reading an answer")
        if self._reading is not None:
            self._status, self._headers = status, headers
            self._finish(is_whole=True)
        elif self.start_response(status, headers, streamed=streamed):
            self.feed(body)
            self.end()

    def feed(
        self, piece: bytes | dict[str, Any], read: Callable[[ResponseUsage, Any], None] = ResponseUsage.feed
    ) -> None:
        """Take the next bytes of the body, or what another method of ResponseUsage's reads."""
        usage = self._usage
        if usage is not None:
            if self._chunks is not None:
                self._note_chunk(self._chunks)
            try:
                read(usage, piece)
            except Exception as error:  # noqa: BLE001 - as above
                self._usage = None
                contain(error, "reading an answer")

    def feed_event(self, event: dict[str, Any]) -> None:
        """Take the next event of a stream that its client parses itself."""
        self.feed(event, ResponseUsage.feed_event)

    def feed_line(self, data: bytes) -> None:
        """Take the next event of a stream as JSON, out of a frame that its client parses."""
        self.feed(data, ResponseUsage.feed_line)

    def _note_chunk(self, chunks: "array[float]") -> None:
        if len(chunks) < MOST_CHUNKS:
            chunks.append(monotonic() - self._sent_at)

    def end(self) -> None:
        """Note that the body was read to its end."""
        self._finish(is_whole=True)

    def close(self) -> None:
        """Note that no more of the body will be read."""
        self._finish(is_whole=False)

    def fail(self, error: BaseException) -> None:
        """Note that the request, or the reading of its answer, ended with an error."""
        if self._owner:
            with harmless("reading a client's error"):
                self._status = self._status or status_of(error)
        self._finish(is_whole=False, error=error)

    def _finish(self, *, is_whole: bool, error: BaseException | None = None) -> None:
        try:
            owner = self._owner.pop()
        except IndexError:
            return
        try:
            answer = self._answer(is_whole=is_whole, error=error)
        except Exception as fault:  # noqa: BLE001 - as above
            is_lost = self._status is None or 200 <= self._status < 300  # nobody knows what it was billed
            answer = ProviderAnswer(self.request, self._status, is_lost=is_lost)
            contain(fault, "reading an answer")
        try:
            self._observer.answered(owner, answer)
        except Exception as fault:  # noqa: BLE001 - as above
            contain(fault, "recording an answer")
        self._usage = None

    def _answer(self, *, is_whole: bool, error: BaseException | None) -> ProviderAnswer:
        name = None if error is None else type(error).__name__
        if self.flow.is_relayed:
            return ProviderAnswer(self.request, self._status, is_relayed=True, streamed=self.streamed, error=name)
        if self._status is None:
            is_lost = error is None or was_sent(error)
            before = max(0, self.flow.lost_attempts - is_lost)
            return ProviderAnswer(self.request, is_lost=is_lost, lost_attempts=before, error=name)
        request, headers = self.request, self._headers or {}
        reading = self._reading or self._read(is_whole=is_whole)
        usage, is_final, model, response_id = reading or AnswerReading()
        if usage is None and request.api == "invoke" and 200 <= self._status < 300:
            usage = _counted_in_headers(headers)
            is_final = usage is not None
        if usage is not None:
            try:
                usage = completed(usage, request, headers)
            except Exception as fault:  # noqa: BLE001 - as above
                contain(fault, "reading a request")
        ids, organization, project = _header_names(request.api, request.provider)
        return ProviderAnswer(
            request,
            self._status,
            usage,
            is_final=is_final,
            is_lost=reading is None and usage is None and 200 <= self._status < 300,
            lost_attempts=self.flow.lost_attempts,
            model=(usage and usage.model) or model,
            request_id=next(filter(None, map(headers.get, ids)), None),
            response_id=response_id,
            organization=headers.get(organization) or None,
            project=headers.get(project) or None,
            streamed=self.streamed,
            error=name,
            chunk_seconds=() if self._chunks is None else tuple(self._chunks),
        )

    def _read(self, *, is_whole: bool) -> AnswerReading | None:
        """Return what a body that came in pieces says, None where none of it came."""
        body = self._usage
        if body is None:
            return None
        try:
            body.end(is_whole=is_whole)
            return None if body.is_empty else body.read()
        except Exception as fault:  # noqa: BLE001 - as above
            contain(fault, "reading an answer")
            return None if body.is_empty else AnswerReading()


@cache
def _header_names(api: str, provider: str | None) -> tuple[tuple[str, ...], str, str]:
    """Return the names of the headers with a request's id, organization and project; "" where an API sends none."""
    ids = _REQUEST_IDS.get(api, _OTHER_REQUEST_IDS)
    if provider == "openrouter":
        ids = ()  # its bill and its /generation know a call by the answer's own id
    return ids, _ORGANIZATIONS.get(provider, ""), _PROJECTS.get(provider, "")


_REQUEST_IDS = {"messages": ("request-id", "x-request-id"), "converse": ("x-amzn-requestid",)}
_REQUEST_IDS["invoke"] = (*_REQUEST_IDS["converse"], "request-id")
_OTHER_REQUEST_IDS = ("x-request-id", "apim-request-id", "request-id")
_OPENAIS = (None, "openai", "azure")
_ORGANIZATIONS = {**dict.fromkeys(_OPENAIS, "openai-organization"), "anthropic": "anthropic-organization-id"}
_PROJECTS = dict.fromkeys(_OPENAIS, "openai-project")
_COUNTS = tuple(
    f"x-amzn-bedrock-{name}-token-count" for name in ("input", "output", "cache-read-input", "cache-write-input")
)

READ_HEADERS = frozenset({
    "content-type", *TELLING, *_COUNTS, *_OTHER_REQUEST_IDS, *_ORGANIZATIONS.values(), *_PROJECTS.values(),
    *(name for names in _REQUEST_IDS.values() for name in names),
})  # fmt: skip
"""The headers of an answer that are read, in lower case; a client may leave the others out."""


def _counted_in_headers(headers: Headers) -> ReportedUsage | None:
    """Return the usage in the headers of Bedrock's InvokeModel, which for some models is all that it says."""
    found = {name: value for name in _COUNTS if (value := headers.get(name)) is not None}
    return read_payload(found) if found else None


class _Watch:
    observer: Observer | None = None


def set_observer(observer: Observer | None) -> None:
    """Give the requests that are sent from now on to an observer, None: to nobody."""
    _Watch.observer = observer


def open_exchange(read: Callable[..., ProviderRequest | None], *sent: object) -> Exchange | None:
    """Return the exchange of a request that has an owner; None for one that is not a provider's, or not watched.

    ``read`` makes the request of what is ``sent``. A request that a client sends by another client has one exchange,
    the outer one. Raises BudgetExceeded where a budget has no room for it.
    """
    observer = _Watch.observer
    if observer is None:
        return None
    request: ProviderRequest | None = None
    try:
        if observer.wants():
            outer = _outer.get()
            if outer is None or outer.is_over:
                request = read(*sent)
            elif not outer.is_here():
                request = read(*sent)
                outer.is_relayed = outer.is_relayed or request is not None
    except Exception as error:  # noqa: BLE001 - as above
        contain(error, "reading a request")
    if request is None:
        return None
    owner = None
    try:
        owner = observer.opened(request)
        return None if owner is None else Exchange(observer, owner, request)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not the application's
        if owner is not None:  # it will be sent, and nobody will see the answer
            observer.answered(owner, ProviderAnswer(request, is_lost=True))
        absorb(error, "finding whose request it is")  # a budget's refusal passes
        return None
