"""Budget: limits that a call is checked against before it is sent.

What a call may use is held while it is under way, so that calls at the same time can't pass a limit together; at its
end what it really used is booked in place of that.
"""

import inspect
import logging
import uuid
import weakref
from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from token_handlers.budget.limits import (
    Amounts,
    Asked,
    BudgetWarning,
    Hold,
    Limits,
    Reserved,
    Spent,
    Store,
    Window,
    check_store,
    checked_callback,
    checked_limits,
    checked_share,
    one_of,
    text,
)
from token_handlers.budget.local_store import LocalStore, current_window
from token_handlers.budget.warnings import Warnings, log_warning
from token_handlers.errors import BudgetExceeded, StoreUnavailable, shielded
from token_handlers.usage import EXACT

__all__ = ["Amounts", "Budget", "BudgetWarning", "Spent"]

logger = logging.getLogger("token_handlers")

HOLD_SECONDS = 600.0
_NANO = Decimal(10) ** -9


class Budget:
    """Limits on what calls may use, inclusive, for ``track_tokens(budget=...)``, ConversationTracker and install().

    Before a call is sent, its prompt (counted) and, where the call states it, its max_tokens are held; a call for which
    there is no room is not sent, and raises BudgetExceeded. Without a max_tokens only the prompt is held, so that the
    answers of the calls under way may go beyond the limit, and the next call is refused. ``max_cost`` is in USD: a
    Decimal, str, int or float. ``max_tokens`` are input and output tokens, embeddings included. ``max_requests`` are
    those sent, rejected ones included.

    ``per`` is 'hour', 'day' or 'month' (UTC): the limits then hold in each. ``each`` is 'session' or 'user': they then
    hold for each of those, as the blocks around a call name them. One budget may be given to any number of blocks.

    ``on_warning`` is called with a BudgetWarning, once for each limit (in each window) of which the share ``warn_at``
    is spent; without it that is logged. ``on_exceeded`` is called with the BudgetExceeded before it is raised: where it
    returns something true the call is sent all the same; it may raise the limits by `set_limits`. ``unpriced`` says
    what becomes of a model without a price under max_cost: 'warn' (it is sent, with a warning once), 'allow', 'refuse'.

    ``store`` is a RedisCounter: the budget is then one for all processes that name the same ``scope``. ``on_outage``
    says what happens while its server can't be used: 'fail_open' (calls are sent, and booked later) or 'fail_closed'
    (they raise BudgetExceeded). There is no default. What a call holds there whose process died is free again after
    ``hold_seconds``, by default 600, which is to be longer than any call takes.
    """

    def __init__(
        self,
        *,
        max_cost: Decimal | str | float | None = None,
        max_tokens: int | None = None,
        max_requests: int | None = None,
        per: Window | None = None,
        each: Literal["session", "user"] | None = None,
        warn_at: float | None = 0.8,
        on_warning: Callable[[BudgetWarning], object] | None = None,
        on_exceeded: Callable[[BudgetExceeded], object] | None = None,
        unpriced: Literal["warn", "allow", "refuse"] = "warn",
        scope: str | None = None,
        store: Store | None = None,
        on_outage: Literal["fail_open", "fail_closed"] | None = None,
        hold_seconds: float | None = None,
    ) -> None:
        _budgets.add(self)
        self._limits = checked_limits(max_cost, max_tokens, max_requests)
        if not any(self._limits.values()):
            raise ValueError("a Budget needs a limit: max_cost, max_tokens or max_requests")
        self._per = one_of("per", per, (None, "hour", "day", "month"))
        self._each = one_of("each", each, (None, "session", "user"))
        self._unpriced = one_of("unpriced", unpriced, ("warn", "allow", "refuse"))
        self._warn_at = checked_share("warn_at", warn_at)
        self._on_warning = checked_callback("on_warning", on_warning)
        self._on_exceeded = checked_callback("on_exceeded", on_exceeded)
        check_store(store, scope, on_outage, hold_seconds)
        self._hold_seconds = HOLD_SECONDS if hold_seconds is None else hold_seconds
        self.scope = scope
        self._store = store if store is not None else LocalStore(per)
        self._fails_open = on_outage == "fail_open"
        self._warnings = Warnings()
        self._refusals: weakref.WeakSet[BudgetExceeded] = weakref.WeakSet()

    @property
    def limits(self) -> Limits:
        """Its limits by name: max_cost (a Decimal), max_tokens and max_requests; None where there is none."""
        return dict(self._limits)

    def set_limits(
        self,
        *,
        max_cost: Decimal | str | float | None = None,
        max_tokens: int | None = None,
        max_requests: int | None = None,
    ) -> None:
        """Replace the limits that are given; the others stay, and it warns anew."""
        given = checked_limits(max_cost, max_tokens, max_requests)
        with self._warnings.lock:
            self._limits = {name: limit if given[name] is None else given[name] for name, limit in self._limits.items()}
            self._warnings.forget()

    def spent(self, name: str | None = None) -> Amounts:
        """Return what is booked in this window; ``name`` is the session or user of a budget for each of them.

        A fleet's store is asked over the network, and raises StoreUnavailable where it can't be.
        """
        return self._store.spent(self._account(name), self._per).spent

    def held(self, name: str | None = None) -> Amounts:
        """Return what the calls that are under way hold, likewise."""
        return self._store.spent(self._account(name), self._per).reserved

    def refused(self, error: BudgetExceeded) -> bool:
        """Return whether it was this budget that refused, where several hold."""
        return error in self._refusals

    def __repr__(self) -> str:
        limits = ", ".join(f"{name}={limit}" for name, limit in self._limits.items() if limit is not None)
        return f"<Budget {self._title(None)}: {limits}>"

    @property
    def is_shared(self) -> bool:
        """Whether other processes have it too."""
        return not isinstance(self._store, LocalStore)

    @property
    def prices(self) -> bool:
        """Whether a call's cost matters."""
        return self._limits["max_cost"] is not None

    @property
    def counts_tokens(self) -> bool:
        """Whether a call's tokens matter, by themselves or for its cost."""
        return self.prices or self._limits["max_tokens"] is not None

    def reserve(self, asked: Asked) -> Hold:
        """Hold what a call may use; raise BudgetExceeded where there is no room for it, and nobody allows it."""
        name = self._name(asked.session, asked.user)
        if asked.cost is None and self.prices:
            error = self._unpriced_refusal(asked, name)
            if error is not None and not self._allows(error):
                raise error
        hold = Hold(self._account(name), uuid.uuid4().hex)
        cost = (asked.cost or Decimal(0)).quantize(_NANO, ROUND_CEILING, EXACT)
        amounts = Amounts(cost, asked.tokens, 1)
        error = self._hold(hold, amounts, self._limits, name, asked.model)
        if error is not None:
            if not self._allows(error):
                raise error
            self._hold(hold, amounts, {}, name, asked.model)
        return hold

    def settle(self, hold: Hold | None, amounts: Amounts, session: str | None = None, user: str | None = None) -> None:
        """Book what a call used, in place of what it held, where it held anything."""
        name = self._name(session, user)
        hold = hold or Hold(self._account(name), uuid.uuid4().hex)
        cost, tokens, requests = amounts
        self._store.settle(hold.account, hold.reservation, cost=cost, tokens=tokens, requests=requests, wait=False)
        if isinstance(self._store, LocalStore):  # asking a fleet's store would take time: reserving does that anyway
            window = current_window(self._per)
            self._warn(name, self._store.glance(hold.account), window)

    def release(self, hold: Hold, *, wait: bool = False) -> None:
        """Let go of what a call held that used nothing; with ``wait`` before this returns."""
        self._store.release(hold.account, hold.reservation, wait=wait)

    def _hold(
        self, hold: Hold, amounts: Amounts, limits: Limits, name: str | None, model: str | None
    ) -> BudgetExceeded | None:
        cost, tokens, requests = amounts
        window = current_window(self._per)
        try:
            answer = self._store.reserve(
                hold.account,
                reservation=hold.reservation,
                cost=cost,
                tokens=tokens,
                requests=requests,
                limits=limits,
                window=self._per,
                ttl=self._hold_seconds,
            )
        except StoreUnavailable as error:
            if self._fails_open or not limits:
                return None
            return self._refusal(model, f"{self._title(name)} fails closed: {error}", name)
        if self.is_shared:
            self._warn(name, answer.spent, window)
        return None if answer.exceeded is None else self._exceeded(answer.exceeded, answer, amounts, name, model)

    @shielded
    def _allows(self, error: BudgetExceeded) -> bool:
        """Return whether on_exceeded lets a call be sent all the same."""
        answer = self._on_exceeded(error) if self._on_exceeded is not None else False
        if inspect.iscoroutine(answer):  # it would be true, and nobody awaits it
            answer.close()
            raise TypeError(f"on_exceeded must be an ordinary function, but {self._on_exceeded!r} is asynchronous")
        return bool(answer)

    def _exceeded(
        self, limit: str, answer: Reserved, amounts: Amounts, name: str | None, model: str | None
    ) -> BudgetExceeded:
        unit = " USD" if limit == "max_cost" else ""
        spent, held, asked = (one.under(limit) for one in (answer.spent, answer.reserved, amounts))
        maximum = self._limits[limit]
        under_way = f", {text(held)} held by calls under way" if held else ""
        reason = (
            f"{self._title(name)} has {limit}={maximum}{unit}: {text(spent)} spent{under_way}, and this call may "
            f"take {text(asked)}"
        )
        return self._refusal(model, reason, name, limit, maximum, spent)

    def _refusal(
        self,
        model: str | None,
        reason: str,
        name: str | None,
        limit: str | None = None,
        maximum: Decimal | int | None = None,
        spent: Decimal | int | None = None,
    ) -> BudgetExceeded:
        message = f"{model or 'the model'} was not called: {reason}"
        error = BudgetExceeded(message, scope=self._title(name), limit=limit, maximum=maximum, spent=spent, model=model)
        self._refusals.add(error)
        return error

    def _unpriced_refusal(self, asked: Asked, name: str | None) -> BudgetExceeded | None:
        if self._unpriced == "refuse":
            reason = f"it has no price, and {self._title(name)} has a max_cost: set_price({asked.model!r}, ...)"
            return self._refusal(asked.model, reason, name, "max_cost", self._limits["max_cost"])
        if self._unpriced == "warn" and self._warnings.is_news((None, str(asked.model), "")):
            logger.warning(
                "%s has no price, so %s does not see its cost: set_price(%r, ...), or Budget(unpriced='refuse')",
                asked.model or "the model",
                self._title(None),
                asked.model,
            )
        return None

    def _warn(self, name: str | None, spent: Amounts, window: str) -> None:
        """Warn of what was spent in a window, which is named before asking what was spent: a new one has spent less."""
        if self._warn_at is None:
            return
        for limit, maximum in self._limits.items():
            if maximum is None or spent.under(limit) < maximum * self._warn_at:
                continue
            if self._warnings.is_news((name, limit, window)):
                warning = BudgetWarning(self._title(name), limit, maximum, spent.under(limit))
                shielded(self._on_warning or log_warning)(warning)

    def _name(self, session: str | None, user: str | None) -> str | None:
        return {"session": session, "user": user}.get(self._each or "")

    def _account(self, name: str | None) -> str:
        """Return the name under which the store has the amounts; a fleet's has those of other budgets too."""
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


_budgets: "weakref.WeakSet[Budget]" = weakref.WeakSet()


def renew_locks() -> None:
    """Replace in a forked child what a thread of the parent may have held."""
    for budget in _budgets:
        budget._warnings.renew_lock()  # noqa: SLF001 (this module's own)
        if isinstance(budget._store, LocalStore):  # noqa: SLF001 (likewise)
            budget._store.renew_lock()  # noqa: SLF001 (likewise)
