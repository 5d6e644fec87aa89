"""TokenCounter: thread-safe cumulative totals, in all and by label."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from typing import NamedTuple, Protocol

from token_handlers.tables import html_table, money, summary_lines
from token_handlers.usage import Operation, Outcome, Source, UsageRecord, UsageTotals

MAX_VALUES = 10_000
"""How many values of one label (models, sessions, ...) a counter holds apart; what comes later adds to OTHER."""

MAX_PENDING = 100
"""How many entries a counter keeps before it sums them up by itself."""

OTHER = "(other)"
UNKNOWN_MODEL = "(unknown)"

# A user's decimal context may round to six digits; money is added in one of our own.
_exact = Context(prec=60)
_add, _subtract = _exact.add, _exact.subtract
_ZERO = Decimal(0)


class Entry(NamedTuple):
    """What one call adds to a counter: numbers by name, USD, and the labels under which it is also summed."""

    numbers: Mapping[str, int]
    cost: Decimal | None
    saved: Decimal | None
    labels: tuple[tuple[str, str], ...]


class Late(Protocol):
    """An entry that is worked out when it is needed."""

    def entry(self) -> Entry:
        """Return it, the same each time."""


def make_entry(
    counts: Mapping[str, int],
    operation: Operation = "chat",
    outcome: Outcome = "success",
    source: Source = "reported",
    cost: Decimal | None = None,
    saved: Decimal | None = None,
    requests: int = 1,
    labels: tuple[tuple[str, str], ...] = (),
) -> Entry:
    """Return what a call adds: its tokens where it was billed, and one to each request count that it belongs to."""
    if outcome == "cached":
        return Entry({"cached_responses": requests}, None, saved, labels)
    if outcome == "failed":
        return Entry({"failed_requests": requests}, None, None, labels)
    if operation == "embeddings":
        numbers = {"embedding_tokens": counts.get("input_tokens", 0)}
    else:
        numbers = dict(counts)
    if source != "manual":
        numbers["successful_requests"] = requests
        if source == "estimated":
            numbers["estimated_requests"] = requests
        if cost is None:
            numbers["unpriced_requests"] = requests
    return Entry(numbers, cost, None, labels)


class _Tally:
    """One running sum; the counter's lock guards it."""

    __slots__ = ("cost", "numbers", "priced", "saved")

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.cost = _ZERO
        self.saved = _ZERO
        self.priced = 0

    def add(self, entry: Entry) -> None:
        numbers = self.numbers
        for name, number in entry.numbers.items():
            numbers[name] = numbers.get(name, 0) + number
        if entry.cost is not None:
            self.cost = _add(self.cost, entry.cost)
            self.priced += 1
        if entry.saved is not None:
            self.saved = _add(self.saved, entry.saved)

    def merge(self, other: "_Tally") -> None:
        numbers = self.numbers
        for name, number in other.numbers.items():
            numbers[name] = numbers.get(name, 0) + number
        self.cost = _add(self.cost, other.cost)
        self.saved = _add(self.saved, other.saved)
        self.priced += other.priced

    def take_back(self, entry: Entry) -> None:
        for name, number in entry.numbers.items():
            self.numbers[name] -= number
        if entry.cost is not None:
            self.cost = _subtract(self.cost, entry.cost)
            self.priced -= 1

    def totals(self) -> UsageTotals:
        get = self.numbers.get
        return UsageTotals(
            prompt_tokens=get("input_tokens", 0),
            completion_tokens=get("output_tokens", 0),
            prompt_tokens_cached=get("cache_read_tokens", 0),
            cache_write_tokens=get("cache_write_tokens", 0),
            reasoning_tokens=get("reasoning_tokens", 0),
            embedding_tokens=get("embedding_tokens", 0),
            successful_requests=get("successful_requests", 0),
            failed_requests=get("failed_requests", 0),
            cached_responses=get("cached_responses", 0),
            estimated_requests=get("estimated_requests", 0),
            unpriced_requests=get("unpriced_requests", 0),
            cost=self.known_cost(),
            saved_cost=self.saved,
        )

    def known_cost(self) -> Decimal | None:
        return None if not self.priced and self.numbers.get("unpriced_requests") else self.cost


