"""A sink that keeps every call in an SQL store, by a background thread, and sums up the calls."""

import contextlib
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any, Literal, NamedTuple, NoReturn, Protocol, Self, get_args

from token_handlers.counter.listeners import MakeRecord
from token_handlers.errors import TokenHandlersError
from token_handlers.lifecycle import BackgroundWriter, Warnings, after_fork, at_exit, not_at_exit
from token_handlers.pricing.price import Price
from token_handlers.sinks.backlog import BacklogReader
from token_handlers.sinks.escapes import unescaped
from token_handlers.sinks.sql.groups import Groups, groups_by
from token_handlers.sinks.sql.queries import Reader, page, sums_by
from token_handlers.sinks.sql.questions import PROVIDER_MODELS, SESSION_MODELS, Dimension, Moment, Window, window_of
from token_handlers.sinks.sql.rows import NewCost, Row, identified, record_of, repriced, row_of
from token_handlers.usage import UsageRecord, UsageTotals

logger = logging.getLogger("token_handlers")

READ_SECONDS = 5.0
"""How long a read waits for the records that were given before it."""


Durability = Literal["batch", "sync"]
"""Whether a call returns at once, or when its record is committed."""


class Written(NamedTuple):
    """How many rows of a batch were new, and whether there is more to sum in the rollups."""

    added: int
    has_more: bool


class RowStore(Protocol):
    """The store of a ledger's rows; raises TokenHandlersError where it can't read or change them."""

    @property
    def place(self) -> str:
        """The name of the store in messages, without a password."""

    def write(self, rows: Sequence[Row]) -> Written:
        """Keep the rows that are not there yet, durably, and sum some in the rollups, also if no rows are given."""

    def reading(self) -> contextlib.AbstractContextManager[Reader]:
        """Return a reader of one moment."""

    def set_costs(self, costs: Sequence[NewCost]) -> None:
        """Give calls another cost, and the rollups too."""

    def is_outage(self, error: Exception) -> bool:
        """Return whether writing failed for a reason that may pass, rather than for one row."""

    def explained(self, error: Exception) -> TokenHandlersError:
        """Return an error that names the place, what went wrong and the remedy."""

    def restart(self) -> None:
        """Start again, as a forked child does."""

    def close(self) -> None:
        """Let go of the place; the next use opens it again."""


class Pace(NamedTuple):
    """How records are written: up to ``batch`` together, ``linger`` seconds after the first of them.

    At most ``capacity`` records wait; at the end of the process they have ``end`` seconds.
    """

    capacity: int
    batch: int
    linger: float
    end: float


class _RollUp:
    """An item among the waiting records that says: sum more calls in the rollups."""


_ROLL_UP = _RollUp()


