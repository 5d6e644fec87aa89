"""Budget: limits that a call is checked against before it is sent.

What a call may use is reserved while it is under way, so that calls at the same time can't exceed a limit together; at
its end what it used is booked instead. While a limit is far, an upper bound is reserved, which is cheap to know, and
prompts are estimated only where these bounds leave no room for a call.
"""

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from decimal import Decimal
from functools import partial
from typing import Literal

from token_handlers.budget.alerts import Alerts
from token_handlers.budget.limits import (
    PER_MINUTE,
    UNITS,
    Amounts,
    BudgetWarning,
    Limits,
    Reservation,
    ReservationResult,
    Spent,
    Store,
    Window,
    check_store,
    checked_callback,
    checked_each,
    checked_limits,
    checked_shares,
    checks_of,
    one_of,
    text,
)
from token_handlers.budget.local_store import LocalStore, current_window
from token_handlers.budget.shared_store import SharedStore
from token_handlers.budget.webhook import Webhook
from token_handlers.errors import BudgetExceeded, StoreUnavailable, shielded
from token_handlers.lifecycle import Warnings

__all__ = ["Amounts", "Budget", "BudgetWarning", "Spent"]

HOLD_SECONDS = 600.0

_INTERNAL = frozenset({"counts_tokens", "is_shared", "may_overdraw", "open", "prices", "release", "reserve", "settle"})
_overdrawn: ContextVar[tuple["Budget", ...]] = ContextVar("token_handlers_overdrawn", default=())


