"""Calls from start to end: record(), the one place that every call passes through, and the sinks and budgets behind."""

import asyncio
import atexit
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypedDict, Unpack

from token_handlers.budget.budget import Budget
from token_handlers.budget.budget import renew_locks as renew_budgets
from token_handlers.budget.limits import Amounts, Hold
from token_handlers.counter.counter import TokenCounter
from token_handlers.counter.totals import increment_of
from token_handlers.errors import shielded
from token_handlers.tracking.call import MAX_OPEN_CALLS, Call, open_calls
from token_handlers.tracking.context import renew_locks as renew_lanes
from token_handlers.tracking.reservations import asked, book, release
from token_handlers.tracking.result import Spent, Told, price_entry
from token_handlers.tracking.scopes import Budgets, Sinks
from token_handlers.tracking.state import renew_locks as renew_process
from token_handlers.tracking.state import state
from token_handlers.usage import Outcome, Source, Usage, UsageRecord


def add_sink(sink: Callable[[UsageRecord], object]) -> None:
    """Give every record of this process to a sink, a callable of one UsageRecord, once even if it is added twice."""
    if not callable(sink):
        raise TypeError(f"a sink is a callable of one UsageRecord, not {sink!r}")
    state.sinks = (*(other for other in state.sinks if other is not sink), sink)
    # Last registered is first called: the sink, which may flush itself at exit, is still to get the open calls.
    atexit.unregister(record_open_calls)
    atexit.register(record_open_calls)


def remove_sink(sink: Callable[[UsageRecord], object]) -> None:
    """Stop giving records to a sink; one that was never added is fine."""
    state.sinks = tuple(other for other in state.sinks if other is not sink)


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


def evict_oldest() -> None:
    """Record the oldest open call as an estimate where there are too many: for whoever opens one."""
    if len(open_calls) > MAX_OPEN_CALLS:
        try:
            oldest = next(iter(open_calls))
        except (RuntimeError, StopIteration):  # another thread opens or ends one, and sees to it
            return
        record_estimate(oldest)


def watch_task(call: Call) -> None:
    """Show a call as an estimate everywhere if the asyncio task that started it ends without ending the call.

    A cancelled ``ainvoke`` fires no event at all after its start, and is billed.
    """
    loop = asyncio._get_running_loop()  # noqa: SLF001 (the one that does not raise without a loop)
    task = asyncio.current_task(loop) if loop is not None else None
    if task is None:
        return

    def ended(_: object) -> None:
        call.task = None
        if task.cancelled():
            record_estimate(call)
        else:
            show_estimate(call)

    call.task = task, ended
    task.add_done_callback(ended)


def discard(call: Call) -> None:
    """Forget a call that was never sent, or that another call's record includes."""
    if _claim(call):
        release(call)
        if call.shown:
            for counter in call.lane.counters:
                counter.hide(call)


@shielded
def record_estimate(call: Call) -> None:
    """Record a call that will not end as an estimate of what its events carried, and forget it."""
    call.forget()
    counts, method = call.estimate()
    record(call, counts, source="estimated", method=method)


def record(call: Call, counts: Mapping[str, int], **more: Unpack[More]) -> None:
    """Record the end of a call, once: into its counters and the shared one, then into the sinks."""
    if _claim(call):
        _enter(call, Spent(counts, **more))


def record_later(call: Call, told: Told) -> None:
    """Record the end of a call, once, and read what it used when a total is asked for, or a sink is there.

    So the application's thread only queues the call. Where reading fails, what is known of it is flagged an estimate.
    """
    if not _claim(call):
        return
    lane = call.lane
    waited_for = state.sinks or lane.sinks or call.budgets or call.shown or call.parents
    if waited_for or (TokenCounter.any_listening and lane.is_heard()):
        _enter(call, told.read(call))
    else:
        lane.add(call, told)


def _enter(call: Call, spent: Spent) -> None:
    for outer in call.parents:
        if outer.child_usages is not None:
            outer.child_usages.append(spent.counts)
    entry, price = price_entry(call, spent)
    sinks = (*state.sinks, *call.lane.sinks)
    for counter in call.lane.counters:
        if call.shown:
            counter.settle(call, entry)
        else:
            counter.apply(entry)
        if counter.listeners:
            sinks = (*sinks, *counter.listeners)
    if call.budgets:
        book(call, spent, price[0])
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
    wanted = asked(call)
    try:
        for budget in call.budgets:
            holds[budget] = budget.reserve(wanted)
    except BaseException:  # also what ends the program while somebody is asked
        call.forget()
        discard(call)
        raise


def show_open(counter: TokenCounter) -> None:
    """Show the calls of a counter that are still open as estimates, until they end."""
    for call in list(counter.open_calls):
        if isinstance(call, Call):
            _show(call, (counter,))


def show_estimate(call: Call) -> None:
    """Show an open call in all its counters, the shared one too, as an estimate until it ends."""
    _show(call, call.lane.counters)


@shielded
def _show(call: Call, counters: tuple[TokenCounter, ...]) -> None:
    counts, _ = call.estimate()
    entry, _ = price_entry(call, Spent(counts, source="estimated"))
    if call.settled:
        return
    call.shown = True
    for counter in counters:
        counter.show(call, entry)


def _claim(call: Call) -> bool:
    """Settle a call, which closes it, and return whether this is the first to do so.

    From then on no estimate of it is shown.
    """
    call.settled = True
    if not open_calls.pop(call, False):  # atomic, and without a lock, which the garbage collector might find taken
        return False
    if call.task is not None:
        task, ended = call.task
        task.remove_done_callback(ended)
        call.task = None
    for counter in call.lane.own:
        counter.open_calls.discard(call)
    return True


def _record(call: Call, spent: Spent, cost: Decimal | None, cost_source: str | None) -> UsageRecord:
    cached = spent.outcome == "cached"
    return UsageRecord(
        usage=Usage(**spent.counts),
        model=spent.model or call.model,
        requested_model=call.model,
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
    renew_process()
    renew_lanes()
    renew_budgets()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def record_open_calls() -> None:
    """Record what is still open when the process ends, so that a ledger has it."""
    for call in list(open_calls):
        record_estimate(call)


def record_manual(
    record: UsageRecord,
    counters: Iterable[TokenCounter] = (),
    sinks: Sinks = (),
    budgets: Budgets = (),
) -> None:
    """Record usage that the application counted itself: into the shared counter and these, then into the sinks."""
    entry = increment_of(record)
    reached = tuple(dict.fromkeys((state.counter, *counters)))
    for counter in reached:
        counter.apply(entry)
    listeners = (listener for counter in reached for listener in counter.listeners)
    _deliver(record, (*state.sinks, *sinks, *listeners))
    amounts = Amounts(record.cost or Decimal(0), record.usage.input_tokens + record.usage.output_tokens)
    for budget in dict.fromkeys((*state.budgets, *budgets)):
        budget.settle(None, amounts, record.session, record.user)
