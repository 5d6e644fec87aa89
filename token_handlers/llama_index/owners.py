"""Whose request is it: the LlamaIndex call that sends it, by its client, its stream's frame or its span."""

from contextvars import ContextVar

from token_handlers.http import ProviderRequest
from token_handlers.llama_index import calls, silent
from token_handlers.llama_index.models import is_counted
from token_handlers.llama_index.spans import Span, current
from token_handlers.tracking.call import Call
from token_handlers.tracking.frames import callers

sending: ContextVar[Call | None] = ContextVar("token_handlers_llama_index_sending", default=None)
"""The call for which a watched client sends a request here."""


def owner_of(request: ProviderRequest) -> Call | None:
    """Return the innermost open call of LlamaIndex's that sends a request here."""
    call = sending.get()
    if call is not None and not call.settled:
        return call
    return _by_stream() or _by_span(current.get())


def _by_stream() -> Call | None:
    found = (calls.stream_in(frame) for frame in callers())
    return next((call for call in found if call is not None), None)


def _by_span(span: Span | None) -> Call | None:
    while span is not None:
        if span.call is not None and not span.call.settled:
            return span.call
        if span.embeds():
            return span.waiting[0] if span.waiting and not span.passes_on else None
        if silent.is_silent(span) and is_counted(span.instance):
            return silent.open_silent(span)
        span = span.outer
    return None
