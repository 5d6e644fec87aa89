"""The process: what happens at its fork and at its end, and warnings that are given once.

The one place where the package asks Python to call it back; who is asked for registers here.
"""

import atexit
import logging
import os
from collections.abc import Callable

logger = logging.getLogger("token_handlers")

MOST_WARNINGS = 1_000
"""How many different warnings of one kind are given in a process; later ones are dropped."""

_in_children: list[Callable[[], object]] = []
_at_exit: list[Callable[[], object]] = []


def after_fork(renew: Callable[[], object]) -> None:
    """Call back in each forked child: to replace locks, which a thread that is not there may hold, and threads."""
    _in_children.append(renew)


def at_exit(finish: Callable[[], object], *, first: bool = False) -> None:
    """Call back once when the process ends, in the order of registration; with ``first`` before all others."""
    if finish not in _at_exit:
        _at_exit.insert(0 if first else len(_at_exit), finish)


class Warnings:
    """Warnings of one kind, each given once in the life of the process."""

    def __init__(self, most: int = MOST_WARNINGS) -> None:
        self._given: set[object] = set()
        self._most = most

    def is_new(self, key: object) -> bool:
        """Return whether a warning about this was not given before, and remember it."""
        if key in self._given or len(self._given) >= self._most:
            return False
        self._given.add(key)
        return True

    def warn(self, key: object, message: str, *args: object) -> None:
        """Log a warning, unless there was one about the same key."""
        if self.is_new(key):
            logger.warning(message, *args)

    def forget(self) -> None:
        """Give every warning again."""
        self._given.clear()


def _renew() -> None:
    for renew in tuple(_in_children):
        renew()


def _finish() -> None:
    for finish in tuple(_at_exit):
        finish()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew)
atexit.register(_finish)
