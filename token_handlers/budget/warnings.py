"""What a budget has warned of: each limit once, for each account and window."""

import logging
import threading

from token_handlers.budget.limits import BudgetWarning, text

logger = logging.getLogger("token_handlers")

MAX_WARNED = 10_000
"""How many warnings are remembered; beyond it the oldest may be given again."""


class Warnings:
    """Warnings that were given. The garbage collector may end a call, and so warn, in the middle of any of this."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._given: dict[tuple[str | None, str, str], None] = {}

    def is_news(self, about: tuple[str | None, str, str]) -> bool:
        """Return whether it was not given before, and remember it."""
        with self.lock:
            if about in self._given:
                return False
            if len(self._given) >= MAX_WARNED:
                self._given.pop(next(iter(self._given)))
            self._given[about] = None
        return True

    def forget(self) -> None:
        """Warn of everything anew."""
        with self.lock:
            self._given.clear()

    def renew_lock(self) -> None:
        """Replace the lock: for a forked child, in which a thread that held it does not exist."""
        self.lock = threading.RLock()


def log_warning(warning: BudgetWarning) -> None:
    """Warn where nobody else wants to know of it."""
    logger.warning("%s has spent %s of %s=%s", warning.scope, text(warning.spent), warning.limit, warning.maximum)
