"""Embedding calls: by the usage in the client's own response where it is seen, else by the texts that were sent."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from token_handlers.errors import shielded
from token_handlers.llama_index.filters import tracked_context
from token_handlers.llama_index.model_names import base_url, facts_of, model_name
from token_handlers.llama_index.models import count_for_handlers
from token_handlers.llama_index.spans import ModelSpan
from token_handlers.llama_index.text import split_tokens
from token_handlers.payloads import is_empty, read_payload
from token_handlers.tokenizer.estimates import estimate_tokens, prepare
from token_handlers.tracking.call import Call
from token_handlers.tracking.failures import was_rejected, was_stopped
from token_handlers.tracking.recorder import discard, evict_oldest, finish, reserve
from token_handlers.tracking.result import FAILED, CallResult, Incomplete

# Integrations whose every request goes through openai's client, where `clients` sees it.
_THROUGH_OPENAI = ("llama_index.embeddings.openai", "llama_index.embeddings.azure_openai")
_MEMORY_STORES = ("MutableMappingKVStore", "SimpleKVStore")


class EmbeddingBatch(Call):
    """One batch of texts, which one request usually sends."""

    operation = "embeddings"
    tokenizer: Callable[[str], Sequence[object]] | None = None  # of the handler that counts the call
    is_asked = False  # a request was sent for it; of images, which have no span

    def __init__(self, span: ModelSpan | None, facts: Any) -> None:
        super().__init__(tracked_context())
        self.span = span
        self.instance = None if span is None else span.instance
        self.facts = facts
        self.texts: Sequence[str] = ()
        self.event_id: str | None = None

    def describe(self) -> None:
        """Fill in model, provider and base URL."""
        facts = self.facts if isinstance(self.facts, dict) else {}
        provider = facts.get("class_name")
        self.model = model_name(facts, self.instance)
        self.provider = provider if isinstance(provider, str) else None
        self.base_url = base_url(self.instance)

    def estimate_prompt(self) -> int:
        """Return the estimated tokens of the texts."""
        return self.estimate()[0]["input_tokens"]

    def estimate(self, text: str | None = None) -> tuple[dict[str, int], str]:
        """Return the estimated tokens of the texts, with blanks for newlines as OpenAI's clients send them."""
        self.describe()
        if self.tokenizer is not None:
            return {"input_tokens": split_tokens(self.tokenizer, self.texts)}, "custom"
        prepare(self.counted_as)
        found = [estimate_tokens(text.replace("\n", " "), self.counted_as) for text in self.texts]
        method = found[0].method if found else "none"
        return {"input_tokens": sum(one.tokens for one in found)}, method

    def sending(self) -> None:
        """Reserve in budgets what no event has let them see before: images."""
        if self.span is None and self.budgets and self.reservations is None:
            reserve(self)

    def forget(self) -> None:
        """Drop this call from its span."""
        for calls in (self.span.waiting, self.span.ahead) if self.span is not None else ():
            if self in calls:
                calls.remove(self)


images: ContextVar[tuple[EmbeddingBatch, ...]] = ContextVar("token_handlers_llama_index_images", default=())
"""The batches of images that a handler of ours counts and that have started here: LlamaIndex has no span for them."""


def open_images(facts: Any, event_id: str) -> EmbeddingBatch:
    """Return the batch of images of an event, which the answers to its requests count: file names are no text of it."""
    waiting = [call for call in images.get() if not call.settled]
    call = next((call for call in waiting if call.event_id == event_id), None)
    if call is None:
        call = EmbeddingBatch(None, facts)
        call.event_id = event_id
        images.set((*waiting, call))
        evict_oldest()
    return call


def images_here() -> EmbeddingBatch | None:
    """Return the batch of images that a request is sent for here: async ones all start before the first is sent."""
    waiting = [call for call in images.get() if not call.settled]
    call = next((call for call in waiting if not call.is_asked), waiting[-1] if waiting else None)
    if call is not None:
        call.is_asked = True
    return call


def enter(span: ModelSpan) -> None:
    """Prepare the span of an embedding model's method for its batches."""
    span.waiting, span.ahead = [], []
    if getattr(span.instance, "embeddings_cache", None) is not None:
        _note_cached(span)


def begin(span: ModelSpan, facts: Any) -> EmbeddingBatch:
    """Open a batch, which waits for its request."""
    call: EmbeddingBatch = span.ahead.pop(0) if span.ahead else _open(span, facts)  # type: ignore[assignment]  # see take
    span.waiting.append(call)
    for around in span.chain():
        around.seen = True
    return call