class TokenCounter:
    """Thread-safe cumulative totals of the calls that were added to it.

    Token counts are those of LLM calls; embeddings have ``embedding_tokens``. Requests are counted once per HTTP call
    that was billed (``successful_requests``: LLM calls and embeddings, broken-off streams included), rejected
    (``failed_requests``) or answered from LangChain's own cache (``cached_responses``). Reading a total is O(1).
    """

    __slots__ = ("__weakref__", "_epoch", "_labels", "_lock", "_pending", "_total", "block", "listeners", "open_calls")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a late entry may warn, and what logs the warning may read this counter
        self._total = _Tally()
        self._pending: deque[Entry | Late] = deque()
        self._labels: dict[str, dict[str, _Tally]] = {}
        self._epoch = 0
        # Kept here for tracking, which alone writes them: what track_tokens(counter=...) enters again, who listens, and
        # the calls that have started and not yet ended.
        self.block: object = None
        self.listeners: tuple[Callable[[UsageRecord], object], ...] = ()
        self.open_calls: set[object] = set()

    def add(self, record: UsageRecord) -> None:
        """Add one call. A record is added each time that it is given: recognising one call that two handlers saw is
        the handlers' task, since a caller may reuse a run's id for two real calls.
        """
        if not isinstance(record, UsageRecord):
            raise TypeError(f"add() takes a UsageRecord, not {type(record).__name__}")
        self.apply(entry_of(record))

    def apply(self, entry: Entry | Late) -> None:
        """Add an entry. It is put in a queue, which is summed up when it is long, or when a total is read."""
        self._pending.append(entry)
        if len(self._pending) > MAX_PENDING:
            with self._lock:
                self._sum_up()

    def apply_provisional(self, entry: Entry) -> int:
        """Add an entry that `settle` will take back; return the counter's epoch, which a reset ends."""
        with self._lock:
            self._pending.append(entry)
            self._sum_up()
            return self._epoch

    def renew_lock(self) -> None:
        """Replace the lock: for a forked child, in which a thread that held it does not exist."""
        self._lock = threading.RLock()

    def sum_up(self) -> None:
        """Work out and add up what is queued; reading a total does so too."""
        with self._lock:
            self._sum_up()

    def take_back(self, provisional: Entry, epoch: int) -> None:
        """Take a provisional entry back, atomically, unless a reset has taken it away."""
        with self._lock:
            self._take_back(provisional, epoch)

    def settle(self, provisional: Entry, epoch: int, entry: Entry) -> None:
        """Replace a provisional entry by the final one, atomically; what a reset took away is not taken again."""
        with self._lock:
            self._take_back(provisional, epoch)
            self._pending.append(entry)

    def _take_back(self, entry: Entry, epoch: int) -> None:
        if epoch == self._epoch:
            self._total.take_back(entry)
            for label, value in entry.labels:
                self._tally(label, value).take_back(entry)

    def _sum_up(self) -> None:
        """Add the queued entries up; those with the same labels first among themselves. The caller has the lock."""
        pending = self._pending
        by_labels: dict[tuple[tuple[str, str], ...], _Tally] = {}
        while pending:
            queued = pending.popleft()
            entry = queued if isinstance(queued, Entry) else queued.entry()
            tally = by_labels.get(entry.labels)
            if tally is None:
                tally = by_labels[entry.labels] = _Tally()
            tally.add(entry)
        for labels, tally in by_labels.items():
            self._total.merge(tally)
            for label, value in labels:
                self._tally(label, value).merge(tally)

    def _read(self) -> _Tally:
        """Return the sum of everything; the caller has the lock."""
        if self._pending:
            self._sum_up()
        return self._total

    def _tally(self, label: str, value: str) -> _Tally:
        values = self._labels.setdefault(label, {})
        tally = values.get(value)
        if tally is None:
            if len(values) >= MAX_VALUES:
                value = OTHER
            tally = values.setdefault(value, _Tally())
        return tally

    def _number(self, name: str) -> int:
        with self._lock:
            return self._read().numbers.get(name, 0)

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
        with self._lock:
            numbers = self._read().numbers
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
        with self._lock:
            return self._read().known_cost()

    @property
    def total_cost(self) -> float:
        """USD as a float; 0.0 when nothing could be priced."""
        return float(self.cost or 0)

    @property
    def saved_cost(self) -> Decimal:
        """USD that answers from LangChain's own cache would have cost."""
        with self._lock:
            return self._read().saved

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
        with self._lock:
            self._read()
            return {value: tally.totals() for value, tally in self._labels.get(label, {}).items()}

    def numbers_by(self, label: str, prefix: str = "") -> dict[str, dict[str, int]]:
        """Return the numbers under Usage's names, with those that were reported, by a label's values with a prefix."""
        with self._lock:
            self._read()
            values = self._labels.get(label, {})
            return {value: dict(tally.numbers) for value, tally in values.items() if value.startswith(prefix)}

    def reading(self) -> tuple[UsageTotals, int]:
        """Return all totals as of one moment, and how many resets came before it."""
        with self._lock:
            return self._read().totals(), self._epoch

    def snapshot(self) -> UsageTotals:
        """Return all totals as of one moment."""
        with self._lock:
            return self._read().totals()

    def reset(self) -> UsageTotals:
        """Set everything to zero, and return what it was: no call is lost or counted twice between the two."""
        with self._lock:
            totals = self._read().totals()
            self._total = _Tally()
            self._labels = {}
            self._epoch += 1
        return totals

    def on_record(self, callback: Callable[[UsageRecord], object]) -> None:
        """Call back with the record of each call that this counter counts, when the call ends."""
        self.listeners = (*self.listeners, callback)

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


def entry_of(record: UsageRecord) -> Entry:
    """Return what a record adds."""
    return make_entry(
        record.usage.model_dump(exclude={"total_tokens"}, exclude_unset=True),
        operation=record.operation,
        outcome=record.outcome,
        source=record.source,
        cost=record.cost,
        saved=record.saved_cost,
        requests=record.requests,
        labels=label_pairs(record.model, record.session, record.user, record.node, record.tags, record.provider),
    )


def label_pairs(
    model: str | None,
    session: str | None,
    user: str | None,
    node: str | None,
    tags: Mapping[str, str],
    provider: str | None = None,
) -> tuple[tuple[str, str], ...]:
    """Return the labels under which a call is summed; 'tag' sums every tag, a bare one by its name."""
    named = ("model", model or UNKNOWN_MODEL)
    if session is None and user is None and node is None and not tags:
        return (named,)
    pairs = [named]
    if session is not None:
        pairs.append(("session", session))
        pairs.append((SESSION_MODEL, f"{session}\0{provider or ''}\0{model or UNKNOWN_MODEL}"))
    if user is not None:
        pairs.append(("user", user))
    if node is not None:
        pairs.append(("langgraph_node", node))
    for name, value in tags.items():
        pairs.append((name, value))
        pairs.append(("tag", name if value == BARE else f"{name}={value}"))
    return tuple(pairs)


SESSION_MODEL = "\0session"
"""A label within: a session, a provider and a model, divided by NULs."""
BARE = "true"
"""The value of a tag that was given without one."""
