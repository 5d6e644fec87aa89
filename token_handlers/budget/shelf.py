"""Shelf: the accounts of a budget that are out of use, in a temporary file instead of in memory."""

import json
import weakref
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

from token_handlers.budget.limits import NOTHING, Amounts

MAX_PAGES = 1_000_000
"""How large the file may become, in pages of 4 KiB: some 20 million accounts."""


class Kept(NamedTuple):
    """What an account has spent in a window, and in the one before (``left``)."""

    window: str = ""
    spent: Amounts = NOTHING
    left: tuple[str, Amounts] | None = None


class Shelf:
    """A private SQLite file without a name, which the system deletes when the process ends. Not safe across a fork.

    Its methods raise sqlite3.Error, such as where the disk is full.
    """

    def __init__(self, copy: bytes | None = None) -> None:
        import sqlite3  # most programs never need it

        self._connection = sqlite3.connect(
            "" if copy is None else ":memory:", isolation_level=None, check_same_thread=False
        )
        closing = weakref.finalize(self, self._connection.close)  # or Python 3.13 and later warn of it
        closing.atexit = False
        if copy is not None:
            self._connection.deserialize(copy)
        self._connection.execute(f"PRAGMA max_page_count = {MAX_PAGES}")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS account (name BLOB PRIMARY KEY, window TEXT, amounts TEXT) WITHOUT ROWID"
        )

    def put(self, accounts: Iterable[tuple[str, Kept]], oldest_window: str) -> None:
        """Keep accounts, all or none, and forget those whose window is older than this one."""
        rows = [(_key(name), kept.window, _written(kept)) for name, kept in accounts]
        with self._connection:
            self._connection.execute("BEGIN")
            self._connection.execute("DELETE FROM account WHERE window < ?", (oldest_window,))
            self._connection.executemany("INSERT OR REPLACE INTO account VALUES (?, ?, ?)", rows)

    def get(self, name: str) -> Kept | None:
        """Return what is kept of an account; it stays on the shelf until it is replaced."""
        row = self._connection.execute("SELECT amounts FROM account WHERE name = ?", (_key(name),)).fetchone()
        return None if row is None else _read(row[0])

    def copy(self) -> bytes:
        """Return the whole file, for another process."""
        copy: bytes = self._connection.serialize()
        return copy

    def close(self) -> None:
        """Delete the file."""
        self._connection.close()


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _written(kept: Kept) -> str:
    left = None if kept.left is None else (kept.left[0], _plain(kept.left[1]))
    return json.dumps([kept.window, _plain(kept.spent), left])


def _plain(amounts: Amounts) -> tuple[str, int, int]:
    return str(amounts.cost), amounts.tokens, amounts.requests


def _read(written: str) -> Kept:
    window, spent, left = json.loads(written)
    return Kept(window, _amounts(*spent), None if left is None else (left[0], _amounts(*left[1])))


def _amounts(cost: str, tokens: int, requests: int) -> Amounts:
    return Amounts(Decimal(cost), tokens, requests)
