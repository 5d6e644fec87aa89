"""Worker processes: what they use reaches the counters of the process that started them.

A handler that is pickled into a worker carries the address of a listener in its home process. In the worker it records
into a counter of its own, and sends each record home as JSON: numbers, names and labels. It waits for the answer, so
that the totals are right when the worker's work returns; where home can't be reached it counts on its own, after one
warning.
"""

import contextlib
import json
import logging
import os
import secrets
import threading
from collections import OrderedDict
from decimal import Decimal
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, NamedTuple
from weakref import ref

from token_handlers.budget.budget import Amounts
from token_handlers.counter.counter import TokenCounter
from token_handlers.errors import WHY, shielded
from token_handlers.tracking.call import current_context
from token_handlers.tracking.reservations import book
from token_handlers.tracking.scopes import CallContext
from token_handlers.tracking.state import state
from token_handlers.usage import UsageRecord

logger = logging.getLogger("token_handlers")

_MOST_TARGETS = 256
_MOST_SEEN = 10_000
_SECONDS = 5.0

_home = os.getpid()
_lock = threading.Lock()


class HomeAddress(NamedTuple):
    """Where a handler's home process listens, and for whom the records are."""

    socket: str | tuple[str, int]
    key: bytes
    target: str


class _Target(NamedTuple):
    """Where the records of one pickled handler go: what was active where it was pickled."""

    context: CallContext
    handler: "ref[Any]"


_targets: OrderedDict[str, _Target] = OrderedDict()
_seen: OrderedDict[tuple[str, int], None] = OrderedDict()
_listener: list[tuple[Any, bytes]] = []


def address_of(handler: Any, counter: TokenCounter | None) -> HomeAddress:
    """Return what a pickled handler carries: the scopes around this are those that its worker's calls belong to."""
    context = current_context()
    if counter is not None:
        context = context.plus(counter)
    with _lock:
        socket, key = _listen()
        for name, target in _targets.items():
            if target.handler() is handler and _is_like(target.context, context):
                _targets.move_to_end(name)
                return HomeAddress(socket, key, name)
        name = secrets.token_hex(8)
        _targets[name] = _Target(context, ref(handler))
        while len(_targets) > _MOST_TARGETS:
            _targets.popitem(last=False)
    return HomeAddress(socket, key, name)


def _is_like(one: CallContext, other: CallContext) -> bool:
    """Return whether calls of one context count as those of the other do."""
    return (one.counters, one.labels, one.budgets) == (other.counters, other.labels, other.budgets)


def handler_at_home(address: HomeAddress) -> Any:
    """Return the very handler that was pickled, where this is its home process."""
    target = _targets.get(address.target) if os.getpid() == _home else None
    return None if target is None else target.handler()


def _listen() -> tuple[Any, bytes]:
    if not _listener:
        key = secrets.token_bytes(32)
        listener = Listener(authkey=key)
        _listener.append((listener.address, key))
        threading.Thread(target=_accept, args=(listener,), name="token_handlers-workers", daemon=True).start()
    return _listener[0]


def _accept(listener: Listener) -> None:
    while True:
        # A stranger, or a worker that ended within the handshake, is passed over.
        with contextlib.suppress(Exception):
            connection = listener.accept()
            threading.Thread(target=_serve, args=(connection,), name="token_handlers-worker", daemon=True).start()


def _serve(connection: "Connection[Any, Any]") -> None:
    with connection:
        while True:
            try:
                message = connection.recv_bytes()
                shielded(_take)(message)
                connection.send_bytes(b"")
            except (EOFError, OSError):
                return


def _take(message: bytes) -> None:
    """Count what a worker sent, once in each counter and sink, however many handlers saw it there."""
    name, forked, fields = json.loads(message)
    sent = UsageRecord.model_validate(fields)
    target = _targets.get(name)
    if target is None:
        return
    labels = target.context.labels
    kept = sent.model_copy(update={"session": labels.session, "user": labels.user, "tags": dict(labels.tags)})
    counters = [counter for counter in target.context.counters if _is_new(sent.event_id, counter)]
    for counter in counters:
        counter.add(kept)
    _book(kept, target, forked=forked)
    if forked:  # such a worker has the sinks of its home, and has told them
        return
    listeners = [listener for counter in counters for listener in counter.listeners]
    for sink in dict.fromkeys((*state.sinks, *target.context.sinks, *listeners)):
        if _is_new(sent.event_id, sink):
            shielded(sink)(kept)


def _book(kept: UsageRecord, target: _Target, *, forked: bool) -> None:
    """Book a worker's call in the budgets of its home; a forked worker has booked it in a fleet's store itself."""
    amounts = Amounts(kept.cost or Decimal(0), kept.usage.input_tokens + kept.usage.output_tokens, kept.requests)
    for budget in dict.fromkeys((*state.budgets, *target.context.budgets)):
        if _is_new(kept.event_id, budget) and not (forked and budget.is_shared):
            book(budget, amounts, kept.session, kept.user, kept.tags)


def _is_new(event_id: str | None, receiver: object) -> bool:
    """Return whether a receiver has not had this record, and note that it has it now."""
    key = event_id or "", id(receiver)
    with _lock:
        if key in _seen:
            return False
        _seen[key] = None
        if len(_seen) > _MOST_SEEN:
            _seen.popitem(last=False)
    return True


class Sender:
    """A worker's way home: a listener of its counter."""

    def __init__(self, address: HomeAddress) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._connection: Connection[Any, Any] | None = None
        self._pid = 0
        self._lost = False
        self._forked = os.getpid() != _home

    def __call__(self, kept: UsageRecord) -> None:
        """Send a record home, and wait until it is counted there, at most some seconds."""
        if self._lost:
            return
        message = json.dumps([self._address.target, self._forked, kept.model_dump(mode="json")]).encode()
        try:
            with self._lock:
                self._send(message)
        except Exception as error:  # noqa: BLE001 - sockets, handshakes: whatever it is, the worker's work goes on
            self._lost = True
            logger.warning("a worker process can't reach its home, and counts on its own: %r (%s)", error, WHY)

    def _send(self, message: bytes) -> None:
        if self._connection is None or self._pid != os.getpid():
            self._connection = Client(self._address.socket, authkey=self._address.key)
            self._pid = os.getpid()
        self._connection.send_bytes(message)
        if not self._connection.poll(_SECONDS):
            raise TimeoutError(f"no answer within {_SECONDS} s")
        self._connection.recv_bytes()
