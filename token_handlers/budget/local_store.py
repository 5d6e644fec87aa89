"""LocalStore: what a budget's sessions or users have spent in this process, and what their calls hold."""

import logging
from datetime import UTC, datetime
from decimal import Decimal

from token_handlers.budget.limits import Amounts, Limits, Reserved, Spent, passed
from token_handlers.locks import DeferredLock

logger = logging.getLogger("token_handlers")

MAX_ACCOUNTS = 10_000
"""How many sessions or users are held apart; those that come later share one account, OTHERS."""

OTHERS = "(other)"

_WINDOWS = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}


def now() -> datetime:
    """Return the time that says which window it is."""
    return datetime.now(UTC)


def current_window(window: str | None) -> str:
    """Return the name of the present hour, day or month (UTC); without a window there is but one, ''."""
    return now().strftime(_WINDOWS[window]) if window is not None else ""


class _Account:
    __slots__ = ("held", "spent", "window")

    def __init__(self, window: str) -> None:
        self.window = window
        self.spent = self.held = Amounts()


class LocalStore:
    """A store of this process, of sums by window ('hour', 'day', 'month', UTC) or of all; it ends with the process."""

    def __init__(self, window: str | None = None) -> None:
        self._window = window
        self._lock = DeferredLock()
        self._accounts: dict[str, _Account] = {}
        self._held: dict[str, tuple[_Account, Amounts]] = {}
        self._swept: str | None = None
        self._warned = False

    def reserve(
        self,
        scope: str,
        *,
        reservation: str,
        cost: Decimal = Decimal(0),
        tokens: int = 0,
        requests: int = 1,
        limits: Limits,
        window: str | None = None,
        ttl: float = 0.0,
    ) -> Reserved:
        """Hold what a call may use, if what is spent and held leaves room for it."""
        amounts = Amounts(cost, tokens, requests)
        with self._lock:
            account = self._account(scope)
            before = account.held
            exceeded = passed(limits, account.spent.plus(before), amounts)
            if exceeded is None:
                account.held = before.plus(amounts)
                self._held[reservation] = account, amounts
            return Reserved(exceeded is None, exceeded, account.spent, before)

    def renew_lock(self) -> None:
        """Replace the lock: for a forked child, in which a thread that held it does not exist."""
        self._lock.renew()

    def settle(
        self, scope: str, reservation: str, *, cost: Decimal, tokens: int, requests: int = 1, wait: bool = True
    ) -> bool:
        """Book what a call used, in place of what it held; ``scope`` counts where it held nothing."""
        self._lock.run_soon(lambda: self._book(scope, reservation, Amounts(cost, tokens, requests)))
        return True

    def release(self, scope: str, reservation: str, *, wait: bool = True) -> bool:
        """Let go of what a call held."""
        held = reservation in self._held
        self._lock.run_soon(lambda: self._let_go(reservation))
        return held

    def spent(self, scope: str, window: str | None = None) -> Spent:
        """Return what an account has spent in the window, and what its calls hold."""
        with self._lock:
            account = self._accounts.get(scope)
            if account is None and len(self._accounts) >= MAX_ACCOUNTS:
                account = self._accounts.get(OTHERS)
            if account is None:
                return Spent(Amounts(), Amounts())
            account = self._turned(account, current_window(self._window))
            return Spent(account.spent, account.held)

    def glance(self, scope: str) -> Amounts:
        """Return what an account has spent in the window, without waiting for anybody: for warnings."""
        account = self._accounts.get(scope) or self._accounts.get(OTHERS)
        return account.spent if account is not None and account.window == current_window(self._window) else Amounts()

    def _book(self, scope: str, reservation: str, amounts: Amounts) -> None:
        account = self._let_go(reservation) or self._account(scope)
        account.spent = account.spent.plus(amounts)

    def _let_go(self, reservation: str) -> _Account | None:
        account, amounts = self._held.pop(reservation, (None, Amounts()))
        if account is None:
            return None
        account.held = account.held.minus(amounts)
        return self._turned(account, current_window(self._window))

    def _account(self, name: str) -> _Account:
        window = current_window(self._window)
        account = self._accounts.get(name)
        if account is None:
            if len(self._accounts) >= MAX_ACCOUNTS and window != self._swept:
                self._forget_windows(window)
            if len(self._accounts) >= MAX_ACCOUNTS:
                name = OTHERS
                self._warn_full()
            account = self._accounts.setdefault(name, _Account(window))
        return self._turned(account, window)

    @staticmethod
    def _turned(account: _Account, window: str) -> _Account:
        if account.window != window:
            account.window, account.spent = window, Amounts()
        return account

    def _forget_windows(self, window: str) -> None:
        self._swept = window
        for name, account in list(self._accounts.items()):
            if account.window != window and account.held == Amounts():
                del self._accounts[name]

    def _warn_full(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "a budget has %d sessions or users: those that come now share one account; a store= has them all",
                MAX_ACCOUNTS,
            )
