"""Calls from start to end: the shared counter, the sinks, and record(), the one place that every call passes through.

All of the package's state is here and in `scopes`: the shared counter, the process-wide sinks, the frameworks that are
tracked automatically, and the calls that have started and not yet ended.
"""

import asyncio
import atexit
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple, TypedDict, Unpack

import wrapt

from token_handlers import pricing
from token_handlers.budget import Budget
from token_handlers.budget_terms import Amounts, Asked, Hold
from token_handlers.counter import Entry, TokenCounter, entry_of, label_pairs, make_entry
from token_handlers.errors import BudgetExceeded, shielded
from token_handlers.scopes import NO_LABELS, Labels, Sinks, active_scopes, any_scope
from token_handlers.usage import Operation, Outcome, Source, Usage, UsageRecord

MAX_OPEN_CALLS = 10_000
"""How many calls may be open at once; beyond it the oldest is recorded as an estimate."""

automatic: set[str] = set()
"""The frameworks whose every call is recorded: 'langchain', 'llamaindex'."""

_HOOKS = {
    "langchain.hook": "langchain_core.tracers.context",
    "langchain.embeddings": "langchain_openai.embeddings.base",
    "llama_index.hook": "llama_index_instrumentation",
}
_shared = TokenCounter()
_sinks: Sinks = ()
_budgets: tuple[Budget, ...] = ()
_open_calls: "dict[Call, None]" = {}
_settling = threading.Lock()
_watching = threading.Lock()
_watched = False


def shared_counter() -> TokenCounter:
    """Return the process-wide counter, which every recorded call reaches."""
    return _shared


def add_sink(sink: Callable[[UsageRecord], object]) -> None:
    """Give every record of this process to a sink, a callable of one UsageRecord, once even if it is added twice."""
    global _sinks  # noqa: PLW0603 (the process-wide state is in this module)
    if not callable(sink):
        raise TypeError(f"a sink is a callable of one UsageRecord, not {sink!r}")
    _sinks = (*(other for other in _sinks if other is not sink), sink)
    # Last registered is first called: the sink, which may flush itself at exit, is still to get the open calls.
    atexit.unregister(_record_open_calls)
    atexit.register(_record_open_calls)


def remove_sink(sink: Callable[[UsageRecord], object]) -> None:
    """Stop giving records to a sink; one that was never added is fine."""
    global _sinks  # noqa: PLW0603 (as above)
    _sinks = tuple(other for other in _sinks if other is not sink)


def add_budget(budget: Budget) -> None:
    """Check every call of this process against a budget, once even if it is added twice."""
    global _budgets  # noqa: PLW0603 (as above)
    _budgets = (*(other for other in _budgets if other is not budget), budget)


def remove_budgets() -> None:
    """Check calls against the budgets of the blocks around them alone."""
    global _budgets  # noqa: PLW0603 (as above)
    _budgets = ()


def starts_count(framework: str) -> bool:
    """Return whether a call that starts here is to be recorded."""
    return framework in automatic or any_scope()


def watch_frameworks() -> None:
    """Attach to LangChain and LlamaIndex, now or when the application imports them, if that is not done."""
    global _watched  # noqa: PLW0603 (as above)
    if _watched:
        return
    with _watching:
        if _watched:
            return
        pricing.load_prices()  # slow, so before the first call rather than inside it
        # By name: this module is below the frameworks' packages and must not import them.
        for hook, module in _HOOKS.items():
            wrapt.register_post_import_hook(f"token_handlers.{hook}:attach", module)
        _watched = True


def unwatch_llama_index() -> None:
    """Leave LlamaIndex's dispatcher as it was, until something is to be tracked again; LangChain's hook can stay."""
    global _watched  # noqa: PLW0603 (as above)
    hook = sys.modules.get("token_handlers.llama_index.hook")
    if hook is not None:
        with _watching:
            hook.detach()
            _watched = False


