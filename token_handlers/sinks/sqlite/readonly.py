"""A ledger that may be read and not written: another user's, or on a disk that is mounted read-only.

SQLite writes to ``-shm`` and makes it where it is missing also to read, so a file that this user made there could keep
the owner out. Where all calls are in the file itself, it is read as one that nobody changes, and looked at again after
each read; otherwise both files of the log have to be there to read.
"""

import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

from token_handlers.sinks.sqlite.location import connect, refused, version_of


class _FileState(NamedTuple):
    file: tuple[int, ...]
    has_log: bool


class OpenToRead:
    """A connection to a ledger that this user may not write, and the state in which the file was opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _state_of(path)
        self.connection = _connect(path, has_log=self._state.has_log)

    def is_current(self) -> bool:
        """Return whether the file is as it was."""
        return _state_of(self._path) == self._state

    def check(self) -> None:
        """Refuse what was read while somebody wrote to the file itself."""
        if not self._state.has_log and _state_of(self._path).file != self._state.file:
            raise refused(self._path, "it was written to while it was read", "try again")


def may_write(path: Path) -> bool:
    """Return whether this user may write a ledger."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _state_of(path: Path) -> _FileState:
    status = path.stat()
    try:
        has_log = _log(path).stat().st_size > 0
    except FileNotFoundError:
        has_log = False
    return _FileState((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns), has_log)


def _connect(path: Path, *, has_log: bool) -> sqlite3.Connection:
    if not os.access(path, os.R_OK):
        raise refused(path, "it may not be read", "ask its owner")
    if has_log:
        _check_log(path)
    connection = connect(path, "mode=ro" if has_log else "mode=ro&immutable=1")
    try:
        version_of(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_log(path: Path) -> None:
    if not os.access(_log(path), os.R_OK):
        raise refused(path, f"calls are still in {_log(path)}, which may not be read", "ask its owner for a report")
    index = Path(f"{path}-shm")
    if not os.access(index, os.R_OK):
        reason = "may not be read" if index.exists() else "is missing, so that the log has to be recovered"
        raise refused(path, f"calls are still in its log, and {index} {reason}", "ask its owner for a report")


def _log(path: Path) -> Path:
    return Path(f"{path}-wal")
