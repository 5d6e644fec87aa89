"""Watches openai's client for embeddings: which batch a request sends, and whether budgets have room for it.

LlamaIndex announces batches that its cache then answers, and a model's own methods announce none. The wrap looks only
at requests inside a recorded span of an embedding model, or that such a method makes.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from token_handlers.errors import shielded
from token_handlers.llama_index import budgets, embeddings
from token_handlers.llama_index.embeddings import EmbeddingBatch
from token_handlers.llama_index.owners import embedder_here, owner_here, sending
from token_handlers.llama_index.spans import ModelSpan
from token_handlers.llama_index.wraps import wrap
from token_handlers.tracking.gates import make_way


def wrap_sdk(module: ModuleType) -> None:
    """Watch openai's client, whose requests all pass one function."""
    wrap(module.SyncAPIClient, "request", _request)
    wrap(module.AsyncAPIClient, "request", _arequest)


def _request(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    batch = _batch(args, kwargs)
    if batch is None:
        return wrapped(*args, **kwargs)
    with _sending(batch):
        response = wrapped(*args, **kwargs)
    shielded(embeddings.sent)(batch, response)
    return response


def _arequest(
    wrapped: Callable[..., Awaitable[Any]], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Awaitable[Any]:
    batch = _batch(args, kwargs)
    return wrapped(*args, **kwargs) if batch is None else _awaited(batch, wrapped, args, kwargs)


async def _awaited(
    batch: EmbeddingBatch, wrapped: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    with _sending(batch):
        response = await wrapped(*args, **kwargs)
    shielded(embeddings.sent)(batch, response)
    return response


@contextmanager
def _sending(batch: EmbeddingBatch) -> Iterator[None]:
    """Let the HTTP requests below belong to a batch; where they fail, so does the batch."""
    token = sending.set(batch)
    try:
        yield
    except BaseException as error:
        shielded(embeddings.refused)(batch, error)
        raise
    finally:
        sending.reset(token)


def _batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> EmbeddingBatch | None:
    """Return the batch that a request sends, a new one if no event announced it; None for other requests.

    Raises BudgetExceeded where a budget has no room for it.
    """
    options = kwargs.get("options", args[1] if len(args) > 1 else None)
    return _batch_here(options) if getattr(options, "url", None) == "/embeddings" else None


@shielded
def _batch_here(options: Any) -> EmbeddingBatch | None:
    owner = owner_here()
    if owner is None:
        model = embedder_here()
        is_watched = model is not None and embeddings.is_through_openai(model)
        return _send(embeddings.open_for(model), options) if is_watched else None
    if not isinstance(owner, ModelSpan) or owner.passes_on or not embeddings.is_through_openai(owner.instance):
        return None
    return _send(embeddings.take(owner), options) if owner.seen else None


def _send(batch: EmbeddingBatch, options: Any) -> EmbeddingBatch:
    body = getattr(options, "json_data", None)
    texts = body.get("input") if isinstance(body, Mapping) else None
    if isinstance(texts, str):
        texts = [texts]
    batch.texts = [text for text in texts or () if isinstance(text, str)]
    make_way()
    budgets.check(batch)
    return batch
