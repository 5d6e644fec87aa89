"""Wraps and replaces functions of other packages while our hook is attached, and gives them back."""

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import wrapt

from token_handlers.tracking.replacements import Replacements

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""Is called in place of a function, with (function, instance, args, kwargs)."""

_attached = False
_watched: set[str] = set()
_replaced = Replacements()


def attach(by_module: Mapping[str, Callable[[ModuleType], None]]) -> None:
    """Call back with each named module: now where it is imported, else when it is, and again after each `restore`."""
    global _attached  # noqa: PLW0603 (with `restore` the one place that says so)
    _attached = True
    for name, act in by_module.items():
        if name not in _watched:
            _watched.add(name)
            wrapt.register_post_import_hook(_while_attached(act), name)
        elif name in sys.modules:
            act(sys.modules[name])


def restore() -> None:
    """Give every function back; a wrap that someone else has wrapped in turn stays, and finds nothing to do."""
    global _attached  # noqa: PLW0603 (as above)
    _attached = False
    _replaced.restore()


def wrap(owner: Any, name: str, wrapper: Wrapper) -> None:
    """Put a wrapper around a function of a class or module, once; nothing where it has none of that name."""
    original = owner.__dict__.get(name)
    if original is None or _replaced.has(owner, name):
        return

    def while_attached(
        wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return wrapper(wrapped, instance, args, kwargs) if _replaced.holds(made) else wrapped(*args, **kwargs)

    made = wrapt.FunctionWrapper(original, while_attached)
    replace(owner, name, made)


def replace(owner: object, name: str, ours: object) -> None:
    """Put something of ours in the place of a class's or module's own."""
    _replaced.put(owner, name, ours)


def give_back(owner: object, name: str) -> None:
    """Give one thing back that `replace` has replaced, unless someone else has wrapped ours in turn."""
    _replaced.give_back(owner, name)


def is_replaced(owner: object, name: str) -> bool:
    """Return whether there is something of ours already."""
    return _replaced.has(owner, name)


def _while_attached(act: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def imported(module: ModuleType) -> None:
        if _attached:
            act(module)

    return imported
