"""The ledger's file, as all threads of a process use it: one connection writes, another reads.

Before SQLite 3.51.3 a checkpoint and a commit of two connections can corrupt a database in WAL mode, so everybody
writes under a lock on ``<ledger>.lock``, and checkpoints happen nowhere else. Where there are no such locks (Windows)
SQLite's own remain. The lock's file says which process has it, and to which file the log beside the ledger belongs.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from token_handlers.lifecycle import after_fork, after_fork_in_parent, before_fork
from token_handlers.sinks.sqlite.location import (
    WAL_LIMIT,
    check_names,
    check_place,
    check_version,
    connect,
    identify,
    make,
    migrate,
    refused,
    version_of,
)
from token_handlers.sinks.sqlite.readonly import OpenToRead, may_write
from token_handlers.sinks.sqlite.schema import VERSION, statements_to_read

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # Windows

logger = logging.getLogger("token_handlers")

LOCK_SECONDS = 10.0
"""How long to wait for the write lock: longer than any process keeps it that is not stopped."""

_WIDTH = 20
"""Bytes of a number in the lock's file: the id of the process that has the lock, then the ledger's inode."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.0005, 0.02


class LedgerFile:
    """One ledger on disk, for all threads of a process."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._log = Path(f"{path}-wal")
        self._read_only = read_only
        self._write_lock = WriteLock(path)
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._writer: _Connection | None = None
        self._reader: _Connection | OpenToRead | None = None
        with _forking:
            _files.add(self)

    def open(self) -> None:
        """Make the ledger if it is not there, and check that it is one and can be written, or read if that is all."""
        check_place(self.path, read_only=self._read_only)
        check_log(self.path)
        if self._read_only:
            with self.reading():
                return
        if identify(self.path) and check_version(self.path) == VERSION:
            return  # not written: the writer may be stopped in the middle of it
        with self.writing():
            pass

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection inside a transaction that nobody else writes during, and commit it."""
        if self._read_only:
            raise refused(self.path, "it was opened to be read", "open it without read_only")
        with self._write_lock, self._writing:
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
        if self._writer is not None and not self._writer.is_current():  # somebody put another file in its place
            with self.writing():
                pass
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
            self._write_lock.leave_to_parent()

    def _to_write(self) -> sqlite3.Connection:
        if self._writer is not None and not self._writer.is_current():
            self._set_log_aside()
        if self._writer is None:
            if identify(self.path) is None:
                make(self.path)
            check_names(self.path)
            check_log(self.path)
            self._write_lock.note_file()
            version = check_version(self.path)
            self._writer = _Connection(self.path, connect(self.path))
            if version != VERSION:
                migrate(self._writer.connection, version)
        return self._writer.connection

    def _set_log_aside(self) -> None:
        """Close a file in whose place there is another one, and keep its log apart from that one."""
        self._close_writer()
        with self._reading:
            self._close_reader()
        noted, log = self._write_lock.noted_file(), self._log
        if identify(self.path) is not None and noted != self.path.stat().st_ino and log.exists():
            log.rename(f"{log}.{noted}")
            Path(f"{self.path}-shm").unlink(missing_ok=True)
            message = "another file is in the place of the ledger %s: the log of the one before is kept as %s.%s"
            logger.warning(message, self.path, log, noted)

    def _to_read(self) -> "_Connection | OpenToRead":
        if self._reader is not None and not self._reader.is_current():
            self._close_reader()
        if self._reader is None:
            check_log(self.path)
            self._reader = self._opened_to_read()
            connection = self._reader.connection
            if version_of(connection, self.path) != VERSION:
                for statement in statements_to_read(connection):
                    connection.execute(statement)
            connection.execute("PRAGMA query_only = ON")
        return self._reader

    def _opened_to_read(self) -> "_Connection | OpenToRead":
        if self._read_only and not may_write(self.path):
            return OpenToRead(self.path)
        if self._read_only:
            check_version(self.path)
        return _Connection(self.path, connect(self.path))

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
            if self._log.stat().st_size > WAL_LIMIT:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


