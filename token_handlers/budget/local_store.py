"""LocalStore: what the accounts of a budget have spent in this process, and what their calls have reserved."""

import functools
import logging
import time
import weakref
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice

from token_handlers.budget.limits import (
    NOTHING,
    PER_MINUTE,
    Amounts,
    BudgetState,
    Check,
    Reservation,
    ReservationResult,
)
from token_handlers.budget.shelf import Kept, Shelf
from token_handlers.errors import StoreUnavailable
from token_handlers.lifecycle import Warnings, after_fork, after_fork_in_parent, before_fork
from token_handlers.locks import DeferredLock
from token_handlers.usage import EXACT, new_tuple

logger = logging.getLogger("token_handlers")

MAX_ACCOUNTS = 10_000
"""How many accounts of a budget are in memory; those out of use wait on its Shelf while there are more."""

_WINDOWS = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}
_MINUTE = 60.0  # seconds
_add = EXACT.add


def now() -> datetime:
    """Return the time by which the window is chosen."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Return the seconds by which the last minute is measured."""
    return time.monotonic()


def current_window(per: str | None) -> str:
    """Return the current hour, day or month (UTC) as a text that sorts by time; '' without ``per``."""
    return now().strftime(_WINDOWS[per]) if per is not None else ""


class _Account:
    """What one session or user, or all of them, have spent and reserved.

    ``left`` is the window before this one and what was spent in it, as the clock may be set back. ``minute`` is the USD
    of each of the last 60 seconds, ``held`` the sum of the reservations ``under_way``.
    """

    __slots__ = ("held", "left", "minute", "spent", "under_way", "window")

    def __init__(self, kept: Kept) -> None:
        self.window, self.spent, self.left = kept
        self.held = NOTHING
        self.under_way: dict[Reservation, None] = {}
        self.minute: list[tuple[float, Decimal]] = []

    def turn_to(self, window: str) -> None:
        """Begin another window, or return to the one before."""
        if self.window != window:
            spent = self.left[1] if self.left is not None and self.left[0] == window else NOTHING
            self.left, self.window, self.spent = (self.window, self.spent), window, spent

    def last_minute(self) -> Decimal:
        """Return the USD of the calls that ended in the last minute."""
        start = monotonic() - _MINUTE
        while self.minute and self.minute[0][0] <= start:
            del self.minute[0]
        total = Decimal(0)
        for _, cost in self.minute:
            total = _add(total, cost)
        return total

    def spend_now(self, cost: Decimal, reservation: Reservation) -> None:
        """Note the USD of a call that ends now, once; those of one second are summed."""
        if reservation.in_minute:
            return
        time, end = monotonic(), len(self.minute)
        if end and time - self.minute[-1][0] < 1:
            end -= 1
            time, before = self.minute[end]
            cost = _add(before, cost)
        self.minute[end:], reservation.in_minute = [(time, cost)], True


def _too_fast(account: _Account, more: Amounts, per_minute: Decimal | int) -> ReservationResult | None:
    """Return a refusal where the last minute and the calls under way cost more than a minute may."""
    last = account.last_minute()
    if _add(last, more.cost) <= per_minute:
        return None
    return ReservationResult(False, PER_MINUTE, account.spent._replace(cost=last), account.held)


