"""Requests that LlamaIndex makes without any event of its own.

Google's structured streams, Mistral's completions, and what its SentenceEmbeddingOptimizer has embedded.
"""

import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

from llama_index_instrumentation.span import active_span_id

from token_handlers.errors import shielded
from token_handlers.llama_index import budgets, calls, embeddings
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.embeddings import EmbeddingCall
from token_handlers.llama_index.ends import end, fail
from token_handlers.llama_index.model_names import facts_of
from token_handlers.llama_index.models import count_for_handlers, is_counted
from token_handlers.llama_index.spans import current, method_of

_OWN = re.compile("_a?get_(query|text)_embeddings?")
_BASE = "llama_index.core.base.embeddings.base"
_PUBLIC = re.compile("a?get_(query|text|agg)_embedding.*")


class Answer(NamedTuple):
    """A client's response as LlamaIndex's own responses look; ``text`` is for estimates alone."""

    raw: Any
    text: str = ""


class Failing:
    """Around a request of a client's: where it fails, so does its call, and the error goes on."""

    def __init__(self, call: object) -> None:
        self._call = call

    def __enter__(self) -> None:
        """Begin."""

    @shielded
    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            return
        if isinstance(self._call, EmbeddingCall):
            embeddings.refused(self._call, error)
        elif isinstance(self._call, ModelCall):
            fail(self._call, error)


def embedder() -> Any:
    """Return the model to count whose own method makes the embeddings request that goes out here.

    None where a public method of the model's has called that, as its events then speak for the request, even if we
    have not seen it start.
    """
    model, frame = None, sys._getframe(1)  # noqa: SLF001 (the client does not know who uses it)
    while frame is not None:
        name = frame.f_code.co_name
        if model is None and _OWN.fullmatch(name):
            found = frame.f_locals.get("self")
            model = found if embeddings.is_through_openai(found) else None
        elif model is not None and _PUBLIC.fullmatch(name) and frame.f_globals.get("__name__") == _BASE:
            return None
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    span = method_of(active_span_id.get() or "")  # a batch's, in whose tasks we may be
    return None if model is None or _PUBLIC.fullmatch(span) or not is_counted(model) else model


def stream(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Stand for google-genai's generate_content_stream."""
    call = _begin_stream(sys._getframe(1), kwargs)  # noqa: SLF001 (its generator runs outside the span that made it)
    chunks = wrapped(*args, **kwargs)
    return chunks if call is None else _followed(call, chunks)


def astream(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Stand for its asynchronous form."""
    call = _begin_stream(sys._getframe(1), kwargs)  # noqa: SLF001 (as above)
    pending = wrapped(*args, **kwargs)
    return pending if call is None else _afollowed(call, pending)


@shielded
def _begin_stream(frame: Any, kwargs: dict[str, Any]) -> ModelCall | None:
    """Open a call for a stream that LlamaIndex's GoogleGenAI reads in structured prediction, without any event."""
    code = frame.f_code
    if "stream_structured_predict" not in code.co_qualname or not code.co_qualname.startswith("GoogleGenAI."):
        return None
    llm = frame.f_locals.get("self")
    if not is_counted(llm):
        return None
    facts = facts_of(llm) if llm is not None else {"class_name": "GenAI", "model_name": kwargs.get("model")}
    call = calls.begin(None, None, None, str(kwargs.get("contents") or ""), {}, facts)
    call.instance = llm
    count_for_handlers(call, llm)
    budgets.check(call)
    return call


def _followed(call: ModelCall, chunks: Iterator[Any]) -> Iterator[Any]:
    texts: list[str] = []
    with Failing(call):
        for chunk in chunks:
            _note(call, chunk, texts)
            yield chunk
    shielded(end)(call, call.response)


async def _afollowed(call: ModelCall, pending: Awaitable[AsyncIterator[Any]]) -> AsyncIterator[Any]:
    with Failing(call):
        chunks = await pending
    return _anoted(call, chunks)


async def _anoted(call: ModelCall, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    texts: list[str] = []
    with Failing(call):
        async for chunk in chunks:
            _note(call, chunk, texts)
            yield chunk
    shielded(end)(call, call.response)


@shielded
def _note(call: ModelCall, chunk: Any, texts: list[str]) -> None:
    texts.append(str(getattr(chunk, "text", None) or ""))
    call.response = Answer(chunk, "".join(texts))


def fill_in_middle(wrapped: Callable[..., Any], llm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Stand for MistralAI.fill_in_middle, which fires no event."""
    call = _begin_fill(llm, args, kwargs)
    if call is None:
        return wrapped(*args, **kwargs)
    with Failing(call):
        response = wrapped(*args, **kwargs)
    shielded(end)(call, response)
    return response


@shielded
def _begin_fill(llm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall | None:
    if not is_counted(llm):
        return None
    texts = [text for text in (*args[:2], kwargs.get("prompt"), kwargs.get("suffix")) if isinstance(text, str)]
    call = calls.begin(None, current.get(), None, "\n".join(texts), {}, facts_of(llm))
    call.operation = "text_completion"
    call.instance = llm
    count_for_handlers(call, llm)
    budgets.check(call)
    return call
