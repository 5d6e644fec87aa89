"""SDKs that send requests from threads of their own, in which their caller's context is not: it is carried there.

cohere's ``Client.embed``, which LangChain's CohereEmbeddings calls, sends each batch by a ThreadPoolExecutor.
"""

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from types import ModuleType
from typing import Any

import wrapt

from token_handlers.tracking.replacements import Replacements
from token_handlers.tracking.state import watchers


class _CarryingPool:
    """An executor whose ``map`` runs its function in the context of the caller."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any], **options: Any) -> Any:
        context = copy_context()
        return self._pool.map(lambda *args: context.copy().run(function, *args), *iterables, **options)


def watch() -> None:
    """Wrap cohere's client where it is imported, or will be, once."""
    global _is_watched  # noqa: PLW0603 (the one place that says so)
    if not _is_watched:
        _is_watched = True
        wrapt.register_post_import_hook(_wrap, "cohere.client")


def restore() -> None:
    """Give cohere's client its own method back, unless someone else has wrapped ours in turn."""
    global _is_watched  # noqa: PLW0603 (as above)
    _is_watched = False
    _replaced.restore()


_is_watched = False
_replaced = Replacements()


def _wrap(module: ModuleType) -> None:
    client = getattr(module, "Client", None)
    embed = None if client is None else client.__dict__.get("embed")
    if client is None or embed is None or not _is_watched or _replaced.has(client, "embed"):
        return

    @functools.wraps(embed)
    def carrying(self: Any, *args: Any, **kwargs: Any) -> Any:
        pool = getattr(self, "_executor", None)
        if isinstance(pool, ThreadPoolExecutor):
            self._executor = _CarryingPool(pool)
        return embed(self, *args, **kwargs)

    _replaced.put(client, "embed", carrying)


watchers.append((watch, restore))
