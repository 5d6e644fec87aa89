"""The one place that every call passes through at its end: its record, for counters, budgets and sinks."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from time import time
from typing import NamedTuple, TypedDict
from urllib.parse import urlsplit

from token_handlers.budget.limits import Amounts
from token_handlers.counter.counter import TokenCounter
from token_handlers.counter.totals import CallLabels, Increment, increment, increment_of
from token_handlers.errors import WHY, BudgetExceeded, absorb, shielded
from token_handlers.http import ProviderAnswer
from token_handlers.lifecycle import Warnings, after_fork, at_exit
from token_handlers.payloads import ReportedUsage
from token_handlers.pricing.calculator import current_book, price_call, price_state, was_cached
from token_handlers.pricing.price import Price
from token_handlers.tracking import reservations
from token_handlers.tracking.answers import billed_by_answers
from token_handlers.tracking.call import Call, oldest_beyond_limit, open_calls, unwatch_task
from token_handlers.tracking.result import (
    AS_REPORTED,
    DISCARD,
    NOTHING_REPORTED,
    UNREAD,
    CallResult,
    Incomplete,
    Verdict,
)
from token_handlers.tracking.scopes import Budgets, Labels, Sinks
from token_handlers.tracking.state import state
from token_handlers.usage import CostPart, Operation, RecordFields, Usage, UsageRecord, new_event_id, new_tuple

_MOST_SHOWN = 1_000
"""How many open calls a counter shows at once as estimates."""

_TERMS = slice(ReportedUsage._fields.index("billed"), None)
_NO_TERMS = NOTHING_REPORTED[_TERMS]

_unreported = Warnings()
_bill = shielded(billed_by_answers)


def finish(call: Call, verdict: Verdict) -> None:
    """Close a call, once, and record its end: what it used, its price, counters, budgets, one record for the sinks.

    A fault of ours on the way leaves what is known of the call, as an estimate; nothing that was reserved stays so.
    """
    reached: list[None] = []
    if not open_calls.pop(call, False):  # atomic, and without a lock, which the garbage collector might find taken
        return
    try:
        call.settled = True  # from here on no estimate of it is shown
        if call.task is not None:
            unwatch_task(call)
        for counter in call.context.own:
            counter.open_calls.pop(call, None)
        if call.answers or call.is_begun:
            verdict = _bill(call, verdict) or verdict
        if verdict is DISCARD:
            _undo(call)
        else:
            _record(call, verdict, reached)
    except BaseException as error:
        call.settled = True
        if verdict is not DISCARD:
            _count_the_rest(call, verdict, reached)
        if not isinstance(error, Exception):
            raise
        absorb(error, "recording what a call used")
    finally:
        if call.reservations:
            reservations.clear(call, was_sent=verdict is not DISCARD)


def _record(call: Call, verdict: CallResult | Incomplete, reached: list[None]) -> None:
    """Record the end of a call that is closed, and note in ``reached`` which counters have it."""
    result, price, added, fault = _read(call, verdict)
    if call.parents or call.answers:
        _tell(call, result.usage.counts)
    context = call.context
    sinks = (*state.sinks, *context.sinks) if state.sinks else context.sinks
    for counter in context.counters:
        # in one step, also for Ctrl-C: what a fault keeps from its counter is added after all, and nothing twice
        if call.shown:
            reached.append(counter.settle(call, added))  # type: ignore[func-returns-value]
        else:
            reached.append(counter.apply(added))  # type: ignore[func-returns-value]
        if counter.listeners:
            sinks = (*sinks, *counter.listeners)
    if call.shown:
        _catch_up(call)
    if call.budgets:
        reservations.settle(call, result, None if price is None else price.cost)
    if sinks:
        _deliver(EndedCall.of(call, result, price), sinks)
    if fault is not None:
        absorb(fault, "reading what a call used")


def _read(call: Call, verdict: CallResult | Incomplete) -> tuple[CallResult, Price | None, Increment, Exception | None]:
    """Return what a call used, its price, what it adds to counters, and our fault where reading that failed."""
    try:
        if call.model is None:
            call.describe()
        result = verdict if type(verdict) is CallResult else _estimated(call, verdict)
        usage = result.usage
        counts, model = usage.counts, usage.model or call.model
        # the address that was asked, as an environment variable or a client's own may have set another one
        url = call.answers[-1].request.url if call.answers else call.base_url
        # one request, billed by its counts alone: nearly all calls are, and these are priced and counted in few steps
        is_plain = usage.cost is None and usage[_TERMS] == _NO_TERMS and result[1:] == AS_REPORTED
        if is_plain and not (call.served or call.stand_ins):
            book = price_state.book or current_book()
            price = book.price((model, call.provider, url, usage.service_tier, call.model, ()), counts, call.started_at)
        else:
            price = None if result.outcome == "failed" else _price(call, usage, url)
        session, user, tags = call.labels
        named = tuple(tags.items()) if tags else ()
        labels = new_tuple(CallLabels, (model, session, user, call.node, named, call.provider))
        if is_plain and call.operation == "chat" and price is not None and not price.doubts:
            saved = price.cache_saved
            if saved is not None or not (counts.get("cache_read_tokens") or counts.get("cache_write_tokens")):
                numbers = {**counts, "successful_requests": 1}
                return result, price, new_tuple(Increment, (numbers, price.cost, None, labels, saved, 1)), None
        return result, price, _increment(call, result, price, labels), None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not the application's, and the call was made
        result = CallResult(verdict.usage or ReportedUsage({}), "estimated", "none")
        return result, None, increment(result.usage.counts, call.operation, source="estimated"), error


def _tell(call: Call, counts: Mapping[str, int]) -> None:
    """Tell the calls that made this one what it used, and its counters which answers they count."""
    for parent in call.parents:
        if parent.child_usages is not None:
            parent.child_usages.append(counts)
    for answer in call.answers:
        known_by = (
            answer.response_id,
            answer.request_id,
            (counts.get("input_tokens", 0), counts.get("output_tokens", 0)),
        )
        for counter in call.context.counters:
            counter.note_answer(known_by)


def _count_the_rest(call: Call, verdict: CallResult | Incomplete, reached: list[None]) -> None:
    """Add a call to the counters that a fault of ours has kept it from."""
    added = _read(call, verdict)[2]
    for counter in call.context.counters[len(reached) :]:
        counter.settle(call, added)
    _catch_up(call)


def _catch_up(call: Call) -> None:
    for counter in call.context.counters:
        counter.catch_up()


def discard(call: Call) -> None:
    """Forget a call that was never sent, or that another call's record includes."""
    call.forget()
    finish(call, DISCARD)


