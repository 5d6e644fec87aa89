"""The two handlers on LlamaIndex's root dispatcher: events open, feed and end calls, spans say which calls these are.

Duck-typed rather than derived from LlamaIndex's classes, which are pydantic models: these are called for every event,
chunk and span of the process. LlamaIndex swallows whatever they raise.
"""

from collections.abc import Callable, Mapping
from inspect import isasyncgen, isgenerator
from typing import Any, Literal

from token_handlers.errors import absorb, shielded
from token_handlers.llama_index import agents, calls, embeddings
from token_handlers.llama_index.by_type import ByType
from token_handlers.llama_index.ends import end, fail, follow
from token_handlers.llama_index.filters import (
    PASSED_ON,
    is_tracked,
    listening,
    may_be_tracked,
    tracked_context,
    watch,
)
from token_handlers.llama_index.spans import ModelSpan, begin, current
from token_handlers.tracking.scopes import active

UNUSED_BEFORE_REST = 8
"""After how many spans of models outside of all blocks our handlers rest: to rest and wake costs about as much."""
Kind = Literal["llm", "embedding", "pipeline", "step", "tool", ""]
_KINDS: Mapping[str, Kind] = {
    "BaseLLM": "llm",
    "MultiModalLLM": "llm",
    "BaseEmbedding": "embedding",
    "IngestionPipeline": "pipeline",
    "BaseTool": "tool",
}


def _chat_start(event: Any) -> None:
    context = tracked_context()
    if context is not None and event.model_dict.get("class_name") != PASSED_ON:
        begin(context, event.span_id, event.messages, event.additional_kwargs, event.model_dict)


def _completion_start(event: Any) -> None:
    context = tracked_context()
    if context is not None and event.model_dict.get("class_name") != PASSED_ON:
        call = begin(context, event.span_id, event.prompt, event.additional_kwargs, event.model_dict)
        call.operation = "text_completion"


def _progress(event: Any) -> None:
    call = calls.by_span.get(event.span_id)
    if call is not None:
        call.receive(event.response)


def _chat_end(event: Any) -> None:
    call = calls.by_span.get(event.span_id)
    if call is not None and call.next_same_id is not None:
        call = calls.find(event.span_id, event.messages)
    if call is not None:
        end(call, event.response)


def _completion_end(event: Any) -> None:
    call = calls.find(event.span_id, event.prompt)
    if call is not None:
        end(call, event.response)


def _exception(event: Any) -> None:
    call = calls.find(event.span_id, None)
    if call is not None:
        fail(call, event.exception)


def _embedding_start(event: Any) -> None:
    span = current.get()
    if span is not None and span.span_id == event.span_id and is_tracked():
        embeddings.begin(span, event.model_dict)


def _embedding_end(event: Any) -> None:
    span = current.get()
    if span is not None and span.span_id == event.span_id and span.seen:
        embeddings.end(span, event.chunks)


_BY_NAME: Mapping[str, Callable[[Any], None]] = {
    "LLMChatStartEvent": _chat_start,
    "LLMCompletionStartEvent": _completion_start,
    "LLMChatInProgressEvent": _progress,
    "LLMCompletionInProgressEvent": _progress,
    "LLMChatEndEvent": _chat_end,
    "LLMCompletionEndEvent": _completion_end,
    "ExceptionEvent": _exception,
    "EmbeddingStartEvent": _embedding_start,
    "EmbeddingEndEvent": _embedding_end,
}


def _act(kind: type) -> Callable[[Any], None] | None:
    """Return the function that takes events of a type, by its name, as LlamaIndex may not be imported yet."""
    return _BY_NAME.get(kind.__name__)


class EventRecorder:
    """The event handler."""

    def __init__(self) -> None:
        self._acts = ByType(_act)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex would show."""
        return "token_handlers.EventRecorder"

    def handle(self, event: Any, **kwargs: Any) -> None:
        """Take one event."""
        act = self._acts[type(event)]
        if act is not None:
            try:
                act(event)
            except Exception as error:  # noqa: BLE001 - as `shielded`, whose wrapper is one call more for each event
                absorb(error, act.__qualname__)

    async def ahandle(self, event: Any, **kwargs: Any) -> None:
        """Take one event that was dispatched asynchronously."""
        self.handle(event)


def _kind(kind: type) -> Kind:
    """Return the kind of the spans of a type of instance; a workflow's step has no instance."""
    if kind is type(None):
        return "step"
    bases = (base.__name__ for base in kind.__mro__ if base.__module__.startswith("llama_index.core."))
    return next((_KINDS[name] for name in bases if name in _KINDS), "")


