"""Providers' clients, watched for what LlamaIndex says nothing of: embeddings' usage, and calls without events.

The wraps look at a request only inside a recorded LlamaIndex span that no event speaks for, or where an embedding
model's own method makes it, so what others send through the same clients is never counted here.
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import wrapt

from token_handlers.errors import shielded
from token_handlers.llama_index import budgets, embeddings, eventless, silent
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.embeddings import EmbeddingCall
from token_handlers.llama_index.ends import end
from token_handlers.llama_index.eventless import Answer, Failing
from token_handlers.llama_index.models import is_counted
from token_handlers.llama_index.owners import sending
from token_handlers.llama_index.spans import current
from token_handlers.llama_index.text import answer_text
from token_handlers.payloads import read_payload
from token_handlers.tracking.state import state

_USAGE_EVENTS = ("message_start", "message_delta")


class _Witness(NamedTuple):
    """A request of a call that events speak for; its answer tells what was billed if LlamaIndex fails to read it."""

    call: ModelCall


_Begun = ModelCall | EmbeddingCall | _Witness
_Counted = TypeVar("_Counted", ModelCall, EmbeddingCall)


def watch() -> None:
    """Wrap the clients that are imported, and those that will be."""
    for name, wrap in _WRAPS.items():
        if name not in _watched:
            _watched.add(name)
            wrapt.register_post_import_hook(_when_imported(wrap), name)
        elif name in sys.modules:
            wrap(sys.modules[name])


def restore() -> None:
    """Give the clients their own methods back; a wrap that someone else has wrapped in turn stays, and does nothing."""
    for owner, name, wrapper in _wrapped:
        if owner.__dict__.get(name) is wrapper:
            setattr(owner, name, wrapper.__wrapped__)
    _wrapped.clear()


_watched: set[str] = set()
_wrapped: list[tuple[Any, str, Any]] = []


def _when_imported(wrap: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def imported(module: ModuleType) -> None:
        from token_handlers.llama_index import hook  # it imports this module

        if hook.is_attached():
            wrap(module)

    return imported


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    original = owner.__dict__.get(name)
    if original is None or any(entry[:2] == (owner, name) for entry in _wrapped):
        return
    made = wrapt.FunctionWrapper(original, wrapper)
    setattr(owner, name, made)
    _wrapped.append((owner, name, made))


def _wrap_callbacks(module: ModuleType) -> None:
    if state.checked:
        _wrap(module.CallbackManager, "on_event_start", budgets.start)


def _wrap_sdk(module: ModuleType) -> None:
    _wrap(module.SyncAPIClient, "request", _request)
    _wrap(module.AsyncAPIClient, "request", _arequest)


def _wrap_google(module: ModuleType) -> None:
    _wrap(module.Models, "generate_content", _request)
    _wrap(module.AsyncModels, "generate_content", _arequest)
    _wrap(module.Models, "generate_content_stream", eventless.stream)
    _wrap(module.AsyncModels, "generate_content_stream", eventless.astream)


def _wrap_mistral(module: ModuleType) -> None:
    _wrap(module.MistralAI, "fill_in_middle", eventless.fill_in_middle)


_WRAPS: Mapping[str, Callable[[ModuleType], None]] = {
    "llama_index.core.callbacks.base": _wrap_callbacks,
    "openai._base_client": _wrap_sdk,
    "anthropic._base_client": _wrap_sdk,
    "google.genai.models": _wrap_google,
    "llama_index.llms.mistralai.base": _wrap_mistral,
}


def _request(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    call = _begin(args, kwargs)
    if call is None:
        return wrapped(*args, **kwargs)
    with Failing(call), _sending(call):
        response = wrapped(*args, **kwargs)
    _answered(call, response)
    return response


def _arequest(
    wrapped: Callable[..., Awaitable[Any]], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Awaitable[Any]:
    call = _begin(args, kwargs)
    if call is None:
        return wrapped(*args, **kwargs)
    return _awaited(call, wrapped(*args, **kwargs))


async def _awaited(call: _Begun, pending: Awaitable[Any]) -> Any:
    with Failing(call), _sending(call):
        response = await pending
    _answered(call, response)
    return response


@contextmanager
def _sending(call: _Begun) -> Iterator[None]:
    """Name the call whose requests are sent here, for whoever sees them."""
    token = sending.set(call.call if isinstance(call, _Witness) else call)
    try:
        yield
    finally:
        sending.reset(token)


@shielded
def _begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Begun | None:
    """Open a call for a request that no event speaks for, or None."""
    options = kwargs.get("options", args[1] if len(args) > 1 else None)
    span = current.get()
    while span is not None:
        if span.call is not None and not (span.call.settled and silent.is_silent(span)):
            return _Witness(span.call)
        if span.embeds():
            return _send(embeddings.take(span), options) if span.seen and not span.passes_on else None
        if silent.is_silent(span):
            return _checked(silent.open_silent(span)) if is_counted(span.instance) else None
        span = span.outer
    model = eventless.embedder() if getattr(options, "url", None) == "/embeddings" else None
    return _send(embeddings.open_for(model), options) if model is not None else None


def _checked(call: _Counted) -> _Counted:
    budgets.check(call)
    return call


def _send(call: EmbeddingCall, options: Any) -> EmbeddingCall:
    body = getattr(options, "json_data", None)
    texts = body.get("input") if isinstance(body, Mapping) else None
    if isinstance(texts, str):
        texts = [texts]
    call.texts = [text for text in texts or () if isinstance(text, str)]
    return _checked(call)


@shielded
def _answered(call: _Begun, response: Any) -> None:
    if isinstance(call, _Witness):
        streamed = hasattr(type(response), "__next__") or hasattr(type(response), "__anext__")
        call.call.client_answers += (None if streamed else response,)
        if not streamed:
            call.call.answer = response
        elif type(response).__module__.partition(".")[0] == "anthropic":
            _watch_events(call.call, response)
    elif isinstance(call, EmbeddingCall):
        embeddings.sent(call, response)
    else:
        end(call, Answer(response, "" if read_payload(response) is not None else answer_text(response)))


def _watch_events(call: ModelCall, stream: Any) -> None:
    """Keep the two events of an Anthropic stream that state usage: LlamaIndex shows the last, without cache tokens."""
    events: list[Any] = []
    call.answer = events
    iterator = stream._iterator  # noqa: SLF001 (every way of reading the stream goes through it)
    if hasattr(iterator, "__anext__"):
        stream._iterator = _akept(iterator, events)  # noqa: SLF001 (as above)
    else:
        stream._iterator = _kept(iterator, events)  # noqa: SLF001 (as above)


def _kept(iterator: Iterator[Any], events: list[Any]) -> Iterator[Any]:
    for event in iterator:
        if event.type in _USAGE_EVENTS:
            events.append(event)
        yield event


async def _akept(iterator: AsyncIterator[Any], events: list[Any]) -> AsyncIterator[Any]:
    async for event in iterator:
        if event.type in _USAGE_EVENTS:
            events.append(event)
        yield event