class Spent(NamedTuple):
    """What the end of a call tells.

    ``model`` is the name that the provider answered with, ``cost`` what the provider itself reported, in USD, and
    ``billed`` what prices the call where that is not what it used.
    """

    counts: Mapping[str, int]
    model: str | None = None
    source: Source = "reported"
    method: str | None = None
    outcome: Outcome = "success"
    cost: Decimal | None = None
    service_tier: str | None = None
    billed: Mapping[str, int] | None = None
    requests: int = 1


class More(TypedDict, total=False):
    """Spent's fields after the counts."""

    model: str | None
    source: Source
    method: str | None
    outcome: Outcome
    cost: Decimal | None
    service_tier: str | None
    billed: Mapping[str, int] | None
    requests: int


class Call:
    """A call that has started: what its end does not tell. A framework's package adds what it knows of the call."""

    # Class attributes are the defaults: a call is made in the application's time, and most of them stay as they are.
    operation: Operation = "chat"
    model: str | None = None
    provider: str | None = None
    base_url: str | None = None
    node: str | None = None
    labels: Labels = NO_LABELS
    sinks: Sinks = ()
    budgets: tuple[Budget, ...] = ()
    holds: Mapping[Budget, Hold] | None = None
    settled = False
    task: "asyncio.Task[object] | None" = None
    provisional: dict[TokenCounter, tuple[Entry, int]] | None = None

    def __init__(self, operation: Operation = "chat") -> None:
        if operation != "chat":
            self.operation = operation
        self.started_at = time.time()
        self.counters: list[TokenCounter] = [_shared]
        if _budgets:
            self.budgets = _budgets
        scopes = active_scopes()
        if scopes:
            self.labels = scopes[-1].labels
            for scope in scopes:
                self.count_for(scope.counter)
                self.sinks += scope.sinks
                if scope.budgets:
                    self.budgets += tuple(budget for budget in scope.budgets if budget not in self.budgets)

    def count_for(self, counter: TokenCounter) -> None:
        """Add this call to one more counter, once."""
        if counter not in self.counters:
            self.counters.append(counter)
            counter.open_calls.add(self)

    def watch_task(self) -> None:
        """Show this call as an estimate everywhere if the asyncio task that started it ends without ending the call.

        A cancelled ``ainvoke`` fires no event at all after its start, and is billed.
        """
        loop = asyncio._get_running_loop()  # noqa: SLF001 (the one that does not raise without a loop)
        if loop is not None:
            self.task = asyncio.current_task(loop)
            if self.task is not None:
                self.task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[object]") -> None:
        self.task = None
        if task.cancelled():
            abandon(self)
        else:
            show_everywhere(self)

    def estimate_prompt(self) -> int:
        """Return the tokens of what is about to be sent, estimated."""
        raise NotImplementedError

    def max_output(self) -> int:
        """Return the most output tokens that the call allows, 0 where it does not say."""
        return 0

    def estimate(self) -> tuple[dict[str, int], str]:
        """Return counts from what the events carried so far, and how they were estimated."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what the framework's package keeps of this call."""

    def describe(self) -> None:
        """Fill in model, provider and labels from what the start event carried."""


def open_call(call: Call) -> None:
    """Keep a call until it is recorded or dropped; the oldest becomes an estimate when there are too many."""
    _open_calls[call] = None
    if len(_open_calls) > MAX_OPEN_CALLS:
        oldest = next(iter(_open_calls), None)
        if oldest is not None:
            abandon(oldest)


def drop(call: Call) -> None:
    """Forget a call that was never sent, or that another call's record includes."""
    if _claim(call):
        _close(call)
        release(call)
        for counter, (entry, epoch) in (call.provisional or {}).items():
            counter.take_back(entry, epoch)


def abandon(call: Call) -> None:
    """Record a call that will not end as an estimate of what its events carried, and forget it."""
    call.forget()
    record_estimate(call)


@shielded
def record_estimate(call: Call) -> None:
    """Record a call by what its events carried."""
    counts, method = call.estimate()
    record(call, counts, source="estimated", method=method)


def record(call: Call, counts: Mapping[str, int], **more: Unpack[More]) -> None:
    """Record the end of a call, once: into its counters and the shared one, then into the sinks."""
    if _claim(call):
        _close(call)
        _enter(call, Spent(counts, **more))


