"""Older versions of LlamaIndex run sync tools and steps, and coroutines beside a running loop, without their context.

What these ask an LLM would belong to no block and no budget. There the caller's context is carried along; versions that
carry it themselves are left as they are: llama-index-core from 0.14.22 on (coroutines: somewhat earlier), and
llama-index-workflows from 2.11 on or somewhat earlier.
"""

import asyncio
import concurrent.futures
import contextvars
import importlib.util
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from token_handlers.llama_index.wraps import is_replaced, replace, wrap


def watch(module: ModuleType) -> None:
    """Have a module of LlamaIndex carry the context into threads, where it does not know of contexts."""
    names = vars(module)
    if "contextvars" in names or "copy_context" in names or is_replaced(module, "asyncio"):
        return
    if names.get("asyncio") is asyncio:
        replace(module, "asyncio", _CarryingAsyncio("asyncio"))
    if "concurrent" in names:
        replace(module, "concurrent", _CarryingConcurrent("concurrent"))


def watch_workflows(module: ModuleType) -> None:
    """Have the sync steps of workflows keep the context, in versions that run them in this module."""
    if importlib.util.find_spec("workflows.runtime") is None:
        watch(module)


def watch_bedrock(module: ModuleType) -> None:
    """Have BedrockConverse's async streams, which it reads in an executor's thread, ask in their caller's context."""
    wrap(module, "converse_with_retry_async", _with_context)


def _with_context(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if kwargs.get("client") is not None:
        kwargs = {**kwargs, "client": _ContextClient(kwargs["client"])}
    return wrapped(*args, **kwargs)


class _ContextClient:
    """A client whose methods run in the context in which this was made."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._context = contextvars.copy_context()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return partial(self._context.copy().run, found) if callable(found) else found


class _CarryingAsyncio(ModuleType):
    """The module asyncio, whose running loop's executors keep the context."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    def get_running_loop(self) -> "_CarryingLoop":
        return _CarryingLoop(asyncio.get_running_loop())

    def get_event_loop(self) -> "_CarryingLoop":
        return _CarryingLoop(asyncio.get_event_loop())


class _CarryingLoop:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def run_in_executor(
        self, executor: concurrent.futures.Executor | None, function: Callable[..., object], *args: object
    ) -> asyncio.Future[Any]:
        run = contextvars.copy_context().run
        return self._loop.run_in_executor(executor, partial(run, function, *args))


class _CarryingConcurrent(ModuleType):
    """The module concurrent, whose threads keep the context."""

    def __getattr__(self, name: str) -> Any:
        return getattr(concurrent, name)

    @property
    def futures(self) -> "_CarryingFutures":
        return _CarryingFutures("concurrent.futures")


class _CarryingFutures(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(concurrent.futures, name)

    @property
    def ThreadPoolExecutor(self) -> "type[_CarryingExecutor]":  # noqa: N802 (as it is called there)
        return _CarryingExecutor


class _CarryingExecutor(concurrent.futures.ThreadPoolExecutor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[Any]":
        return super().submit(contextvars.copy_context().run, fn, *args, **kwargs)
