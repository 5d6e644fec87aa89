"""DeferredLock: a lock that also holds against the garbage collector and Ctrl-C.

The collector may end a call, by closing its stream, in the middle of anything that a thread does, also while that
thread holds the lock of the sums to which the call is added, or another lock. So an addition never waits: where the
lock is held, its holder makes the addition when it lets go.

A signal may raise KeyboardInterrupt where Python has called something, begins a function or repeats a loop. It never
comes between statements that call nothing, such as ``a += b; del c[0]``: what is done by these is done or not. In
Python 3.13 a loop that ends with an `if`, or has a condition of two parts, jumps back outside of the `try` or `with`
around it: such a loop may hold no lock there.
"""

import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

from token_handlers.lifecycle import after_fork

T = TypeVar("T")


class DeferredLock:
    """A lock that is safe to use from finalizers, and that an interrupt does not leave held.

    `run_soon` never waits: where the lock is held, its holder runs the action. An action that an interrupt breaks off
    runs again. So it makes its changes together, by statements that call nothing, and the second time changes nothing.

    ``rlock``, `is_mine` and `work` are for callers that can't afford a function for each addition: enter ``rlock`` by
    `with`, which is one step; before your own changes do what is ``waiting`` by `work`, and afterwards by `catch_up`.

    In a forked child all locks are free, as a thread of the parent that held one does not exist there.
    """

    __slots__ = ("__weakref__", "is_mine", "rlock", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []  # a deque takes ten times the memory
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        """Replace the lock by one that nobody holds."""
        self.rlock = threading.RLock()
        # Whether this thread holds the lock: asked of the lock, as a note of ours would be wrong after an interrupt.
        self.is_mine: Callable[[], bool] = self.rlock._is_owned  # type: ignore[attr-defined]  # noqa: SLF001

    def defer(self, action: Callable[[], object]) -> None:
        """Leave something to whoever takes the lock next, or calls `catch_up`; an interrupt in here leaves nothing."""
        self.waiting += (action,)

    def run_soon(self, action: Callable[[], object]) -> None:
        """Do something while the lock is held, without waiting for it; who takes the lock after this sees it done."""
        self.defer(action)
        self.catch_up()

    def run(self, action: Callable[[], T]) -> T:
        """Return what an action returns, done while the lock is held and after what waited; waits for the lock.

        In the middle of another action of this thread, as when the garbage collector asks, nothing else is done before.
        """
        if self.is_mine():
            return action()
        try:
            with self.rlock:
                self.work()
                return action()
        finally:
            self.catch_up()

    def catch_up(self) -> None:
        """Do what waits, unless somebody holds the lock, who will do it on letting go."""
        if self.is_mine():
            return
        try:
            while self.waiting:
                if not self.rlock.acquire(blocking=False):
                    return
                self.work()
                self.rlock.release()
        except BaseException:
            if self.is_mine():
                self.rlock.release()
            raise

    def work(self) -> None:
        """Do what waits, in order, for the holder of the lock; an action that raises an Exception is dropped."""
        waiting = self.waiting
        while waiting:
            try:
                waiting[0]()
            except Exception:
                del waiting[0]
                raise
            del waiting[0]


_locks: "weakref.WeakSet[DeferredLock]" = weakref.WeakSet()


def _renew_all() -> None:
    for lock in tuple(_locks):
        lock.renew()


after_fork(_renew_all)
