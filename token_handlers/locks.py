"""DeferredLock: a lock that also holds against the garbage collector.

The collector may end a call, by closing its stream, in the middle of anything that a thread does: also where that
thread has the lock of what the call is to be added to, or another lock. So an addition never waits: where the lock is
taken, whoever has it does what was added, at the end of the turn.
"""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType


class DeferredLock:
    """A lock, entered with `with`, that is safe to use from finalizers.

    `run_soon` never waits: where the lock is held, what it was given runs when the holder lets go.
    """

    __slots__ = ("_depth", "_later", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._later: deque[Callable[[], object]] = deque()

    def run_soon(self, action: Callable[[], object]) -> None:
        """Do something in a turn, without waiting for it; a turn that begins after this sees it done."""
        self._later.append(action)
        self._catch_up()

    def renew(self) -> None:
        """Replace the lock: for a forked child, in which a thread that held it does not exist."""
        self._lock, self._depth = threading.RLock(), 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1
        try:
            self._work()
        except BaseException:  # then `with` does not call __exit__, and nobody else would let go of the lock
            self._leave()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        self._catch_up()

    def _catch_up(self) -> None:
        """Do what waits, unless somebody is in a turn, who will see it at its end."""
        while self._later and not self._depth and self._lock.acquire(blocking=False):
            self._depth += 1
            self._leave()

    def _leave(self) -> None:
        try:
            self._work()
        finally:
            self._depth -= 1
            self._lock.release()

    def _work(self) -> None:
        if self._depth == 1:
            while self._later:
                self._later.popleft()()
