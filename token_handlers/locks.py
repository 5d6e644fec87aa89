"""DeferredLock: a lock that also holds against the garbage collector.

The collector may end a call, by closing its stream, in the middle of anything that a thread does, also while that
thread holds the lock of the sums to which the call is added, or another lock. So an addition never waits: where the
lock is held, its holder makes the addition when it lets go.
"""

import threading
import weakref
from collections.abc import Callable
from types import TracebackType

from token_handlers.lifecycle import after_fork


class DeferredLock:
    """A lock, entered with `with`, that is safe to use from finalizers.

    `run_soon` never waits: where the lock is held, what it was given runs when the holder lets go. ``rlock``, ``depth``
    and `leave` are for callers that can't afford a function for each addition: take ``rlock`` without blocking where
    ``depth`` is 0, add one to ``depth``, and `leave`; then `catch_up` with what is ``waiting``.

    In a forked child all locks are free, as a thread of the parent that held one does not exist there.
    """

    __slots__ = ("__weakref__", "depth", "rlock", "waiting")

    def __init__(self) -> None:
        self.rlock = threading.RLock()
        self.depth = 0
        self.waiting: list[Callable[[], object]] = []  # a deque takes ten times the memory
        _locks.add(self)

    def run_soon(self, action: Callable[[], object]) -> None:
        """Do something while the lock is held, without waiting for it; who takes the lock after this sees it done."""
        self.waiting.append(action)
        self.catch_up()

    def renew(self) -> None:
        """Replace the lock by one that nobody holds."""
        self.rlock, self.depth = threading.RLock(), 0

    def __enter__(self) -> None:
        self.rlock.acquire()
        self.depth += 1
        try:
            if self.waiting:
                self._work()
        except BaseException:  # then `with` does not call __exit__, and nobody else would let go of the lock
            self.leave()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        if self.waiting:
            self.catch_up()

    def catch_up(self) -> None:
        """Do what waits, unless somebody holds the lock, who will do it on letting go."""
        while self.waiting and not self.depth and self.rlock.acquire(blocking=False):
            self.depth += 1
            self.leave()

    def leave(self) -> None:
        """Do what came in the meantime, and let go of the lock."""
        try:
            if self.waiting:
                self._work()
        finally:
            self.depth -= 1
            self.rlock.release()

    def _work(self) -> None:
        if self.depth == 1:
            while self.waiting:
                self.waiting.pop(0)()


_locks: "weakref.WeakSet[DeferredLock]" = weakref.WeakSet()


def _renew_all() -> None:
    for lock in tuple(_locks):
        lock.renew()


after_fork(_renew_all)
