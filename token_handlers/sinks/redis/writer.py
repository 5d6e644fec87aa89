"""What goes to the server from the background: records, and what could not be done there at once."""

import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from token_handlers.counter.listeners import MakeRecord
from token_handlers.errors import StoreRefused, StoreUnavailable
from token_handlers.lifecycle import BackgroundWriter, Warnings, after_fork
from token_handlers.sinks.backlog import Backlog, BacklogReader
from token_handlers.sinks.redis.increments import Increments, increments_of
from token_handlers.usage import UsageRecord

logger = logging.getLogger("token_handlers")

EXIT_TIMEOUT = 2.0
LONGEST_PAUSE_SECONDS = 2.0
"""How long the return of a server goes unnoticed at most."""

WARNING_INTERVAL = 60.0


class Deferred(NamedTuple):
    """A record that the writer's thread makes."""

    make_record: MakeRecord


Item = UsageRecord | Deferred | Callable[[], object]
"""What waits: a record, or something to do on the server."""


class RedisWriter:
    """Takes records to the server in batches and in order, until they have arrived, and those of the backlog."""

    def __init__(
        self,
        send: Callable[[Sequence[Increments]], object],
        *,
        batch: int,
        linger: float,
        capacity: int,
        backlog: Backlog | None,
    ) -> None:
        self._send = send
        self._batch = batch
        self._capacity = capacity
        self._backlog = reader = None if backlog is None else BacklogReader(backlog)
        self._closed = False
        self._writer: BackgroundWriter[Item] = BackgroundWriter(
            self._send_items,
            name="token_handlers-redis",
            capacity=capacity,
            batch=batch,
            linger=linger,
            passes=lambda error: isinstance(error, StoreUnavailable) and not isinstance(error, StoreRefused),
            failed=self._fail,
            refused=self._refuse,
            more=None if reader is None else functools.partial(reader.next, batch),
            longest_pause=LONGEST_PAUSE_SECONDS,
        )
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        """Begin to count: also in a forked child, for which what waited is its parent's to send."""
        self._counting = threading.RLock()
        if self._backlog is not None:
            self._backlog.restart()
        self._warned_at = float("-inf")
        self._warnings = Warnings()
        self.dropped = 0
        self.is_up = True
        self.why_down = ""

    @property
    def waiting(self) -> int:
        """How many records have not arrived yet."""
        return self._writer.waiting

    def put(self, item: Item) -> None:
        """Take a record, or something to do on the server; never waits."""
        if self._closed:
            raise RuntimeError("this RedisCounter is closed: take it out of the sinks, e.g. by remove_sink()")
        if self._writer.put(item):
            return
        if self._backlog is not None and isinstance(item, UsageRecord | Deferred):
            self._backlog.fall_behind()
        else:
            full = f"{self._capacity} wait for the Redis server already: RedisCounter takes a capacity, and a backlog"
            self._drop(full)

    def flush(self, timeout: float | None) -> bool:
        """Wait until what was put has arrived; None waits until the server fails to answer."""
        return self._writer.flush(timeout, patient=timeout is not None)

    def close(self, timeout: float) -> None:
        """Send what waits, for so many seconds, and end the thread."""
        if self._closed:
            return
        self._closed = True
        self._writer.close(timeout, patient=True)
        if self.dropped or self.waiting:
            logger.warning("%d records did not reach the Redis server", self.dropped + self.waiting)

    def went_down(self, error: StoreUnavailable) -> None:
        """Note that the server can't be used; said once an outage, and once a minute at most."""
        if self.is_up and time.monotonic() > self._warned_at + WARNING_INTERVAL:
            self._warned_at = time.monotonic()
            logger.warning("%s; records wait until it can, up to %d of them", error, self._capacity)
        self.why_down = str(error)
        self.is_up = False

    def _came_up(self) -> None:
        if not self.is_up:
            self.is_up = True
            logger.info("The Redis server can be used again")

    def _send_items(self, items: Sequence[Item]) -> None:
        increments: list[Increments] = []
        for item in items:
            if isinstance(item, UsageRecord | Deferred):
                increments.append(increments_of(_record(item)))
            else:
                self._send_increments(increments)
                increments = []
                item()
        self._send_increments(increments)
        self._came_up()

    def _send_increments(self, increments: Sequence[Increments]) -> None:
        if increments:
            self._send(increments)
            self._note([each.event_id for each in increments])

    def _note(self, event_ids: list[str]) -> None:
        if self._backlog is not None:
            self._backlog.note(event_ids)

    def _fail(self, error: Exception) -> None:
        self.went_down(StoreUnavailable(str(error)))

    def _refuse(self, item: Item, error: Exception) -> None:
        if isinstance(error, StoreRefused):  # which is an answer
            self._came_up()
        self._drop(str(error))
        if isinstance(item, UsageRecord):
            self._note([item.event_id])

    def _drop(self, why: str) -> None:
        with self._counting:
            self.dropped += 1
        if self._warnings.is_new(why):
            logger.error("A record was dropped, and is counted as `dropped`: %s (said once)", why)


def _record(item: UsageRecord | Deferred) -> UsageRecord:
    return item.make_record() if isinstance(item, Deferred) else item


def _begin_in_child() -> None:
    for writer in list(_writers):
        writer._begin()  # noqa: SLF001 (this module's own)


_writers: "weakref.WeakSet[RedisWriter]" = weakref.WeakSet()
after_fork(_begin_in_child)
