"""Write-behind: one thread takes records to the server, in batches, until they have arrived."""

import logging
import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from token_handlers.errors import StoreRefused, StoreUnavailable, shielded
from token_handlers.sinks.redis.backlog import Backlog
from token_handlers.sinks.redis.increments import Delta, delta_of
from token_handlers.usage import UsageRecord

logger = logging.getLogger("token_handlers")

Send = Callable[[Sequence[Delta]], object]

FIRST_DELAY, LAST_DELAY = 0.1, 2.0
"""Seconds between two attempts while the server is down; the last one is the longest that its return goes unnoticed."""

HURRIED_DELAY = 0.05
IDLE = 30.0
EXIT_TIMEOUT = 2.0
WARNING_INTERVAL = 60.0


class _Marker(threading.Event):
    """Goes through the queue behind what a flush waits for."""

    def __init__(self, *, patient: bool) -> None:
        super().__init__()
        self.patient = patient
        self.arrived = False


class WriteBehind:
    """Takes records to the server from one thread, in order, and does there what could not be done at once."""

    def __init__(self, send: Send, *, batch: int, linger: float, capacity: int, backlog: Backlog | None) -> None:
        self._send = send
        self._batch = batch
        self._linger = linger
        self._capacity = capacity
        self._kept = backlog
        self._closed = False
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        # Also in the child of a fork: the parent goes on to send what it had, and its locks may be held for ever here.
        self._queue: SimpleQueue[UsageRecord | Callable[[], object] | _Marker] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        self._nudge = threading.Event()
        self._queued: set[_Marker] = set()
        self._flushes: set[_Marker] = set()
        self._end = _Marker(patient=True)
        self._in_hand = 0
        self._give_up_at: float | None = None
        self._behind = self._kept is not None
        self._warned_at = float("-inf")
        self._said: set[str] = set()
        self.dropped = 0
        self.is_up = True
        self.why_down = ""

    @property
    def waiting(self) -> int:
        """How many records have not arrived yet."""
        return max(0, self._queue.qsize() - len(self._queued)) + self._in_hand

    def put(self, item: UsageRecord | Callable[[], object]) -> None:
        """Take a record, or something to do on the server; never waits."""
        if self._closed:
            raise RuntimeError("this RedisCounter is closed: take it out of the sinks, e.g. by remove_sink()")
        if self._queue.qsize() < self._capacity:
            self._queue.put(item)
        else:
            self._overflow(item)
        if self._thread is None:
            self._start()

    def flush(self, timeout: float | None) -> bool:
        """Wait until what was put has arrived; None waits until the server fails to answer."""
        marker = _Marker(patient=timeout is not None)
        self._flushes.add(marker)
        self._mark(marker)
        if self._start():
            marker.wait(timeout)
        self._flushes.discard(marker)
        return marker.arrived

    def close(self, timeout: float) -> None:
        """Send what waits, for so many seconds, and end the thread."""
        if self._closed:
            return
        self._closed = True
        self._give_up_at = time.monotonic() + timeout
        self._mark(self._end)
        if self._start() and self._thread is not None:
            self._thread.join(timeout + 1)
        else:
            self._run()
        if self.dropped or self.waiting:
            logger.warning("%d records did not reach the Redis server", self.dropped + self.waiting)

    def went_down(self, error: StoreUnavailable) -> None:
        """Note that the server can't be used; said once an outage, and once a minute at most."""
        if self.is_up and time.monotonic() > self._warned_at + WARNING_INTERVAL:
            self._warned_at = time.monotonic()
            logger.warning("%s; records wait until it can, up to %d of them", error, self._capacity)
        self.why_down = str(error)
        self.is_up = False

    def _mark(self, marker: _Marker) -> None:
        self._queued.add(marker)
        self._queue.put(marker)
        self._nudge.set()

    def _start(self) -> bool:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="token_handlers-redis", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down
                    return False
                self._thread = thread
                _flush_at_end_of_process(self)
        return True

    def _overflow(self, item: UsageRecord | Callable[[], object]) -> None:
        if self._kept is not None and isinstance(item, UsageRecord):
            self._behind = True
        else:
            full = f"{self._capacity} wait for the Redis server already: RedisCounter takes a capacity, and a backlog"
            self._drop(1, full)

    def _run(self) -> None:
        if self._kept is not None:
            shielded(self._kept.unsent)(0)  # from now on it keeps what comes in
        step = shielded(self._step)
        while step() is not False:
            pass

    def _step(self) -> bool:
        if self._is_given_up():
            return False
        batch, ended_by = self._gather()
        if batch:
            self._deliver(batch)
        if self._behind and (isinstance(ended_by, _Marker) or self._queue.empty()):
            self._catch_up()
        if isinstance(ended_by, _Marker):
            self._queued.discard(ended_by)
            ended_by.arrived = True
            ended_by.set()
        elif callable(ended_by):
            self._do(ended_by)
        return ended_by is not self._end

    def _gather(self) -> tuple[list[Delta], object]:
        """Wait for records; return a batch, and what ended it: a flush, something to do, or the end."""
        batch: list[Delta] = []
        until = time.monotonic() + IDLE
        while len(batch) < self._batch:
            try:
                item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                self._behind = self._behind or (self._kept is not None and not batch)
                break
            if not isinstance(item, UsageRecord):
                return batch, item
            if not batch:
                until = time.monotonic() + self._linger
            delta = _delta_of(item)
            if delta is None:
                self._drop(1, _IMMEASURABLE)
            else:
                batch.append(delta)
            self._in_hand = len(batch)
        return batch, _NOTHING_ELSE

    def _deliver(self, batch: Sequence[Delta]) -> bool:
        self._in_hand = len(batch)
        try:
            arrived = self._until_done(lambda: self._send(batch))
        except StoreRefused as error:
            if len(batch) > 1:
                arrivals = [self._deliver([delta]) for delta in batch]
                return all(arrivals)
            self._drop(1, str(error))
            arrived = True
        if self._kept is None:
            self._drop(0 if arrived else len(batch))
        elif arrived:
            shielded(self._kept.sent)([delta.event_id for delta in batch])
        self._in_hand = 0
        return arrived

    def _do(self, action: Callable[[], object]) -> None:
        self._in_hand = 1
        try:
            if not self._until_done(action):
                self._drop(1)
        except StoreRefused as error:
            self._drop(1, str(error))
        self._in_hand = 0

    def _until_done(self, action: Callable[[], object]) -> bool:
        """Do something on the server, again and again while it can't be used; False when time is up."""
        delay = FIRST_DELAY
        while not self._is_given_up():
            try:
                action()
            except StoreRefused:
                self._came_up()
                raise
            except StoreUnavailable as error:
                self._failed(error)
            else:
                self._came_up()
                return True
            hurried = self._flushes or self._give_up_at is not None
            self._nudge.wait(HURRIED_DELAY if hurried else delay * random.uniform(0.5, 1))  # noqa: S311 (jitter)
            self._nudge.clear()
            delay = min(delay * 2, LAST_DELAY)
        return False

    def _is_given_up(self) -> bool:
        return self._give_up_at is not None and not self.is_up and time.monotonic() > self._give_up_at

    def _failed(self, error: StoreUnavailable) -> None:
        self.went_down(error)
        for marker in list(self._flushes):
            if not marker.patient:
                marker.set()

    def _came_up(self) -> None:
        if not self.is_up:
            self.is_up = True
            logger.info("The Redis server can be used again")

    def _drop(self, count: int, why: str | None = None) -> None:
        with self._lock:
            self.dropped += count
        if why is not None and why not in self._said:
            self._said.add(why)
            logger.error("A record was dropped, and is counted as `dropped`: %s (said once)", why)

    def _catch_up(self) -> None:
        """Send what the backlog has: from before this process, or from when the queue was full."""
        self._behind = False
        before: list[Delta] = []
        while self._kept is not None:
            records = shielded(self._kept.unsent)(self._batch) or ()
            deltas = [delta for delta in map(self._delta, records) if delta is not None]
            if not deltas or deltas == before or not self._deliver(deltas):
                return
            before = deltas

    def _delta(self, record: UsageRecord) -> Delta | None:
        """Return what a record of the backlog adds; one that nothing can add is done with."""
        delta = _delta_of(record)
        if delta is None and self._kept is not None:
            self._drop(1, _IMMEASURABLE)
            shielded(self._kept.sent)([record.event_id or ""])
        return delta


_NOTHING_ELSE = object()
_IMMEASURABLE = "its tokens, its cost or its date are beyond all measure"
_delta_of = shielded(delta_of)
_writers: "weakref.WeakSet[WriteBehind]" = weakref.WeakSet()


def _begin_in_child() -> None:
    for writer in _writers:
        writer._begin()  # noqa: SLF001 (this module's own)


def _flush_at_end_of_process(writer: WriteBehind) -> None:
    """Make a process of multiprocessing, which runs no atexit hooks, send what waits before it ends."""
    if "multiprocessing.util" in sys.modules:
        from multiprocessing import parent_process, util

        if parent_process() is not None:
            util.Finalize(writer, writer.flush, (EXIT_TIMEOUT,), exitpriority=0)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_in_child)
