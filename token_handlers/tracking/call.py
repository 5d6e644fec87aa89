"""Calls that have started, until they end."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import time

from token_handlers.budget.budget import Budget
from token_handlers.budget.limits import Reservation
from token_handlers.budget.tool_fees import NO_FEES, AllowedFees
from token_handlers.counter.counter import TokenCounter
from token_handlers.errors import absorb
from token_handlers.http import ProviderAnswer
from token_handlers.payloads import NO_CONTEXT
from token_handlers.pricing.sellers import NO_STAND_INS, Sold
from token_handlers.tokenizer import estimates
from token_handlers.tracking.scopes import Budgets, CallContext, JointContext, Labels, active, active_scopes, unusual
from token_handlers.tracking.state import state
from token_handlers.tracking.surroundings import activity, in_run, labels_here, labels_in_run
from token_handlers.usage import Operation

MAX_OPEN_CALLS = 10_000
"""How many calls may be open at once; beyond it the oldest is recorded as an estimate."""

open_calls: "dict[Call, bool]" = {}
"""The calls that have started and not yet ended, the oldest first. Whoever takes a call out is the one to record it."""


process_context = JointContext(state.counter, ())
"""The context of calls that start outside of all blocks."""

state.counter.open_calls = open_calls  # every call reaches the shared counter


def current_context() -> CallContext:
    """Return the context of a call that starts here."""
    scopes = active_scopes() if unusual else active.get()
    if len(scopes) == 1:
        return scopes[0]
    if not scopes:
        return process_context
    innermost = scopes[-1]
    if innermost.joint is None or not innermost.joint.is_of(scopes):
        innermost.joint = JointContext(state.counter, scopes)
    return innermost.joint


class Call:
    """A call that has started: what its end does not say. A framework's package adds what it knows of the call.

    ``parents`` are the calls that made this one, and ``child_usages`` the counts of those that it made itself,
    None where it made none: it may only pass on what they used. ``shown`` are the counters in which an estimate of it
    stands, with its progress at the time. ``answers`` are the provider's own to the requests of this call; ``is_begun``
    is whether one of them began to come as a stream. ``served`` is what the client says of place and speed, under
    ReportedUsage's ``context`` keys. ``stand_ins`` are the models as which those of other names are counted and priced.
    """

    # Class attributes are the defaults: a call is made in the application's time, and most of them stay as they are.
    labels: Labels
    is_labelled_by_run = False  # True where the framework's package reads the labels of its own run
    operation: Operation = "chat"
    model: str | None = None
    provider: str | None = None
    base_url: str | None = None
    node: str | None = None
    budgets: Budgets = ()
    reservations: Mapping[Budget, Reservation] | None = None
    settled = False
    is_sent = True  # False while its budgets are asked
    task: "tuple[asyncio.Task[object], Callable[[object], None]] | None" = None
    shown: "dict[TokenCounter, int] | None" = None
    parents: "tuple[Call, ...]" = ()
    child_usages: list[Mapping[str, int]] | None = None
    answers: tuple[ProviderAnswer, ...] = ()
    is_begun = False
    served: Mapping[str, str] = NO_CONTEXT
    stand_ins: Mapping[str, Sold] = NO_STAND_INS

    def __init__(self, context: CallContext | None = None) -> None:
        self.started_at = time()
        if context is None:
            context = current_context()
        self.context = context
        self.labels = context.labels
        if activity.get() is not None or (not self.is_labelled_by_run and in_run()):
            self._label()
        if state.budgets:
            self.budgets = tuple(dict.fromkeys((*state.budgets, *context.budgets)))
        elif context.budgets:
            self.budgets = context.budgets
        if context.stand_ins:
            self.stand_ins = context.stand_ins
        for counter in context.own:
            counter.open_calls[self] = True
        open_calls[self] = True

    def _label(self) -> None:
        """Take the labels of what this call starts in."""
        try:
            if self.is_labelled_by_run:
                self.labels = labels_here(self.labels)
            else:
                self.labels, self.node = labels_in_run(self.labels)
        except Exception as error:  # noqa: BLE001 - as `shielded`, which takes longer to wrap this than it takes
            absorb(error, "labelling a call")

    def count_for(self, counter: TokenCounter) -> None:
        """Add this call to one more counter, once."""
        self.context = self.context.plus(counter)
        if counter is not state.counter:
            counter.open_calls[self] = True

    @property
    def counted_as(self) -> str | None:
        """The model whose tokenizer estimates: the one that this call's model stands for, else its own."""
        sold = self.stand_ins.get(self.model or "")
        return self.model if sold is None else sold.model

    def priced_as(self) -> tuple[str | None, str | None, str | None]:
        """Return the model, the provider and the address by which the call is priced."""
        if self.stand_ins and (sold := self.stand_ins.get(self.model or "")) is not None:
            return *sold, None
        return self.model, self.provider, self.base_url

    def progress(self) -> int:
        """Return a number that grows with what was received, so that an estimate is made again."""
        return 0

    def estimate_prompt(self) -> int:
        """Return the tokens of what is about to be sent, estimated."""
        raise NotImplementedError

    def prompt_bound(self) -> int | None:
        """Return a number of tokens that the prompt can't exceed, without estimating it; None where there is none."""
        return None

    def allowed_fees(self) -> AllowedFees:
        """Return what the tools that the call declares may be billed for, beside the tokens."""
        return NO_FEES

    def max_output(self) -> int:
        """Return the most output tokens that the call allows, 0 where it does not say."""
        return 0

    def is_cached(self) -> bool:
        """Return whether a cache will answer, and nothing is sent: asked where a budget refuses the call."""
        return False

    def estimate(self, text: str | None = None) -> tuple[dict[str, int], str]:
        """Return counts from the prompt and an answer's text, and how they were estimated.

        Without a ``text`` the answer is what was received so far.
        """
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what the framework's package keeps of this call."""

    def describe(self) -> None:
        """Fill in model, provider and labels from what the start event carried."""

    def sending(self) -> None:
        """Check what nobody has checked before a request is sent; raises BudgetExceeded."""

    def answered(self) -> None:
        """Note that one more of ``answers`` is there."""

    def relayed(self) -> None:
        """Note that a request went to a server in this process, whose own requests are the calls that are billed."""

    def add_parent(self, parent: "Call") -> None:
        """Note that another call makes this one."""
        if parent not in self.parents:
            self.parents = (*self.parents, parent)
        if parent.child_usages is None:
            parent.child_usages = []

    def reports_own_usage(self, counts: Mapping[str, int]) -> bool:
        """Return whether counts that this call reports are others than those of the calls that it made.

        Input and output decide: whatever parts are named beside them, two reports of the same usage agree on these.
        """
        if not self.child_usages:
            return False
        sides = ("input_tokens", "output_tokens")
        theirs = [tuple(map(one.get, sides)) for one in self.child_usages]
        total = tuple(sum(one.get(side, 0) for one in self.child_usages) for side in sides)
        return tuple(map(counts.get, sides)) not in (*theirs, total)


