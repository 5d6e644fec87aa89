"""SQLiteLedger: every call in a file, durably, and what the calls add up to."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from token_handlers.sinks.sql.ledger import READ_SECONDS, Durability, Pace, SQLSink
from token_handlers.sinks.sqlite.backlog import UnsentCalls
from token_handlers.sinks.sqlite.file import LedgerFile
from token_handlers.sinks.sqlite.store import SQLiteStore
from token_handlers.usage import UsageRecord

PACE = Pace(capacity=20_000, batch=512, linger=0.02, end=30.0)
"""20,000 records that wait while the file can't be written are some 50 MB."""


class SQLiteLedger(SQLSink):
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
        durability: Durability = "batch",
        read_only: bool = False,
    ) -> None:
        if not os.fspath(path) or os.fspath(path) == ":memory:":
            raise ValueError(f"a ledger needs the path of a file, not {path!r}")
        if "://" in str(path):
            scheme = str(path).partition("://")[0]
            raise ValueError(f"a SQLiteLedger is a file's path, such as usage.db, not a {scheme}:// URL")
        self.path: Path = Path(os.path.realpath(Path(path).expanduser()))
        self._file = LedgerFile(self.path, read_only=read_only)
        self._unsent = UnsentCalls(self._file)
        store, name = SQLiteStore(self._file, self._unsent), f"ledger {self.path.name}"
        super().__init__(store, PACE, name=name, durability=durability, read_only=read_only)
        with store.explaining():
            self._file.open()
        self._opened()

    def unsent(self, limit: int) -> Sequence[UsageRecord]:
        """Return the first of the calls that are not known to have arrived on a fleet's server.

        For ``RedisCounter(backlog=ledger)`` or ``SQLLedger(backlog=ledger)``, with both as sinks. From the first time
        on, every call that comes into the file waits there until it has arrived, whoever writes it, and so do the calls
        of the 20 hours before: a server that has them knows them again for a day. Records that are given without an
        event id do not. A file is the backlog of one server's namespace or schema.
        """
        self._writer.flush(READ_SECONDS)
        with self._closing():
            return self._unsent.unsent(limit)

    def sent(self, event_ids: Sequence[str]) -> None:
        """Note that calls have arrived, also of those that are still to be written."""
        with self._closing():
            self._unsent.sent(event_ids)

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        yield
        if self._closed:  # before the counter that it is the backlog of
            self._file.close()
