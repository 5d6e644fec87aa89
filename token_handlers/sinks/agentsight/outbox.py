"""Batches on their way to AgentSight: each is kept under its event id until the server has acknowledged it.

In memory, and on a shelf where there is one, a ledger's file or a folder: what a killed process had begun to send is
sent by the next, under the same event id.
"""

import logging
import operator
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from token_handlers.lifecycle import after_fork
from token_handlers.sinks.agentsight.shelves import BatchShelf, FolderShelf, KeptBatch, LedgerInFile, let_go

logger = logging.getLogger("token_handlers")


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
    """Batches that AgentSight has not acknowledged: this process's own, and what dead processes left on the shelf."""

    def __init__(self, place: Path | None = None, open_shelf: Callable[[Path], BatchShelf] = FolderShelf) -> None:
        self._place = place
        self._open_shelf = open_shelf
        self._warned = False
        self.start_over()

    def start_over(self) -> None:
        """Forget all batches without touching what is kept: after a fork they are the parent's."""
        self._changed = threading.Condition()
        self._held: dict[str, CountBatch] = {}
        self._untried: dict[Address, str] = {}
        self._in_flight: set[str] = set()
        self._shelf: BatchShelf | None = None

    def add(self, address: Address, counts: TokenCounts) -> str:
        """Keep counts until they are sent, on the disk where there is a shelf, and return their event id.

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
            elif delivered:
                self._remove(batch.event_id)
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
                shelf.write(batch.event_id, batch.model_dump_json())
        except OSError as error:
            self._warn(error)

    def _remove(self, event_id: str) -> None:
        try:
            if self._shelf is not None:
                self._shelf.remove(event_id)
        except OSError as error:  # it is sent again, and the server recognises it
            self._warn(error)

    def _adopted(self) -> list[CountBatch]:
        try:
            shelf = self._open()
            adopted = shelf.adopt() if shelf is not None else []
        except OSError as error:
            self._warn(error)
            return []
        return [batch for kept in adopted if (batch := _batch_of(kept)) is not None]

    def _open(self) -> BatchShelf | None:
        if self._shelf is None and self._place is not None:
            self._shelf = self._open_shelf(self._place)
        return self._shelf

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "cannot keep what is being sent in %s (%s): it is kept in memory only, and a killed process loses it",
                self._place,
                error.strerror,
            )


def _is_for(batch: CountBatch, endpoint: str, account: str | None) -> bool:
    return batch.address.endpoint == endpoint and account in (batch.address.account, None)


def _batch_of(kept: KeptBatch) -> CountBatch | None:
    try:
        return CountBatch.model_validate_json(kept.body)
    except (ValidationError, UnicodeDecodeError):
        logger.warning("%s is no batch of token counts, and is not sent", kept.name)
        return None


_outboxes: dict[Path | None, Outbox] = {}


def outbox_at(place: str | Path | LedgerInFile | None) -> Outbox:
    """Return the one outbox that this process has for a ledger's file or a folder, or the one in memory."""
    if place is None:
        return _outboxes.setdefault(None, Outbox())
    if isinstance(place, str | Path):
        folder = Path(place).absolute()
        return _outboxes.setdefault(folder, Outbox(folder))
    from token_handlers.sinks.agentsight.ledger_shelf import LedgerShelf

    return _outboxes.setdefault(place.path, Outbox(place.path, LedgerShelf))


def _after_fork() -> None:
    let_go()
    for outbox in _outboxes.values():
        outbox.start_over()


after_fork(_after_fork)
