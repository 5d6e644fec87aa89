"""The ledger's file: told from others, made, migrated, locked; one connection writes, another reads.

Before SQLite 3.51.3 a checkpoint and a commit of two connections can corrupt a database in WAL mode, so everybody
writes under a lock on ``<ledger>.lock``, and checkpoints happen nowhere else. Where there are no such locks (Windows)
SQLite's own remain.
"""

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from token_handlers.sinks.sqlite.location import (
    WAL_LIMIT,
    check_place,
    check_version,
    connect,
    identify,
    make,
    migrate,
    refused,
)
from token_handlers.sinks.sqlite.readonly import OpenToRead, may_write

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # Windows


class LedgerFile:
    """One ledger on disk, for all threads of a process."""

    def __init__(self, path: Path, in_child: Callable[[], None], *, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._in_child = in_child
        self._turn = _Turn(Path(f"{path}.lock"))
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._writer: _Open | None = None
        self._reader: _Open | OpenToRead | None = None
        with _forking:
            _files.add(self)

    def open(self) -> None:
        """Make the ledger if it is not there, and check that it is one and can be written, or read if that is all."""
        check_place(self.path, read_only=self._read_only)
        if self._read_only:
            with self.reading():
                return
        if identify(self.path):
            check_version(self.path)
        with self.writing():
            pass

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection inside a transaction that nobody else writes during, and commit it."""
        if self._read_only:
            raise refused(self.path, "it was opened to be read", "open it without read_only")
        with self._turn, self._writing:
            try:
                connection = self._to_write()
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._close_writer()
                raise
            self._checkpoint(connection)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that sees one moment of the ledger; for a short time, as a long one keeps the log."""
        with self._reading:
            reader = self._to_read()
            reader.connection.execute("BEGIN")
            try:
                yield reader.connection
            finally:
                reader.connection.rollback()
            reader.check()

    def close(self) -> None:
        """Close both connections; the next use opens them again."""
        with self._writing, self._reading:
            self._close_writer()
            self._close_reader()

    def pause(self) -> None:
        """Close the connections, once nobody uses them, until `resume`: SQLite's do not survive a fork."""
        self._writing.acquire()
        self._reading.acquire()
        self._close_writer()
        self._close_reader()

    def resume(self, *, child: bool) -> None:
        """Go on after a fork, where the next use opens a connection of the process' own."""
        self._reading.release()
        self._writing.release()
        if child:
            self._turn.leave_to_parent()
            self._in_child()

    def _to_write(self) -> sqlite3.Connection:
        if self._writer is not None and not self._writer.is_current():
            self._close_writer()
        if self._writer is None:
            if identify(self.path) is None:
                make(self.path)
            version = check_version(self.path)
            self._writer = _Open(self.path)
            migrate(self._writer.connection, version)
        return self._writer.connection

    def _to_read(self) -> "_Open | OpenToRead":
        if self._reader is not None and not self._reader.is_current():
            self._close_reader()
        if self._reader is None:
            to_write = not self._read_only or may_write(self.path)
            if self._read_only and to_write:
                check_version(self.path)
            self._reader = _Open(self.path) if to_write else OpenToRead(self.path)
            self._reader.connection.execute("PRAGMA query_only = ON")
        return self._reader

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.connection.close()
            self._writer = None

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.connection.close()
            self._reader = None

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        # What is committed is safe in the log, so a disk that is full now fails the next commit rather than this one.
        with contextlib.suppress(sqlite3.OperationalError, OSError):
            if Path(f"{self.path}-wal").stat().st_size > WAL_LIMIT:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


class _Open:
    """A connection, and the file that it was opened for: somebody may put another in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = identify(path)
        self.connection = connect(path)

    def is_current(self) -> bool:
        """Return whether the path still leads to the file."""
        return identify(self._path) == self._file

    def check(self) -> None:
        """Accept what was read: SQLite's locks see to that."""


class _Turn:
    """Who writes: one thread of one process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: int | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            if fcntl is not None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(self._file, fcntl.LOCK_EX)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # closing it is not enough while a forked child has it open
            self._close()
        self._lock.release()

    def leave_to_parent(self) -> None:
        """Let go of the parent's turn in a forked child, or it would outlive the parent."""
        self._lock = threading.Lock()
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


_files: "weakref.WeakSet[LedgerFile]" = weakref.WeakSet()
_forking = threading.Lock()
_paused: list[LedgerFile] = []


def _before_fork() -> None:
    _forking.acquire()
    _paused.extend(_files)
    for file in _paused:
        file.pause()


def _after_fork(*, child: bool) -> None:
    for file in _paused:
        file.resume(child=child)
    _paused.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(child=False),
        after_in_child=lambda: _after_fork(child=True),
    )
