"""Batches on their way to AgentSight: each is kept under its event id until the server has acknowledged it.

In memory, and in a folder of files where there is one: what a killed process had begun to send is sent by the next,
under the same event id. Any number of processes of one machine may share a folder: a batch belongs to the process whose
id is in its file's name, and that process lives as long as it holds the lock on a file of its own.
"""

import errno
import logging
import operator
import os
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from token_handlers.lifecycle import after_fork

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("token_handlers")

_BATCH, _OWNER, _UNFINISHED = ".batch", ".owner", ".unfinished"


class TokenCounts(NamedTuple):
    """AgentSight's four numbers. The total may be above prompt plus completion: how the rest divides is not known."""

    prompt: int = 0
    completion: int = 0
    total: int = 0
    embedding: int = 0

    def plus(self, other: "TokenCounts") -> "TokenCounts":
        """Return the sum."""
        return TokenCounts(*map(operator.add, self, other))


ZERO = TokenCounts()


class Address(NamedTuple):
    """Where a batch goes. ``account`` tells API keys apart without being one."""

    endpoint: str
    account: str
    conversation_id: str
    environment: str


class CountBatch(BaseModel):
    """What is sent at once; sent again it is the same, under the same event id."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    event_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    timestamp: str
    address: Address
    counts: TokenCounts


class Outbox:
    """The batches of this process that no server has acknowledged, and those that dead processes left in the folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._warned = False
        self.start_over()

    def start_over(self) -> None:
        """Forget all batches without touching their files: after a fork they are the parent's."""
        self._changed = threading.Condition()
        self._held: dict[str, CountBatch] = {}
        self._untried: dict[Address, str] = {}
        self._in_flight: set[str] = set()
        self._shelf: _Shelf | None = None

    def add(self, address: Address, counts: TokenCounts) -> str:
        """Keep what is to be sent, durably where there is a folder, and return its event id.

        What no send has tried yet is sent together with what came before it for the same address.
        """
        with self._changed:
            batch = self._held.get(self._untried.get(address, ""))
            if batch is None:
                now = datetime.now(UTC).isoformat()
                batch = CountBatch(event_id=uuid.uuid4().hex, timestamp=now, address=address, counts=counts)
            else:
                batch = batch.model_copy(update={"counts": batch.counts.plus(counts)})
            self._write(batch)
            self._held[batch.event_id] = batch
            self._untried[address] = batch.event_id
            return batch.event_id

    def holds(self, event_id: str) -> bool:
        """Return whether a batch of this process is still to be acknowledged."""
        return event_id in self._held

    def holds_any(self, endpoint: str, account: str | None) -> bool:
        """Return whether a batch of one account, or of any, is still to be acknowledged."""
        with self._changed:
            return any(_is_for(batch, endpoint, account) for batch in self._held.values())

    def claim(self, event_id: str) -> CountBatch | None:
        """Return a batch for the caller alone to send, when no other thread is sending it; None if it was delivered."""
        with self._changed:
            while event_id in self._in_flight:
                self._changed.wait()
            return self._take(event_id) if event_id in self._held else None

    def claim_idle(self, endpoint: str, account: str | None, limit: int) -> list[CountBatch]:
        """Return batches that nobody is sending, those of dead processes too, for the caller alone to send."""
        with self._changed:
            for batch in self._adopted():
                self._held[batch.event_id] = batch
            idle = [
                event_id
                for event_id, batch in self._held.items()
                if event_id not in self._in_flight and _is_for(batch, endpoint, account)
            ]
            return [self._take(event_id) for event_id in idle[:limit]]

    def settle(self, batch: CountBatch, *, delivered: bool) -> None:
        """Forget a claimed batch that was delivered; give back one that was not."""
        with self._changed:
            self._in_flight.discard(batch.event_id)
            held = self._held.pop(batch.event_id, None)
            if not delivered and held is not None:
                self._held[batch.event_id] = held  # behind the others, which it must not keep waiting
            elif delivered and self._shelf is not None:
                self._shelf.remove(batch.event_id)
            self._changed.notify_all()

    def _take(self, event_id: str) -> CountBatch:
        batch = self._held[event_id]
        self._in_flight.add(event_id)
        if self._untried.get(batch.address) == event_id:
            del self._untried[batch.address]
        return batch

    def _write(self, batch: CountBatch) -> None:
        try:
            shelf = self._open()
            if shelf is not None:
                shelf.write(batch)
        except OSError as error:
            self._warn(error)

    def _adopted(self) -> list[CountBatch]:
        try:
            shelf = self._open()
            return shelf.adopt() if shelf is not None else []
        except OSError as error:
            self._warn(error)
            return []

    def _open(self) -> "_Shelf | None":
        if self._shelf is None and self._folder is not None:
            self._shelf = _Shelf(self._folder)
        return self._shelf

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "cannot keep what is being sent in %s (%s): it is kept in memory only, and a killed process loses it",
                self._folder,
                error.strerror,
            )