class _Connection:
    """A connection, and the file that it was opened for: somebody may put another in its place."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._file = identify(path)
        self.connection = connection

    def is_current(self) -> bool:
        """Return whether the path still leads to the file."""
        return identify(self._path) == self._file

    def check(self) -> None:
        """Accept what was read: SQLite's locks see to that."""


class WriteLock:
    """Who writes: one thread of one process at a time. Whoever waits too long learns which process has it."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._path = Path(f"{ledger}.lock")
        self._thread_lock = threading.Lock()
        self._file: int | None = None

    def __enter__(self) -> None:
        end = time.monotonic() + LOCK_SECONDS
        if not self._thread_lock.acquire(timeout=LOCK_SECONDS):
            raise refused(self._ledger, f"a thread of this process has written for {LOCK_SECONDS:g} s", "try again")
        try:
            if fcntl is not None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
                self._lock(self._file, end)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # closing it is not enough while a forked child has it open
            self._close()
        self._thread_lock.release()

    def leave_to_parent(self) -> None:
        """Drop the parent's lock in a forked child, as it would outlive the parent."""
        self._thread_lock = threading.Lock()
        self._close()

    def _lock(self, file: int, end: float) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise refused(self._ledger, *_reason(file)) from None
            else:
                break
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        with contextlib.suppress(OSError):  # the name is for people; the lock holds without it, on a full disk too
            holder = f"{os.getpid():<{_WIDTH}}\n".encode()
            if os.pread(file, len(holder), 0) != holder:  # a write costs more than a read
                os.pwrite(file, holder, 0)

    def note_file(self) -> None:
        """Note the inode of the ledger's file, to which the log beside it will belong; call it with the lock."""
        number = self._ledger.stat().st_ino
        if self._file is not None and number != _noted(self._file):
            os.pwrite(self._file, f"{number:<{_WIDTH}}\n".encode(), _WIDTH + 1)

    def noted_file(self) -> int | None:
        """Return the inode of the file to which a log beside the ledger belongs; call it with the lock."""
        return None if self._file is None else _noted(self._file)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def check_log(path: Path) -> None:
    """Refuse the log of another file that was in the ledger's place: SQLite would write it into this one."""
    log = Path(f"{path}-wal")
    try:
        file = os.open(f"{path}.lock", os.O_RDONLY)
    except OSError:  # nobody wrote here, or it may not be read
        return
    try:
        noted = _noted(file)
    finally:
        os.close(file)
    if noted is not None and path.exists() and noted != path.stat().st_ino and log.exists() and log.stat().st_size:
        remedy = f"end all programs that use it and move the log and {path}-shm away"
        copied = f"if they were copied together, remove {path}.lock"
        raise refused(path, f"{log} is the log of a file that was in its place before", f"{remedy}; {copied}")


def _noted(file: int) -> int | None:
    """Return the inode that the lock's file names."""
    text = os.pread(file, _WIDTH, _WIDTH + 1).strip()
    return int(text) if text.isdigit() else None


def _reason(file: int) -> tuple[str, str]:
    """Return why the lock can't be had, and the remedy."""
    holder = os.pread(file, _WIDTH, 0).decode("ascii", "replace").strip()
    if not holder.isdecimal():
        return f"could not get the write lock within {LOCK_SECONDS:g} s", "end the program that has it"
    name, state = "", ""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{holder}/stat").read_text("utf-8", "replace")
        name = f" ({status[status.index('(') + 1 : status.rindex(')')]})"
        state = status[status.rindex(")") + 2]
    had = f"process {holder}{name} has had the write lock for more than {LOCK_SECONDS:g} s"
    if state == "T":
        return f"{had} and is stopped", f"continue it (kill -CONT {holder}), or end it"
    return had, "end it if it hangs"


_files: "weakref.WeakSet[LedgerFile]" = weakref.WeakSet()
_forking = threading.Lock()
_paused: list[LedgerFile] = []


def _pause_all() -> None:
    _forking.acquire()
    _paused.extend(_files)
    for file in _paused:
        file.pause()


def _resume_all(*, child: bool) -> None:
    for file in _paused:
        file.resume(child=child)
    _paused.clear()
    _forking.release()


before_fork(_pause_all)
after_fork_in_parent(lambda: _resume_all(child=False))
after_fork(lambda: _resume_all(child=True))
