"""TokenCounter: thread-safe cumulative totals, in all and by label."""

from collections.abc import Callable
from decimal import Decimal
from typing import ClassVar, Protocol

from token_handlers.counter.listeners import BackgroundListener
from token_handlers.counter.tables import html_table, money, summary_lines
from token_handlers.counter.totals import Increment, RunningTotal, increment_of
from token_handlers.locks import DeferredLock
from token_handlers.usage import Measures, UsageRecord, UsageTotals

MAX_VALUES = 10_000
"""How many values of one label (models, sessions, ...) a counter holds apart; what comes later adds to OTHER."""

OTHER = "(other)"


class Queue(Protocol):
    """Where calls wait that have ended and are not added up yet."""

    def drain(self, *, wait: bool) -> None:
        """Add them to their counters; with ``wait``, return when that is done, by whichever thread."""


class TokenCounter(Measures):
    """Thread-safe cumulative totals of the calls that were added to it.

    Token counts are those of LLM calls; embeddings have ``embedding_tokens``. Requests are counted once per HTTP call
    that was billed (``successful_requests``: LLM calls and embeddings, broken-off streams included), rejected
    (``failed_requests``) or answered from LangChain's own cache (``cached_responses``). ReportedUsage a total is O(1).
    """

    any_listening: ClassVar[bool] = False
    """Whether any counter of the process ever had an `on_record`."""

    __slots__ = (
        "__weakref__",
        "_labels",
        "_lock",
        "_resets",
        "_shown",
        "_total",
        "block",
        "listeners",
        "open_calls",
        "queues",
    )

    def __init__(self) -> None:
        self._lock = DeferredLock()
        self._total = RunningTotal()
        self._labels: dict[str, dict[str, RunningTotal]] = {}
        self._resets = 0
        self._shown: dict[object, Increment] = {}
        # Kept here for tracking, which alone writes them: what track_tokens(counter=...) enters again, who listens, the
        # calls that have started and not yet ended, and where those wait that have ended and are not added up yet.
        self.block: object = None
        self.listeners: tuple[Callable[[UsageRecord], object], ...] = ()
        self.open_calls: set[object] = set()
        self.queues: set[Queue] = set()

    def add(self, record: UsageRecord) -> None:
        """Add one call. A record is added each time that it is given: recognising one call that two handlers saw is
        the handlers' task, since a caller may reuse a run's id for two real calls.
        """
        if not isinstance(record, UsageRecord):
            raise TypeError(f"add() takes a UsageRecord, not {type(record).__name__}")
        self.apply(increment_of(record))

    def apply(self, entry: Increment) -> None:
        """Add an entry."""
        self._lock.run_soon(lambda: self._add(entry))

    def show(self, call: object, estimate: Increment) -> None:
        """Add what a call that is still open is estimated to be, until it is settled or hidden."""
        self._lock.run_soon(lambda: self._show(call, estimate))

    def settle(self, call: object, entry: Increment) -> None:
        """Add a call's entry in place of the estimate, atomically."""
        self._lock.run_soon(lambda: self._hide(call, entry))

    def hide(self, call: object) -> None:
        """Take the estimate of a call back that was never sent, or that another one includes."""
        self._lock.run_soon(lambda: self._hide(call))

    def renew_lock(self) -> None:
        """Replace the lock: for a forked child, in which a thread that held it does not exist."""
        self._lock.renew()

    def sum_up(self, *, wait: bool = True) -> None:
        """Add up what waits; reading a total does so too."""
        for queue in tuple(self.queues):
            queue.drain(wait=wait)

    def _add(self, entry: Increment) -> None:
        self._total.add(entry)
        for label, value in entry.labels:
            self._tally(label, value).add(entry)

    def _show(self, call: object, estimate: Increment) -> None:
        if call not in self._shown and not getattr(call, "settled", False):
            self._shown[call] = estimate
            self._add(estimate)

    def _hide(self, call: object, entry: Increment | None = None) -> None:
        estimate = self._shown.pop(call, None)
        if estimate is not None:
            self._take_back(estimate)
        if entry is not None:
            self._add(entry)

    def _take_back(self, entry: Increment) -> None:
        self._total.subtract(entry)
        for label, value in entry.labels:
            self._tally(label, value).subtract(entry)

    def _tally(self, label: str, value: str) -> RunningTotal:
        values = self._labels.setdefault(label, {})
        tally = values.get(value)
        if tally is None:
            if len(values) >= MAX_VALUES:
                value = OTHER
            tally = values.setdefault(value, RunningTotal())
        return tally

    def _measure(self, unit: str) -> int:
        self.sum_up()
        with self._lock:
            return self._total.numbers.get(unit, 0)

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion tokens, without embeddings."""
        self.sum_up()
        with self._lock:
            numbers = self._total.numbers
            return numbers.get("input_tokens", 0) + numbers.get("output_tokens", 0)

    @property
    def cost(self) -> Decimal | None:
        """USD, exact; None when there were requests and none could be priced."""
        self.sum_up()
        with self._lock:
            return self._total.known_cost()

    @property
    def total_cost(self) -> float:
        """USD as a float; 0.0 when nothing could be priced."""
        return float(self.cost or 0)

    @property
    def saved_cost(self) -> Decimal:
        """USD that answers from LangChain's own cache would have cost."""
        return self.snapshot().saved_cost

    @property
    def by_model(self) -> dict[str, UsageTotals]:
        """Totals by model name, as the provider named the model that answered."""
        return self.by("model")

    @property
    def by_session(self) -> dict[str, UsageTotals]:
        """Totals by session; calls without a session are not in it."""
        return self.by("session")

    def by(self, label: str) -> dict[str, UsageTotals]:
        """Return the totals by the values of a label: 'model', 'session', 'user', 'langgraph_node', or a tag's name."""
        self.sum_up()
        with self._lock:
            return {value: tally.totals() for value, tally in self._labels.get(label, {}).items()}

    def numbers_by(self, label: str, prefix: str = "") -> dict[str, dict[str, int]]:
        """Return the numbers under Usage's names, with those that were reported, by a label's values with a prefix."""
        self.sum_up()
        with self._lock:
            values = self._labels.get(label, {})
            return {value: dict(tally.numbers) for value, tally in values.items() if value.startswith(prefix)}

    def reading(self) -> tuple[UsageTotals, int]:
        """Return all totals as of one moment, and how many resets came before it."""
        self.sum_up()
        with self._lock:
            return self._total.totals(), self._resets

    def snapshot(self) -> UsageTotals:
        """Return all totals as of one moment."""
        return self.reading()[0]

    def reset(self) -> UsageTotals:
        """Set everything to zero, and return what it was: no call is lost or counted twice between the two.

        A call that is still open, and shown as an estimate, is not in what is returned: it goes on to be shown.
        """
        self.sum_up()
        with self._lock:
            for estimate in self._shown.values():
                self._take_back(estimate)
            totals = self._total.totals()
            self._total, self._labels = RunningTotal(), {}
            for estimate in self._shown.values():
                self._add(estimate)
            self._resets += 1
        return totals

    def on_record(self, callback: Callable[[UsageRecord], object]) -> None:
        """Call back with the record of each call that this counter counts, when the call ends.

        From a thread of the callback's own: one that raises or blocks disturbs nothing. `flush` waits for it.
        """
        if not callable(callback):
            raise TypeError(f"on_record takes a callable of one UsageRecord, not {callback!r}")
        self.listen(BackgroundListener(callback))

    def listen(self, listener: Callable[[UsageRecord], object]) -> None:
        """Give records to a listener in the thread in which a call ends."""
        TokenCounter.any_listening = True
        self.listeners = (*self.listeners, listener)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the callbacks of `on_record` have had every record; return whether they have."""
        flushed = [hook.flush(timeout) for hook in self.listeners if isinstance(hook, BackgroundListener)]
        return all(flushed)

    def get_token_usage(self) -> dict[str, int]:
        """Return the counts under AgentSight's names."""
        totals = self.snapshot()
        return {
            "prompt_llm_token_count": totals.prompt_tokens,
            "completion_llm_token_count": totals.completion_tokens,
            "total_llm_token_count": totals.total_tokens,
            "total_embedding_token_count": totals.embedding_tokens,
        }

    def __str__(self) -> str:
        return "\n".join(summary_lines(self.snapshot()))

    def __repr__(self) -> str:
        totals = self.snapshot()
        spent = "unpriced" if totals.cost is None else f"${money(totals.cost)}"
        return f"<TokenCounter {totals.total_tokens} tokens, {totals.successful_requests} requests, {spent}>"

    def _repr_html_(self) -> str:
        return html_table([*sorted(self.by_model.items()), ("Total", self.snapshot())])
