"""The batches on their way to AgentSight in a ledger's file."""

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from token_handlers.errors import TokenHandlersError
from token_handlers.sinks.agentsight.shelves import KeptBatch, Owner
from token_handlers.sinks.sqlite.file import LedgerFile


class LedgerShelf:
    """A ledger's file: a row for each batch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = LedgerFile(path)
        self._owner = Owner(f"{path}.")

    def write(self, event_id: str, body: str) -> None:
        """Write a batch, durably and whole or not at all."""
        with self._writing() as connection:
            connection.execute("REPLACE INTO agentsight_batch VALUES (?, ?, ?)", (event_id, self._owner.id, body))

    def remove(self, event_id: str) -> None:
        """Remove a batch; where that fails it is sent again, and the server recognises its event id."""
        with self._writing() as connection:
            connection.execute("DELETE FROM agentsight_batch WHERE event_id = ?", (event_id,))

    def adopt(self) -> list[KeptBatch]:
        """Make what dead processes left this process's own, and return it."""
        with self._asked() as connection:
            owners = [owner for (owner,) in connection.execute("SELECT DISTINCT owner FROM agentsight_batch")]
        return [kept for owner in self._owner.others(*owners) for kept in self._inherit(owner)]

    def _inherit(self, owner: str) -> list[KeptBatch]:
        move = "UPDATE agentsight_batch SET owner = ? WHERE owner = ? RETURNING event_id, body"
        with self._owner.succeeding(owner) as is_dead:
            if not is_dead:
                return []
            with self._writing() as connection:
                rows = connection.execute(move, (self._owner.id, owner)).fetchall()
        return [KeptBatch(f"batch {event_id} of {self._path}", body) for event_id, body in rows]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._used(), self._file.writing() as connection:
            yield connection

    @contextlib.contextmanager
    def _asked(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection to read by, without the lock that writers wait for."""
        with self._used():
            self._file.open()  # makes it where it is gone, as writing does
            with self._file.reading() as connection:
                yield connection

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        try:
            yield
            self._file.close()  # between two sends may be hours
        except (sqlite3.Error, TokenHandlersError) as error:
            raise OSError(errno.EIO, str(error)) from error
