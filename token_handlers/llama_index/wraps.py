"""Functions of other packages that we put one of ours around while we are attached, and give back."""

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import wrapt

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""What stands for a function: it gets the function, the instance, the arguments and the keyword arguments."""

_attached = False
_watched: set[str] = set()
_wrapped: list[tuple[Any, str, Any]] = []


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
    for owner, name, wrapper in _wrapped:
        if owner.__dict__.get(name) is wrapper:
            setattr(owner, name, wrapper.__wrapped__)
    _wrapped.clear()


def wrap(owner: Any, name: str, wrapper: Wrapper) -> None:
    """Put a wrapper around a function of a class or module, once; nothing where it has none of that name."""
    original = owner.__dict__.get(name)
    if original is None or any(entry[:2] == (owner, name) for entry in _wrapped):
        return

    def while_attached(
        wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        is_ours = any(entry[2] is made for entry in _wrapped)  # not one that `restore` had to leave in its place
        return wrapper(wrapped, instance, args, kwargs) if is_ours else wrapped(*args, **kwargs)

    made = wrapt.FunctionWrapper(original, while_attached)
    setattr(owner, name, made)
    _wrapped.append((owner, name, made))


def _while_attached(act: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def imported(module: ModuleType) -> None:
        if _attached:
            act(module)

    return imported
