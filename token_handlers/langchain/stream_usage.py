"""report_stream_usage(): make a LangChain model report exact usage when it streams."""

from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from typing import Any, TypeVar

from langchain_core.language_models import BaseLanguageModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.runnables import Runnable
from langchain_core.runnables.base import RunnableBindingBase

from token_handlers.langchain.calls import note_usage

Model = TypeVar("Model", bound=Runnable[Any, Any])

_CALLBACK = "token_handlers_usage"


def report_stream_usage(model: Model) -> Model:
    """Return a copy of a LangChain model that asks its server for usage when it streams.

    Chat models with a ``stream_usage`` switch (ChatOpenAI and those built on it) have it turned on; legacy OpenAI LLMs
    are made to ask and to keep the answer, which their client drops. Models with bound tools or arguments are taken
    apart. Models that always report are returned as they are; what is no model is a TypeError.
    """
    if isinstance(model, RunnableBindingBase):
        return model.model_copy(update={"bound": report_stream_usage(model.bound)})
    if not isinstance(model, BaseLanguageModel):
        raise TypeError(f"report_stream_usage takes a LangChain chat model or LLM, not {type(model).__name__}")
    if "stream_usage" in type(model).model_fields:
        return model.model_copy(update={"stream_usage": True})
    if isinstance(model, BaseLLM) and hasattr(model, "client") and hasattr(model, "async_client"):
        clients = {"client": _UsageReader(model.client), "async_client": _UsageReader(model.async_client)}
        copy = model.model_copy(update=clients)
        copy.__class__ = _reporting(type(model))
        return copy
    return model


@cache
def _reporting(kind: type[Any]) -> type[Any]:
    """Return a subclass of a legacy OpenAI LLM whose streams ask for usage, under its name, which LangChain shows."""

    def _stream(self: Any, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        return kind._stream(self, prompt, stop, run_manager, **_asking(kwargs, run_manager))  # type: ignore[no-any-return]  # noqa: SLF001

    def _astream(
        self: Any, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        return kind._astream(self, prompt, stop, run_manager, **_asking(kwargs, run_manager))  # type: ignore[no-any-return]  # noqa: SLF001

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), {**names, "_stream": _stream, "_astream": _astream})


def _asking(kwargs: dict[str, Any], run_manager: Any) -> dict[str, Any]:
    asked = {"stream_options": {"include_usage": True}, **kwargs}
    if run_manager is not None:
        run_id = run_manager.run_id
        asked[_CALLBACK] = lambda usage: note_usage(run_id, usage)
    return asked


class _UsageReader:
    """An OpenAI completions resource that reads the usage of streams' chunks on their way."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create(self, **kwargs: Any) -> Any:
        note = kwargs.pop(_CALLBACK, None)
        answer = self._inner.create(**kwargs)
        if note is None:
            return answer
        return _read_async(answer, note) if hasattr(answer, "__await__") else _read(answer, note)


def _read(stream: Any, note: Callable[[Any], None]) -> Iterator[Any]:
    with stream:
        for chunk in stream:
            if chunk.usage is not None:
                note(chunk.usage)
            yield chunk


async def _read_async(answer: Any, note: Callable[[Any], None]) -> AsyncIterator[Any]:
    stream = await answer

    async def chunks() -> AsyncIterator[Any]:
        async with stream:
            async for chunk in stream:
                if chunk.usage is not None:
                    note(chunk.usage)
                yield chunk

    return chunks()
