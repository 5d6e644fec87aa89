"""What a function says of types, asked once of each: spans, events and models are told apart by their types."""

from collections.abc import Callable
from typing import TypeVar

MOST_TYPES = 1_000
"""How many types are remembered; a program that makes ever new ones has them looked at again."""

T = TypeVar("T")


class ByType(dict[type, T]):
    """A function of types with a memory; in C, where a type is known."""

    def __init__(self, function: Callable[[type], T]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, kind: type) -> T:
        if len(self) >= MOST_TYPES:
            self.clear()
        found = self[kind] = self._function(kind)
        return found
