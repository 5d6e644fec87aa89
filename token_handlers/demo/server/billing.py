"""What the loopback server billed: a thread-safe ledger that tests and the demo compare with."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True)
class Billed:
    """One settled request: its answer was sent in full, or the disconnect was noticed, or it was refused.

    Refused requests (status >= 400) are billed 0. A broken stream is billed its prompt in full and the completion that
    was generated until then; any other answer that nobody waited for is billed in full, as it was generated.
    """

    chan: str
    path: str
    """The endpoint, without what comes before it: ``chat/completions``, ``responses``, ..."""
    model: str
    """The requested name."""
    resolved: str | None = None
    """The name in the answer, None where it had none."""
    stream: bool = False
    status: int = 200
    prompt_tokens: int = 0
    """Including cached tokens and cache writes; for /embeddings the inputs' tokens."""
    completion_tokens: int = 0
    """Including reasoning, for every choice."""
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    tier: str | None = None
    cost: Decimal | None = None
    """USD that the answer's usage stated, where the mode ``cost`` asks for it."""
    complete: bool = True
    sent: int = 0
    """Completion tokens that were sent; reasoning counts as sent with a stream's first chunk."""
    usage_sent: bool = False
    """Whether the client was told any usage."""


@dataclass(frozen=True, slots=True)
class Bill:
    """A sum of ledger entries; ``requests`` and the tokens are those billed, ``rejected`` counts the refused."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    rejected: int = 0


class Books:
    """The ledger's entries by channel, and who stands at a gate; every method may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entries: list[Billed] = []
        self._by_chan: defaultdict[str, list[Billed]] = defaultdict(list)
        self._waiting: Counter[str] = Counter()

    def settle(self, entry: Billed) -> None:
        """Write down an entry and wake those who wait for it."""
        with self._changed:
            self._entries.append(entry)
            self._by_chan[entry.chan].append(entry)
            self._changed.notify_all()

    def at_gate(self, chan: str, change: int) -> None:
        """Note that a request came to (+1) or left (-1) its channel's gate."""
        with self._changed:
            self._waiting[chan] += change
            self._changed.notify_all()

    def entries(self, chan: str | None) -> list[Billed]:
        """A copy of the channel's entries in the order of settling, or of all."""
        with self._changed:
            return list(self._entries if chan is None else self._by_chan.get(chan, ()))

    def total(self, chan: str | None) -> Bill:
        """The sum of the channel's entries, or of all."""
        entries = self.entries(chan)
        billed = [entry for entry in entries if entry.status < 400]
        calls = [entry for entry in billed if entry.path != EMBEDDINGS]
        return Bill(
            requests=len(billed),
            prompt_tokens=sum(entry.prompt_tokens for entry in calls),
            completion_tokens=sum(entry.completion_tokens for entry in calls),
            embedding_tokens=sum(entry.prompt_tokens for entry in billed if entry.path == EMBEDDINGS),
            cached_tokens=sum(entry.cached_tokens for entry in calls),
            reasoning_tokens=sum(entry.reasoning_tokens for entry in calls),
            rejected=len(entries) - len(billed),
        )

    def wait_settled(self, chan: str, requests: int, timeout: float) -> None:
        """Block until the channel has that many entries; a TimeoutError says how many it has."""
        self._wait(lambda: len(self._by_chan.get(chan, ())), requests, timeout, f"settled requests of {chan!r}")

    def wait_at_gate(self, chan: str, requests: int, timeout: float) -> None:
        """Block until that many requests stand at the channel's gate; a TimeoutError says how many do."""
        self._wait(lambda: self._waiting[chan], requests, timeout, f"requests at the gate of {chan!r}")

    def clear(self) -> None:
        """Forget all entries."""
        with self._changed:
            self._entries.clear()
            self._by_chan.clear()

    def _wait(self, count: Callable[[], int], wanted: int, timeout: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: count() >= wanted, timeout):
                raise TimeoutError(f"{count()} of {wanted} {what} after {timeout} s")
