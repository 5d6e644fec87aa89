"""How each HTTP client is watched: the method that sends, and the place where the bytes of an answer pass.

Each ``watch_...`` takes a library's own function and returns the one to put in its place. Bodies are seen as their
reader takes them: nothing is read ahead, and what a reader leaves is not read.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import quote, urljoin

from token_handlers.http.client_errors import was_sent
from token_handlers.http.completion import Headers
from token_handlers.http.exchange import (
    READ_HEADERS,
    Exchange,
    RawAnswer,
    contain,
    harmless,
    open_exchange,
    outer_flow,
)
from token_handlers.http.requests import ProviderRequest, endpoint_of, read_parameters, read_post, read_request

Send = Callable[..., Any]
AsyncSend = Callable[..., Awaitable[Any]]
P = TypeVar("P")


# --- httpx and httpx2: not streamed, the body is there when `send` returns; streamed, `response.stream` passes it on.


def watch_httpx(send: Send, library: ModuleType) -> Send:
    """Watch `Client.send`: below it are redirects and authentication, above it an SDK's retries."""

    def watched(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = open_exchange(_read_httpx, request)
        if exchange is None:
            return send(self, request, *args, **kwargs)
        with exchange:
            response = send(self, request, *args, **kwargs)
        _follow_httpx(response, exchange, library, is_async=False, streamed=bool(kwargs.get("stream")))
        return response

    return watched


def watch_async_httpx(send: AsyncSend, library: ModuleType) -> AsyncSend:
    """Watch `AsyncClient.send`."""

    async def watched(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = open_exchange(_read_httpx, request)
        if exchange is None:
            return await send(self, request, *args, **kwargs)
        with exchange:
            response = await send(self, request, *args, **kwargs)
        _follow_httpx(response, exchange, library, is_async=True, streamed=bool(kwargs.get("stream")))
        return response

    return watched


def _read_httpx(request: Any) -> ProviderRequest | None:
    if request.method != "POST":
        return None
    try:
        body = request.content
    except RuntimeError:  # RequestNotRead: a body that is made while it is sent, as a form with a file is
        body = {each.name: getattr(each, "value", True) for each in getattr(request.stream, "fields", ())}
    parts = getattr(request.url, "_uri_reference", None)  # a URL takes seven calls to write itself
    if parts is None:
        return read_request("POST", str(request.url), body)
    return read_post(endpoint_of(parts.scheme, parts.host, parts.port, parts.path), body)


def _follow_httpx(response: Any, exchange: Exchange, library: ModuleType, *, is_async: bool, streamed: bool) -> None:
    try:  # `harmless` would be three calls more, for every request
        status, headers = response.status_code, _headers(response.headers)
        if not streamed or response.is_stream_consumed:
            body = response.content if status < 300 else b""  # a hook may have taken that of an error piece by piece
            exchange.take_response(status, headers, body, streamed=streamed)
        elif exchange.start_response(status, headers, streamed=streamed):
            stream = _streams(library)[is_async]
            response.stream = stream(response.stream, exchange, _taking(response, exchange))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not the client's
        contain(error, "watching an httpx response")


def _in_lower_case(headers: Mapping[str, str]) -> Headers:
    """Return the headers of any library by their names in lower case."""
    return {name.lower(): value for name, value in headers.items()}


_READ_HEADERS = frozenset(name.encode() for name in READ_HEADERS)


def _headers(headers: Any) -> Headers:
    """Return those of httpx's headers that we read: asked by name, httpx would search all of them for each."""
    listed = getattr(headers, "_list", None)  # name, name in lower case, value
    if listed is None:
        listed = [(name, name.lower(), value) for name, value in headers.raw]
    return {name.decode(): value.decode("latin-1") for _, name, value in listed if name in _READ_HEADERS}


def _taking(response: Any, exchange: Exchange) -> Callable[[bytes], None]:
    """Return a function that takes the pieces of the body as they are sent, compressed or not."""
    if not response.headers.get("content-encoding"):
        return exchange.feed
    twin = type(response)(response.status_code, headers=response.headers)  # the response has a decoder of its own
    decode = twin._get_content_decoder().decode  # noqa: SLF001 (no public way to decode)

    def take(data: bytes) -> None:
        with harmless("decompressing an answer"):
            decoded = decode(data)
            for piece in (decoded,) if isinstance(decoded, bytes) else decoded:  # httpx2 yields them
                exchange.feed(piece)

    return take


@cache
def _streams(library: Any) -> tuple[type, type]:
    """Return the library's byte streams, sync and async, that pass another one on."""

    class WatchedStream(library.SyncByteStream):  # type: ignore[misc]
        def __init__(self, inner: Any, exchange: Exchange, take: Callable[[bytes], None]) -> None:
            self._inner, self._exchange, self._take = inner, exchange, take

        def __iter__(self) -> Iterator[bytes]:
            return _pass_on(self._inner, self._exchange, self._take)

        def close(self) -> None:
            try:
                self._inner.close()
            finally:
                self._exchange.close()

    class WatchedAsyncStream(library.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, inner: Any, exchange: Exchange, take: Callable[[bytes], None]) -> None:
            self._inner, self._exchange, self._take = inner, exchange, take

        def __aiter__(self) -> AsyncIterator[bytes]:
            return _pass_on_async(self._inner, self._exchange, self._take)

        async def aclose(self) -> None:
            try:
                await self._inner.aclose()
            finally:
                self._exchange.close()

    return WatchedStream, WatchedAsyncStream


def _pass_on(pieces: Iterable[P], exchange: Exchange, take: Callable[[P], None]) -> Iterator[P]:
    """Yield the pieces of a body as they come, each after it was given to ``take``."""
    try:
        for piece in pieces:
            take(piece)
            yield piece
    except GeneratorExit:  # the reader may go on in another way, until it closes the body
        raise
    except BaseException as error:
        exchange.fail(error)
        raise
    exchange.end()


async def _pass_on_async(pieces: AsyncIterable[P], exchange: Exchange, take: Callable[[P], None]) -> AsyncIterator[P]:
    """As `_pass_on`."""
    try:
        async for piece in pieces:
            take(piece)
            yield piece
    except GeneratorExit:
        raise
    except BaseException as error:
        exchange.fail(error)
        raise
    exchange.end()


# --- requests: not streamed, `content` is there when `send` returns; streamed, urllib3's `raw.stream` passes it on.


def watch_requests(send: Send, library: ModuleType) -> Send:
    """Watch `Session.send`, which calls itself for redirects."""

    def watched(self: Any, request: Any, **kwargs: Any) -> Any:
        exchange = open_exchange(_read_prepared, request)
        if exchange is None:
            return send(self, request, **kwargs)
        with exchange:
            response = send(self, request, **kwargs)
        streamed = bool(kwargs.get("stream", self.stream))
        with harmless("watching a requests response"):
            _follow_raw(response, exchange, streamed=streamed)
        return response

    return watched


def _read_prepared(request: Any) -> ProviderRequest | None:
    return read_request(request.method or "", request.url or "", request.body)


def _follow_raw(response: Any, exchange: Exchange, *, streamed: bool) -> None:
    headers = _in_lower_case(response.headers)
    if not streamed or response._content is not False:  # noqa: SLF001 (a hook may have read it; `content` would read)
        exchange.take_response(response.status_code, headers, response.content or b"", streamed=streamed)
    elif exchange.start_response(response.status_code, headers, streamed=streamed) and hasattr(response.raw, "stream"):
        kind: Any = type(response.raw)
        _become(response.raw, _watched_raw(kind), exchange)


@cache
def _watched_raw(kind: Any) -> type:
    """Return urllib3's response as one that is watched."""

    def stream(self: Any, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        exchange: Exchange = self._token_handlers
        return _pass_on(kind.stream(self, *args, **kwargs), exchange, exchange.feed)

    def close(self: Any) -> None:
        try:
            kind.close(self)
        finally:
            self._token_handlers.close()

    return _subclass(kind, stream=stream, close=close)


def _become(target: Any, kind: type, exchange: Exchange) -> None:
    """Change an object's class to a subclass, so that it stays the same object."""
    target.__class__ = kind  # a TypeError for a class in C
    target._token_handlers = exchange  # noqa: SLF001 (ours)


def _subclass(kind: type, **methods: Callable[..., Any]) -> type:
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__, **methods})


# --- aiohttp: `response.content` is a StreamReader of slots, which becomes one of a subclass without slots.


def watch_aiohttp(send: AsyncSend, library: ModuleType) -> AsyncSend:
    """Watch `ClientSession._request`: no public place sees the bodies of streams."""

    async def watched(self: Any, method: str, str_or_url: Any, **kwargs: Any) -> Any:
        exchange = open_exchange(_read_aiohttp, self, method, str_or_url, kwargs)
        if exchange is None:
            return await send(self, method, str_or_url, **kwargs)
        with exchange:
            response = await send(self, method, str_or_url, **kwargs)
        with harmless("watching an aiohttp response"):
            headers = _in_lower_case(response.headers)
            if exchange.start_response(response.status, headers, streamed=exchange.request.streamed):
                _follow_reader(response.content, exchange)
        return response

    return watched


def _read_aiohttp(session: Any, method: str, url: Any, kwargs: Mapping[str, Any]) -> ProviderRequest | None:
    body = kwargs.get("json")
    if body is None:
        body = kwargs.get("data")
        body = getattr(body, "_value", body)  # aiohttp.JsonPayload and BytesPayload
    origin = str(getattr(session, "_base_url", None) or "")
    return read_request(method, urljoin(origin, str(url)), body)


_readers: dict[int, Exchange] = {}  # by the reader's id, as its slots have no room


def _follow_reader(reader: Any, exchange: Exchange) -> None:
    from aiohttp.streams import StreamReader

    if type(reader) is not StreamReader or reader.at_eof():  # the latter: there is no body
        exchange.end() if reader.at_eof() else exchange.close()
        return
    _readers[id(reader)] = exchange
    reader.__class__ = _watched_reader(StreamReader)


@cache
def _watched_reader(kind: Any) -> type:
    """Return aiohttp's reader as one that is watched: all its methods read through one."""

    class WatchedReader(kind):  # type: ignore[misc]
        __slots__ = ()

        def _read_nowait_chunk(self, n: int) -> bytes:
            data: bytes = super()._read_nowait_chunk(n)
            exchange = _readers.get(id(self))
            if exchange is not None:
                exchange.feed(data)
                if self.at_eof():
                    self._ended().end()
            return data

        def feed_eof(self) -> None:
            super().feed_eof()
            if self.at_eof() and id(self) in _readers:
                self._ended().end()

        def set_exception(self, error: BaseException, *args: Any) -> None:
            super().set_exception(error, *args)
            if id(self) in _readers:
                self._ended().fail(error)

        def __del__(self) -> None:
            _readers.pop(id(self), None)  # which closes the exchange

        def _ended(self) -> Exchange:
            return _readers.pop(id(self))

    WatchedReader.__name__ = WatchedReader.__qualname__ = kind.__name__
    return WatchedReader


# --- botocore and aiobotocore: the answer is a dict, its body or stream parsed by the client itself.

_OPERATIONS = {
    "Converse": "converse",
    "ConverseStream": "converse-stream",
    "InvokeModel": "invoke",
    "InvokeModelWithResponseStream": "invoke-with-response-stream",
    "Rerank": "rerank",
    "InvokeAgent": "agent",
    "InvokeInlineAgent": "agent",
    "RetrieveAndGenerate": "agent",
}
_OF_AGENTS = frozenset({"Rerank", "InvokeAgent", "InvokeInlineAgent", "RetrieveAndGenerate"})


def watch_botocore(call: Send, library: ModuleType) -> Send:
    """Watch `BaseClient._make_api_call`, through which every operation goes."""

    def watched(self: Any, operation_name: str, api_params: Any) -> Any:
        is_known = operation_name in _OPERATIONS
        exchange = open_exchange(_read_call, self, operation_name, api_params) if is_known else None
        if exchange is None:
            return call(self, operation_name, api_params)
        with exchange:
            response = call(self, operation_name, api_params)
        with harmless("watching a botocore response"):
            _follow_call(response, exchange, _watched_events, _watched_body)
        return response

    return watched


def watch_aiobotocore(call: AsyncSend, library: ModuleType) -> AsyncSend:
    """Watch `AioBaseClient._make_api_call`."""

    async def watched(self: Any, operation_name: str, api_params: Any) -> Any:
        is_known = operation_name in _OPERATIONS
        exchange = open_exchange(_read_call, self, operation_name, api_params) if is_known else None
        if exchange is None:
            return await call(self, operation_name, api_params)
        with exchange:
            response = await call(self, operation_name, api_params)
        with harmless("watching a botocore response"):
            _follow_call(response, exchange, _watched_async_events, _watched_async_body)
        return response

    return watched


def watch_attempts(send: Send, library: ModuleType) -> Send:
    """Watch `URLLib3Session.send`, below botocore's retries: a lost attempt that was sent is billed, too."""

    def watched(self: Any, request: Any) -> Any:
        flow = outer_flow()
        if flow is None:
            return send(self, request)
        try:
            response = send(self, request)
        except BaseException as error:
            flow.lost_attempts += was_sent(error)
            raise
        with harmless("watching a botocore response"):
            if not request.stream_output:
                flow.raw = RawAnswer(response.status_code, _in_lower_case(response.headers), response.content)
        return response

    return watched


def watch_async_attempts(send: AsyncSend, library: ModuleType) -> AsyncSend:
    """Watch aiobotocore's session."""

    async def watched(self: Any, request: Any) -> Any:
        flow = outer_flow()
        if flow is None:
            return await send(self, request)
        try:
            response = await send(self, request)
        except BaseException as error:
            flow.lost_attempts += was_sent(error)
            raise
        with harmless("watching a botocore response"):
            if not request.stream_output:
                headers = _in_lower_case(response.headers)
                flow.raw = RawAnswer(response.status_code, headers, await response.content)
        return response

    return watched


def _read_call(client: Any, operation: str, params: Any) -> ProviderRequest | None:
    service = "bedrock-agent-runtime" if operation in _OF_AGENTS else "bedrock-runtime"
    if client.meta.service_model.service_name != service or not isinstance(params, Mapping):
        return None
    if operation == "Rerank":
        return _read_rerank(client.meta.endpoint_url, params)
    if operation in _OF_AGENTS:
        return _read_agent(client.meta.endpoint_url, params)
    path = f"/model/{quote(str(params.get('modelId') or ''), safe='')}/{_OPERATIONS[operation]}"
    if "Invoke" not in operation:
        return read_parameters(client.meta.endpoint_url, path, params)
    request = read_request("POST", client.meta.endpoint_url.rstrip("/") + path, params.get("body"))
    is_guarded = request is not None and bool(params.get("guardrailIdentifier"))
    return request._replace(is_guarded=True) if request is not None and is_guarded else request


_TEXTS = frozenset({"output", "completion", "citations"})


def _read_rerank(url: str, params: Mapping[str, Any]) -> ProviderRequest | None:
    setting: Any = params
    for key in ("rerankingConfiguration", "bedrockRerankingConfiguration", "modelConfiguration"):
        setting = setting.get(key) or {}
    model = str(setting.get("modelArn") or "").rpartition("/")[2]
    request = read_parameters(url, "/rerank", {"model": model, "documents": params.get("sources")})
    return None if request is None else request._replace(provider="aws")


def _read_agent(url: str, params: Mapping[str, Any]) -> ProviderRequest | None:
    """Return the request to an agent or a knowledge base, whose answer does not say what its models used."""
    setting = (params.get("retrieveAndGenerateConfiguration") or {}).get("knowledgeBaseConfiguration") or {}
    model = params.get("foundationModel") or str(setting.get("modelArn") or "").rpartition("/")[2]
    path = f"/model/{quote(str(model or params.get('agentId') or 'agent'), safe='')}/invoke"
    request = read_parameters(url, path, {"inputText": True})
    return None if request is None else request._replace(provider="aws", operation="chat")


def _follow_call(
    response: dict[str, Any], exchange: Exchange, events: Callable[[type], type], body: Callable[[type], type]
) -> None:
    metadata = response.get("ResponseMetadata") or {}
    headers, streamed = _in_lower_case(metadata.get("HTTPHeaders") or {}), exchange.request.streamed
    if not exchange.start_response(metadata.get("HTTPStatusCode", 200), headers, streamed=streamed):
        return
    parts = response.get("stream"), response.get("body")
    part = next((each for each in parts if each is not None), None)
    if part is None:
        exchange.feed_event({key: value for key, value in response.items() if key not in _TEXTS})
        exchange.end()
    elif streamed:
        _become(part, events(type(part)), exchange)
    else:
        _become(part, body(type(part)), exchange)


@cache
def _watched_events(kind: Any) -> type:
    """Return botocore's stream of events as one that is watched."""

    def __iter__(self: Any) -> Iterator[Any]:  # noqa: N807
        exchange: Exchange = self._token_handlers
        return _pass_on(kind.__iter__(self), exchange, partial(_feed_event, exchange))

    return _subclass(kind, __iter__=__iter__, close=_closing(kind))


@cache
def _watched_async_events(kind: Any) -> type:
    """Return aiobotocore's stream of events as one that is watched."""

    def __aiter__(self: Any) -> AsyncIterator[Any]:  # noqa: N807
        exchange: Exchange = self._token_handlers
        return _pass_on_async(kind.__aiter__(self), exchange, partial(_feed_event, exchange))

    return _subclass(kind, __aiter__=__aiter__, close=_closing(kind))


def _closing(kind: Any) -> Callable[..., Any]:
    def close(self: Any) -> Any:
        try:
            return kind.close(self)
        finally:
            self._token_handlers.close()

    return close


def _feed_event(exchange: Exchange, event: dict[str, Any]) -> None:
    chunk = event.get("chunk")
    if isinstance(chunk, Mapping):
        exchange.feed_line(chunk.get("bytes") or b"")
    else:
        exchange.feed_event(event)


@cache
def _watched_body(kind: Any) -> type:
    """Return botocore's body as one that is watched: iterating over chunks and lines reads, too."""

    def read(self: Any, amt: int | None = None) -> Any:
        exchange: Exchange = self._token_handlers
        try:
            data = kind.read(self, amt)
        except BaseException as error:
            exchange.fail(error)
            raise
        _feed_body(exchange, data, amt)
        return data

    def readlines(self: Any, *args: Any) -> Any:
        lines = kind.readlines(self, *args)
        _feed_body(self._token_handlers, b"".join(lines), None)
        return lines

    return _subclass(kind, read=read, readlines=readlines, close=_closing(kind))


@cache
def _watched_async_body(kind: Any) -> type:
    """Return aiobotocore's body as one that is watched."""

    async def read(self: Any, amt: int | None = None) -> Any:
        exchange: Exchange = self._token_handlers
        try:
            data = await kind.read(self, amt)
        except BaseException as error:
            exchange.fail(error)
            raise
        _feed_body(exchange, data, amt)
        return data

    return _subclass(kind, read=read, close=_closing(kind))


def _feed_body(exchange: Exchange, data: bytes, asked: int | None) -> None:
    exchange.feed(data)
    if asked is None or asked < 0 or (asked and not data):
        exchange.end()
