"""A cache of a function of types, by which spans, events and models are told apart."""

from collections.abc import Callable
from typing import TypeVar

MOST_TYPES = 1_000
"""How many types are cached; for a program that makes ever new ones the cache begins again."""

T = TypeVar("T")


class ByType(dict[type, T]):
    """The results of a function by type. Looking up a known type runs no Python code."""

    def __init__(self, function: Callable[[type], T]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, kind: type) -> T:
        if len(self) >= MOST_TYPES:
            self.clear()
        found = self[kind] = self._function(kind)
        return found
