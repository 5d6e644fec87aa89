"""The open spans of LLMs and embedding models, by which events and requests find their calls."""

from asyncio import _get_running_loop, current_task
from collections.abc import Iterator, Mapping
from contextvars import ContextVar, Token
from threading import get_ident
from typing import Any

from token_handlers.llama_index import calls
from token_handlers.llama_index.calls import ModelCall
from token_handlers.tracking.call import Call, open_calls, parent_finders
from token_handlers.tracking.recorder import evict_oldest
from token_handlers.tracking.scopes import CallContext

_NONE: list[Call] = []
_EMBEDDING_METHODS = ("get_", "aget_")


class ModelSpan:
    """One method call on an LLM or an embedding model, from LlamaIndex's own span around it.

    ``call`` is the LLM call that was opened in it, ``streaming`` the one that it has left as a stream, whose request a
    thread may send that has the span's context. ``waiting`` are an embedding model's started batches for which no
    request was sent yet, ``ahead`` those that it is about to start and a budget has let pass, ``senders`` tells which
    task or thread sends which of them, and ``covered`` counts the texts whose usage is recorded already.
    """

    # Class attributes are the defaults: a span is made in the application's time, and most of them stay as they are.
    call: ModelCall | None = None
    streaming: ModelCall | None = None
    seen = False
    error: BaseException | None = None
    passes_on = False
    covered = 0
    ended = 0
    cached: set[str] | None = None
    token: "Token[ModelSpan | None] | None" = None
    waiting: list[Call] = _NONE
    ahead: list[Call] = _NONE
    senders: dict[int, Call] | None = None

    def __init__(self, span_id: str, instance: Any, arguments: Any, outer: "ModelSpan | None") -> None:
        self.span_id = span_id
        self.instance = instance
        self.arguments = arguments
        self.outer = outer

    @property
    def closed(self) -> bool:
        """Whether the method has returned or raised."""
        return self.token is None

    @property
    def method(self) -> str:
        """The method's name."""
        return method_of(self.span_id)

    def embeds(self) -> bool:
        """Return whether this is an embedding model's method that fires events."""
        return hasattr(self.instance, "embed_batch_size") and self.method.startswith(_EMBEDDING_METHODS)

    def batch_here(self) -> Call | None:
        """Return the waiting batch whose request is sent in this task or thread: its own, else one that nobody sends.

        An async call starts all its batches and then sends each in a task of its own.
        """
        if self.passes_on or not self.waiting:
            return None
        loop = _get_running_loop()
        sender = get_ident() if loop is None else id(current_task(loop))
        if self.senders is None:
            self.senders = {}
        batch = self.senders.get(sender)
        if batch is None or batch not in self.waiting:
            taken = [other for other in self.senders.values() if other in self.waiting]
            batch = next((other for other in self.waiting if other not in taken), self.waiting[0])
            self.senders[sender] = batch
        return batch

    def chain(self) -> "Iterator[ModelSpan]":
        """Yield this span and those around it, innermost first."""
        span: ModelSpan | None = self
        while span is not None:
            yield span
            span = span.outer


def method_of(span_id: str) -> str:
    """Return the name of the method that a span is around."""
    return span_id.rpartition(".")[2].partition("-")[0]


# Set where LlamaIndex sets its own active_span_id, so it is visible in the same tasks and threads.
current: ContextVar[ModelSpan | None] = ContextVar("token_handlers_llama_index_span", default=None)


def begin(
    context: CallContext | None, span_id: str | None, prompt: Any, kwargs: Mapping[str, Any] | None, model_dict: Any
) -> ModelCall:
    """Open a call and return it; the calls around it, which only pass it on, become its parents."""
    call = ModelCall(context)
    call.span_id = span_id
    call.prompt = prompt
    call.kwargs = kwargs
    call.model_dict = model_dict
    span = current.get()
    if span is not None:
        if span.span_id == span_id:
            if span.call is not None and not span.call.settled:
                call.add_parent(span.call)  # opened by an event-less method whose own code then fired events
            call.instance, span.call, span.seen = span.instance, call, True
            span = span.outer
        if span is not None:
            _join_spans(call, span)
    if calls.streams:
        for outer in calls.read_here():
            call.add_parent(outer)
    same_span = calls.by_span.get(span_id)
    if same_span is not None:
        call.next_same_id = same_span
    calls.by_span[span_id] = call
    if len(open_calls) > 1:  # otherwise none makes this one
        evict_oldest()
        for find_parents in parent_finders:
            find_parents(call)
    return call


def _join_spans(call: ModelCall, span: ModelSpan) -> None:
    """Note that a span and those around it are what a call was made in."""
    for around in span.chain():
        around.seen = True
        if around.call is not None and not around.call.settled and around.call is not call:
            call.add_parent(around.call)
