"""LangChain's embeddings and rerankers, which fire no callbacks: counted by their answers, else estimated."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from langchain_core.embeddings import Embeddings

from token_handlers.counter.counter import TokenCounter
from token_handlers.errors import BudgetExceeded, shielded
from token_handlers.http import ProviderRequest
from token_handlers.tokenizer.estimates import estimate_tokens, prepare
from token_handlers.tracking import recorder
from token_handlers.tracking.call import Call, current_context, parent_finders, watch_task
from token_handlers.tracking.failures import was_rejected
from token_handlers.tracking.reservations import release
from token_handlers.tracking.result import DISCARD, FAILED, UNREAD, Verdict
from token_handlers.tracking.scopes import CallContext
from token_handlers.tracking.sdk_calls import SDKCall
from token_handlers.tracking.state import state, watch_frameworks

_PROVIDERS = {"AzureOpenAIEmbeddings": "azure", "OpenAIEmbeddings": "openai"}
_TEXTS = ("texts", "text", "documents", "query")


class EmbeddingCall(Call):
    """One embed_* call of TrackedEmbeddings, however many requests it sends."""

    operation = "embeddings"

    def __init__(self, embeddings: object, texts: Sequence[str], counter: TokenCounter | None) -> None:
        super().__init__()
        self.texts = texts
        name = getattr(embeddings, "model", None) or getattr(embeddings, "model_name", None)
        self.model = name if isinstance(name, str) else None
        self.provider = _provider(embeddings)
        base_url = getattr(embeddings, "openai_api_base", None)
        self.base_url = base_url if isinstance(base_url, str) else None
        if counter is not None:
            self.count_for(counter)
        outer = tracked_embeddings.get()
        if outer is not None:
            self.add_parent(outer)
        _begin(self)
        watch_task(self, recorder.task_ended)
        if self.budgets and not _is_gated(embeddings):
            recorder.reserve(self)

    def estimate_prompt(self) -> int:
        """Return the tokens of the texts."""
        return _estimate(self.texts, self.counted_as)[0]

    def estimate(self, text: str | None = None) -> tuple[dict[str, int], str]:
        """Return the tokens of the texts, and how they were estimated."""
        tokens, method = _estimate(self.texts, self.counted_as)
        return {"input_tokens": tokens}, method

    @shielded
    def finish(self, error: BaseException | None) -> None:
        """Record the call: by its answers, where it has any."""
        verdict: Verdict = UNREAD
        if self.child_usages is not None or isinstance(error, BudgetExceeded):
            verdict = DISCARD
        elif error is not None and was_rejected(error):
            verdict = FAILED
        recorder.finish(self, verdict)


class EmbeddingRequest(SDKCall):
    """One request of embeddings or a reranker that nobody has wrapped: it ends with its answer."""

    def __init__(self, model: object, request: ProviderRequest, context: CallContext, texts: Sequence[str]) -> None:
        super().__init__(request, context)
        self.texts = texts
        self.provider = _provider(model) or request.provider
        _begin(self)

    def note_body(self, body: object) -> None:
        """Keep the texts of just this request, until it ends."""
        inputs = body.get("input") if isinstance(body, Mapping) else None
        if isinstance(inputs, str | list):
            self.texts = [inputs] if isinstance(inputs, str) else [text for text in inputs if isinstance(text, str)]
        self.size = 0

    def estimate_prompt(self) -> int:
        """Return the tokens of the texts."""
        return self.estimate()[0]["input_tokens"]

    def estimate(self, text: str | None = None) -> tuple[dict[str, int], str]:
        """Return the tokens of the texts: of those that this request has by its size, where there are several."""
        if not self.texts:
            return super().estimate(text)
        tokens, method = _estimate(self.texts, self.counted_as)
        size = sum(len(one.encode(errors="replace")) for one in self.texts)
        share = min(1, self.size / size) if self.size and size else 1
        return {"input_tokens": max(1, round(tokens * share))}, method


tracked_embeddings: ContextVar[EmbeddingCall | None] = ContextVar("token_handlers_embeddings", default=None)
"""The embed_* call of TrackedEmbeddings that goes on here."""


def open_embedding_call(model: object, request: ProviderRequest, arguments: Mapping[str, Any]) -> Call | None:
    """Return a new call for a request of embeddings or a reranker, None where LangChain is not tracked here."""
    context, outer = current_context(), tracked_embeddings.get()
    if outer is None and not context.in_blocks and "langchain" not in state.automatic:
        return None
    texts = next((arguments[name] for name in _TEXTS if name in arguments), ())
    texts = [texts] if isinstance(texts, str) else texts
    call = EmbeddingRequest(model, request, context, [text for text in texts if isinstance(text, str)])
    if outer is not None:
        call.add_parent(outer)
        release(outer, wait=True)  # the request reserves what it may use itself
        for counter in outer.context.own:
            call.count_for(counter)
    return call


class TrackedEmbeddings(Embeddings):
    """Any LangChain embeddings, counted: exactly where the provider's answer states usage, else estimated and flagged.

    Embeddings behind a CacheBackedEmbeddings are counted where the cache misses. The calls reach the blocks around
    them, the shared counter, and ``counter`` where one is given. Everything else the wrapped embeddings have is there
    as well.
    """

    def __init__(self, embeddings: Embeddings, counter: TokenCounter | None = None) -> None:
        if not isinstance(embeddings, Embeddings):
            raise TypeError(f"TrackedEmbeddings takes LangChain embeddings, not {type(embeddings).__name__}")
        watch_frameworks()
        self.embeddings: Embeddings = _inside_cache(embeddings, counter)
        self._counter = counter

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts, and count it."""
        with _tracking(self.embeddings, self._counter, texts):
            return self.embeddings.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Embed a text, and count it."""
        with _tracking(self.embeddings, self._counter, [text]):
            return self.embeddings.embed_query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts, and count it."""
        with _tracking(self.embeddings, self._counter, texts):
            return await self.embeddings.aembed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a text, and count it."""
        with _tracking(self.embeddings, self._counter, [text]):
            return await self.embeddings.aembed_query(text)

    def __getattr__(self, name: str) -> Any:
        if name == "embeddings":  # not set yet: being copied or unpickled
            raise AttributeError(name)
        return getattr(self.embeddings, name)


@contextmanager
def _tracking(embeddings: Embeddings, counter: TokenCounter | None, texts: Sequence[str]) -> Iterator[None]:
    """Count an embed_* call."""
    if not texts or hasattr(embeddings, "underlying_embeddings"):
        yield
        return
    call = EmbeddingCall(embeddings, texts, counter)
    token = tracked_embeddings.set(call)
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        tracked_embeddings.reset(token)
        call.finish(error)


def _begin(call: Call) -> None:
    for find_parents in parent_finders:
        find_parents(call)
    recorder.evict_oldest()


def _estimate(texts: Sequence[str], model: str | None) -> tuple[int, str]:
    prepare(model)
    estimates = [estimate_tokens(text, model) for text in texts if isinstance(text, str)]
    return sum(one.tokens for one in estimates), estimates[0].method if estimates else "none"


def _is_gated(embeddings: object) -> bool:
    """Return whether each request of these embeddings passes a gate in front of its SDK, and reserves by itself."""
    return any(kind.__module__.startswith("langchain_openai.") for kind in type(embeddings).__mro__)


def _provider(embeddings: object) -> str | None:
    for kind in type(embeddings).__mro__:
        if kind.__module__.startswith("langchain_openai.") and kind.__name__ in _PROVIDERS:
            return _PROVIDERS[kind.__name__]
    package = type(embeddings).__module__.partition(".")[0]
    return package.removeprefix("langchain_") if package.startswith("langchain_") else None


def _inside_cache(embeddings: Embeddings, counter: TokenCounter | None) -> Embeddings:
    """Return a cache whose misses are counted in the cache's place: its hits cost nothing."""
    inner = getattr(embeddings, "underlying_embeddings", None)
    if not isinstance(inner, Embeddings):
        return embeddings
    cache = copy.copy(embeddings)
    cache.underlying_embeddings = TrackedEmbeddings(inner, counter)  # type: ignore[attr-defined]
    return cache