class Budget:
    """Limits on what calls may use, inclusive, for ``track_tokens(budget=...)``, ConversationTracker and install().

    Before a call is sent, its prompt (counted), its max_tokens and the fees of the tools that it may use are reserved,
    as far as the call states them; a call for which there is no room is not sent, and raises BudgetExceeded. What a
    call does not limit is not reserved, so that the answers of the calls under way may go beyond the limit, and the
    next call is refused. ``max_cost`` is in USD: a Decimal, str, int or float. ``max_tokens`` are input and output
    tokens, embeddings included. ``max_requests`` are those sent, rejected ones included. ``max_cost_per_minute``, USD
    in any 60 seconds, stops an agent that runs away; it is for a budget of this process.

    ``per`` is 'hour', 'day' or 'month' (UTC): the other limits then hold in each. ``each`` is 'session', 'user' or the
    name of a tag, such as 'thread_id': the limits then hold for each of its values, as the blocks around a call name
    them; calls without one share an account. Each has an account of its own, however many there are: those out of use
    wait in a temporary file. If the disk is full, the accounts that were unused the longest begin again at 0, with a
    warning, or with ``on_outage='fail_closed'`` new ones are refused.

    ``on_warning`` is called with a BudgetWarning when the share ``warn_at`` of a limit is spent, or each of several
    shares, such as (0.5, 0.8, 0.95): once for each, in each window; without it that is logged. It may be a URL, to
    which the warning is POSTed as JSON from a background thread. ``on_exceeded`` is called with the BudgetExceeded
    before it is raised: where it returns something true the call is sent all the same; it may raise the limits by
    `set_limits`. ``unpriced`` says what happens to calls of a model without a price under max_cost: 'warn' (they are
    sent, with one warning), 'allow' or 'refuse'.

    ``store`` is a RedisCounter: the budget is then one for all processes that name the same ``scope``. ``on_outage``
    says what happens while its server can't be used: 'fail_open' (calls are sent, and booked later) or 'fail_closed'
    (they raise BudgetExceeded). There is no default. If a process dies, what its calls reserved there is free again
    after ``hold_seconds``, by default 600, which must be longer than any call takes.

    Raises ValueError or TypeError for an argument that is not valid, and names it.
    """

    def __init__(
        self,
        *,
        max_cost: Decimal | str | float | None = None,
        max_tokens: int | None = None,
        max_requests: int | None = None,
        max_cost_per_minute: Decimal | str | float | None = None,
        per: Window | None = None,
        each: str | None = None,
        warn_at: float | Sequence[float] | None = 0.8,
        on_warning: Callable[[BudgetWarning], object] | str | None = None,
        on_exceeded: Callable[[BudgetExceeded], object] | None = None,
        unpriced: Literal["warn", "allow", "refuse"] = "warn",
        scope: str | None = None,
        store: Store | None = None,
        on_outage: Literal["fail_open", "fail_closed"] | None = None,
        hold_seconds: float | None = None,
    ) -> None:
        limits = checked_limits(max_cost, max_tokens, max_requests, max_cost_per_minute)
        if not any(limits.values()):
            raise ValueError("a Budget needs a limit: max_cost, max_tokens, max_requests or max_cost_per_minute")
        if store is not None and PER_MINUTE in limits:
            raise ValueError("max_cost_per_minute is for a budget of this process, without a store")
        self._per = one_of("per", per, (None, "hour", "day", "month"))
        self._each = checked_each(each)
        self._unpriced = one_of("unpriced", unpriced, ("warn", "allow", "refuse"))
        shares = checked_shares("warn_at", warn_at)
        notify = Webhook(on_warning) if isinstance(on_warning, str) else checked_callback("on_warning", on_warning)
        self._on_exceeded = checked_callback("on_exceeded", on_exceeded)
        check_store(store, scope, each, on_outage, hold_seconds)
        self.scope = scope
        self._fails_open = on_outage == "fail_open"
        self._store: LocalStore | SharedStore = (
            LocalStore(per, forgets=on_outage != "fail_closed")
            if store is None
            else SharedStore(store, per, HOLD_SECONDS if hold_seconds is None else hold_seconds)
        )
        self._account_of_all = self._account(None)
        self._alerts = Alerts(shares, notify)
        self._unpriced_models = Warnings()
        self._refusals: weakref.WeakSet[BudgetExceeded] = weakref.WeakSet()
        self._limits: Limits = limits
        self._use_limits(limits)

    @property
    def limits(self) -> Limits:
        """The limits by name: max_cost (USD, Decimal), max_tokens, max_requests, each None where it is not set.

        max_cost_per_minute (USD, Decimal) is among them only if it was set.
        """
        return dict(self._limits)

    def set_limits(
        self,
        *,
        max_cost: Decimal | str | float | None = None,
        max_tokens: int | None = None,
        max_requests: int | None = None,
        max_cost_per_minute: Decimal | str | float | None = None,
    ) -> None:
        """Replace the limits that are given and keep the others; warnings are given again.

        Raises ValueError as the constructor does.
        """
        given = checked_limits(max_cost, max_tokens, max_requests, max_cost_per_minute)
        if self.is_shared and PER_MINUTE in given:
            raise ValueError("max_cost_per_minute is for a budget of this process, without a store")
        self._use_limits({**self._limits, **{name: limit for name, limit in given.items() if limit is not None}})

    def spent(self, name: str | None = None) -> Amounts:
        """Return the Amounts (USD, tokens, requests) that are booked in this window.

        ``name`` is the session, user or tag whose account it is, for a budget with ``each``. A fleet's store is
        asked over the network: raises StoreUnavailable where it does not answer.
        """
        return self._store.state(self._account(name)).spent

    def held(self, name: str | None = None) -> Amounts:
        """Return the Amounts that the calls under way have reserved, with estimated prompts; as `spent`."""
        if isinstance(self._store, LocalStore):
            self._store.estimate_bounds(self._account(name))
        return self._store.state(self._account(name)).reserved

    def refused(self, error: BudgetExceeded) -> bool:
        """Return whether this budget raised an error, where several apply."""
        return error in self._refusals

    def __repr__(self) -> str:
        limits = ", ".join(f"{name}={limit}" for name, limit in self._limits.items() if limit is not None)
        return f"<Budget {self._title(None)}: {limits}>"

    def __dir__(self) -> Iterable[str]:
        return [name for name in super().__dir__() if name not in _INTERNAL]

    @property
    def is_shared(self) -> bool:
        """Whether other processes have it too."""
        return not isinstance(self._store, LocalStore)

    def open(self, reservation: Reservation) -> Reservation:
        """Give a reservation its account, and return it; nothing is reserved yet."""
        session, user, tags = reservation.asker.labels
        if self._each == "session":
            reservation.name = session
        elif self._each == "user":
            reservation.name = user
        elif self._each is not None:
            reservation.name = tags.get(self._each)
        reservation.account = self._account(reservation.name)
        return reservation

    def reserve(self, reservation: Reservation) -> None:
        """Reserve what a call may use; raise BudgetExceeded where there is no room for it, and nobody allows it.

        Whatever happens, its owner can release it.
        """
        store = self._store
        if self._each is None:
            reservation.account = self._account_of_all
        else:
            self.open(reservation)
        if reservation.unpriced and self.prices:
            self._check_price(reservation)
        if isinstance(store, LocalStore):
            try:
                result = store.reserve(reservation, self._checks, self._per_minute)
                if result is None:
                    return
                error = self._reserve_estimated(store, reservation, result)
            except StoreUnavailable as outage:
                error = self._outage(reservation, outage)
        else:
            reservation.amounts = reservation.exact()
            error = self._ask(store, reservation)
        if error is not None:
            if not self._allows(error):
                raise error
            with suppress(StoreUnavailable):  # it is booked at its end
                store.reserve(reservation, {})

    def settle(self, reservation: Reservation, amounts: Amounts) -> None:
        """Book what a call used in place of what it reserved, once; what reserved nothing is opened before."""
        booked = self._store.settle(reservation, amounts)
        if booked is not None:  # asking a fleet's store would take time: reserving does that anyway
            self._alerts.check(*booked, reservation.account, partial(self._title, reservation.name))

    def release(self, reservation: Reservation, *, wait: bool = False) -> None:
        """Release what a call reserved that used nothing; with ``wait`` before this returns."""
        self._store.release(reservation, wait=wait)

    @contextmanager
    def may_overdraw(self) -> Iterator[None]:
        """Let the calls that are made here be sent beyond its limits, and book them."""
        token = _overdrawn.set((*_overdrawn.get(), self))
        try:
            yield
        finally:
            _overdrawn.reset(token)

    def _use_limits(self, limits: Limits) -> None:
        self._limits = limits
        self._checked = {name: limit for name, limit in limits.items() if limit is not None}
        self._checks, self._per_minute = checks_of(limits), limits.get(PER_MINUTE)
        self.prices = "max_cost" in self._checked or PER_MINUTE in self._checked
        self.counts_tokens = self.prices or "max_tokens" in self._checked
        self._alerts.watch(self._checked)
        if isinstance(self._store, LocalStore):
            self._store.keeps_minute, self._store.lowest = self._per_minute is not None, self._alerts.lowest
        self._unpriced_models.forget()

    def _reserve_estimated(
        self, store: LocalStore, reservation: Reservation, result: ReservationResult
    ) -> BudgetExceeded | None:
        """Reserve what this call and those under way are estimated to use, where their upper bounds leave no room."""
        refusal: ReservationResult | None = result
        if result.exceeded != "max_requests":
            store.estimate_bounds(reservation.account)
            reservation.amounts, reservation.is_bound = reservation.exact(), False
            refusal = store.reserve(reservation, self._checks, self._per_minute)
        return None if refusal is None else self._exceeded(refusal, reservation)

    def _ask(self, store: SharedStore, reservation: Reservation) -> BudgetExceeded | None:
        """Reserve within the limits in a fleet's store."""
        window = current_window(self._per)  # before asking what was spent: in a new one less is
        try:
            result = store.reserve(reservation, self._checked)
        except StoreUnavailable as error:
            return None if self._fails_open else self._outage(reservation, error)
        self._alerts.check(result.spent, window, reservation.account, partial(self._title, reservation.name))
        return None if result.exceeded is None else self._exceeded(result, reservation)

    @shielded
    def _allows(self, error: BudgetExceeded) -> bool:
        """Return whether on_exceeded, or a block, lets a call be sent all the same."""
        if self in _overdrawn.get():
            return True
        answer = self._on_exceeded(error) if self._on_exceeded is not None else False
        if inspect.iscoroutine(answer):  # it would be true, and nobody awaits it
            answer.close()
            raise TypeError(f"on_exceeded must be an ordinary function, but {self._on_exceeded!r} is asynchronous")
        return bool(answer)

    def _exceeded(self, result: ReservationResult, reservation: Reservation) -> BudgetExceeded:
        limit = result.exceeded or ""
        spent, held, asked = (one.under(limit) for one in (result.spent, result.reserved, reservation.amounts))
        maximum = self._limits[limit]
        under_way = f", {text(held)} held by calls under way" if held else ""
        when = " in the last minute" if limit == PER_MINUTE else ""
        reason = (
            f"{self._title(reservation.name)} has {limit}={maximum}{UNITS.get(limit, '')}: {text(spent)} spent{when}"
            f"{under_way}, and this call may take {text(asked)}"
        )
        return self._refusal(reservation, reason, limit, maximum, spent)

    def _outage(self, reservation: Reservation, error: StoreUnavailable) -> BudgetExceeded:
        return self._refusal(reservation, f"{self._title(reservation.name)} fails closed: {error}")

    def _refusal(
        self,
        reservation: Reservation,
        reason: str,
        limit: str | None = None,
        maximum: Decimal | int | None = None,
        spent: Decimal | int | None = None,
    ) -> BudgetExceeded:
        model, scope = reservation.asker.model, self._title(reservation.name)
        message = f"{model or 'the model'} was not called: {reason}"
        error = BudgetExceeded(message, scope=scope, limit=limit, maximum=maximum, spent=spent, model=model)
        self._refusals.add(error)
        return error

    def _check_price(self, reservation: Reservation) -> None:
        """Warn of a model that has no price, or raise BudgetExceeded, as ``unpriced`` says."""
        model = reservation.asker.model
        limit = "max_cost" if self._limits["max_cost"] is not None else PER_MINUTE
        if self._unpriced == "refuse":
            reason = f"it has no price, and {self._title(reservation.name)} has a {limit}: set_price({model!r}, ...)"
            error = self._refusal(reservation, reason, limit, self._limits[limit])
            if not self._allows(error):
                raise error
        if self._unpriced == "warn":
            self._unpriced_models.warn(
                model,
                "%s has no price, so %s does not see its cost: set_price(%r, ...), or Budget(unpriced='refuse')",
                model or "the model",
                self._title(None),
                model,
            )

    def _account(self, name: str | None) -> str:
        """Return the name of an account in the store; that of a fleet has accounts of other budgets, too."""
        parts = (self.scope or "budget", self._each, name)
        return "/".join(part for part in parts if part is not None)

    def _title(self, name: str | None) -> str:
        title = f"budget {self.scope!r}" if self.scope is not None else "the budget"
        if name is not None:
            title += f" of {self._each} {name!r}"
        return f"{title} per {self._per}" if self._per is not None else title


def check_budget(budget: object) -> None:
    """Raise a TypeError where a budget is none, such as a number."""
    if not isinstance(budget, Budget):
        raise TypeError(f"budget must be a Budget, not {budget!r}: write Budget(max_cost=...)")