class LocalStore:
    """A budget's accounts in this process, by hour, day or month (UTC) or without an end; they end with the process.

    ``forgets`` says what happens where neither memory nor disk has room for more accounts: those out of use are
    forgotten, or else new ones are refused with StoreUnavailable. ``keeps_minute`` is whether it knows what the last
    minute cost. ``lowest`` are positions of Amounts, each with the amount from which on `settle` returns what is spent.
    """

    def __init__(self, per: str | None = None, *, forgets: bool = True, keeps_minute: bool = False) -> None:
        self._per = per
        self._forgets = forgets
        self.keeps_minute = keeps_minute
        self.lowest: Sequence[tuple[int, Decimal]] = ()
        self._lock = DeferredLock()
        self._accounts: dict[str, _Account] = {}
        self._shelf: Shelf | None = None
        self._copy: bytes | None = None
        self._windows = "", ""  # the last two: older ones are forgotten
        self._full = Warnings()
        _stores.add(self)

    def reserve(
        self, reservation: Reservation, checks: Iterable[Check], per_minute: Decimal | int | None = None
    ) -> ReservationResult | None:
        """Reserve what a call may use and return None, or return the refusal where the limits leave no room for it."""
        lock = self._lock
        with lock.rlock:  # in C, so that a signal's exception can't leave it taken
            if lock.waiting:
                lock.work()
            account = self._accounts.get(reservation.account)
            if account is None or self._per is not None:
                account = self._account(reservation.account, refuses=not self._forgets)
            spent, held = account.spent, account.held
            more = reservation.amounts if held is NOTHING else held.plus(reservation.amounts)
            refusal: ReservationResult | None
            for limit, position, maximum in checks:
                if _add(spent[position], more[position]) > maximum:
                    refusal = ReservationResult(False, limit, spent, held)
                    break
                refusal = None  # here, as a loop that ends with an `if` may hold no lock: see locks
            else:
                refusal = None if per_minute is None else _too_fast(account, more, per_minute)
            if refusal is None:
                # One statement, so that neither a signal nor the garbage collector comes between; so below.
                account.held, account.under_way[reservation] = more, None
        if lock.waiting:
            lock.catch_up()
        return refusal

    def estimate_bounds(self, name: str) -> None:
        """Estimate the calls of an account whose upper bounds are reserved, and reserve the estimates instead."""
        account = self._accounts.get(name)
        for reservation in tuple(account.under_way) if account is not None else ():
            if reservation.is_bound:
                amounts = reservation.exact()  # which takes time: without the lock
                self._lock.run_soon(functools.partial(self._restate, reservation, amounts))

    def settle(self, reservation: Reservation, amounts: Amounts) -> tuple[Amounts, str] | None:
        """Book what a call used in place of what it reserved; return what is spent, and in which window, else None.

        None where that is below the ``lowest`` amounts. Never waits: a thread that holds the lock will book it, and
        what is returned may be without it.
        """
        lock = self._lock
        if not lock.is_mine():
            try:
                if lock.rlock.acquire(False):
                    booked = self._book(reservation, amounts)
                    lock.rlock.release()
                    if lock.waiting:
                        lock.catch_up()
                    return booked
            except BaseException:
                if lock.is_mine():
                    lock.rlock.release()
                raise
        lock.run_soon(functools.partial(self._book, reservation, amounts))
        account = self._accounts.get(reservation.account)
        return None if account is None else (account.spent, account.window)

    def release(self, reservation: Reservation, *, wait: bool = False) -> None:
        """Release what a call reserved."""
        self._lock.run_soon(functools.partial(self._restate, reservation, None))

    def state(self, name: str) -> BudgetState:
        """Return what an account has spent in this window, and what its calls have reserved."""
        return self._lock.run(lambda: self._state(name))

    def _state(self, name: str) -> BudgetState:
        account = self._accounts.get(name)
        if account is None:
            kept = None if self._shelf is None else self._shelf.get(name)
            account = _Account(kept or Kept())
        account.turn_to(current_window(self._per))
        return BudgetState(account.spent, account.held)

    def _book(self, reservation: Reservation, amounts: Amounts) -> tuple[Amounts, str] | None:
        account = self._accounts.get(reservation.account)
        if account is None or self._per is not None:
            account = self._account(reservation.account)
        if reservation.booked:
            spent = account.spent
        else:
            if self.keeps_minute and amounts.cost:
                account.spend_now(amounts.cost, reservation)
            cost, tokens, requests = amounts
            spent_cost, spent_tokens, spent_requests = account.spent
            spent = new_tuple(Amounts, (_add(spent_cost, cost), spent_tokens + tokens, spent_requests + requests))
            if reservation in account.under_way:
                held, mine = account.held, reservation.amounts
                held = NOTHING if held is mine else held.minus(mine)
                # fmt: off
                account.spent, account.held, reservation.booked = spent, held, True; del account.under_way[reservation]  # noqa: E702
            # fmt: on
            else:
                account.spent, reservation.booked = spent, True
        for position, amount in self.lowest:
            if spent[position] >= amount:
                return spent, account.window
        return None

    def _restate(self, reservation: Reservation, amounts: Amounts | None) -> None:
        """Change the amounts that a call reserves, if it still reserves any; None: release them."""
        account = self._accounts.get(reservation.account)
        if account is None or reservation not in account.under_way:
            return
        held = NOTHING if account.held is reservation.amounts else account.held.minus(reservation.amounts)
        # fmt: off
        if amounts is None:
            account.held = held; del account.under_way[reservation]  # noqa: E702
        # fmt: on
        else:
            account.held, reservation.amounts, reservation.is_bound = held.plus(amounts), amounts, False

    def _account(self, name: str, *, refuses: bool = False) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._add_account(name, refuses=refuses)
        window = current_window(self._per)
        if account.window != window:
            account.turn_to(window)
            if self._windows[1] != window:
                self._windows = self._windows[1], window
        return account

    def _add_account(self, name: str, *, refuses: bool) -> _Account:
        kept = None
        if len(self._accounts) >= MAX_ACCOUNTS:
            self._make_room(refuses=refuses)
        if self._shelf is not None:
            kept = self._shelf.get(name)
        account = self._accounts[name] = _Account(kept or Kept(current_window(self._per)))
        return account

    def _make_room(self, *, refuses: bool) -> None:
        """Put a tenth of the accounts that reserve nothing, the oldest, on the shelf."""
        import sqlite3  # most programs never need it

        idle = ((name, one) for name, one in self._accounts.items() if one.held == NOTHING and not one.minute)
        oldest = dict(islice(idle, MAX_ACCOUNTS // 10 + 1))
        try:
            self._shelf = self._shelf or Shelf()
            self._shelf.put(
                [(name, Kept(one.window, one.spent, one.left)) for name, one in oldest.items()], min(self._windows)
            )
        except sqlite3.Error as error:
            if refuses:
                raise StoreUnavailable(f"there is no room for another account ({error})") from error
            self._full.warn(
                "full",
                "there is no room for all of a budget's sessions or users (%s): those that made no call for the "
                "longest time begin with nothing spent; Budget(on_outage='fail_closed') refuses new ones instead",
                error,
            )
        for name in oldest:
            del self._accounts[name]

    def copy_shelf(self) -> None:
        """Before a fork: copy the shelf, as a child can't use its parent's file."""
        self._lock.run(self._copy_shelf)

    def _copy_shelf(self) -> None:
        self._copy = None if self._shelf is None else self._shelf.copy()

    def drop_copy(self) -> None:
        """In the parent, after a fork: drop the copy."""
        self._copy = None

    def renew(self) -> None:
        """In a forked child: replace the parent's file."""
        if self._shelf is not None:
            self._shelf, self._copy = Shelf(self._copy), None


_stores: "weakref.WeakSet[LocalStore]" = weakref.WeakSet()


def _for_each(method: str) -> None:
    for store in tuple(_stores):
        getattr(store, method)()


before_fork(lambda: _for_each("copy_shelf"))
after_fork_in_parent(lambda: _for_each("drop_copy"))
after_fork(lambda: _for_each("renew"))
