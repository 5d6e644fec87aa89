"""SQLiteLedger: every call in a file, durably, and what the calls add up to."""

import contextlib
import logging
import os
import sqlite3
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from token_handlers.counter.listeners import MakeRecord, made
from token_handlers.errors import TokenHandlersError
from token_handlers.lifecycle import BackgroundWriter, Warnings, after_fork, at_exit, not_at_exit
from token_handlers.sinks.escapes import unescaped
from token_handlers.sinks.sql.questions import PROVIDER_MODELS, SESSION_MODELS, Dimension, Moment, Window, window_of
from token_handlers.sinks.sql.rows import MOST_USD, divide_usd, record_of, row_of, usd
from token_handlers.sinks.sqlite.backlog import UnsentCalls
from token_handlers.sinks.sqlite.file import LedgerFile
from token_handlers.sinks.sqlite.groups import Groups, groups_by
from token_handlers.sinks.sqlite.location import explained
from token_handlers.sinks.sqlite.queries import page, sums_by
from token_handlers.sinks.sqlite.rollups import roll_up, set_costs
from token_handlers.sinks.sqlite.schema import NAMELESS
from token_handlers.usage import UsageRecord, UsageTotals

logger = logging.getLogger("token_handlers")

MAX_WAITING = 20_000
"""How many records may wait while the file can't be written (some 50 MB); what comes beyond is lost, and counted."""

BATCH = 512
LINGER_SECONDS = 0.02
"""How long a record waits for others to be written with it."""

END_SECONDS = 30.0
"""How long the end of a process, or of a ledger, waits for what is still to be written."""

READ_SECONDS = 5.0
"""How long a read waits for the records that were given before it."""