def record_later(call: Call, read: Callable[[], Spent], known: Mapping[str, int]) -> None:
    """Record the end of a call, once, and read what it used when a total is asked for, or a sink is there.

    So the application's thread only queues the call. ``read`` keeps numbers and names alone: no text is to wait in it.
    Where it fails, ``known`` are the counts, and the call is flagged as an estimate.
    """
    if not _claim(call):
        return
    _close(call)
    if (
        call.provisional is not None
        or call.sinks
        or _sinks
        or call.budgets
        or any(counter.listeners for counter in call.counters)
    ):
        _enter(call, read())
        return
    late = LateEntry(call, read, known)
    for counter in call.counters:
        counter.apply(late)


class LateEntry:
    """What a call adds, worked out when the first of its counters sums up."""

    __slots__ = ("_call", "_entry", "_known", "_read")

    def __init__(self, call: Call, read: Callable[[], Spent], known: Mapping[str, int]) -> None:
        self._call, self._read, self._known = call, read, known
        self._entry: Entry | None = None

    def entry(self) -> Entry:
        """Return it."""
        if self._entry is None:
            self._entry = self._work_out() or make_entry(self._known, source="estimated")
        return self._entry

    @shielded
    def _work_out(self) -> Entry:
        return _price_entry(self._call, self._read())[0]


def _enter(call: Call, spent: Spent) -> None:
    entry, price = _price_entry(call, spent)
    sinks = (*_sinks, *call.sinks)
    for counter in call.counters:
        if call.provisional is not None and counter in call.provisional:
            counter.settle(*call.provisional[counter], entry)
        else:
            counter.apply(entry)
        if counter.listeners:
            sinks = (*sinks, *counter.listeners)
    if call.budgets:
        _book(call, spent, price[0])
    if sinks:
        _deliver(_record(call, spent, *price), sinks)


def _deliver(record: UsageRecord, sinks: Sinks) -> None:
    for position, sink in enumerate(sinks):
        if sink not in sinks[:position]:
            shielded(sink)(record)


@shielded
def reserve(call: Call) -> None:
    """Hold what a call may use in each of its budgets; where one has no room, drop the call and raise BudgetExceeded.

    To be called when the call is complete, and before it is sent.
    """
    holds: dict[Budget, Hold] = {}
    call.holds = holds
    asked = _asked(call)
    try:
        for budget in call.budgets:
            holds[budget] = budget.reserve(asked)
    except BudgetExceeded:
        call.forget()
        drop(call)
        raise


def release(call: Call) -> None:
    """Let go of what a call holds that is not sent, or that another call holds as well."""
    holds, call.holds = call.holds, None
    for budget, hold in (holds or {}).items():
        shielded(budget.release)(hold)


def _asked(call: Call) -> Asked:
    call.describe()
    tokens, cost = 0, None
    if any(budget.counts_tokens for budget in call.budgets):
        counts = {"input_tokens": call.estimate_prompt(), "output_tokens": call.max_output()}
        tokens = sum(counts.values())
        if any(budget.prices for budget in call.budgets):
            cost = _price(call, Spent(counts), call.model)[0]
    return Asked(tokens, cost, call.model, call.labels.session, call.labels.user)


def _book(call: Call, spent: Spent, cost: Decimal | None) -> None:
    """Book what a call used in its budgets; a rejected one was sent all the same, one from a cache was not."""
    if spent.outcome == "cached":
        release(call)
        return
    tokens = spent.counts.get("input_tokens", 0) + spent.counts.get("output_tokens", 0)
    amounts = Amounts(cost or Decimal(0), tokens, spent.requests)
    holds, call.holds = call.holds or {}, None
    for budget in call.budgets:
        shielded(budget.settle)(holds.get(budget), amounts, call.labels.session, call.labels.user)


def show_open(counter: TokenCounter) -> None:
    """Show the calls of a counter that are still open as estimates, until they end."""
    for call in list(counter.open_calls):
        if isinstance(call, Call):
            _show(call, (counter,))


