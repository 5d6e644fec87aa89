"""Listeners: callbacks of the application, each called from a thread of its own, so that a slow one delays nobody."""

from collections.abc import Callable, Sequence
from typing import Protocol

from token_handlers.errors import absorb
from token_handlers.lifecycle import BackgroundWriter, Warnings
from token_handlers.usage import UsageRecord

MAX_WAITING = 10_000
"""How many records wait for a callback that is slow; later ones are dropped, which is logged once."""

MakeRecord = Callable[[], UsageRecord]


class DeferringSink(Protocol):
    """A sink that also takes a callable in place of a record, and calls it in a thread of its own.

    The callable returns the same record each time: it may be called again where writing failed, and by several sinks.
    """

    def __call__(self, record: UsageRecord, /) -> object:
        """Take a record."""

    def defer(self, make_record: MakeRecord, /) -> object:
        """Take a record that is still to be made."""


def made(item: UsageRecord | MakeRecord) -> UsageRecord:
    """Return a record, made by the callable that a sink got in its place."""
    return item if isinstance(item, UsageRecord) else item()


class BackgroundListener:
    """A listener that hands records to a callback, in order, from a daemon thread."""

    def __init__(self, callback: Callable[[UsageRecord], object]) -> None:
        self._callback = callback
        self._name = getattr(callback, "__qualname__", repr(type(callback)))
        self._writer = BackgroundWriter(
            self._call, name="token_handlers-listener", capacity=MAX_WAITING, refused=self._report
        )
        self._warnings = Warnings()

    def __call__(self, record: UsageRecord) -> None:
        """Queue a record; never waits."""
        self.defer(record)

    def defer(self, make_record: UsageRecord | MakeRecord) -> None:
        """Queue a record that the callback's thread makes."""
        if not self._writer.put(make_record):
            message = "An on_record callback is %d records behind; later records are dropped."
            self._warnings.warn("behind", message, self._writer.capacity)

    def flush(self, timeout: float | None) -> bool:
        """Return whether the callback has had all records, after ``timeout`` seconds at most."""
        return self._writer.flush(timeout)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BackgroundListener) and self._callback == other._callback

    def __hash__(self) -> int:
        return hash(self._callback)

    def _call(self, items: Sequence[UsageRecord | MakeRecord]) -> None:
        for item in items:
            self._callback(made(item))

    def _report(self, item: UsageRecord | MakeRecord, error: Exception) -> None:
        absorb(error, self._name)
