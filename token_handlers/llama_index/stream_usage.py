"""report_stream_usage(): make a LlamaIndex LLM report exact usage when it streams."""

from typing import Any, TypeVar

from llama_index.core.base.llms.base import BaseLLM

from token_handlers.llama_index.model_names import takes_stream_options

LLM = TypeVar("LLM", bound=BaseLLM)

_ASK = {"include_usage": True}


def report_stream_usage(llm: LLM) -> LLM:
    """Return a copy of a LlamaIndex LLM that asks its server for usage when it streams.

    OpenAI and those built on it (OpenAILike, Azure, Groq, ...) are asked through ``additional_kwargs``; the copy has
    the same callback manager and clients. LLMs that always report are returned as they are; what is no LLM is a
    TypeError.
    """
    if not isinstance(llm, BaseLLM):
        raise TypeError(f"report_stream_usage takes a LlamaIndex LLM, not {type(llm).__name__}")
    inner: Any = getattr(llm, "llm", None)
    if isinstance(inner, BaseLLM):  # a structured LLM
        return llm.model_copy(update={"llm": report_stream_usage(inner)})
    if not takes_stream_options(type(llm)):
        return llm
    own: dict[str, Any] = dict(getattr(llm, "additional_kwargs", None) or {})
    options = {**(own.get("stream_options") or {}), **_ASK}
    return llm.model_copy(update={"additional_kwargs": {**own, "stream_options": options}})