class SQLSink:
    """What all ledgers have in common: they take records, and sum them up."""

    def __init__(
        self,
        store: RowStore,
        pace: Pace,
        *,
        name: str,
        durability: Durability = "batch",
        read_only: bool = False,
        backlog: BacklogReader | None = None,
    ) -> None:
        if durability not in get_args(Durability):
            raise ValueError(f"durability is 'batch' or 'sync', not {durability!r}")
        self._store = store
        self._pace = pace
        self._sync = durability == "sync"
        self._closed = False
        self._read_only = read_only
        self._backlog = backlog
        self._writer: BackgroundWriter[UsageRecord | MakeRecord | _RollUp] = BackgroundWriter(
            self._write,
            name=name,
            capacity=pace.capacity,
            batch=pace.batch,
            linger=pace.linger,
            passes=store.is_outage,
            failed=self._fail,
            refused=self._refuse,
            more=None if backlog is None else functools.partial(backlog.next, pace.batch),
        )
        self._restart()
        _ledgers.add(self)

    def __call__(self, record: UsageRecord) -> None:
        """Keep one call; one without an event id gets one, one without a time that of now."""
        if not isinstance(record, UsageRecord):
            raise TypeError(f"a ledger takes UsageRecords, not {type(record).__name__}")
        record = identified(record)
        if self._sync:
            self._check(record)
        self._put(record)

    def defer(self, make_record: MakeRecord) -> None:
        """Keep one call whose record the ledger's thread makes by calling this; it returns the same one each time."""
        if self._sync:
            self(make_record())
        elif self._closed or self._read_only:
            self._refuse_to_take()
        elif not self._writer.put(make_record):
            self._overflow()

    @property
    def place(self) -> str:
        """Where the ledger is: the path of its file, or its server, database and schema."""
        return self._store.place

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
        """Flush and let go of the store; what can't be written in time is lost, and that is logged."""
        if not self._closed:
            self._closed = True
            if not self._writer.close(self._pace.end):
                self._report_loss()
            self._store.close()
            not_at_exit(self._end)

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
        with self._asked() as reader:
            sums = sums_by(reader, Dimension(), window_of(session, user, model, since, until))
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

        ``top`` is the most values to return, the most expensive first; the sum of the others is under "(other)".
        """
        if top is not None and (not isinstance(top, int) or top < 1):
            raise ValueError(f"top must be an int of 1 or more, not {top!r}")
        window = window_of(session, user, model, since, until)
        with self._asked() as reader:
            return groups_by(reader, label, window, top)

    def by_session_model(self, session: str) -> dict[tuple[str | None, str, str], UsageTotals]:
        """Return a session's totals by provider (None where it is not known), model and operation."""
        with self._asked() as reader:
            sums = sums_by(reader, SESSION_MODELS, window_of(session, None, None, None, None))
        named = (([unescaped(str(part)) for part in key], totals) for key, totals in sums.items())
        return {(provider or None, model, operation): totals for (provider, model, operation), totals in named}

    def by_provider_model(
        self, *, since: Moment | None = None, until: Moment | None = None
    ) -> dict[tuple[str | None, str], UsageTotals]:
        """Return totals by provider (None where it is not known) and model."""
        with self._asked() as reader:
            sums = sums_by(reader, PROVIDER_MODELS, window_of(None, None, None, since, until))
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
        """Return the calls in the order of time, read page by page as they are taken, so that no writer waits."""
        window = window_of(session, user, model, since, until)
        return (record_of(row) for rows in self._pages(window) for row in rows)

    def update_costs(
        self,
        price: Callable[[UsageRecord], Price | Decimal | None],
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> tuple[int, int]:
        """Price past calls again, and return how many were seen and how many changed, to cost_source 'repriced'.

        Costs that the provider reported stay, as do those for which ``price`` returns None. For an answer from a cache
        it is what was saved that changes. A `Price` has the doubts about it, too, and what the provider's prompt cache
        saved. Calls and totals change together, up to a thousand calls at a time.
        """
        seen = changed = 0
        for rows in self._pages(window_of(None, None, None, since, until)):
            records = ((row, record_of(row)) for row in rows)
            priced = ((row, repriced(record, price(record))) for row, record in records)
            costs = [NewCost(row["id"], row["ts_ms"], columns) for row, columns in priced if columns]
            if costs:
                self._store.set_costs(costs)
            seen, changed = seen + len(rows), changed + len(costs)
        return seen, changed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.place} waiting={self.waiting}>"

    def _opened(self) -> None:
        """Write what waits at the end of the process: called once the ledger can be used."""
        at_exit(self._end)

    def _restart(self) -> None:
        """Set the counts to 0: at the start, and in a forked child, whose parent writes what waited."""
        self._counting = threading.RLock()
        self._failed_writes = self._lost = self._duplicates = 0
        self._last_error: Exception | None = None
        self._warnings = Warnings()
        self._store.restart()
        if self._backlog is not None:
            self._backlog.restart()

    def _refuse_to_take(self) -> NoReturn:
        raise ValueError(f"the ledger {self.place} is {'closed' if self._closed else 'opened to be read'}")

    def _put(self, record: UsageRecord) -> None:
        if self._closed or self._read_only:
            self._refuse_to_take()
        taken = self._writer.put(record)
        if not taken:
            self._overflow()
        if self._sync and not (taken and self._writer.flush(self._pace.end)):
            raise self._store.explained(self._last_error or TimeoutError("it could not be written in time"))

    def _overflow(self) -> None:
        if self._backlog is not None:
            self._backlog.fall_behind()
        else:
            self._lose(f"more than {self._pace.capacity} wait to be written")

    def _check(self, record: UsageRecord) -> None:
        try:
            row_of(record)
        except (ArithmeticError, ValueError) as error:
            raise TokenHandlersError(f"the ledger {self.place} can't hold this record: {error}") from error

    def _write(self, items: Sequence[UsageRecord | MakeRecord | _RollUp]) -> None:
        rows = [row_of(item) for item in items if not isinstance(item, _RollUp)]
        written = self._store.write(rows)
        self._duplicates += len(rows) - written.added
        if self._backlog is not None:
            self._backlog.note([unescaped(str(row["event_id"])) for row in rows])
        if written.has_more and not self._closed:
            self._writer.put(_ROLL_UP)  # behind the records that wait

    def _fail(self, error: Exception) -> None:
        self._failed_writes += 1
        self._last_error = error
        reason = self._store.explained(error)
        self._warn(f"{reason}; up to {self._pace.capacity} records wait, and writing is tried again")

    def _refuse(self, item: UsageRecord | MakeRecord | _RollUp, error: Exception) -> None:
        if not isinstance(item, _RollUp):
            self._lose(f"a record can't be kept ({error})")
        if self._backlog is not None and isinstance(item, UsageRecord):
            self._backlog.note([item.event_id])

    def _lose(self, reason: str) -> None:
        with self._counting:
            self._lost += 1
        self._warn(f"the ledger {self.place} loses records: {reason}; its attribute lost counts them")

    def _report_loss(self) -> None:
        error = self._last_error
        reason = self._store.explained(error) if error else f"not within {self._pace.end:g} s"
        logger.error("records that were not written: %d: %s", self._writer.waiting, reason)

    def _warn(self, message: str) -> None:
        self._warnings.warn(message, "%s", message)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[Reader]:
        self._writer.flush(READ_SECONDS)
        with self._store.reading() as reader:
            yield reader

    def _pages(self, window: Window) -> Iterator[list[dict[str, Any]]]:
        self._writer.flush(READ_SECONDS)
        after = window.since, -1
        while True:
            with self._store.reading() as reader:
                rows = page(reader.connection, window, after)
            if not rows:
                return
            yield rows
            after = rows[-1]["ts_ms"], rows[-1]["id"]

    def _end(self) -> None:
        self._sync = True  # what open calls leave at the very end of the process is written at once
        if not self._writer.flush(self._pace.end):
            self._report_loss()
        self._store.close()


def _restart_all() -> None:
    for ledger in list(_ledgers):
        ledger._restart()  # noqa: SLF001 (this module's own)


_ledgers: "weakref.WeakSet[SQLSink]" = weakref.WeakSet()
after_fork(_restart_all)
