"""Whose request: the open call that a request which is sent here belongs to."""

from contextvars import ContextVar

from token_handlers.http import ProviderRequest
from token_handlers.llama_index import calls
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.embeddings import images_here
from token_handlers.llama_index.spans import ModelSpan, current
from token_handlers.llama_index.uninstrumented import call_in
from token_handlers.tracking.call import Call
from token_handlers.tracking.frames import callers

_DISPATCHER = "llama_index_instrumentation.dispatcher"
_SPAN_CODE = ("wrapper", "async_wrapper")

sending: ContextVar[Call | None] = ContextVar("token_handlers_llama_index_sending", default=None)
"""The batch of texts whose request a watched client sends here."""


def owner_of(request: ProviderRequest) -> Call | None:
    """Return the open call of LlamaIndex's that sends a request here."""
    batch = sending.get()
    if batch is not None and not batch.settled:
        return batch
    call = open_call_here()
    return images_here() if call is None and request.operation == "embeddings" else call


def open_call_here() -> Call | None:
    """Return the innermost open call in whose code this is: an LLM's, or an embedding model's next batch.

    The stack says it first, because the code of a stream runs outside of its span, and in another one than the
    context names. Only where a model sends its request from another thread or task does the context say it.
    """
    owner = owner_here()
    if isinstance(owner, ModelSpan):
        return owner.batch_here()
    return owner


def owner_here() -> ModelCall | ModelSpan | None:
    """Return the innermost LLM call, or span of an embedding model's method, in whose code this is."""
    span = current.get()
    if span is None and not calls.any_open():
        return None
    around = [] if span is None else list(span.chain())
    for frame in callers():
        call = calls.reading(frame) or call_in(frame)
        if call is None and frame.f_code.co_name in _SPAN_CODE and frame.f_globals.get("__name__") == _DISPATCHER:
            span_id = frame.f_locals.get("id_")
            call = calls.find(span_id, None)
            embedding = next((one for one in around if one.span_id == span_id and one.embeds()), None)
            if embedding is not None:
                return embedding
        if call is not None and not call.settled:
            return call
    for one in around:
        call = one.call or one.streaming
        if call is not None and not call.settled:
            return call
        if one.embeds():
            return one
    return None
