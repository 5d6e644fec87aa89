"""TokenCounter: thread-safe cumulative totals, in all and by label."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from decimal import Decimal
from importlib import import_module
from typing import Any, ClassVar, NoReturn

from token_handlers.counter.listeners import BackgroundListener
from token_handlers.counter.tables import html_table, summary_lines, usd
from token_handlers.counter.totals import MOST_PARTS, Increment, LabelSums, increment_of, summed
from token_handlers.errors import WHY, NoLangChainHandler, absorb, shielded
from token_handlers.lifecycle import Warnings
from token_handlers.usage import Measures, UsageRecord, UsageTotals

_MOST_ANSWERS = 1_000
"""Ids and tokens that are kept."""

_SAME_TOKENS = (
    "a record that was added by hand has the tokens of a call that was counted by itself, %d in and %d out: it is "
    "added, as it has no id; of one and the same call add none, or usage_from_payload() of the whole answer (%s)"
)

_LABELS_WITHOUT_CALLS = Warnings()
_ADDED_AGAIN = Warnings()


def _show_nothing(counter: "TokenCounter") -> None:
    """Do nothing: nobody tracks calls."""


class TokenCounter(Measures):
    """Thread-safe cumulative totals of the calls that were added to it.

    Token counts are those of LLM calls; embeddings have ``embedding_tokens``. Requests are counted once per HTTP call
    that was billed (``successful_requests``: LLM calls and embeddings, broken-off streams included), rejected
    (``failed_requests``) or answered from LangChain's own cache (``cached_responses``). A call that is still open is
    in the totals as an estimate.
    """

    show_open: ClassVar[Callable[["TokenCounter"], object]] = _show_nothing
    """Adds estimates of a counter's open calls; called before a total is read. Tracking, which is above, sets it."""

    # Class attributes are the defaults: a block's counter is made in the application's time, and needs little of it.
    _made_sums: LabelSums | None = None
    # Kept here for tracking, which alone writes them: what track_tokens(counter=...) enters again, who listens, and the
    # answers that were counted.
    block: object = None
    listeners: tuple[Callable[[UsageRecord], object], ...] = ()
    answers: Collection[object] = ()

    run_inline = raise_error = NoLangChainHandler()

    def __init__(self) -> None:
        self._parts: list[Increment] = []  # of the totals: what was added before as one sum, and what came since
        self.open_calls: dict[Any, bool] = {}  # that have started and not yet ended; tracking alone writes it

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a TokenCounter can't be copied or pickled: calls would not reach the copy")

    def __dir__(self) -> Iterable[str]:
        return [name for name in super().__dir__() if name not in _INTERNAL]

    def add(self, record: UsageRecord) -> None:
        """Add one call. A record is added each time that it is given: recognising one call that two handlers saw is
        the handlers' task, since a caller may reuse a run's id for two real calls.

        Only a record of a provider's answer that this counter has just counted by itself adds nothing: one whose
        ``request_id`` is the answer's id, or whose usage is usage_from_payload() of the whole answer. Of one without
        an id that has the very tokens of such an answer, a warning says so, once.
        """
        if not isinstance(record, UsageRecord):
            raise TypeError(f"add() takes a UsageRecord, not {type(record).__name__}")
        by_hand = {record.request_id, record.usage.response_id} - {None}
        counted = tuple(self.answers)
        if not by_hand.isdisjoint(counted):
            return
        tokens = record.usage.input_tokens, record.usage.output_tokens
        if not by_hand and tokens in counted:
            _ADDED_AGAIN.warn("tokens", _SAME_TOKENS, *tokens, WHY)
        self.apply(increment_of(record))

    def note_answer(self, known_by: Iterable[str | tuple[int, int] | None]) -> None:
        """Remember an answer that was counted, so that a record of it that is added by hand adds nothing.

        It is known by its ids, as far as it has any, and by the tokens of its call: (input, output).
        """
        if not isinstance(self.answers, deque):
            self.answers = deque(maxlen=_MOST_ANSWERS)
        self.answers.extend(known_by)

    @property
    def _sums(self) -> LabelSums:
        """The sums, made when they are first needed; threads that need them at the same time get the same ones."""
        return self._made_sums or self.__dict__.setdefault("_made_sums", LabelSums(self._parts))

    def apply(self, increment: Increment) -> None:
        """Add an increment; where too many are there, they are summed first."""
        parts = self._parts
        if len(parts) > MOST_PARTS:
            self._sums.catch_up()
        parts += (increment,)  # at the end, and by no call: what raises before has added nothing, and nothing after

    def show(self, call: object, estimate: Increment) -> None:
        """Add what a call that is still open is estimated to be, until it is settled or hidden."""
        self._sums.show(call, estimate)

    def settle(self, call: object, increment: Increment) -> None:
        """Add a call's increment in place of the estimate, when somebody reads or by `catch_up`.

        An interrupt before it returns has added nothing.
        """
        self._sums.settle(call, increment)

    def catch_up(self) -> None:
        """Add what was settled, and let go of its calls."""
        self._sums.catch_up()

    def hide(self, call: object) -> None:
        """Subtract the estimate of a call that was never sent, or that another one includes."""
        self._sums.hide(call)

    def _all_parts(self) -> list[Increment]:
        """Return what the totals are the sum of, as of one moment, with estimates of the open calls."""
        if self.open_calls:
            self._show_open()
        if self._made_sums is not None:
            self._made_sums.await_settled()
        return [*self._parts]

    def _show_open(self) -> None:
        if self.open_calls:
            shielded(TokenCounter.show_open)(self)

    def _measure(self, unit: str) -> int:
        number = 0
        for part in self._all_parts():
            number += part.numbers.get(unit, 0)
        return number

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion tokens, without embeddings."""
        tokens = 0
        for part in self._all_parts():
            tokens += part.numbers.get("input_tokens", 0) + part.numbers.get("output_tokens", 0)
        return tokens

    @property
    def input_tokens(self) -> int:
        """The same as ``prompt_tokens``."""
        return self.prompt_tokens

    @property
    def output_tokens(self) -> int:
        """The same as ``completion_tokens``."""
        return self.completion_tokens

    @property
    def cost(self) -> Decimal | None:
        """USD, exact; None when there were requests and none could be priced."""
        parts = self._all_parts()
        return (parts[0] if len(parts) == 1 else summed(parts)).known_cost()

    @property
    def total_cost(self) -> float:
        """USD as a float; 0.0 when nothing could be priced."""
        return float(self.cost or 0)

    @property
    def saved_cost(self) -> Decimal:
        """USD that answers from LangChain's own cache would have cost."""
        return self.snapshot().saved_cost

    @property
    def cache_saved_cost(self) -> Decimal | None:
        """USD that the provider's prompt cache saved, at list prices; None where nobody knows it."""
        return self.snapshot().cache_saved_cost

    @property
    def cache_hit_rate(self) -> float:
        """The share of the prompt tokens that the provider read from its prompt cache, from 0 to 1."""
        return self.snapshot().cache_hit_rate

    @property
    def by_model(self) -> dict[str, UsageTotals]:
        """Totals by model name, as the provider named the model that answered."""
        return self.by("model")

    @property
    def by_session(self) -> dict[str, UsageTotals]:
        """Totals by session; calls without a session are not in it."""
        return self.by("session")

    @property
    def by_user(self) -> dict[str, UsageTotals]:
        """Totals by user; calls without a user are not in it."""
        return self.by("user")

    def by(self, label: str) -> dict[str, UsageTotals]:
        """Return the totals by the values of a label: 'model', 'session', 'user', 'langgraph_node', or a tag's name.

        A label that no call of this counter ever had gives {}, with one warning that names those there are.
        """
        self._show_open()
        found = {value: total.totals() for value, total in self._sums.by(label).items()}
        known = () if found else sorted(name for name in self._sums.names() if "\0" not in name)
        if not found and known and label not in _LABELS:
            message = "no call has the label %r, so by(%r) is empty: there are %s"
            _LABELS_WITHOUT_CALLS.warn(label, message, label, label, ", ".join(map(repr, known)))
        return found

    def numbers_by(self, label: str, prefix: str = "") -> dict[str, dict[str, int]]:
        """Return the numbers under Usage's names, with those that were reported, by a label's values with a prefix."""
        self._show_open()
        sums = self._sums.by(label)
        return {value: {**total.numbers} for value, total in sums.items() if value.startswith(prefix)}

    def reading(self) -> tuple[UsageTotals, int]:
        """Return all totals as of one moment, without open calls not shown yet, and how many resets came before it."""
        parts, resets = self._sums.reading()
        return summed(parts).totals(), resets

    def snapshot(self) -> UsageTotals:
        """Return all totals as of one moment."""
        return summed(self._all_parts()).totals()

    def reset(self) -> UsageTotals:
        """Set everything to zero, and return what it was: no call is lost or counted twice between the two.

        A call that is still open, and shown as an estimate, is not in what is returned: it goes on to be shown.
        """
        return self._sums.clear().totals()

    def on_record(self, callback: Callable[[UsageRecord], object]) -> None:
        """Call back with the record of each call that this counter counts, when the call ends.

        From a thread of the callback's own: one that raises or blocks disturbs nothing. `flush` waits for it.
        """
        if not callable(callback):
            raise TypeError(f"on_record takes a callable of one UsageRecord, not {callback!r}")
        self.listen(BackgroundListener(callback))

    def listen(self, listener: Callable[[UsageRecord], object]) -> None:
        """Give records to a listener in the thread in which a call ends."""
        self.listeners = (*self.listeners, listener)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the callbacks of `on_record` have had every record; return whether they have."""
        flushed = [listener.flush(timeout) for listener in self.listeners if isinstance(listener, BackgroundListener)]
        return all(flushed)

    def get_token_usage(self) -> dict[str, int]:
        """Return the tokens as prompt_llm_token_count, completion_llm_token_count, total_llm_token_count and
        total_embedding_token_count.
        """
        totals = self.snapshot()
        return {
            "prompt_llm_token_count": totals.prompt_tokens,
            "completion_llm_token_count": totals.completion_tokens,
            "total_llm_token_count": totals.total_tokens,
            "total_embedding_token_count": totals.embedding_tokens,
        }

    def __str__(self) -> str:
        lines = summary_lines(self.snapshot())
        return "\n".join(lines + [f"Open Calls: {number} (in the totals as estimates)" for number in self._open()])

    def __repr__(self) -> str:
        totals = self.snapshot()
        facts = {
            "tokens": totals.total_tokens,
            "embedding tokens": totals.embedding_tokens or None,
            "requests": totals.successful_requests,
            "estimated": totals.estimated_requests or None,
            "unpriced": totals.unpriced_requests or None,
            "open": next(self._open(), None),
        }
        spent = "unpriced" if totals.cost is None else f"${usd(totals.cost)}"
        said = [f"{number} {name}" for name, number in facts.items() if number is not None]
        return f"<TokenCounter {', '.join(said)}, {spent}>"

    def _open(self) -> Iterator[int]:
        """Yield the number of open calls where there are any."""
        return iter([len(self.open_calls)] if self.open_calls else [])

    def _repr_html_(self) -> str:
        try:  # reporting stands above counters, and is there in every installation
            notebook = import_module("token_handlers.reporting.notebook")
            return str(notebook.counter_html(self))
        except Exception as error:  # noqa: BLE001 - a cell that shows a counter shows its totals all the same
            absorb(error, "a counter's charts")
            return html_table([*sorted(self.by_model.items()), ("Total", self.snapshot())])


_LABELS = frozenset({"model", "session", "user", "langgraph_node", "tag"})
_INTERNAL = frozenset(
    {
        "answers",
        "apply",
        "block",
        "catch_up",
        "hide",
        "listen",
        "listeners",
        "note_answer",
        "numbers_by",
        "open_calls",
        "reading",
        "settle",
    }
    | {"show", "show_open"}
)
