"""Whether a LlamaIndex call that starts here is to be recorded.

A query engine's `StreamingResponse` starts its LLM call only when it is read, which may be after its scope was left.
The call belongs to the scope of whoever reads it; where there is none it is still to reach the shared counter, so these
generators are remembered until they are read or thrown away.
"""

from inspect import isasyncgen, isgenerator
from typing import Any
from weakref import ref

from token_handlers.tracking.call import CallContext, current_context
from token_handlers.tracking.scopes import active_scopes, any_scope
from token_handlers.tracking.state import state

_STREAMING = ("StreamingResponse", "AsyncStreamingResponse")
# By identity; no WeakSet, which runs Python code to say that it is empty, and is asked about every span.
_unread: dict[int, ref[Any]] = {}

listening: dict[int, ref[Any]] = {}
"""The LlamaIndexTokenHandlers that there are: with any, spans matter outside scopes too."""


def tracked_context() -> CallContext | None:
    """Return the context of a call that starts here, or None where it is only recorded for its own handler."""
    context = current_context()
    tracked = context.scopes or "llamaindex" in state.automatic or (_unread and _is_read())
    return context if tracked else None


def may_be_tracked() -> bool:
    """Return whether a call that starts here may be recorded; cheaper than to know it."""
    return any_scope() or bool(state.automatic or _unread)


def is_tracked() -> bool:
    """Return whether a call that starts here is recorded without a handler of its own asking for it."""
    return tracked_context() is not None


def is_passed_on(class_name: object) -> bool:
    """Return whether an LLM only calls another one of LlamaIndex's."""
    return class_name == "structured_llm"


def watch(result: Any) -> None:
    """Remember a streaming response that a query in a scope has returned."""
    if type(result).__name__ in _STREAMING and active_scopes():
        stream = result.response_gen
        if isgenerator(stream) or isasyncgen(stream):
            _remember(_unread, stream)


def listen(handler: Any) -> None:
    """Note that there is a handler, for as long as there is."""
    _remember(listening, handler)


def _remember(those: dict[int, ref[Any]], one: Any) -> None:
    key = id(one)
    those[key] = ref(one, lambda _: those.pop(key, None))


def _is_read() -> bool:
    streams = [remembered() for remembered in list(_unread.values())]
    return any(getattr(stream, "gi_running", False) or getattr(stream, "ag_running", False) for stream in streams)