@shielded
def record_estimate(call: Call) -> None:
    """Record a call that will not end as an estimate of what its events carried, and forget it."""
    call.forget()
    finish(call, Incomplete())


def task_ended(call: Call, cancelled: bool) -> None:  # noqa: FBT001 (a callback)
    """Record an open call whose asyncio task was cancelled; show it as an estimate where the task has just ended."""
    if cancelled:
        record_estimate(call)
    else:
        show_estimate(call)


def evict_oldest() -> None:
    """Record the oldest open call as an estimate where there are too many: for whoever opens one."""
    for call in oldest_beyond_limit():
        record_estimate(call)


def reserve(call: Call) -> None:
    """Reserve what a call may use in its budgets; where one has no room, discard the call and raise BudgetExceeded.

    To be called when the call is complete, and before it is sent.
    """
    call.is_sent = False
    try:
        reservations.reserve(call)
        call.is_sent = True
    except BaseException as error:  # also what ends the program while somebody is asked
        if isinstance(error, Exception) and not isinstance(error, BudgetExceeded):
            call.is_sent = True  # a fault of ours keeps no call from being sent and counted
            absorb(error, "reserving in a budget")
            return
        discard(call)
        raise


def show_estimate(call: Call) -> None:
    """Show an open call in all its counters, the shared one too, as an estimate until it ends."""
    _show(call, call.context.counters)


def show_open(counter: TokenCounter) -> None:
    """Show the calls of a counter that are still open as estimates, as far as each has come."""
    for call in [*counter.open_calls][:_MOST_SHOWN]:
        if call.is_sent and (call.shown or {}).get(counter) != call.progress():
            _show(call, (counter,))


TokenCounter.show_open = show_open


@shielded
def _show(call: Call, counters: tuple[TokenCounter, ...]) -> None:
    progress = call.progress()
    _, _, added, fault = _read(call, UNREAD)
    if fault is not None:
        raise fault
    if call.settled:
        return
    call.shown = {**(call.shown or {}), **dict.fromkeys(counters, progress)}
    for counter in counters:
        counter.show(call, added)


def _undo(call: Call) -> None:
    for counter in call.shown or ():
        counter.hide(call)


