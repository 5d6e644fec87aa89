"""What a counter has counted and nobody has acknowledged yet."""

import threading
import uuid
import weakref
from collections.abc import Callable

from token_handlers.counter.counter import TokenCounter
from token_handlers.lifecycle import after_fork, before_fork
from token_handlers.sinks.agentsight.outbox import ZERO, TokenCounts


class Unsent:
    """A counter's counts since they were last acknowledged, and those given to `add`, which the counter has not.

    The counter goes on: what was acknowledged is taken off here only. A reset of the counter empties this too, apart
    from what is on its way.
    """

    def __init__(self, counter: TokenCounter) -> None:
        self.counter = counter
        self.lock = threading.RLock()
        self._on_its_way: dict[str, tuple[TokenCounts, Callable[[str], bool]]] = {}
        self._added = self._taken = ZERO
        _, self._resets = self._at_fork = self._reading()
        _all.add(self)

    def look(self) -> None:
        """Remember what was counted before a fork: it is the parent's."""
        self._at_fork = self._reading()

    def start_over(self) -> None:
        """Count from the last look on."""
        self.lock = threading.RLock()
        self._taken, self._resets = self._at_fork
        self._added = ZERO
        self._on_its_way = {}

    def add(self, counts: TokenCounts) -> None:
        """Count what the counter has no place for."""
        with self.lock:
            self._new()
            self._added = self._added.plus(counts)

    def counts(self) -> TokenCounts:
        """Return what nobody has acknowledged."""
        with self.lock:
            unsent = self._new()
            for event_id, (counts, is_on_its_way) in self._on_its_way.items():
                if is_on_its_way(event_id):
                    unsent = unsent.plus(counts)
            return unsent

    def hand_over(self, keep: Callable[[TokenCounts], str], is_on_its_way: Callable[[str], bool]) -> list[str]:
        """Give what is new to an outbox, which answers with an event id; return those of all that is on its way."""
        with self.lock:
            new = self._new()
            if any(new):
                event_id = keep(new)
                before, _ = self._on_its_way.get(event_id, (ZERO, None))
                self._on_its_way[event_id] = before.plus(new), is_on_its_way
                self._take(new)
            return list(self._on_its_way)

    def acknowledged(self) -> TokenCounts:
        """Forget what is no longer on its way, and return it."""
        with self.lock:
            arrived = [event for event, (_, is_on_its_way) in self._on_its_way.items() if not is_on_its_way(event)]
            counts = ZERO
            for event in arrived:
                counts = counts.plus(self._on_its_way.pop(event)[0])
            return counts

    def flush(self, flush: Callable[[], bool]) -> TokenCounts | None:
        """Return what a flush has acknowledged; where it says False or raises, None, and all is as before."""
        event, flushed = uuid.uuid4().hex, False
        self.hand_over(lambda _: event, lambda _: True)
        try:
            flushed = flush()
        finally:
            with self.lock:
                counts, _ = self._on_its_way.pop(event, (ZERO, None))
                if not flushed:
                    self._added = self._added.plus(counts)
        return counts if flushed else None

    def _new(self) -> TokenCounts:
        reading, resets = self._reading()
        if resets != self._resets:
            self._taken, self._resets, self._added = ZERO, resets, ZERO
        # An estimate that was sent may be above the exact number in its place; what follows makes up for it.
        prompt, completion, _, embedding = (max(0, now - then) for now, then in zip(reading, self._taken, strict=True))
        return TokenCounts(prompt, completion, prompt + completion, embedding).plus(self._added)

    def _take(self, new: TokenCounts) -> None:
        self._taken = self._taken.plus(
            TokenCounts(*(count - added for count, added in zip(new, self._added, strict=True)))
        )
        self._added = ZERO

    def _reading(self) -> tuple[TokenCounts, int]:
        totals, resets = self.counter.reading()
        parts = totals.prompt_tokens, totals.completion_tokens
        return TokenCounts(*parts, sum(parts), totals.embedding_tokens), resets


_all: "weakref.WeakSet[Unsent]" = weakref.WeakSet()


def _before_fork() -> None:
    for unsent in list(_all):
        unsent.look()


def _in_child() -> None:
    for unsent in list(_all):
        unsent.start_over()


before_fork(_before_fork)
after_fork(_in_child)
