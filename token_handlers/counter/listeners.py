"""Hooks: callbacks of the application, each called from a thread of its own: one that blocks holds up nobody."""

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

from token_handlers.errors import shielded
from token_handlers.usage import UsageRecord

logger = logging.getLogger("token_handlers")

MAX_WAITING = 10_000
"""How many records wait for a callback that is slow; beyond it they are not given to it, which is logged once."""

LAST_SECONDS = 2.0
"""How long the end of the process waits for callbacks."""


class BackgroundListener:
    """A listener that hands records to a callback, in order, from a daemon thread."""

    def __init__(self, callback: Callable[[UsageRecord], object]) -> None:
        self._callback = callback
        self._begin()
        _hooks[id(self)] = self

    def _begin(self) -> None:
        self._queue: SimpleQueue[UsageRecord | threading.Event] = SimpleQueue()
        self._started = threading.Lock()
        self._process = os.getpid()
        self._overflowed = False

    def __call__(self, record: UsageRecord) -> None:
        """Queue a record; never waits."""
        if self._queue.qsize() < MAX_WAITING or self._process != os.getpid():
            self._put(record)
        elif not self._overflowed:
            self._overflowed = True
            logger.warning("a callback of on_record is %d records behind: it gets no more now", MAX_WAITING)

    def flush(self, timeout: float | None) -> bool:
        """Return whether the callback has had all records, after so many seconds at most."""
        passed = threading.Event()
        self._put(passed)
        return passed.wait(timeout)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BackgroundListener) and self._callback == other._callback

    def __hash__(self) -> int:
        return hash(self._callback)

    def _put(self, item: UsageRecord | threading.Event) -> None:
        if self._process != os.getpid():  # a fork has no threads of its parent's
            self._begin()
        self._queue.put(item)
        if self._started.acquire(blocking=False):  # once, and not let go
            threading.Thread(target=self._run, name="token_handlers-hook", daemon=True).start()

    def _run(self) -> None:
        call = shielded(self._callback)
        while True:
            item = self._queue.get()
            if isinstance(item, UsageRecord):
                call(item)
            else:
                item.set()


_hooks: "weakref.WeakValueDictionary[int, BackgroundListener]" = weakref.WeakValueDictionary()


@atexit.register
def _flush() -> None:
    for hook in list(_hooks.values()):
        if hook._process == os.getpid() and not hook._queue.empty():  # noqa: SLF001 (this module's own)
            hook.flush(LAST_SECONDS)
