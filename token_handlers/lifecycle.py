"""The process: its forks, its end, its background threads, and warnings that are given once.

The one place where the package asks Python to call it back or starts a thread; who needs that registers here.
"""

import atexit
import logging
import os
import random
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from token_handlers.errors import shielded

logger = logging.getLogger("token_handlers")

MOST_WARNINGS = 1_000
"""How many different warnings of one kind are given in a process; later ones are dropped."""

FIRST_PAUSE_SECONDS = 0.1
"""How long a BackgroundWriter waits after a send that failed; each time twice as long."""

HURRIED_PAUSE_SECONDS = 0.05
"""How long it waits while a patient flush waits for it."""

IDLE_SECONDS = 30.0
"""How long a BackgroundWriter's thread waits for the next item before it ends, or looks for more itself."""

LAST_SECONDS = 2.0
"""How long the end of the process waits for a BackgroundWriter that nobody else has flushed."""

T = TypeVar("T")

_before_fork: list[Callable[[], object]] = []
_in_parent: list[Callable[[], object]] = []
_in_children: list[Callable[[], object]] = []
_at_exit: list[Callable[[], object]] = []


def before_fork(pause: Callable[[], object]) -> None:
    """Call back before each fork, the last registered first: to let go of what does not survive one."""
    _before_fork.append(pause)


def after_fork_in_parent(resume: Callable[[], object]) -> None:
    """Call back in the parent after each fork."""
    _in_parent.append(resume)


def after_fork(renew: Callable[[], object]) -> None:
    """Call back in each forked child: to replace locks, which a thread that is not there may hold, and threads."""
    _in_children.append(renew)


def at_exit(finish: Callable[[], object], *, first: bool = False) -> None:
    """Call back when the process ends, in the order of registration; with ``first`` before all others.

    A child of multiprocessing, which runs no atexit hooks, calls back too where it has a BackgroundWriter.
    """
    if finish not in _at_exit:
        _at_exit.insert(0 if first else len(_at_exit), finish)


def not_at_exit(finish: Callable[[], object]) -> None:
    """Take back what `at_exit` was given."""
    if finish in _at_exit:
        _at_exit.remove(finish)


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


class _Flush:
    """Somebody waits until so many items are done; a patient one also through sends that fail."""

    __slots__ = ("done", "patient", "target")

    def __init__(self, target: int, *, patient: bool) -> None:
        self.target = target
        self.patient = patient
        self.done = False


