"""LangChain's LLM cache, asked ahead for a call that a budget refuses: an answer that it has costs nothing."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from token_handlers.tracking.frames import callers

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

_WAYS = frozenset({"generate", "agenerate"})  # a stream never asks the cache


def has_answer(messages: Sequence[Any]) -> bool:
    """Return whether the chat model whose call is about to start on this stack will take its answer from the cache."""
    # Not above: our hook is attached while langchain_core is imported, when these are half made.
    from langchain_core.language_models import BaseChatModel

    for frame in callers():
        if frame.f_code.co_name in _WAYS:
            variables = frame.f_locals
            model = variables.get("self")
            if isinstance(model, BaseChatModel):
                return _is_cached(model, messages, variables.get("stop"), variables.get("kwargs") or {})
    return False


def _is_cached(model: "BaseChatModel", messages: Sequence[Any], stop: Any, settings: dict[str, Any]) -> bool:
    from langchain_core.caches import BaseCache
    from langchain_core.globals import get_llm_cache

    cache = model.cache if isinstance(model.cache, BaseCache) else get_llm_cache()
    if cache is None or model.cache is False:
        return False
    name = model._get_llm_string(stop=stop, **settings)  # noqa: SLF001 (by which LangChain looks answers up)
    return any(isinstance(cache.lookup(prompt, name), list) for prompt in _spellings(messages))


def _spellings(messages: Sequence[Any]) -> Iterator[str]:
    """Yield the names of a prompt: older versions of LangChain have its messages' ids in them."""
    from langchain_core.load import dumps

    with_ids = [message for message in messages if getattr(message, "id", None) is not None]
    yield dumps([message.model_copy(update={"id": None}) if message in with_ids else message for message in messages])
    if with_ids:
        yield dumps(list(messages))