def bound_tokens(texts: Sequence[str]) -> int | None:
    """Return more tokens than messages of these texts have: their bytes, and 16 each for its role and markup.

    None where a counter was given to set_tokenizer, which may return any number.
    """
    if estimates.own_counter is not None:
        return None
    text = "".join(texts)
    return 16 * len(texts) + (len(text) if text.isascii() else 4 * len(text))


parent_finders: list[Callable[[Call], None]] = []
"""Callbacks that link a starting call to the enclosing call of another framework."""


def watch_task(call: Call, on_end: Callable[[Call, bool], object]) -> None:
    """Call back where the asyncio task ends that started a call which is still open, with whether it was cancelled.

    A cancelled ``ainvoke`` fires no event at all after its start, and is billed.
    """
    loop = asyncio._get_running_loop()  # noqa: SLF001 (the one that does not raise without a loop)
    task = asyncio.current_task(loop) if loop is not None else None
    if task is None:
        return

    def ended(_: object) -> None:
        call.task = None
        on_end(call, task.cancelled())

    call.task = task, ended
    task.add_done_callback(ended)


def unwatch_task(call: Call) -> None:
    """Undo `watch_task`."""
    if call.task is not None:
        task, ended = call.task
        task.remove_done_callback(ended)
        call.task = None


def oldest_beyond_limit() -> Sequence[Call]:
    """Return the oldest open call where there are more than MAX_OPEN_CALLS."""
    if len(open_calls) <= MAX_OPEN_CALLS:
        return ()
    try:
        return (next(iter(open_calls)),)
    except (RuntimeError, StopIteration):  # another thread opens or ends one, and sees to it
        return ()
