"""Requests that LlamaIndex makes without any event of its own: Google's structured streams, Mistral's completions."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

from token_handlers.errors import shielded
from token_handlers.llama_index import budgets, calls
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.gate import is_tracked
from token_handlers.llama_index.handlers import count_for_handlers
from token_handlers.llama_index.models import facts_of
from token_handlers.llama_index.outcomes import record_end, record_error
from token_handlers.llama_index.spans import current

_failed = shielded(record_error)


class Answer(NamedTuple):
    """A client's response as LlamaIndex's own responses look; ``text`` is for estimates alone."""

    raw: Any
    text: str = ""


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
    if not (is_tracked() or count_for_handlers(None, llm)):
        return None
    facts = facts_of(llm) if llm is not None else {"class_name": "GenAI", "model_name": kwargs.get("model")}
    call = calls.begin(None, None, None, str(kwargs.get("contents") or ""), {}, facts)
    call.instance = llm
    count_for_handlers(call, llm)
    budgets.check(call)
    return call


def _followed(call: ModelCall, chunks: Iterator[Any]) -> Iterator[Any]:
    texts: list[str] = []
    try:
        for chunk in chunks:
            _note(call, chunk, texts)
            yield chunk
    except BaseException as error:
        _failed(call, error)
        raise
    shielded(record_end)(call, call.response)


async def _afollowed(call: ModelCall, pending: Awaitable[AsyncIterator[Any]]) -> AsyncIterator[Any]:
    try:
        chunks = await pending
    except BaseException as error:
        _failed(call, error)
        raise
    return _anoted(call, chunks)


async def _anoted(call: ModelCall, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    texts: list[str] = []
    try:
        async for chunk in chunks:
            _note(call, chunk, texts)
            yield chunk
    except BaseException as error:
        _failed(call, error)
        raise
    shielded(record_end)(call, call.response)


@shielded
def _note(call: ModelCall, chunk: Any, texts: list[str]) -> None:
    texts.append(str(getattr(chunk, "text", None) or ""))
    call.response = Answer(chunk, "".join(texts))


def fill_in_middle(wrapped: Callable[..., Any], llm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Stand for MistralAI.fill_in_middle, which fires no event."""
    call = _begin_fill(llm, args, kwargs)
    if call is None:
        return wrapped(*args, **kwargs)
    try:
        response = wrapped(*args, **kwargs)
    except BaseException as error:
        _failed(call, error)
        raise
    shielded(record_end)(call, response)
    return response


@shielded
def _begin_fill(llm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall | None:
    if not (is_tracked() or count_for_handlers(None, llm)):
        return None
    texts = [text for text in (*args[:2], kwargs.get("prompt"), kwargs.get("suffix")) if isinstance(text, str)]
    call = calls.begin(None, current.get(), None, "\n".join(texts), {}, facts_of(llm))
    call.operation = "text_completion"
    call.instance = llm
    count_for_handlers(call, llm)
    budgets.check(call)
    return call
