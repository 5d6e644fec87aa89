"""Where a fleet's records wait beyond a process' memory and life."""

from collections.abc import Sequence
from typing import Protocol

from token_handlers.usage import UsageRecord


class Backlog(Protocol):
    """Where records wait beyond a process' memory and life, such as a ledger."""

    def unsent(self, limit: int) -> Sequence[UsageRecord]:
        """Return some of the records that are not known to have arrived, the oldest first."""

    def sent(self, event_ids: Sequence[str]) -> None:
        """Note that records have arrived; one that is not known here may be on its way."""
