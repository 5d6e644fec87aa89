"""Where what is on its way to AgentSight is kept beyond a process' life: a folder, or a ledger's file beside this.

Any number of processes of one machine may share a shelf. A batch belongs to the process that wrote it, which locks a
file of its own as long as it lives; any other may take the batches of one that is dead.
"""

import contextlib
import errno
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("token_handlers")

_BATCH, _OWNER, _UNFINISHED = ".batch", ".owner", ".unfinished"


class KeptBatch(NamedTuple):
    """What was kept, and what messages call it."""

    name: str
    body: str | bytes


class LedgerInFile(Protocol):
    """A SQLiteLedger."""

    @property
    def path(self) -> Path:
        """Return the path of its file."""


class BatchShelf(Protocol):
    """A place for batches; what goes wrong with it is an OSError."""

    def write(self, event_id: str, body: str) -> None:
        """Write a batch, durably and whole or not at all."""

    def remove(self, event_id: str) -> None:
        """Remove a batch; should it come back, the server recognises its event id."""

    def adopt(self) -> list[KeptBatch]:
        """Make what dead processes left this process's own, and return it."""


class Owner:
    """This process's lock file, which tells the others of a shelf that it lives; ``prefix`` begins its path."""

    def __init__(self, prefix: str) -> None:
        if fcntl is None:
            raise OSError(errno.ENOTSUP, "this system has no file locks")
        self.id = uuid.uuid4().hex
        self._prefix = prefix
        # Locked before it has its name, since a file with that name and without a lock is a dead process's.
        unnamed = Path(f"{prefix}{self.id}{_UNFINISHED}")
        lock = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        _locks.append(lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        unnamed.rename(self._path(self.id))

    def others(self, *known: str) -> set[str]:
        """Return the other processes that have a file, and those that are known."""
        start = Path(self._prefix + _OWNER)  # the prefix may end with a folder
        name = start.name.removesuffix(_OWNER)
        files = [path.name for path in start.parent.iterdir() if path.name.endswith(_OWNER)]
        named = {file[len(name) : -len(_OWNER)] for file in files if file.startswith(name)}
        return {*named, *known} - {self.id}

    @contextlib.contextmanager
    def succeeding(self, owner: str) -> Iterator[bool]:
        """Yield whether another process is dead; meanwhile no third one finds it so, and then its file is gone."""
        path = self._path(owner)
        try:
            lock = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            yield True
            return
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
            path.unlink(missing_ok=True)
        finally:
            os.close(lock)

    def _path(self, owner: str) -> Path:
        return Path(f"{self._prefix}{owner}{_OWNER}")


class FolderShelf:
    """A folder: a file for each batch, whose name has its owner's id."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._owner = Owner(f"{folder}{os.sep}")

    def write(self, event_id: str, body: str) -> None:
        """Write a batch, durably and whole or not at all."""
        unfinished = self._folder / f"{event_id}.{self._owner.id}{_UNFINISHED}"
        descriptor = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(body)
            file.flush()
            os.fsync(descriptor)
        unfinished.rename(self._path(event_id, self._owner.id))
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, event_id: str) -> None:
        """Remove a batch; should it come back after a power failure, the server recognises its event id."""
        self._path(event_id, self._owner.id).unlink(missing_ok=True)

    def adopt(self) -> list[KeptBatch]:
        """Make what dead processes left this process's own, and return it."""
        left: dict[str, list[str]] = {}
        for path in self._folder.iterdir():
            event_id, _, owner = path.name.removesuffix(_BATCH).rpartition(".")
            if path.name.endswith(_BATCH) and path.is_file():
                left.setdefault(owner, []).append(event_id)
        return [kept for owner in self._owner.others(*left) for kept in self._inherit(owner, left.get(owner, ()))]

    def _inherit(self, owner: str, events: Iterable[str]) -> list[KeptBatch]:
        with self._owner.succeeding(owner) as is_dead:
            return [kept for event in events if is_dead and (kept := self._move(event, owner))]

    def _move(self, event_id: str, owner: str) -> KeptBatch | None:
        mine = self._path(event_id, self._owner.id)
        try:
            self._path(event_id, owner).rename(mine)
            return KeptBatch(str(mine), mine.read_bytes())
        except FileNotFoundError:  # another process was faster
            return None
        except OSError as error:  # one that can't be read keeps no other from being sent
            logger.warning("%s can't be read (%s), and is not sent", mine, error.strerror)
            return None

    def _path(self, event_id: str, owner: str) -> Path:
        return self._folder / f"{event_id}.{owner}{_BATCH}"


_locks: list[int] = []


def let_go() -> None:
    """Close the locks of this process: those that a forked child has inherited would outlive its parent."""
    for lock in _locks:
        os.close(lock)
    _locks.clear()
