"""The spans of LLMs and embedding models that are open: whose call an event, or a client's request, belongs to."""

from contextvars import ContextVar, Token
from typing import Any

from token_handlers.llama_index.calls import ModelCall
from token_handlers.tracking.call import Call

_NONE: list[Call] = []
_EMBEDDING_METHODS = ("get_", "aget_")


class Span:
    """One method call on an LLM or an embedding model, from LlamaIndex's own span around it.

    ``call`` is the LLM call that its events opened. ``waiting`` are an embedding model's started batches for which no
    request was sent yet, ``ahead`` those that it is about to start and a budget has let pass, and ``covered`` counts
    the texts whose usage is recorded already.
    """

    # Class attributes are the defaults: a span is made in the application's time, and most of them stay as they are.
    call: ModelCall | None = None
    seen = False
    closed = False
    error: BaseException | None = None
    passes_on = False
    covered = 0
    ended = 0
    cached: set[str] | None = None
    token: "Token[Span | None] | None" = None
    waiting: list[Call] = _NONE
    ahead: list[Call] = _NONE

    def __init__(self, span_id: str, instance: Any, arguments: Any, outer: "Span | None") -> None:
        self.span_id = span_id
        self.instance = instance
        self.arguments = arguments
        self.outer = outer

    @property
    def method(self) -> str:
        """The method's name."""
        return method_of(self.span_id)

    def embeds(self) -> bool:
        """Return whether this is an embedding model's method that fires events."""
        return hasattr(self.instance, "embed_batch_size") and self.method.startswith(_EMBEDDING_METHODS)

    def chain(self) -> "list[Span]":
        """This span and those around it, innermost first."""
        chain, span = [], self
        while span is not None:
            chain.append(span)
            span = span.outer  # type: ignore[assignment]
        return chain


def method_of(span_id: str) -> str:
    """Return the name of the method that a span is around."""
    return span_id.rpartition(".")[2].partition("-")[0]


# Set where LlamaIndex sets its own active_span_id, so it is visible in the same tasks and threads.
current: ContextVar[Span | None] = ContextVar("token_handlers_llama_index_span", default=None)