def next_batches(span: ModelSpan) -> Iterator[EmbeddingBatch]:
    """Yield the batch that was opened last, with what it will send; none where it is its request that tells that.

    An async call opens all its batches and then sends them: with the first, the others are opened here and now, so
    that a budget refuses all of them or none.
    """
    if not span.waiting or is_through_openai(span.instance):
        return
    call: EmbeddingBatch = span.waiting[-1]  # type: ignore[assignment]  # see take
    if call.reservations is not None or not call.budgets:
        return
    texts, size = _texts(span), getattr(span.instance, "embed_batch_size", 1)
    first = span.ended + (len(span.waiting) - 1) * size
    more = range(first + size, len(texts), size) if span.method == "aget_text_embedding_batch" else ()
    for start in (first, *more):
        if start > first:
            call = _open(span, call.facts)
            span.ahead.append(call)
        call.texts = [text for text in texts[start : start + size] if text not in _cached(span)]
        if call.texts:
            yield call


def _open(span: ModelSpan, facts: Any) -> EmbeddingBatch:
    call = EmbeddingBatch(span, facts)
    evict_oldest()
    return call


def take(span: ModelSpan) -> EmbeddingBatch:
    """Return the batch that a request is sent for, or a new one where a model sends more requests than batches."""
    if span.waiting:
        return span.waiting.pop(0)  # type: ignore[return-value]  # only this module puts calls there
    return _open(span, facts_of(span.instance))


def open_for(model: Any) -> EmbeddingBatch:
    """Open a call for a request that a model sends outside of every span."""
    call = EmbeddingBatch(None, facts_of(model))
    call.instance = model
    count_for_handlers(call, model)
    evict_oldest()
    return call


def sent(call: EmbeddingBatch, response: Any) -> None:
    """Record a request that was answered: by what the response says it used, else by the texts it sent."""
    span = call.span
    if span is not None:
        span.covered += len(call.texts)
    call.describe()
    reading = read_payload(response, call.provider)
    is_bill = reading is not None and "input_tokens" in reading.counts and not (is_empty(reading) and any(call.texts))
    if reading is not None and is_bill:
        finish(call, CallResult(reading))
    else:
        finish(call, Incomplete())


def refused(call: EmbeddingBatch, error: BaseException) -> None:
    """Record a request that was interrupted; one that was rejected may be tried again, and waits for that."""
    span = call.span
    if not was_rejected(error):
        finish(call, Incomplete())
    elif span is not None and not span.closed:
        span.error = error
        span.waiting.append(call)
    else:
        finish(call, FAILED)


def end(span: ModelSpan, chunks: Sequence[str]) -> None:
    """Settle a batch that was embedded, unless its request is recorded already."""
    span.ended += len(chunks)
    if span.covered:
        span.covered = max(0, span.covered - len(chunks))
        return
    if not span.waiting:
        return
    call = take(span)
    fresh = [text for text in chunks if text not in _cached(span)]
    if not fresh or span.passes_on or is_through_openai(span.instance):
        discard(call)  # the model's own cache answered, and nothing was sent; or another call is recorded for it
        return
    estimated(call, fresh)


def estimated(call: EmbeddingBatch, texts: Iterable[str]) -> None:
    """Record a batch by its texts."""
    call.texts = [text for text in texts if isinstance(text, str)]
    finish(call, Incomplete())


def close(span: ModelSpan, error: BaseException | None) -> None:
    """Settle what waits in a span that ends: failed where that is known, estimated where texts may have been sent."""
    texts = _texts(span)[span.ended :]
    while span.ahead:
        discard(span.ahead.pop())
    while span.waiting:
        call = take(span)
        failure = span.error or error
        if was_stopped(error):
            discard(call)
        elif failure is not None and was_rejected(failure):
            finish(call, FAILED)
        elif error is None or is_through_openai(span.instance):
            discard(call)
        else:
            count = -(-len(texts) // (len(span.waiting) + 1))
            estimated(call, texts[:count])
            texts = texts[count:]


def is_through_openai(instance: Any) -> bool:
    """Return whether all requests of an embedding model are seen in openai's client."""
    kind = type(instance)
    methods = (getattr(kind, name, None) for name in ("_get_query_embedding", "_get_text_embeddings"))
    return "openai" in sys.modules and all(
        (getattr(method, "__module__", None) or "").startswith(_THROUGH_OPENAI) for method in methods
    )


@shielded
def _note_cached(span: ModelSpan) -> None:
    """Remember which texts an embeddings cache in memory has before the call; other stores may be slow to ask."""
    cache = span.instance.embeddings_cache
    if not is_through_openai(span.instance) and any(kind.__name__ in _MEMORY_STORES for kind in type(cache).__mro__):
        span.cached = {text for text in _texts(span) if cache.get(key=text, collection="embeddings") is not None}


def _cached(span: ModelSpan) -> set[str]:
    return span.cached or set()


def _texts(span: ModelSpan) -> list[str]:
    arguments = getattr(span.arguments, "arguments", None) or {}
    found = arguments.get("texts") or [arguments.get("query"), arguments.get("text")]
    return [text for text in found if isinstance(text, str)]
