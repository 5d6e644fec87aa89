"""CallbackManagers: a counter that is no LlamaIndexTokenHandler is refused, and calls are checked against budgets."""

import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from token_handlers.counter.attributes import UsageAttributes
from token_handlers.counter.counter import TokenCounter
from token_handlers.llama_index import budgets
from token_handlers.llama_index.models import CountsCalls
from token_handlers.llama_index.wraps import give_back, is_replaced, replace, wrap
from token_handlers.tracking.state import state

_MODULE, _START = "llama_index.core.callbacks.base", "on_event_start"


def watch(module: ModuleType) -> None:
    """Check what managers are given, and their calls against budgets if there ever was one."""
    for name in ("__init__", "add_handler", "set_handlers"):
        wrap(module.CallbackManager, name, _given)
    watch_starts()


def watch_starts() -> None:
    """Check the calls that start against budgets, if there ever was one."""
    manager = _manager()
    if manager is not None and state.checked and not is_replaced(manager, _START):
        replace(manager, _START, budgets.checking(manager.on_event_start))


def leave_starts() -> None:
    """Undo `watch_starts`, unless someone else has wrapped ours in turn."""
    give_back(_manager(), _START)


def _manager() -> Any:
    return getattr(sys.modules.get(_MODULE), "CallbackManager", None)


def check_handler(handler: object) -> None:
    """Raise a TypeError for what is meant to count calls, and is no LlamaIndexTokenHandler."""
    if isinstance(handler, type) and issubclass(handler, CountsCalls):
        raise TypeError(f"a CallbackManager takes an instance: {handler.__name__}(), not the class {handler.__name__}")
    if isinstance(handler, TokenCounter):
        raise TypeError("a CallbackManager takes LlamaIndexTokenHandler(counter), not a TokenCounter itself")
    kind = handler if isinstance(handler, type) else type(handler)
    if issubclass(kind, UsageAttributes) and not issubclass(kind, CountsCalls):
        raise TypeError(f"a CallbackManager takes a LlamaIndexTokenHandler, not LangChain's {kind.__name__}")


def _given(wrapped: Callable[..., Any], manager: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for given in (*args, *kwargs.values()):
        for handler in given if isinstance(given, Iterable) and not isinstance(given, type) else (given,):
            check_handler(handler)
    return wrapped(*args, **kwargs)