def _is_for(batch: CountBatch, endpoint: str, account: str | None) -> bool:
    return batch.address.endpoint == endpoint and account in (batch.address.account, None)


class _Shelf:
    """The folder: a file for each batch, and one locked file for each process that has batches in it."""

    def __init__(self, folder: Path) -> None:
        if fcntl is None:
            raise OSError(errno.ENOTSUP, "this system has no file locks")
        self._folder = folder
        self._owner = uuid.uuid4().hex
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Locked before it has its name, since a file with that name and without a lock is a dead process's.
        unnamed = self._path(self._owner, _UNFINISHED)
        self._lock = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        _locks.append(self._lock)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unnamed.rename(self._path(self._owner, _OWNER))

    def write(self, batch: CountBatch) -> None:
        """Write a batch, durably and whole or not at all."""
        unfinished = self._path(batch.event_id, self._owner, _UNFINISHED)
        descriptor = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(batch.model_dump_json())
            file.flush()
            os.fsync(descriptor)
        unfinished.rename(self._path(batch.event_id, self._owner, _BATCH))
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, event_id: str) -> None:
        """Remove a batch; should it come back after a power failure, the server recognises its event id."""
        self._path(event_id, self._owner, _BATCH).unlink(missing_ok=True)

    def adopt(self) -> list[CountBatch]:
        """Make the batches of dead processes this process's own, and return them."""
        left: dict[str, list[str]] = {}
        for path in self._folder.iterdir():
            name = path.name
            event_id, _, owner = name.removesuffix(_BATCH).rpartition(".")
            if name.endswith(_BATCH) and owner != self._owner and path.is_file():
                left.setdefault(owner, []).append(event_id)
        return [batch for owner, events in left.items() for batch in self._inherit(owner, events)]

    def _inherit(self, owner: str, events: list[str]) -> list[CountBatch]:
        path = self._path(owner, _OWNER)
        try:
            lock = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return [batch for event in events if (batch := self._move(event, owner))]
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            batches = [batch for event in events if (batch := self._move(event, owner))]
            path.unlink(missing_ok=True)
        except BlockingIOError:  # it lives
            return []
        finally:
            os.close(lock)
        return batches

    def _move(self, event_id: str, owner: str) -> CountBatch | None:
        mine = self._path(event_id, self._owner, _BATCH)
        try:
            self._path(event_id, owner, _BATCH).rename(mine)
            return CountBatch.model_validate_json(mine.read_bytes())
        except FileNotFoundError:  # another process was faster
            return None
        except (ValidationError, UnicodeDecodeError):
            logger.warning("%s is no batch of token counts, and is not sent", mine)
            return None
        except OSError as error:  # one that can't be read keeps no other from being sent
            logger.warning("%s can't be read (%s), and is not sent", mine, error.strerror)
            return None

    def _path(self, *parts: str) -> Path:
        return self._folder / (".".join(parts[:-1]) + parts[-1])


_outboxes: dict[Path | None, Outbox] = {}
_locks: list[int] = []


def outbox_at(folder: Path | None) -> Outbox:
    """Return the one outbox that this process has for a folder, or the one in memory."""
    return _outboxes.setdefault(folder.absolute() if folder is not None else None, Outbox(folder))


def _after_fork() -> None:
    # A lock that the child has inherited would outlive the parent.
    for lock in _locks:
        os.close(lock)
    _locks.clear()
    for outbox in _outboxes.values():
        outbox.start_over()


after_fork(_after_fork)