def _estimated(call: Call, verdict: Incomplete) -> CallResult:
    """Return what a call used where not all of it was reported: what was, and an estimate of the rest."""
    usage = verdict.usage
    counts, method = call.estimate(verdict.text)
    if verdict.remedy is not None:
        _warn_unreported(verdict.model or call.model or "the model", verdict.remedy)
    if usage is None:
        return CallResult(ReportedUsage(counts, model=verdict.model), "estimated", method, requests=verdict.requests)
    reported = {name: number for name, number in usage.counts.items() if number or name not in counts}
    both = {**counts, **reported}
    if verdict.interrupted and "output_tokens" in counts:
        # A usage that was reported before the end, as Anthropic's is, has the prompt, but hardly the answer.
        both["output_tokens"] = max(counts["output_tokens"], usage.counts.get("output_tokens", 0))
    usage = usage._replace(counts=both, model=verdict.model or usage.model, cost=None)
    return CallResult(usage, "estimated", f"partial+{method}", requests=verdict.requests)


def _price(call: Call, usage: ReportedUsage, url: str | None) -> Price | None:
    """Return what a call costs: what the provider stated, else by price; None where it is unknown."""
    if usage.cost is not None and not was_cached(usage.counts):
        return Price(usage.cost, "reported")
    counts = usage.counts if usage.billed is None else usage.billed
    model = usage.model or call.model
    stand_in = call.stand_ins.get(model or "")
    if stand_in is not None:
        return price_call(counts, *stand_in, at=call.started_at)
    price = price_call(
        counts,
        model,
        call.provider,
        requested=call.model,
        base_url=url,
        service_tier=usage.service_tier,
        at=call.started_at,
        context={**call.served, **usage.context},
        beside=usage.beside,
        warns=usage.cost is None,
    )
    if usage.cost is None:
        return price
    return Price(usage.cost, "reported", cache_saved=None if price is None else price.cache_saved)


def _increment(call: Call, result: CallResult, price: Price | None, labels: CallLabels) -> Increment:
    usage, outcome, source, requests = result.usage, result.outcome, result.source, result.requests
    cost, doubts, saved = (None, (), None) if price is None else (price.cost, price.doubts, price.cache_saved)
    doubted = bool(doubts or usage.doubts)
    return increment(usage.counts, call.operation, outcome, source, cost, cost, requests, labels, doubted, saved)


class _Made(TypedDict, total=False):
    fields: RecordFields
    record: UsageRecord


class EndedCall(NamedTuple):
    """What a record is made of, without a prompt or an answer: sinks may make it later, in a thread of their own.

    ``made`` has the record and its fields once somebody made them: all sinks get the same.
    """

    operation: Operation
    provider: str | None
    base_url: str | None
    model: str | None
    node: str | None
    labels: Labels
    result: CallResult
    price: Price | None
    answer: ProviderAnswer | None
    served: Mapping[str, str]
    started_at: float
    ended_at: float
    made: _Made

    @classmethod
    def of(cls, call: Call, result: CallResult, price: Price | None) -> "EndedCall":
        """Return what is known of a call."""
        answer = call.answers[-1] if call.answers else None
        served, context = call.served, result.usage.context
        if context:
            served = {**served, **context}
        facts = call.operation, call.provider, call.base_url, call.model, call.node, call.labels
        return new_tuple(cls, (*facts, result, price, answer, served, call.started_at, time(), {}))

    def __call__(self) -> UsageRecord:
        """Return the record, the same one each time."""
        made = self.made
        return made.get("record") or made.setdefault("record", self._record())  # of threads at once, whose is first

    def fields(self) -> RecordFields:
        """Return what the record is made of beside its counts, unchecked: for a sink that needs no record."""
        made = self.made
        return made.get("fields") or made.setdefault("fields", self._new_fields())

    def _record(self) -> UsageRecord:
        return UsageRecord(usage=Usage(**self.result.usage.counts), **self.fields())

    def _new_fields(self) -> RecordFields:
        result, usage, labels, price, answer = self.result, self.result.usage, self.labels, self.price, self.answer
        cached = result.outcome == "cached"
        cost, cost_source = (None, None) if price is None else (price.cost, price.source)
        return {
            "model": usage.model or self.model,
            "requested_model": self.model,
            "provider": self.provider,
            "operation": self.operation,
            "outcome": result.outcome,
            "requests": result.requests,
            "source": result.source,
            "method": result.method,
            "session": labels.session,
            "user": labels.user,
            "tags": labels.tags,
            "node": self.node,
            "cost": None if cached else cost,
            "cost_source": cost_source,
            "saved_cost": cost if cached else None,
            "cache_saved_cost": None if cached or price is None else price.cache_saved,
            "doubts": usage.doubts if price is None else (*usage.doubts, *price.doubts),
            "cost_breakdown": () if price is None or cached else _breakdown(price) or (),
            "service_tier": usage.service_tier,
            "region": usage.context.get("region") or usage.context.get("inference_geo"),
            "host": _host(self.base_url) if answer is None else answer.request.host,
            "served": self.served,
            "billed": usage.billed,
            "beside": usage.beside,
            "request_id": None if answer is None else answer.request_id or answer.response_id,
            "organization": None if answer is None else answer.organization,
            "project": None if answer is None else answer.project,
            "chunk_seconds": () if answer is None else answer.chunk_seconds,
            "event_id": new_event_id(),
            "started_at": datetime.fromtimestamp(self.started_at, UTC),
            "ended_at": datetime.fromtimestamp(self.ended_at, UTC),
        }


