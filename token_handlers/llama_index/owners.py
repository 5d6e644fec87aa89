"""Which open call of LlamaIndex's a request that is sent here belongs to."""

import re
from contextvars import ContextVar
from typing import Any

from llama_index_instrumentation.span import active_span_id

from token_handlers.http import ProviderRequest
from token_handlers.llama_index import calls
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.embeddings import images_here, is_through_openai
from token_handlers.llama_index.filters import tracked_context
from token_handlers.llama_index.model_names import facts_of, model_name
from token_handlers.llama_index.models import count_for_handlers, is_counted
from token_handlers.llama_index.spans import ModelSpan, current, method_of
from token_handlers.llama_index.uninstrumented import METHOD_CODE, call_in
from token_handlers.tracking.call import Call, current_context
from token_handlers.tracking.frames import callers, callers_among
from token_handlers.tracking.sdk_calls import SDKCall

_OWN = re.compile("_a?get_(query|text)_embeddings?")
_BASE = "llama_index.core.base.embeddings.base"
_PUBLIC = re.compile("a?get_(query|text|agg)_embedding.*")
_DISPATCHER = "llama_index_instrumentation.dispatcher"
_SPAN_CODE = frozenset({"wrapper", "async_wrapper"})
_CALL_CODE = _SPAN_CODE | {METHOD_CODE}

sending: ContextVar[Call | None] = ContextVar("token_handlers_llama_index_sending", default=None)
"""The batch of texts whose request a watched client sends here."""


def owner_of(request: ProviderRequest) -> Call | None:
    """Return the open call of LlamaIndex's that sends a request here."""
    batch = sending.get()
    if batch is not None and not batch.settled:
        return batch
    call = open_call_here()
    if call is not None or request.operation != "embeddings":
        return call
    return images_here() or _open_for_embedder(request)


def _open_for_embedder(request: ProviderRequest) -> Call | None:
    """Open a call for a request that an embedding model's own method sends, which fires no event: its answer ends it.

    What goes through openai's client is seen there.
    """
    model = embedder_here()
    if model is None or is_through_openai(model):
        return None
    call = SDKCall(request, tracked_context() or current_context())
    call.is_of_a_model = True
    call.model = call.model or model_name(facts_of(model), model)
    count_for_handlers(call, model)
    return call


def embedder_here() -> Any:
    """Return the embedding model to count whose own method makes the request that goes out here.

    None where a public method of the model's has called that, as its events then announce the request, even if we have
    not seen it start.
    """
    model: Any = None
    for frame in callers():
        name = frame.f_code.co_name
        if model is None and _OWN.fullmatch(name):
            found = frame.f_locals.get("self")
            model = found if hasattr(found, "embed_batch_size") else None
        elif model is not None and _PUBLIC.fullmatch(name) and frame.f_globals.get("__name__") == _BASE:
            return None
    span = method_of(active_span_id.get() or "")  # a batch's, in whose tasks we may be
    return None if model is None or _PUBLIC.fullmatch(span) or not is_counted(model) else model


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
    for frame in callers_among(_CALL_CODE, calls.streams):
        call = calls.streams.get(frame) or call_in(frame)
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
