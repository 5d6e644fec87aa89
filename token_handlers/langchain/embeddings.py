"""LangChain's embeddings, which fire no callbacks: read from their client's responses, or estimated from the texts."""

import copy
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import wrapt
from langchain_core.embeddings import Embeddings

from token_handlers.counter.counter import TokenCounter
from token_handlers.errors import BudgetExceeded, shielded
from token_handlers.payloads import read_payload
from token_handlers.tokenizer.estimates import estimate_tokens, prepare
from token_handlers.tracking.call import Call, parent_finders, watch_task
from token_handlers.tracking.failures import was_rejected
from token_handlers.tracking.recorder import discard, evict_oldest, record, record_estimate, reserve, task_ended
from token_handlers.tracking.reservations import release
from token_handlers.tracking.state import starts_count, watch_frameworks

_PROVIDERS = {"AzureOpenAIEmbeddings": "azure", "OpenAIEmbeddings": "openai"}


class _Watch:
    """One embed_* call that is being watched: whose it is, and how many of its requests the client itself reported."""

    __slots__ = ("call", "counter", "embeddings", "outer", "requests")

    def __init__(self, embeddings: object, counter: TokenCounter | None = None, outer: "_Watch | None" = None) -> None:
        self.embeddings = embeddings
        self.counter = counter
        self.outer = outer
        self.requests = 0
        # What stands for the requests while the client itself reports none.
        self.call: EmbeddingCall | None = None

    def note_request(self) -> None:
        """Note that the client reports a request, which holds what it may use itself."""
        self.requests += 1
        if self.call is not None:
            release(self.call)
        if self.outer is not None:
            self.outer.note_request()


class EmbeddingCall(Call):
    """One request for embeddings."""

    operation = "embeddings"

    def __init__(self, watch: _Watch, inputs: Any) -> None:
        super().__init__()
        embeddings = watch.embeddings
        self.inputs = inputs
        name = getattr(embeddings, "model", None) or getattr(embeddings, "model_name", None)
        self.model = name if isinstance(name, str) else None
        self.provider = _provider(embeddings)
        base_url = getattr(embeddings, "openai_api_base", None)
        self.base_url = base_url if isinstance(base_url, str) else None
        if watch.counter is not None:
            self.count_for(watch.counter)
        for find_parents in parent_finders:
            find_parents(self)
        evict_oldest()
        watch_task(self, task_ended)
        if self.budgets:
            reserve(self)

    def estimate_prompt(self) -> int:
        """Return the tokens of the inputs."""
        return self.estimate()[0]["input_tokens"]

    def estimate(self, text: str | None = None) -> tuple[dict[str, int], str]:
        """Return the tokens of the inputs: exact where the client sends tokens, else estimated from the texts."""
        inputs = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        if not isinstance(inputs, Sequence):
            return {"input_tokens": 0}, "none"
        if inputs and isinstance(inputs[0], int):
            return {"input_tokens": len(inputs)}, "tokens"
        prepare(self.model)
        method, total = "tokens", 0
        for one in inputs:
            if isinstance(one, str):
                tokens, method = estimate_tokens(one, self.model)
                total += tokens
            else:
                total += len(one)
        return {"input_tokens": total}, method

    @shielded
    def end(self, response: object) -> None:
        """Record the request by what the response reports."""
        reading = read_payload(response, self.provider)
        if reading is None or "input_tokens" not in reading.counts:
            record_estimate(self)
        else:
            record(self, reading.counts, model=reading.model, cost=reading.cost)

    @shielded
    def fail(self, error: BaseException) -> None:
        """Record a rejected request as failed, and an interrupted one as an estimate."""
        if isinstance(error, BudgetExceeded):
            discard(self)
        elif was_rejected(error):
            record(self, {}, outcome="failed")
        else:
            record_estimate(self)


_attached = False
_watched: ContextVar[_Watch | None] = ContextVar("token_handlers_embeddings", default=None)