@shielded
def _breakdown(price: Price) -> tuple[CostPart, ...]:
    return price.parts


def _host(url: str | None) -> str | None:
    try:
        return urlsplit(url).hostname if url else None
    except ValueError:
        return None


def _deliver(make: EndedCall | Callable[[], UsageRecord], sinks: Sinks) -> None:
    """Give a record to each sink, once; what a sink raises on purpose is raised when all have it."""
    raised: BaseException | None = None
    record: UsageRecord | None = None
    for position, sink in enumerate(sinks):
        if position and sink in sinks[:position]:
            continue
        try:
            defer = getattr(sink, "defer", None)
            if defer is not None:
                defer(make)
                continue
            record = record or make()
            sink(record)
        except Exception as error:  # noqa: BLE001 - a sink's fault is not the application's
            try:
                absorb(error, getattr(sink, "__qualname__", repr(type(sink))))
            except Exception as kept:  # noqa: BLE001 - BudgetExceeded, or in a test suite any
                raised = raised or kept
        except BaseException as error:  # noqa: BLE001 - it goes on below
            raised = raised or error
    if raised is not None:
        raise raised


def add_sink(sink: Callable[[UsageRecord], object]) -> None:
    """Give every record of this process to a sink, a callable of one UsageRecord, once even if it is added twice."""
    if not callable(sink):
        raise TypeError(f"a sink is a callable of one UsageRecord, not {sink!r}")
    state.sinks = (*(other for other in state.sinks if other is not sink), sink)


def remove_sink(sink: Callable[[UsageRecord], object]) -> None:
    """Stop giving records to a sink; one that was never added is fine."""
    state.sinks = tuple(other for other in state.sinks if other is not sink)


def record_open_calls() -> None:
    """Record what is still open when the process ends, so that a ledger has it."""
    for call in list(open_calls):
        record_estimate(call)


def leave_to_parent() -> None:
    """In a forked child, forget the open calls: they go on in the parent, which records them."""
    for call in list(open_calls):
        call.answers, call.is_begun = (), False
        # what a fleet's store holds for a call, the parent releases
        held = (call.reservations or {}).items()
        call.reservations = {budget: reservation for budget, reservation in held if not budget.is_shared}
        discard(call)


def record_manual(
    record: UsageRecord,
    counters: Iterable[TokenCounter] = (),
    sinks: Sinks = (),
    budgets: Budgets = (),
) -> None:
    """Record usage that the application counted itself: into the shared counter and these, then into the sinks."""
    added = increment_of(record)
    reached = tuple(dict.fromkeys((state.counter, *counters)))
    for counter in reached:
        counter.apply(added)
    amounts = Amounts(record.cost or Decimal(0), record.usage.input_tokens + record.usage.output_tokens)
    for budget in dict.fromkeys((*state.budgets, *budgets)):
        reservations.book(budget, amounts, record.session, record.user, record.tags)
    listeners = (listener for counter in reached for listener in counter.listeners)
    _deliver(lambda: record, (*state.sinks, *sinks, *listeners))


def _warn_unreported(name: str, remedy: str) -> None:
    message = "%s reported no usage: its tokens are estimated and counted in estimated_requests; %s (%s)"
    _unreported.warn(name, message, name, remedy, WHY)


after_fork(leave_to_parent)
at_exit(record_open_calls, first=True)  # the sinks, which flush themselves at exit, are still to get the open calls