class BackgroundWriter(Generic[T]):
    """Sends items in batches and in order, from one daemon thread; `put` never waits, not even in a finalizer.

    ``send`` may be given the same items again. Where it raises an error for which ``passes`` is true, it is tried
    again after a pause, and ``failed`` gets the error; after any other error each item is sent alone, and one that
    fails so again is lost: ``refused`` gets it and the error. ``more``, asked whenever nothing waits, returns further
    items to send, such as those of a file. Seconds: ``linger`` is how long the first item waits for others,
    ``longest_pause`` the longest time between two attempts.

    A forked child begins with nothing waiting: that is its parent's to send. The end of the process flushes what waits.
    """

    def __init__(
        self,
        send: Callable[[Sequence[T]], object],
        *,
        name: str,
        capacity: int,
        refused: Callable[[T, Exception], object],
        batch: int = 1,
        linger: float = 0.0,
        passes: Callable[[Exception], bool] = lambda error: False,  # noqa: ARG005
        failed: Callable[[Exception], object] = lambda error: None,  # noqa: ARG005
        more: Callable[[], Sequence[T]] | None = None,
        longest_pause: float = 5.0,
    ) -> None:
        self.capacity = capacity
        self._send, self._refused, self._passes, self._failed, self._more = send, refused, passes, failed, more
        self._name, self._batch, self._linger, self._longest_pause = name, batch, linger, longest_pause
        self._stopping = False
        self.renew()
        _writers.add(self)

    def renew(self) -> None:
        """Begin again with nothing waiting."""
        self._items: deque[T] = deque()
        self._done = self._in_hand = 0
        self._failures = 0
        self._flushes: list[_Flush] = []
        self._give_up_at: float | None = None
        # A finalizer may call put() in the middle of anything: these can be entered again by the same thread.
        self._arrived: SimpleQueue[None] = SimpleQueue()
        self._nudged: SimpleQueue[None] = SimpleQueue()
        self._changed = threading.Condition(threading.RLock())
        self._in_place_of_thread = threading.RLock()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """How many items are still to be sent, those in hand included."""
        return len(self._items)

    def put(self, item: T) -> bool:
        """Take an item and return True, unless as many as the capacity wait behind those in hand."""
        if len(self._items) - self._in_hand >= self.capacity:
            return False
        self._items.append(item)
        if not self._arrived.qsize():
            self._arrived.put(None)
        if self._thread is None:
            self._start()
        return True

    def flush(self, timeout: float | None = None, *, patient: bool = False) -> bool:
        """Return whether everything that was put before is done: False when the time (seconds) is up.

        Also False as soon as a send fails, unless ``patient``, and in the writer's own thread, which can't wait for
        itself.
        """
        if threading.current_thread() is self._thread:
            return False
        with self._changed:
            flush = _Flush(self._done + len(self._items), patient=patient)
            if self._more is None and self._done >= flush.target:
                return True
            self._flushes.append(flush)
            failures = self._failures
        try:
            if not self._start():
                self._send_here(flush, timeout)
            self._nudge()
            with self._changed:
                self._changed.wait_for(
                    lambda: flush.done or self._stopping or (not patient and self._failures > failures), timeout
                )
        finally:
            with self._changed:
                self._flushes.remove(flush)
        return flush.done

    def close(self, timeout: float, *, patient: bool = False) -> bool:
        """Flush and end the thread; return whether everything is done."""
        flushed = self.flush(timeout, patient=patient)
        self._stopping = True
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._nudge()
            thread.join(1.0)  # one that hangs in a send is a daemon
        return flushed

    def _nudge(self) -> None:
        self._arrived.put(None)
        self._nudged.put(None)

    def _start(self) -> bool:
        """Return whether the thread runs, which can't be started any more when the interpreter ends."""
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                before, self._thread = self._thread, thread
                try:
                    thread.start()
                except RuntimeError:
                    self._thread = before
                    return False
                _end_with_worker()
        return True

    def _send_here(self, flush: _Flush, timeout: float | None) -> None:
        """Do the thread's work where there can be none."""
        with self._in_place_of_thread:
            self._give_up_at = time.monotonic() + (timeout or 0.0 if flush.patient else 0.0)
            try:
                self._empty()
            finally:
                self._give_up_at = None

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._arrived.get(timeout=IDLE_SECONDS)
            except Empty:
                if self._more is None:
                    return self._retire()
            if self._linger:
                _wait(self._nudged, self._linger)
            _clear(self._arrived)  # whoever has put these has put items before, or has a flush that waits
            self._empty()
        return None

    def _retire(self) -> None:
        """End the thread; the next item starts another one."""
        self._thread = None
        if self._items:  # put while nobody saw it
            self._start()

    def _empty(self) -> None:
        while self._items:
            batch = [self._items[index] for index in range(min(self._batch, len(self._items)))]
            self._in_hand = len(batch)
            if not self._deliver(batch):
                return
            with self._changed:
                self._in_hand = 0
                for _ in batch:
                    self._items.popleft()
                self._done += len(batch)
            if any(flush.target <= self._done for flush in self._flushes):
                self._finish_flushes()
        self._finish_flushes()

    def _finish_flushes(self) -> None:
        """Send what else there is, then let those go on whose items are done."""
        while self._more is not None and (batch := self._more()):
            if not self._deliver(batch):
                return
        with self._changed:
            for flush in self._flushes:
                flush.done = flush.done or flush.target <= self._done
            self._changed.notify_all()

    def _deliver(self, batch: Sequence[T]) -> bool:
        """Send a batch until it is done; False when it is given up."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                self._send(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on, and its owner is told
                if not self._passes(error):
                    return self._refuse(batch, error)
                self._fail(error)
            else:
                return True
            if self._is_given_up():
                return False
            hurried = any(flush.patient for flush in self._flushes)
            _wait(self._nudged, HURRIED_PAUSE_SECONDS if hurried else pause * random.uniform(0.5, 1))  # noqa: S311
            if self._is_given_up():
                return False
            pause = min(2 * pause, self._longest_pause)

    def _refuse(self, batch: Sequence[T], error: Exception) -> bool:
        if len(batch) > 1:
            return all(self._deliver([item]) for item in batch)
        self._refused(batch[0], error)
        return True

    def _fail(self, error: Exception) -> None:
        self._failed(error)
        with self._changed:
            self._failures += 1
            self._changed.notify_all()

    def _is_given_up(self) -> bool:
        return self._stopping or (self._give_up_at is not None and time.monotonic() >= self._give_up_at)


class _Writer(Protocol):
    """A BackgroundWriter of whatever items."""

    @property
    def waiting(self) -> int: ...

    def renew(self) -> None: ...

    def flush(self, timeout: float | None = None) -> bool: ...


_writers: "weakref.WeakSet[_Writer]" = weakref.WeakSet()


def _wait(signal: "SimpleQueue[None]", seconds: float) -> None:
    """Wait until a signal or the time is up, and take all signals."""
    try:
        signal.get(timeout=seconds)
    except Empty:
        return
    _clear(signal)


def _clear(signal: "SimpleQueue[None]") -> None:
    """Take all signals that are there."""
    try:
        while True:
            signal.get_nowait()
    except Empty:
        return


def _end_with_worker() -> None:
    """Let a child of multiprocessing, which runs no atexit hooks, finish too."""
    if "multiprocessing.process" in sys.modules and _ended_with.get("worker") != os.getpid():
        _ended_with["worker"] = os.getpid()
        from multiprocessing import process, util

        if process.parent_process() is not None:
            util.Finalize(None, _finish, exitpriority=0)


_ended_with: dict[str, int] = {}


def _pause() -> None:
    for pause in reversed(_before_fork):
        shielded(pause)()


def _resume() -> None:
    for resume in tuple(_in_parent):
        shielded(resume)()


def _renew() -> None:
    for writer in list(_writers):
        writer.renew()
    for renew in tuple(_in_children):
        shielded(renew)()


def _finish() -> None:
    for finish in tuple(_at_exit):
        shielded(finish)()
    for writer in list(_writers):
        if writer.waiting:
            writer.flush(LAST_SECONDS)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_pause, after_in_parent=_resume, after_in_child=_renew)
atexit.register(_finish)
