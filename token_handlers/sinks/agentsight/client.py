"""AgentSightClient: token counts to AgentSight's HTTP API, each until the server has acknowledged it."""

import hashlib
import logging
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import SecretStr

from token_handlers.lifecycle import after_fork, at_exit
from token_handlers.sinks.agentsight.http import SendFailed, Wire, checked_endpoint, checked_key
from token_handlers.sinks.agentsight.outbox import ZERO, Address, CountBatch, Outbox, TokenCounts, outbox_at
from token_handlers.sinks.agentsight.shelves import LedgerInFile
from token_handlers.sinks.escapes import escaped
from token_handlers.usage import UsageRecord

if TYPE_CHECKING:
    import httpx


__all__ = ["DEFAULT_ENDPOINT", "AgentSightClient", "SendFailed"]

logger = logging.getLogger("token_handlers")

DEFAULT_ENDPOINT = "https://api.agentsight.io"
_AT_ONCE = 20
_MAX_ARRIVED = 1000
_END_SECONDS = 10.0


class AgentSightClient:
    """Sends token counts to AgentSight: as a sink, or for a ConversationTracker.

    As a sink it counts a record for the conversation that the record's session names, else for ``conversation_id``, and
    leaves records without either out. It sends when it is flushed, and at the end of the process.

    429, 5xx and dropped connections are tried ``retries`` times more, after ``backoff`` seconds, doubling, or when
    Retry-After says. What still fails is kept and sent next time under the same event id, which is the header
    Idempotency-Key and ``event_id`` in the metadata: in memory, or beyond the life of this process in ``outbox``,
    a SQLiteLedger or a folder. ``timeout`` is in seconds, for each exchange from connecting to the last byte of the
    answer.
    """

    def __init__(
        self,
        api_key: str | SecretStr,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        conversation_id: str | None = None,
        environment: Literal["production", "development"] = "development",
        outbox: str | Path | LedgerInFile | None = None,
        timeout: float = 15.0,
        retries: int = 3,
        backoff: float = 0.5,
    ) -> None:
        key = checked_key(api_key)
        self.endpoint: str = checked_endpoint(endpoint)
        self.conversation_id = conversation_id
        self.environment = environment
        self.outbox: Outbox = outbox_at(outbox)
        self._account = hashlib.sha256(key.get_secret_value().encode()).hexdigest()[:16]
        self._wire = Wire(key, self.endpoint, timeout, retries, backoff)
        self._summing = threading.Lock()
        self._arrived: deque[tuple[str, TokenCounts]] = deque()
        self._sums: dict[str, TokenCounts] = {}
        _clients.add(self)

    def __repr__(self) -> str:
        return f"AgentSightClient({self.endpoint!r})"

    def __call__(self, record: UsageRecord) -> None:
        """Count a record, for the next flush."""
        conversation = record.session or self.conversation_id
        if conversation is None or record.outcome != "success" or record.operation == "tool":
            return
        self._arrived.append((conversation, _counts_of(record)))
        # Who sums up may be this very thread, where a finalizer records a call: then the next record will do.
        if len(self._arrived) > _MAX_ARRIVED and self._summing.acquire(blocking=False):
            try:
                self._sum_up()
            finally:
                self._summing.release()

    def flush(self, timeout: float | None = None) -> bool:
        """Send what was counted and what is kept; return whether the server has acknowledged all of it.

        After ``timeout`` seconds no further batch is begun, and the one under way is given up and kept.
        """
        with self._summing:
            self._sum_up()
            sums, self._sums = self._sums, {}
        for conversation, counts in sums.items():
            self.keep(conversation, counts)
        return self._send_all(self._account, timeout)

    def close(self) -> None:
        """Flush; there is nothing else to close, since no connection outlives a send."""
        self.flush()

    def take_over(self, timeout: float | None = None) -> bool:
        """Flush what was kept under other API keys: after the key of one and the same account was replaced."""
        return self._send_all(None, timeout)

    def keep(self, conversation: str, counts: TokenCounts) -> str:
        """Keep counts until they are delivered, and return the event id of the batch that has them."""
        address = Address(self.endpoint, self._account, escaped(conversation), self.environment)
        return self.outbox.add(address, counts)

    def send(self, event_ids: list[str]) -> tuple[int, SendFailed | None]:
        """Deliver these batches, or raise SendFailed; then some of what other senders have left.

        Returns how many of the others' batches were delivered, and what stopped that.
        """
        with self._wire.connect() as http:
            failures: list[SendFailed] = []
            for event_id in event_ids:
                batch = self.outbox.claim(event_id)
                failure = self._try(http, batch) if batch is not None else None
                if failure is not None:
                    failures.append(failure)
                    if failure.status is None:  # nobody there
                        break
            if failures:
                raise failures[0]
            return self._send_idle(http, self._account, _AT_ONCE)

    def end(self) -> None:
        """Flush at the end of the process, if records were counted."""
        if self._arrived or self._sums:
            self.flush(_END_SECONDS)

    def start_over(self) -> None:
        """Forget what was counted: after a fork it is the parent's."""
        self._summing = threading.Lock()
        self._arrived.clear()
        self._sums = {}

    def _sum_up(self) -> None:
        while self._arrived:
            conversation, counts = self._arrived.popleft()
            self._sums[conversation] = self._sums.get(conversation, ZERO).plus(counts)

    def _send_all(self, account: str | None, timeout: float | None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        with self._wire.connect() as http:
            while end is None or time.monotonic() < end:
                delivered, failure = self._send_idle(http, account, _AT_ONCE, end)
                if failure is not None:
                    logger.warning("%s", failure)
                    return False
                if not delivered:
                    break
        return not self.outbox.holds_any(self.endpoint, account)

    def _send_idle(
        self, http: "httpx.Client", account: str | None, limit: int, end: float | None = None
    ) -> tuple[int, SendFailed | None]:
        waiting = self.outbox.claim_idle(self.endpoint, account, limit)
        delivered = 0
        try:
            while waiting and (end is None or time.monotonic() < end):
                failure = self._try(http, waiting.pop(0), end)
                if failure is not None:
                    return delivered, failure
                delivered += 1
        finally:
            for batch in waiting:
                self.outbox.settle(batch, delivered=False)
        return delivered, None

    def _try(self, http: "httpx.Client", batch: CountBatch, end: float | None = None) -> SendFailed | None:
        delivered = False
        try:
            self._deliver(http, batch, end)
            delivered = True
        except SendFailed as failure:
            return failure
        finally:
            self.outbox.settle(batch, delivered=delivered)
        return None

    def _deliver(self, http: "httpx.Client", batch: CountBatch, end: float | None) -> None:
        answer = self._wire.post(http, "/api/conversations/", _conversation(batch), end=end)
        action = _action(batch, self._wire.created(answer))
        self._wire.post(http, "/api/action_logs/", action, batch.event_id, end=end)


def _conversation(batch: CountBatch) -> dict[str, object]:
    return {
        "conversation_id": batch.address.conversation_id,
        "customer_id": None,
        "customer_ip_address": None,
        "device": None,
        "source": None,
        "language": None,
        "name": None,
        "is_used": True,
        "environment": batch.address.environment,
        "metadata": None,
        "timestamp": batch.timestamp,
    }


def _action(batch: CountBatch, conversation: int) -> dict[str, object]:
    prompt, completion, total, embedding = batch.counts
    return {
        "action_name": "token_usage",
        "metadata": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": total,
            "embedding_tokens": embedding,
            "event_id": batch.event_id,
        },
        "conversation_id": batch.address.conversation_id,
        "conversation": conversation,
        "timestamp": batch.timestamp,
    }


def _counts_of(record: UsageRecord) -> TokenCounts:
    usage = record.usage
    if record.operation == "embeddings":
        return TokenCounts(embedding=usage.input_tokens)
    return TokenCounts(usage.input_tokens, usage.output_tokens, usage.total_tokens)


_clients: "weakref.WeakSet[AgentSightClient]" = weakref.WeakSet()


def _at_end() -> None:
    for client in list(_clients):
        client.end()


def _after_fork() -> None:
    for client in list(_clients):
        client.start_over()


at_exit(_at_end)
after_fork(_after_fork)
