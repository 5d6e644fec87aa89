"""Where a ledger may be: the file told from others, the place checked, the file made and migrated."""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from token_handlers.errors import TokenHandlersError
from token_handlers.sinks.sqlite.schema import APPLICATION_ID, VERSION, statements_since

BUSY_SECONDS = 5.0
"""How long to wait for a program that locks the file and knows nothing of our lock."""

WAL_LIMIT = 4 * 2**20
"""Bytes of the write-ahead log past which it is copied into the database."""

MOUNTS = Path("/proc/self/mountinfo")

_SETTINGS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA wal_autocheckpoint = 0",
    f"PRAGMA journal_size_limit = {WAL_LIMIT}",
    "PRAGMA cache_size = -16000",
    "PRAGMA temp_store = MEMORY",
)
_NETWORK = frozenset(("afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"))
_NETWORK_FUSE = frozenset(("fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"))
_REMEDIES = {
    sqlite3.SQLITE_BUSY: "end the program that has it locked",
    sqlite3.SQLITE_CANTOPEN: "make its folder writable, or choose another path",
    sqlite3.SQLITE_CORRUPT: "move it away, or bring back a copy",
    sqlite3.SQLITE_FULL: "free some space",
    sqlite3.SQLITE_IOERR: "check its disk and the space that is left",
    sqlite3.SQLITE_NOTADB: "choose another path",
    sqlite3.SQLITE_READONLY: "make it and its folder writable, or choose another path",
}


def explained(path: Path, error: Exception) -> TokenHandlersError:
    """Return an error that names the ledger, what went wrong and the remedy."""
    if isinstance(error, TokenHandlersError):
        return error
    if isinstance(error, OSError):
        return refused(path, error.strerror or str(error), "choose another path")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return refused(path, str(error), _REMEDIES.get(code, "see the error above"))


def refused(path: Path, reason: str, remedy: str) -> TokenHandlersError:
    """Return an error that names the ledger, a reason and the remedy."""
    return TokenHandlersError(f"the ledger {path} can't be used: {reason}: {remedy}")


def check_place(path: Path, *, read_only: bool = False) -> None:
    """Refuse a path at which no ledger can be; make the folders that are missing, unless it is only to be read."""
    if sqlite3.sqlite_version_info < (3, 37):
        raise refused(path, f"SQLite {sqlite3.sqlite_version} is too old", "it needs 3.37, which newer Pythons bring")
    if path.exists() and not path.is_file():
        raise refused(path, "it is no file", "choose another path")
    if not read_only:
        _check_writable(path)
    elif not path.stat().st_size:
        raise refused(path, "it is empty", "choose another path")
    check_names(path)
    system = file_system(path)
    if system in _NETWORK | _NETWORK_FUSE:
        raise refused(path, f"it is on a network file system ({system})", "SQLite needs a local disk: choose another")


def _check_writable(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and not os.access(path, os.W_OK):
        raise refused(path, "it is read-only", "make it writable, or choose another path")
    if not os.access(path.parent, os.W_OK):
        raise refused(path, "its folder is read-only", "make that writable, or choose another path")


def check_names(path: Path) -> None:
    """Refuse a file that has a second path: who opens that one sees neither this one's lock nor its log."""
    if not path.exists():
        return
    if (names := path.stat().st_nlink) > 1:
        raise refused(path, f"it has {names} names (hard links)", "keep one of them, or make a copy")
    if any(mounted == path for mounted, _ in _mounts()):
        raise refused(path, "it is mounted without its folder", "mount the folder that it is in")


def file_system(path: Path) -> str | None:
    """Return the type of the file system that a path is on; None where the system does not tell so cheaply."""
    found, length = None, -1
    for mounted, kind in _mounts():
        if path.is_relative_to(mounted) and len(mounted.parts) >= length:
            found, length = kind, len(mounted.parts)
    return found


def _mounts() -> Iterator[tuple[Path, str]]:
    """Yield where something is mounted, and the type of its file system."""
    with contextlib.suppress(OSError):
        for line in MOUNTS.read_text("utf-8", "surrogateescape").splitlines():
            fields = line.split()
            path = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
            yield Path(path), fields[fields.index("-") + 1]


def identify(path: Path) -> tuple[int, int] | None:
    """Return what tells this file from one that takes its place; None where there is none, or an empty one."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size else None


def check_version(path: Path) -> int:
    """Return the version of a ledger; refuse any other file without touching it."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    with contextlib.closing(connection):
        return version_of(connection, path)


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a ledger that is open; refuse any other file."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise refused(path, "it is another program's SQLite file", "choose another path")
    if version > VERSION or 2 < version < 1_000:
        raise refused(path, f"a newer token_handlers made it (version {version})", "upgrade token_handlers")
    return version


def make(path: Path) -> None:
    """Put an empty ledger in place as a whole, so that a process that is killed leaves no part of one."""
    draft = Path(f"{path}.new")
    # A log without its file would be taken for the new one's.
    for stale in (f"{file}{end}" for file in (draft, path) for end in ("-journal", "-wal", "-shm")):
        Path(stale).unlink(missing_ok=True)
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        _fill(draft)
    except BaseException:
        draft.unlink()
        raise
    draft.replace(path)
    if hasattr(os, "O_DIRECTORY"):  # a new name lasts when its folder is synced, which Windows does by itself
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)


def _fill(draft: Path) -> None:
    with contextlib.closing(connect(draft)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(connection, 0)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise refused(draft, "its file system has no shared memory", "choose another path")


def connect(path: Path, mode: str = "mode=rw") -> sqlite3.Connection:
    """Return a connection to a file that exists; ``mode`` is how SQLite opens it."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?{mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        for setting in _SETTINGS:
            connection.execute(setting)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a ledger of a version up to today's, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in statements_since(version, connection):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