class SpanRecorder:
    """The span handler. It has no table of spans: each is in the context of the code inside it."""

    def __init__(self, rest: Callable[[], None]) -> None:
        self.open_spans: dict[str, Any] = {}
        self._rest = rest
        self._kinds = ByType(_kind)
        self._unused = 0

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex would show."""
        return "token_handlers.SpanRecorder"

    def span_enter(
        self, id_: str, bound_args: Any, instance: Any = None, parent_id: Any = None, tags: Any = None, **kwargs: Any
    ) -> None:
        """Note a method call on an LLM or embedding model."""
        kind = self._kinds[type(instance)]
        if not kind:
            return
        if not (active.get() or listening or may_be_tracked()):
            self._unused += 1
            if self._unused >= UNUSED_BEFORE_REST:
                self._unused = 0
                self._rest()
            return
        if kind == "llm" or kind == "embedding":  # noqa: PLR1714 (a set of them takes longer)
            span = ModelSpan(id_, instance, bound_args, current.get())
            span.token = current.set(span)
            if kind == "embedding":
                embeddings.enter(span)
        elif kind == "step":
            shielded(agents.enter_step)(id_, bound_args, parent_id)
        elif kind == "tool":
            shielded(agents.enter_tool)(id_, instance)
        else:
            _pipeline_starts(id_, instance, bound_args)

    def span_exit(self, id_: str, bound_args: Any, instance: Any = None, result: Any = None, **kwargs: Any) -> None:
        """Settle what a method call that returned has left open."""
        kind = self._kinds[type(instance)]
        if kind == "llm" or kind == "embedding":  # noqa: PLR1714 (as above)
            span = _leave(id_)
            if span is not None and (span.call is None or not span.call.settled):
                _settle(span, result)
        elif kind == "pipeline":
            _pipeline_ends(id_)
        else:
            agents.leave(id_)
            if result is not None:
                watch(result)

    def span_drop(self, id_: str, bound_args: Any, instance: Any = None, err: Any = None, **kwargs: Any) -> None:
        """Settle what a method call that raised has left open."""
        kind = self._kinds[type(instance)]
        if kind == "llm" or kind == "embedding":  # noqa: PLR1714 (as above)
            span = _leave(id_)
            if span is not None:
                _fail(span, err)
        elif kind == "pipeline":
            _pipeline_ends(id_)
        else:
            agents.leave(id_)

    def capture_propagation_context(self) -> dict[str, Any]:
        """Nothing crosses processes by this way."""
        return {}

    def restore_propagation_context(self, context: dict[str, Any]) -> None:
        """Nothing crosses processes by this way."""

    def close(self) -> None:
        """Nothing is held."""


def _pipeline_starts(span_id: str, pipeline: Any, bound_args: Any) -> None:
    from token_handlers.llama_index import pipelines  # LlamaIndex is whole by now

    pipelines.lend(span_id, pipeline, bound_args)


def _pipeline_ends(span_id: str) -> None:
    from token_handlers.llama_index import pipelines

    pipelines.take_back(span_id)


def _leave(span_id: str) -> ModelSpan | None:
    """Leave a span, and those inside it that were never left."""
    span = current.get()
    while span is not None and span.span_id != span_id:
        span = span.outer
    if span is None:
        return None
    token, span.token = span.token, None
    try:
        current.reset(token)  # type: ignore[arg-type]  # set by span_enter
    except ValueError:  # left in another context than entered
        current.set(span.outer)
    return span


@shielded
def _settle(span: ModelSpan, result: Any) -> None:
    call, span.call = span.call, None
    if call is not None and not call.settled:
        if isgenerator(result) or isasyncgen(result):
            span.streaming = call
            follow(call, result)
        else:
            end(call, result)
    elif span.waiting:
        embeddings.close(span, None)
    span.arguments = None


@shielded
def _fail(span: ModelSpan, error: BaseException | None) -> None:
    call, span.call = span.call, None
    if call is not None and not call.settled:
        fail(call, error)
    elif span.waiting:
        embeddings.close(span, error)
    span.arguments = None