_FAILURES = (sqlite3.DatabaseError, OSError, TokenHandlersError)
_REFUSALS = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""What writing raises for a record that no ledger can hold, beside any error that is none of _FAILURES."""


class _RollUp:
    """Stands among the records that wait for: sum more calls in the rollups."""


_ROLL_UP = _RollUp()


class SQLiteLedger:
    """A sink that keeps every call in a SQLite file: by event id, so that a call given twice is kept once.

    ``durability="batch"``: a call returns at once and a thread writes; ``flush()`` returns True once everything given
    before is on the disk. ``durability="sync"``: a call returns when its record is on the disk, or raises
    TokenHandlersError. Either way what can't be written waits, up to 20,000 records, and is tried again. A process that
    ends flushes first; one that is killed loses what was not flushed, and nothing else.

    Any number of processes and threads may share a file on a local disk, by one path: containers mount its folder. It
    is made for its owner alone (0600), with the folders that are missing, and ``<path>.lock`` beside it. A path that
    can't be used is a TokenHandlersError, and so is a lock that another process keeps for more than 10 s.

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
        if "://" in str(path):
            raise ValueError(f"a ledger is a file's path, not a URL such as {path}: SQLiteLedger('usage.db')")
        self.path: Path = Path(os.path.realpath(Path(path).expanduser()))
        self._sync = durability == "sync"
        self._closed = False
        self._read_only = read_only
        self._writer: BackgroundWriter[UsageRecord | MakeRecord | _RollUp] = BackgroundWriter(
            self._write,
            name=f"ledger {self.path.name}",
            capacity=MAX_WAITING,
            batch=BATCH,
            linger=LINGER_SECONDS,
            passes=lambda error: isinstance(error, _FAILURES) and not isinstance(error, _REFUSALS),
            failed=self._fail,
            refused=self._refuse,
        )
        self._file = LedgerFile(self.path, read_only=read_only)
        self._unsent = UnsentCalls(self._file)
        self._restart()
        _ledgers.add(self)
        with self._explained():
            self._file.open()
        at_exit(self._end)

    def __call__(self, record: UsageRecord) -> None:
        """Keep one call; one without an event id gets one, one without a time that of now."""
        if not isinstance(record, UsageRecord):
            raise TypeError(f"a ledger takes UsageRecords, not {type(record).__name__}")
        record = _identified(record)
        if self._sync:
            self._check(record)
        self._put(record)

    def defer(self, make_record: MakeRecord) -> None:
        """Keep one call whose record the ledger's thread makes; it returns the same one each time it is called."""
        if self._sync:
            self(make_record())
        else:
            self._put(make_record)

    @property
    def waiting(self) -> int:
        """Records given and not yet on the disk."""
        return self._writer.waiting

    @property
    def failed_writes(self) -> int:
        """How many times writing failed; what was to be written waits and is tried again."""
        return self._failed_writes

    @property
    def lost(self) -> int:
        """Records that were given up: too many waited, or their numbers are beyond what a ledger holds."""
        return self._lost

    @property
    def duplicates(self) -> int:
        """Records that were given, and not added, as the ledger had them already."""
        return self._duplicates

    @property
    def known(self) -> int:
        """The same as ``duplicates``."""
        return self._duplicates

    def flush(self, timeout: float | None = None) -> bool:
        """Return True once all that was given before is on the disk; False when a write fails or the time is up."""
        return self._writer.flush(timeout)

    def close(self) -> None:
        """Flush and let go of the file; what can't be written within 30 s is lost, and that is logged."""
        if not self._closed:
            self._closed = True
            if not self._writer.close(END_SECONDS):
                self._report_loss()
            self._file.close()
            not_at_exit(self._end)

    def unsent(self, limit: int) -> Sequence[UsageRecord]:
        """Return the first of the calls that are not known to have arrived on a Redis server.

        For ``RedisCounter(backlog=ledger)``, with both as sinks. From the first time on, every call that comes into the
        file waits there until it has arrived, whoever writes it, and so do the calls of the 20 hours before: a server
        that has them knows them again for a day. Records that are given without an event id do not. A file is the
        backlog of one namespace.
        """
        self._writer.flush(READ_SECONDS)
        with self._closing():
            return self._unsent.unsent(limit)

    def sent(self, event_ids: Sequence[str]) -> None:
        """Note that calls have arrived, also of those that are still to be written."""
        with self._closing():
            self._unsent.sent(event_ids)

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
            sums = sums_by(connection, Dimension(), window_of(session, user, model, since, until))
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

        With ``top`` they are of so many values, the most expensive first; what the others add up to is under "(other)".
        """
        if top is not None and (not isinstance(top, int) or top < 1):
            raise ValueError(f"top must be an int of 1 or more, not {top!r}")
        window = window_of(session, user, model, since, until)
        with self._asked() as connection:
            return groups_by(connection, label, window, top)

    def by_session_model(self, session: str) -> dict[tuple[str | None, str, str], UsageTotals]:
        """Return a session's totals by provider (None where it is not known), model and operation."""
        with self._asked() as connection:
            sums = sums_by(connection, SESSION_MODELS, window_of(session, None, None, None, None))
        named = (([unescaped(str(part)) for part in key], totals) for key, totals in sums.items())
        return {(provider or None, model, operation): totals for (provider, model, operation), totals in named}

    def by_provider_model(
        self, *, since: Moment | None = None, until: Moment | None = None
    ) -> dict[tuple[str | None, str], UsageTotals]:
        """Return totals by provider (None where it is not known) and model."""
        with self._asked() as connection:
            sums = sums_by(connection, PROVIDER_MODELS, window_of(None, None, None, since, until))
        named = (([unescaped(str(part)) for part in key], totals) for key, totals in sums.items())
        return {(provider or None, model): totals for (provider, model), totals in named}

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
        window = window_of(session, user, model, since, until)
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
        for rows in self._pages(window_of(None, None, None, since, until)):
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
        """Begin to count: also in a forked child, for which what waited is its parent's to write."""
        self._counting = threading.RLock()
        self._failed_writes = self._lost = self._duplicates = 0
        self._last_error: Exception | None = None
        self._warnings = Warnings()
        self._unsent.restart()

    def _put(self, record: UsageRecord | MakeRecord) -> None:
        if self._closed or self._read_only:
            raise ValueError(f"the ledger {self.path} is {'closed' if self._closed else 'opened to be read'}")
        taken = self._writer.put(record)
        if not taken:
            self._lose(f"more than {MAX_WAITING} wait to be written")
        if self._sync and not (taken and self._writer.flush(END_SECONDS)):
            raise explained(self.path, self._last_error or TimeoutError("it could not be written in time"))

    def _check(self, record: UsageRecord) -> None:
        try:
            row_of(record)
        except (ArithmeticError, ValueError) as error:
            raise TokenHandlersError(f"the ledger {self.path} can't hold this record: {error}") from error

    def _write(self, items: Sequence[UsageRecord | MakeRecord | _RollUp]) -> None:
        rows = [row_of(_identified(made(item))) for item in items if not isinstance(item, _RollUp)]
        with self._file.writing() as connection:
            added = self._unsent.append(connection, rows)
            has_more = roll_up(connection)
        self._unsent.written(rows)
        self._duplicates += len(rows) - added
        if has_more and not self._closed:
            self._writer.put(_ROLL_UP)  # behind the records that wait

    def _fail(self, error: Exception) -> None:
        self._failed_writes += 1
        self._last_error = error
        self._warn(f"{explained(self.path, error)}; up to {MAX_WAITING} records wait, and writing is tried again")

    def _refuse(self, item: UsageRecord | MakeRecord | _RollUp, error: Exception) -> None:
        if not isinstance(item, _RollUp):
            self._lose(f"a record can't be kept ({error})")

    def _lose(self, reason: str) -> None:
        with self._counting:
            self._lost += 1
        self._warn(f"the ledger {self.path} loses records: {reason}; its attribute lost counts them")

    def _report_loss(self) -> None:
        reason = explained(self.path, self._last_error) if self._last_error else f"not within {END_SECONDS:g} s"
        logger.error("%d records were not written: %s", self._writer.waiting, reason)

    def _warn(self, message: str) -> None:
        self._warnings.warn(message, "%s", message)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[sqlite3.Connection]:
        self._writer.flush(READ_SECONDS)
        with self._explained(), self._file.reading() as connection:
            yield connection

    def _pages(self, window: Window) -> Iterator[list[sqlite3.Row]]:
        self._writer.flush(READ_SECONDS)
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
        if not self._writer.flush(END_SECONDS):
            self._report_loss()
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
    """Return a record that has an event id and a time."""
    if record.event_id and (record.started_at or record.ended_at):
        return record
    event_id = record.event_id or f"{NAMELESS}{uuid.uuid4().hex}"
    started = record.started_at or record.ended_at or datetime.now(UTC)
    return record.model_copy(update={"event_id": event_id, "started_at": started})


def _another_cost(record: UsageRecord, price: Callable[[UsageRecord], Decimal | None]) -> Decimal | None:
    """Return what a call costs now, where that is known and is not what it did."""
    if record.cost_source == "reported" or record.outcome == "failed":
        return None
    cost = price(record)
    if cost is None or cost >= MOST_USD:  # no ledger holds it: an earlier version let in what costs so much
        return None
    kept = usd(*divide_usd(cost))
    return None if kept == (record.saved_cost if record.outcome == "cached" else record.cost) else kept


def _restart_all() -> None:
    for ledger in list(_ledgers):
        ledger._restart()  # noqa: SLF001 (this module's own)


_ledgers: "weakref.WeakSet[SQLiteLedger]" = weakref.WeakSet()
after_fork(_restart_all)
