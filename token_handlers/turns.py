"""Turns: a lock that also holds against the garbage collector.

The collector may end a call, by closing its stream, in the middle of anything that a thread does: also where that very
thread has the lock of what the call is to be added to. Such an addition waits until the lock is let go.
"""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType


class Turns:
    """A lock, entered with `with`; in the middle of it, what is to be done by `do` waits for its end."""

    __slots__ = ("_depth", "_later", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._later: deque[Callable[[], object]] = deque()

    def do(self, action: Callable[[], object]) -> None:
        """Do something alone: now, or at the end of what this thread is in the middle of."""
        with self:
            self._later.append(action)

    def renew(self) -> None:
        """Replace the lock: for a forked child, in which a thread that held it does not exist."""
        self._lock, self._depth = threading.RLock(), 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._depth == 1:
                while self._later:
                    self._later.popleft()()
        finally:
            self._depth -= 1
            self._lock.release()
