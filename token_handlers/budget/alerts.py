"""Alerts: the warnings of a budget when shares of its limits are spent, once for each account and window."""

import logging
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

from token_handlers.budget.limits import LIMITS, Amounts, BudgetWarning, Limits, text
from token_handlers.errors import shielded

logger = logging.getLogger("token_handlers")

MAX_GIVEN = 10_000
"""How many alerts are remembered; beyond it the oldest may be given again."""


class _Threshold(NamedTuple):
    position: int
    amount: Decimal
    limit: str
    maximum: Decimal | int
    share: Decimal


class Alerts:
    """Gives a BudgetWarning when a share of a limit is spent; of several that are passed at once, for the largest.

    ``lowest`` has the watched positions of Amounts, each with the amount from which on a warning may be due.
    """

    def __init__(self, shares: Sequence[Decimal], on_warning: Callable[[BudgetWarning], object] | None) -> None:
        self._shares = shares
        self._on_warning = on_warning or log_warning
        self._given: dict[tuple[str, str, str, Decimal], object] = {}
        self._thresholds: tuple[_Threshold, ...] = ()
        self.lowest: tuple[tuple[int, Decimal], ...] = ()

    def watch(self, limits: Limits) -> None:
        """Forget what was given, and watch these limits."""
        self._given.clear()
        self._thresholds = tuple(
            _Threshold(position, maximum * share, limit, maximum, share)
            for position, limit in enumerate(LIMITS)
            if (maximum := limits.get(limit)) is not None
            for share in reversed(self._shares)
        )
        # of a limit the largest share is the first here, and its smallest one the last
        self.lowest = tuple({each.position: each.amount for each in self._thresholds}.items())

    def check(self, spent: Amounts, window: str, account: str, title: Callable[[], str]) -> None:
        """Warn of what an account has spent in a window."""
        warned = None
        for threshold in self._thresholds:
            amount = spent[threshold.position]
            if amount < threshold.amount:
                continue
            is_news = self._is_news((account, window, threshold.limit, threshold.share))
            if is_news and warned != threshold.limit:
                warning = BudgetWarning(title(), threshold.limit, threshold.maximum, amount)
                shielded(self._on_warning)(warning)
            warned = threshold.limit

    def _is_news(self, alert: tuple[str, str, str, Decimal]) -> bool:
        if alert in self._given:
            return False
        if len(self._given) >= MAX_GIVEN:
            self._given.pop(next(iter(self._given)), None)
        mine = object()
        return self._given.setdefault(alert, mine) is mine  # only one of several threads sets it


def log_warning(warning: BudgetWarning) -> None:
    """Log a warning: for a budget without on_warning."""
    logger.warning("%s has spent %s of %s=%s", warning.scope, text(warning.spent), warning.limit, warning.maximum)
