"""SQLiteLedger: every call in a file, durably, and what the calls add up to."""

import atexit
import contextlib
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from token_handlers.errors import TokenHandlersError
from token_handlers.sinks.sqlite.backlog import Outbox
from token_handlers.sinks.sqlite.duplicates import Groups, groups_by
from token_handlers.sinks.sqlite.file import LedgerFile
from token_handlers.sinks.sqlite.location import explained
from token_handlers.sinks.sqlite.queries import (
    PROVIDER_MODELS,
    SESSION_MODELS,
    Dimension,
    Moment,
    Window,
    moment_ms,
    page,
    sums_by,
)
from token_handlers.sinks.sqlite.rows import divide_usd, record_of, row_of, set_costs, usd
from token_handlers.sinks.sqlite.schema import NAMELESS
from token_handlers.sinks.sqlite.writer import END_SECONDS, WriteBehind
from token_handlers.usage import UsageRecord, UsageTotals

READ_SECONDS = 5.0
"""How long a read waits for the records that were given before it."""


class SQLiteLedger:
    """A sink that keeps every call in a SQLite file: by event id, so that a call given twice is kept once.

    ``durability="batch"``: a call returns at once and a thread writes; ``flush()`` returns True once everything given
    before is on the disk. ``durability="sync"``: a call returns when its record is on the disk, or raises
    TokenHandlersError. Either way what can't be written waits, up to 20,000 records, and is tried again. A process that
    ends flushes first; one that is killed loses what was not flushed, and nothing else.

    Any number of processes and threads may share a file on a local disk. It is made for its owner alone (0600), with
    the folders that are missing, and ``<path>.lock`` beside it. A path that can't be used is a TokenHandlersError.

    With ``read_only`` it can be asked and takes nothing: the file has to be there, may be another user's, and is left
    as it is. A ledger may be a fleet's backlog: see `unsent`.

    Reads see what was given before. ``since`` and ``until`` are aware datetimes (until is not included), dates in UTC
    (both are included) or ISO strings of either. Money is exact down to 1e-18 USD, times down to the millisecond.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["batch", "sync"] = "batch",
        read_only: bool = False,
    ) -> None:
        if durability not in ("batch", "sync"):
            raise ValueError(f"durability is 'batch' or 'sync', not {durability!r}")
        if not os.fspath(path) or os.fspath(path) == ":memory:":
            raise ValueError(f"a ledger needs the path of a file, not {path!r}")
        self.path: Path = Path(os.path.realpath(Path(path).expanduser()))
        self._sync = durability == "sync"
        self._closed = False
        self._read_only = read_only
        self._known = 0
        self._queue = WriteBehind(self.path, self._write)
        self._file = LedgerFile(self.path, in_child=self._restart, read_only=read_only)
        self._outbox = Outbox(self._file)
        with self._explained():
            self._file.open()
        atexit.register(self._end)

    def __call__(self, record: UsageRecord) -> None:
        """Keep one call; one without an event id gets one, one without a time that of now."""
        if not isinstance(record, UsageRecord):
            raise TypeError(f"a ledger takes UsageRecords, not {type(record).__name__}")
        if self._closed or self._read_only:
            raise ValueError(f"the ledger {self.path} is {'closed' if self._closed else 'opened to be read'}")
        if not record.event_id or not (record.started_at or record.ended_at):
            record = _identified(record)
        if self._sync:
            self._check(record)
        taken = self._queue.put(record)
        if self._sync and not (taken and self._queue.flush(END_SECONDS)):
            raise explained(self.path, self._queue.last_error or TimeoutError("others have it locked"))

    @property
    def waiting(self) -> int:
        """Records given and not yet on the disk."""
        return len(self._queue.records)

    @property
    def failed_writes(self) -> int:
        """How many times writing failed; what was to be written waits and is tried again."""
        return self._queue.failed_writes

    @property
    def lost(self) -> int:
        """Records that were given up: too many waited, or their numbers are beyond what a ledger holds."""
        return self._queue.lost

    @property
    def known(self) -> int:
        """Records that were given, and not added, as the ledger had them already."""
        return self._known

    def flush(self, timeout: float | None = None) -> bool:
        """Return True once all that was given before is on the disk; False when a write fails or the time is up."""
        return self._queue.flush(timeout)

    def close(self) -> None:
        """Flush and let go of the file; what can't be written within 30 s is lost, and that is logged."""
        if not self._closed:
            self._closed = True
            self._queue.end()
            self._file.close()
            atexit.unregister(self._end)

    def unsent(self, limit: int) -> Sequence[UsageRecord]:
        """Return the first of the calls that are not known to have arrived on a Redis server.

        For ``RedisCounter(backlog=ledger)``, with both as sinks. From the first time on, every call that comes into the
        file waits there until it has arrived, whoever writes it, and so do the calls of the 20 hours before: a server
        that has them knows them again for a day. Records that are given without an event id do not. A file is the
        backlog of one namespace.
        """
        self._queue.flush(READ_SECONDS)
        with self._closing():
            return self._outbox.unsent(limit)

    def sent(self, event_ids: Sequence[str]) -> None:
        """Note that calls have arrived, also of those that are still to be written."""
        with self._closing():
            self._outbox.sent(event_ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def totals(
        self,
        session: str | None = None,
        user: str | None = None,
        model: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> UsageTotals:
        """Return the sum of the calls that carry these labels, in this time."""
        with self._asked() as connection:
            sums = sums_by(connection, Dimension(), _window(session, user, model, since, until))
        return sums.get((), UsageTotals())

    def by(
        self,
        label: str,
        *,
        top: int | None = None,
        session: str | None = None,
        user: str | None = None,
        model: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> Groups:
        """Return totals by 'model', 'session', 'user', 'day', 'hour' (both in UTC), 'operation', 'provider',
        'langgraph_node', 'tag' or the name of a tag; calls without such a label are not in it.

        With ``top`` they are of so many values, the dearest first, and what the others add up to is under "(other)".
        """
        if top is not None and (not isinstance(top, int) or top < 1):
            raise ValueError(f"top must be an int of 1 or more, not {top!r}")
        window = _window(session, user, model, since, until)
        with self._asked() as connection:
            return groups_by(connection, label, window, top)

    def by_session_model(self, session: str) -> dict[tuple[str | None, str, str], UsageTotals]:
        """Return a session's totals by provider (None where it is not known), model and operation."""
        with self._asked() as connection:
            sums = sums_by(connection, SESSION_MODELS, Window(session=session))
        return {(str(key[0]) or None, str(key[1]), str(key[2])): totals for key, totals in sums.items()}

    def by_provider_model(
        self, *, since: Moment | None = None, until: Moment | None = None
    ) -> dict[tuple[str | None, str], UsageTotals]:
        """Return totals by provider (None where it is not known) and model."""
        with self._asked() as connection:
            sums = sums_by(connection, PROVIDER_MODELS, _window(None, None, None, since, until))
        return {(str(key[0]) or None, str(key[1])): totals for key, totals in sums.items()}

    def records(
        self,
        *,
        session: str | None = None,
        user: str | None = None,
        model: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> Iterator[UsageRecord]:
        """Return the calls in the order of time, read as they are taken; nobody who writes is held up."""
        window = _window(session, user, model, since, until)
        return (record_of(row) for rows in self._pages(window) for row in rows)

    def update_costs(
        self,
        price: Callable[[UsageRecord], Decimal | None],
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> tuple[int, int]:
        """Price past calls again, and return how many were seen and how many changed, to cost_source 'repriced'.

        Costs that the provider reported stay, as do those for which ``price`` returns None. For an answer from a cache
        it is what was saved that changes. Calls and totals change together, up to a thousand calls at a time.
        """
        seen = changed = 0
        for rows in self._pages(_window(None, None, None, since, until)):
            priced = [(row["id"], _another_cost(record_of(row), price)) for row in rows]
            costs = [(number, cost) for number, cost in priced if cost is not None]
            if costs:
                with self._explained(), self._file.writing() as connection:
                    set_costs(connection, costs)
            seen, changed = seen + len(rows), changed + len(costs)
        return seen, changed

    def __repr__(self) -> str:
        return f"<SQLiteLedger {self.path} waiting={self.waiting}>"

    def _restart(self) -> None:
        self._known = 0
        self._queue.restart()
        self._outbox.restart()

    def _check(self, record: UsageRecord) -> None:
        try:
            row_of(record)
        except (ArithmeticError, ValueError) as error:
            raise TokenHandlersError(f"the ledger {self.path} can't hold this record: {error}") from error

    def _write(self, records: Sequence[UsageRecord]) -> None:
        rows = [row_of(record) for record in records]
        with self._file.writing() as connection:
            added = self._outbox.append(connection, rows)
        self._outbox.written(rows)
        self._known += len(rows) - added

    @contextlib.contextmanager
    def _asked(self) -> Iterator[sqlite3.Connection]:
        self._queue.flush(READ_SECONDS)
        with self._explained(), self._file.reading() as connection:
            yield connection

    def _pages(self, window: Window) -> Iterator[list[sqlite3.Row]]:
        self._queue.flush(READ_SECONDS)
        after = window.since, -1
        while True:
            with self._explained(), self._file.reading() as connection:
                rows = page(connection, window, after)
            if not rows:
                return
            yield rows
            after = rows[-1]["ts_ms"], rows[-1]["id"]

    def _end(self) -> None:
        self._sync = True  # what open calls leave at the very end of the process is written at once
        self._queue.flush_at_end()
        self._file.close()

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        yield
        if self._closed:  # before the counter that it is the backlog of
            self._file.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise explained(self.path, error) from error


def _identified(record: UsageRecord) -> UsageRecord:
    event_id = record.event_id or f"{NAMELESS}{uuid.uuid4().hex}"
    started = record.started_at or record.ended_at or datetime.now(UTC)
    return record.model_copy(update={"event_id": event_id, "started_at": started})


def _window(
    session: str | None, user: str | None, model: str | None, since: Moment | None, until: Moment | None
) -> Window:
    return Window(session, user, model, moment_ms("since", since), moment_ms("until", until, end=True))


def _another_cost(record: UsageRecord, price: Callable[[UsageRecord], Decimal | None]) -> Decimal | None:
    """Return what a call costs now, where that is known and is not what it did."""
    if record.cost_source == "reported" or record.outcome == "failed":
        return None
    cost = price(record)
    if cost is None:
        return None
    kept = usd(*divide_usd(cost))
    return None if kept == (record.saved_cost if record.outcome == "cached" else record.cost) else kept
