"""TokenCounter: thread-safe cumulative totals, in all and by label."""

from collections.abc import Callable
from decimal import Decimal
from typing import ClassVar, Protocol

from token_handlers.hooks import Hook
from token_handlers.tables import html_table, money, summary_lines
from token_handlers.tallies import Entry, Tally, entry_of
from token_handlers.turns import Turns
from token_handlers.usage import UsageRecord, UsageTotals

MAX_VALUES = 10_000
"""How many values of one label (models, sessions, ...) a counter holds apart; what comes later adds to OTHER."""

OTHER = "(other)"


class Queue(Protocol):
    """Where calls wait that have ended and are not added up yet."""

    def drain(self, *, wait: bool) -> None:
        """Add them to their counters; with ``wait``, return when that is done, by whichever thread."""


class TokenCounter:
    """Thread-safe cumulative totals of the calls that were added to it.

    Token counts are those of LLM calls; embeddings have ``embedding_tokens``. Requests are counted once per HTTP call
    that was billed (``successful_requests``: LLM calls and embeddings, broken-off streams included), rejected
    (``failed_requests``) or answered from LangChain's own cache (``cached_responses``). Reading a total is O(1).
    """

    any_listening: ClassVar[bool] = False
    """Whether any counter of the process ever had an `on_record`."""

    __slots__ = (
        "__weakref__",
        "_labels",
        "_resets",
        "_shown",
        "_total",
        "_turns",
        "block",
        "listeners",
        "open_calls",
        "queues",
    )

    def __init__(self) -> None:
        self._turns = Turns()
        self._total = Tally()
        self._labels: dict[str, dict[str, Tally]] = {}
        self._resets = 0
        self._shown: dict[object, Entry] = {}
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
        self.apply(entry_of(record))

    def apply(self, entry: Entry) -> None:
        """Add an entry."""
        self._turns.do(lambda: self._add(entry))

    def show(self, call: object, estimate: Entry) -> None:
        """Add what a call that is still open is estimated to be, until it is settled or hidden."""
        self._turns.do(lambda: self._show(call, estimate))

    def settle(self, call: object, entry: Entry) -> None:
        """Add a call's entry in place of the estimate, atomically."""
        self._turns.do(lambda: self._hide(call, entry))

    def hide(self, call: object) -> None:
        """Take the estimate of a call back that was never sent, or that another one includes."""
        self._turns.do(lambda: self._hide(call))

    def renew_lock(self) -> None:
        """Replace the lock: for a forked child, in which a thread that held it does not exist."""
        self._turns.renew()

    def sum_up(self, *, wait: bool = True) -> None:
        """Add up what waits; reading a total does so too."""
        for queue in tuple(self.queues):
            queue.drain(wait=wait)

    def _add(self, entry: Entry) -> None:
        self._total.add(entry)
        for label, value in entry.labels:
            self._tally(label, value).add(entry)

    def _show(self, call: object, estimate: Entry) -> None:
        if call not in self._shown and not getattr(call, "settled", False):
            self._shown[call] = estimate
            self._add(estimate)

    def _hide(self, call: object, entry: Entry | None = None) -> None:
        estimate = self._shown.pop(call, None)
        if estimate is not None:
            self._take_back(estimate)
        if entry is not None:
            self._add(entry)

    def _take_back(self, entry: Entry) -> None:
        self._total.take_back(entry)
        for label, value in entry.labels:
            self._tally(label, value).take_back(entry)

    def _tally(self, label: str, value: str) -> Tally:
        values = self._labels.setdefault(label, {})
        tally = values.get(value)
        if tally is None:
            if len(values) >= MAX_VALUES:
                value = OTHER
            tally = values.setdefault(value, Tally())
        return tally

    def _number(self, name: str) -> int:
        self.sum_up()
        with self._turns:
            return self._total.numbers.get(name, 0)

    @property
    def prompt_tokens(self) -> int:
        """Input tokens of LLM calls, cache reads and writes included."""
        return self._number("input_tokens")

    @property
    def completion_tokens(self) -> int:
        """Output tokens, reasoning included."""
        return self._number("output_tokens")

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion tokens, without embeddings."""
        self.sum_up()
        with self._turns:
            numbers = self._total.numbers
            return numbers.get("input_tokens", 0) + numbers.get("output_tokens", 0)

    @property
    def prompt_tokens_cached(self) -> int:
        """Input tokens that the provider read from its prompt cache."""
        return self._number("cache_read_tokens")

    @property
    def cache_write_tokens(self) -> int:
        """Input tokens that the provider wrote to its prompt cache."""
        return self._number("cache_write_tokens")

    @property
    def reasoning_tokens(self) -> int:
        """Output tokens spent on reasoning."""
        return self._number("reasoning_tokens")

    @property
    def embedding_tokens(self) -> int:
        """Input tokens of embedding calls."""
        return self._number("embedding_tokens")

    @property
    def successful_requests(self) -> int:
        """Requests that were billed, LLM calls and embeddings."""
        return self._number("successful_requests")

    @property
    def failed_requests(self) -> int:
        """Requests that the provider rejected: nothing was billed."""
        return self._number("failed_requests")

    @property
    def cached_responses(self) -> int:
        """Answers from LangChain's own cache: nothing was sent, nothing was billed."""
        return self._number("cached_responses")

    @property
    def estimated_requests(self) -> int:
        """Requests whose usage nobody reported: their tokens are estimates."""
        return self._number("estimated_requests")

    @property
    def unpriced_requests(self) -> int:
        """Requests whose cost is not known; ``total_cost`` leaves them out."""
        return self._number("unpriced_requests")

    @property
    def cost(self) -> Decimal | None:
        """USD, exact; None when there were requests and none could be priced."""
        self.sum_up()
        with self._turns:
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
        with self._turns:
            return {value: tally.totals() for value, tally in self._labels.get(label, {}).items()}

    def numbers_by(self, label: str, prefix: str = "") -> dict[str, dict[str, int]]:
        """Return the numbers under Usage's names, with those that were reported, by a label's values with a prefix."""
        self.sum_up()
        with self._turns:
            values = self._labels.get(label, {})
            return {value: dict(tally.numbers) for value, tally in values.items() if value.startswith(prefix)}

    def reading(self) -> tuple[UsageTotals, int]:
        """Return all totals as of one moment, and how many resets came before it."""
        self.sum_up()
        with self._turns:
            return self._total.totals(), self._resets

    def snapshot(self) -> UsageTotals:
        """Return all totals as of one moment."""
        return self.reading()[0]

    def reset(self) -> UsageTotals:
        """Set everything to zero, and return what it was: no call is lost or counted twice between the two.

        A call that is still open, and shown as an estimate, is not in what is returned: it goes on to be shown.
        """
        self.sum_up()
        with self._turns:
            for estimate in self._shown.values():
                self._take_back(estimate)
            totals = self._total.totals()
            self._total, self._labels = Tally(), {}
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
        self.listen(Hook(callback))

    def listen(self, listener: Callable[[UsageRecord], object]) -> None:
        """Give records to a listener in the thread in which a call ends."""
        TokenCounter.any_listening = True
        self.listeners = (*self.listeners, listener)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the callbacks of `on_record` have had every record; return whether they have."""
        flushed = [hook.flush(timeout) for hook in self.listeners if isinstance(hook, Hook)]
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