class TrackedEmbeddings(Embeddings):
    """Any LangChain embeddings, counted: exactly where the client's response states usage, else estimated and flagged.

    Exact for OpenAIEmbeddings and AzureOpenAIEmbeddings. Embeddings behind a CacheBackedEmbeddings are counted where
    the cache misses. The calls reach the blocks around them, the shared counter, and ``counter`` where one is given.
    Everything else the wrapped embeddings have is there as well.
    """

    def __init__(self, embeddings: Embeddings, counter: TokenCounter | None = None) -> None:
        if not isinstance(embeddings, Embeddings):
            raise TypeError(f"TrackedEmbeddings takes LangChain embeddings, not {type(embeddings).__name__}")
        watch_frameworks()
        self.embeddings: Embeddings = _inside_cache(embeddings, counter)
        self._counter = counter

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts, and count it."""
        with _watching(self.embeddings, self._counter, texts):
            return self.embeddings.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Embed a text, and count it."""
        with _watching(self.embeddings, self._counter, [text]):
            return self.embeddings.embed_query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts, and count it."""
        with _watching(self.embeddings, self._counter, texts):
            return await self.embeddings.aembed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a text, and count it."""
        with _watching(self.embeddings, self._counter, [text]):
            return await self.embeddings.aembed_query(text)

    def __getattr__(self, name: str) -> Any:
        if name == "embeddings":  # not set yet: being copied or unpickled
            raise AttributeError(name)
        return getattr(self.embeddings, name)


def attach(module: ModuleType) -> None:
    """Watch langchain_openai's embeddings without a wrapper, and the requests that their clients make, once."""
    from openai.resources import embeddings as clients

    global _attached  # noqa: PLW0603 (once in a process' life)
    if _attached:
        return
    _attached = True
    wrapt.wrap_function_wrapper(module, "OpenAIEmbeddings.embed_documents", _embed)
    wrapt.wrap_function_wrapper(module, "OpenAIEmbeddings.aembed_documents", _aembed)
    wrapt.wrap_function_wrapper(clients, "Embeddings.create", _create)
    wrapt.wrap_function_wrapper(clients, "AsyncEmbeddings.create", _acreate)


@contextmanager
def _watching(embeddings: Embeddings, counter: TokenCounter | None, texts: Sequence[str]) -> Iterator[None]:
    """Count an embed_* call: by the requests that its client reports, or else as one request for these texts."""
    if not texts or hasattr(embeddings, "underlying_embeddings"):
        yield
        return
    watch = _Watch(embeddings, counter)
    call = watch.call = None if _reports(embeddings) else EmbeddingCall(watch, texts)
    token = _watched.set(watch)
    try:
        yield
    except BaseException as error:
        if call is not None:
            discard(call) if watch.requests else call.fail(error)
        raise
    finally:
        _watched.reset(token)
    if call is not None:
        discard(call) if watch.requests else record_estimate(call)


def _embed(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
    watch = _watch(instance)
    if watch is None:
        return wrapped(*args, **kwargs)
    token = _watched.set(watch)
    try:
        return wrapped(*args, **kwargs)
    finally:
        _watched.reset(token)


async def _aembed(wrapped: Callable[..., Awaitable[Any]], instance: Any, args: Any, kwargs: Any) -> Any:
    watch = _watch(instance)
    if watch is None:
        return await wrapped(*args, **kwargs)
    token = _watched.set(watch)
    try:
        return await wrapped(*args, **kwargs)
    finally:
        _watched.reset(token)


def _watch(instance: object) -> _Watch | None:
    """Return how OpenAI's embeddings are to be watched that are called directly, or by others that have them inside."""
    outer = _watched.get()
    if outer is None:
        return _Watch(instance) if starts_count("langchain") else None
    return None if outer.embeddings is instance else _Watch(instance, outer.counter, outer)


def _create(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
    call = _request(kwargs)
    if call is None:
        return wrapped(*args, **kwargs)
    try:
        response = wrapped(*args, **kwargs)
    except BaseException as error:
        call.fail(error)
        raise
    call.end(response)
    return response


async def _acreate(wrapped: Callable[..., Awaitable[Any]], instance: Any, args: Any, kwargs: Any) -> Any:
    call = _request(kwargs)
    if call is None:
        return await wrapped(*args, **kwargs)
    try:
        response = await wrapped(*args, **kwargs)
    except BaseException as error:
        call.fail(error)
        raise
    call.end(response)
    return response


@shielded
def _request(kwargs: dict[str, Any]) -> EmbeddingCall | None:
    watch = _watched.get()
    if watch is None:
        return None
    watch.note_request()
    return EmbeddingCall(watch, kwargs.get("input"))


def _reports(embeddings: object) -> bool:
    """Return whether the requests of these embeddings pass the openai client, which is watched."""
    return any(kind.__name__ == "OpenAIEmbeddings" and _is_langchain_openai(kind) for kind in type(embeddings).__mro__)


def _is_langchain_openai(kind: type) -> bool:
    return kind.__module__.startswith("langchain_openai.")


def _provider(embeddings: object) -> str | None:
    for kind in type(embeddings).__mro__:
        if _is_langchain_openai(kind) and kind.__name__ in _PROVIDERS:
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
