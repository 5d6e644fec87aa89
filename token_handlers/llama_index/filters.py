"""Whether a LlamaIndex call that starts here is recorded, and in which blocks.

A query engine's `StreamingResponse` starts its LLM call only when it is read, which may be after its block was left, or
in another one. The call belongs to the block in which the query was made, so these generators are remembered until they
are read or dropped.
"""

from collections.abc import AsyncGenerator, Generator
from inspect import isasyncgen, isgenerator
from types import FrameType
from typing import Any
from weakref import ref

from token_handlers.tracking.call import current_context, open_calls
from token_handlers.tracking.frames import callers
from token_handlers.tracking.scopes import CallContext, any_living, any_scope
from token_handlers.tracking.state import state

_STREAMING = ("StreamingResponse", "AsyncStreamingResponse")
PASSED_ON = "structured_llm"
"""The class name of LLMs that only call another one of LlamaIndex's."""
Stream = Generator[Any, Any, Any] | AsyncGenerator[Any, Any]

listening: dict[int, ref[Any]] = {}
"""The LlamaIndexTokenHandlers that exist, by id; with any, spans matter outside of blocks too."""


class _Unread:
    """A stream that a query has returned, until it is dropped, and the context of the query."""

    __slots__ = ("context", "frame", "stream")

    def __init__(self, stream: Stream, context: CallContext) -> None:
        self.context = context
        self.frame: FrameType | None = getattr(stream, "gi_frame", None) or getattr(stream, "ag_frame", None)
        self.stream = ref(stream, self._forget)
        _unread.append(self)

    def _forget(self, _: object) -> None:
        self.frame = None
        if self in _unread:
            _unread.remove(self)

    def is_running(self) -> bool:
        stream = self.stream()
        return bool(getattr(stream, "gi_running", False) or getattr(stream, "ag_running", False))


_unread: list[_Unread] = []


def tracked_context() -> CallContext | None:
    """Return the context of a call that starts here, or None where it is only recorded for its own handler."""
    context = (_context_of_query() if _unread else None) or current_context()
    return context if context.in_blocks or "llamaindex" in state.automatic else None


def may_be_tracked() -> bool:
    """Return whether a call that starts here may be recorded: cheaper than `tracked_context`."""
    return any_scope() or bool(state.automatic or _unread)


def are_handlers_needed() -> bool:
    """Return whether any event of LlamaIndex's may matter, anywhere in the process."""
    return bool(listening or state.automatic or open_calls or _unread) or any_living()


def is_tracked() -> bool:
    """Return whether a call that starts here is recorded without a handler of its own asking for it."""
    return tracked_context() is not None


def watch(result: Any) -> None:
    """Remember a streaming response that a query in a block has returned."""
    if type(result).__name__ in _STREAMING:
        context = tracked_context()
        stream = result.response_gen
        if context is not None and context.in_blocks and (isgenerator(stream) or isasyncgen(stream)):
            _Unread(stream, context)


def listen(handler: Any) -> None:
    """Note a handler of ours, for as long as it exists."""
    key = id(handler)
    listening[key] = ref(handler, lambda _: listening.pop(key, None))


def any_listening() -> bool:
    """Return whether a handler of ours may carry a model whose methods fire no event."""
    return bool(listening)


def _context_of_query() -> CallContext | None:
    """Return the context of the query whose stream is being read here: by the stack, or by the only one that is read.

    A stream may make its call in a task or thread of its own, where the stack does not have it.
    """
    by_frame = {unread.frame: unread.context for unread in list(_unread)}
    found = next((by_frame[frame] for frame in callers() if frame in by_frame), None)
    if found is not None:
        return found
    running = [unread for unread in list(_unread) if unread.is_running()]
    return running[0].context if len(running) == 1 and not current_context().in_blocks else None
