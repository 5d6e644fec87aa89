"""Where records for a server wait on disk, also after the process, and when its sink asks for them."""

import time
from collections.abc import Sequence
from typing import Protocol

from token_handlers.errors import shielded
from token_handlers.lifecycle import IDLE_SECONDS
from token_handlers.usage import UsageRecord


class Backlog(Protocol):
    """Where records wait on disk, also after the process, such as a ledger."""

    def unsent(self, limit: int) -> Sequence[UsageRecord]:
        """Return some of the records that are not known to have arrived, the oldest first."""

    def sent(self, event_ids: Sequence[str]) -> None:
        """Note that records have arrived; one that is not known here may be on its way."""


class BacklogReader:
    """Reads a sink's backlog, in the sink's thread, once nothing waits in memory."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.restart()

    def restart(self) -> None:
        """Begin again: the backlog may have what an earlier process left."""
        self._is_behind = True
        self._looked_at = float("-inf")
        self._seen: list[str] = []

    def fall_behind(self) -> None:
        """Note that a record is in the backlog alone."""
        self._is_behind = True

    def note(self, event_ids: Sequence[str]) -> None:
        """Note that records have arrived."""
        if event_ids:
            shielded(self._backlog.sent)(event_ids)

    def next(self, limit: int) -> Sequence[UsageRecord]:
        """Return what the backlog has: from before this process, or from when too many records waited."""
        now = time.monotonic()
        if not (self._is_behind or now - self._looked_at > IDLE_SECONDS):
            return ()
        self._is_behind, self._looked_at = False, now
        records = shielded(self._backlog.unsent)(limit) or ()
        seen, self._seen = self._seen, [record.event_id for record in records]
        if not records or self._seen == seen:  # a backlog that can't note what arrived is not asked for ever
            self._seen = []
            return ()
        self._is_behind = True
        return records