def show_everywhere(call: Call) -> None:
    """Show an open call in all its counters, the shared one too, as an estimate until it ends."""
    _show(call, call.counters)


@shielded
def _show(call: Call, counters: "tuple[TokenCounter, ...] | list[TokenCounter]") -> None:
    counts, _ = call.estimate()
    entry, _ = _price_entry(call, Spent(counts, source="estimated"))
    with _settling:
        if call.settled:
            return
        if call.provisional is None:
            call.provisional = {}
        for counter in counters:
            if counter not in call.provisional:
                call.provisional[counter] = entry, counter.apply_provisional(entry)


def _claim(call: Call) -> bool:
    """Settle a call and return whether this is the first to do so; what is shown of it does not change any more."""
    with _settling:
        first, call.settled = not call.settled, True
    return first


def _close(call: Call) -> None:
    _open_calls.pop(call, None)
    if call.task is not None:
        call.task.remove_done_callback(call._task_done)  # noqa: SLF001 (this module's own)
        call.task = None
    for counter in call.counters:
        counter.open_calls.discard(call)


def _price_entry(call: Call, spent: Spent) -> tuple[Entry, tuple[Decimal | None, str | None]]:
    """Return what a call adds to its counters, and its cost with where that is from."""
    if call.model is None:
        call.describe()
    model = spent.model or call.model
    price = _price(call, spent, model)
    labels = label_pairs(model, call.labels.session, call.labels.user, call.node, call.labels.tags, call.provider)
    cost = price[0]
    entry = make_entry(spent.counts, call.operation, spent.outcome, spent.source, cost, cost, spent.requests, labels)
    return entry, price


def _price(call: Call, spent: Spent, model: str | None) -> tuple[Decimal | None, str | None]:
    if spent.outcome == "failed":
        return None, None
    if spent.cost is not None:
        return spent.cost, "reported"
    price = pricing.price_call(
        spent.counts if spent.billed is None else spent.billed,
        model,
        call.provider,
        requested=call.model,
        base_url=call.base_url,
        service_tier=spent.service_tier,
        at=call.started_at,
    )
    return price if price is not None else (None, None)


def _record(call: Call, spent: Spent, cost: Decimal | None, cost_source: str | None) -> UsageRecord:
    cached = spent.outcome == "cached"
    return UsageRecord(
        usage=Usage(**spent.counts),
        model=spent.model or call.model,
        provider=call.provider,
        operation=call.operation,
        outcome=spent.outcome,
        requests=spent.requests,
        source=spent.source,
        method=spent.method,
        session=call.labels.session,
        user=call.labels.user,
        tags=dict(call.labels.tags),
        node=call.node,
        cost=None if cached else cost,
        cost_source=cost_source,
        saved_cost=cost if cached else None,
        event_id=uuid.uuid4().hex,
        started_at=datetime.fromtimestamp(call.started_at, UTC),
        ended_at=datetime.now(UTC),
    )


def _after_fork() -> None:
    """Renew in a child the locks that another thread of the parent may have held."""
    global _settling, _watching
    _settling, _watching = threading.Lock(), threading.Lock()
    _shared.renew_lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def _record_open_calls() -> None:
    """Record what is still open when the process ends, so that a ledger has it."""
    for call in list(_open_calls):
        abandon(call)


def record_manual(
    record: UsageRecord,
    counters: Iterable[TokenCounter] = (),
    sinks: Sinks = (),
    budgets: tuple[Budget, ...] = (),
) -> None:
    """Record usage that the application counted itself: into the shared counter and these, then into the sinks."""
    entry = entry_of(record)
    reached = tuple(dict.fromkeys((_shared, *counters)))
    for counter in reached:
        counter.apply(entry)
    listeners = (listener for counter in reached for listener in counter.listeners)
    _deliver(record, (*_sinks, *sinks, *listeners))
    amounts = Amounts(record.cost or Decimal(0), record.usage.input_tokens + record.usage.output_tokens)
    for budget in dict.fromkeys((*_budgets, *budgets)):
        budget.settle(None, amounts, record.session, record.user)
