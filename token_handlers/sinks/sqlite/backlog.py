"""Which calls of a ledger a fleet's server is not known to have: for a ledger that is a RedisCounter's backlog."""

import sqlite3
import time
from collections.abc import Iterable, Sequence

from token_handlers.errors import TokenHandlersError
from token_handlers.lifecycle import Warnings
from token_handlers.sinks.escapes import escaped
from token_handlers.sinks.sql.rows import NAMELESS, Row, record_of
from token_handlers.sinks.sqlite.file import LedgerFile
from token_handlers.sinks.sqlite.location import explained
from token_handlers.sinks.sqlite.rollups import append
from token_handlers.usage import UsageRecord

FIRST_HOURS = 20
"""How far a ledger that becomes a backlog goes back: for a day the server knows by its event id what it has."""

MOST_AHEAD = 25_000
"""How many event ids are remembered that have arrived before they were written: more than may wait to be written."""

MOST_ARRIVED = 100_000
"""How many event ids that have arrived wait for a file that can't be written; what is beyond is sent again."""

MOST_AT_ONCE = 500
FAILURES = (sqlite3.Error, OSError, TokenHandlersError)

_IS_BACKLOG = "SELECT EXISTS (SELECT 1 FROM usage_outbox WHERE id = 0)"
_BECOME = f"""
INSERT INTO usage_outbox SELECT 0 UNION ALL
SELECT id FROM usage_event WHERE ts_ms > ? AND event_id NOT GLOB '{NAMELESS}*'
"""  # noqa: S608 (constants)
_OLDEST = """
SELECT usage_event.* FROM usage_outbox JOIN usage_event USING (id) WHERE usage_outbox.id > 0 ORDER BY id LIMIT ?
"""
_FIND = "SELECT id, event_id FROM usage_event WHERE event_id IN ({})"
_TAKE_OFF = "DELETE FROM usage_outbox WHERE id = ?"


class UnsentCalls:
    """The calls of a ledger's file that have not arrived, and ids of those that arrived before they were written."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file
        self.restart()

    def restart(self) -> None:
        """Start again, as a forked child does."""
        self._ahead: dict[str, None] = {}
        self._arrived: list[str] = []
        self._warnings = Warnings()

    def append(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> int:
        """Add rows as `rollups.append` does, and to the outbox those that have not arrived yet."""
        added = append(connection, rows)
        if self._ahead:
            _take_off(connection, [event_id for row in rows if (event_id := str(row["event_id"])) in self._ahead])
        return added

    def written(self, rows: Iterable[Row]) -> None:
        """Forget what was kept out, once that is for good."""
        if self._ahead:
            for row in rows:
                self._ahead.pop(str(row["event_id"]), None)

    def unsent(self, limit: int) -> list[UsageRecord]:
        """Return the first calls that have not arrived; from now on every new call of the file waits for the server."""
        try:
            if self._arrived or not self._is_backlog():
                self._note_arrived()
            with self._file.reading() as connection:
                cursor = connection.cursor()
                cursor.row_factory = sqlite3.Row
                rows = cursor.execute(_OLDEST, (limit,)).fetchall()
        except FAILURES as error:
            self._fail(error)
            return []
        return [record_of(row) for row in rows]

    def sent(self, event_ids: Sequence[str]) -> None:
        """Take calls off that have arrived; while that fails, `unsent` returns nothing."""
        self._arrived = [*self._arrived, *map(escaped, event_ids)][-MOST_ARRIVED:]
        try:
            self._note_arrived()
        except FAILURES as error:
            self._fail(error)

    def _is_backlog(self) -> bool:
        with self._file.reading() as connection:
            return _is_backlog(connection)

    def _note_arrived(self) -> None:
        arrived = self._arrived
        with self._file.writing() as connection:
            if not _is_backlog(connection):
                connection.execute(_BECOME, ((time.time() - FIRST_HOURS * 3600) * 1000,))
            known = _take_off(connection, arrived)
            self._ahead.update((event_id, None) for event_id in arrived if event_id not in known)
        if len(self._ahead) > MOST_AHEAD:
            self._warn(f"the ledger {self._file.path} is the backlog of a RedisCounter: make it a sink beside that")
            self._ahead = dict(list(self._ahead.items())[-MOST_AHEAD:])
        self._arrived = []

    def _fail(self, error: Exception) -> None:
        self._warn(f"{explained(self._file.path, error)}; what it has for a Redis server waits")

    def _warn(self, message: str) -> None:
        self._warnings.warn(message, "%s", message)


def _is_backlog(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(_IS_BACKLOG).fetchone()[0])


def _take_off(connection: sqlite3.Connection, event_ids: Sequence[str]) -> set[str]:
    """Take calls off, and return which of the event ids the ledger has."""
    known: set[str] = set()
    for start in range(0, len(event_ids), MOST_AT_ONCE):
        names = event_ids[start : start + MOST_AT_ONCE]
        found = connection.execute(_FIND.format(", ".join("?" * len(names))), names).fetchall()
        connection.executemany(_TAKE_OFF, ((number,) for number, _ in found))
        known.update(event_id for _, event_id in found)
    return known
