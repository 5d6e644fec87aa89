"""The errors that token_handlers raises.

TokenHandlersError
 ├─ MissingDependency   (also an ImportError)
 ├─ BudgetExceeded
 ├─ PriceUpdateFailed   (token_handlers.pricing.updates)
 ├─ SendFailed          (token_handlers.sinks.agentsight.client)
 └─ StoreUnavailable
     └─ StoreRefused
"""

import functools
import logging
from collections.abc import Callable
from decimal import Decimal
from typing import NoReturn, ParamSpec, TypeVar

logger = logging.getLogger("token_handlers")

WHY = "see 'Why is my count zero, estimated or different?': token-handlers guide why"
"""What the warnings end with."""

P = ParamSpec("P")
R = TypeVar("R")


class TokenHandlersError(Exception):
    """Everything that token_handlers raises on purpose, apart from ValueError and TypeError for bad arguments."""


class MissingDependency(TokenHandlersError, ImportError):
    """An optional dependency is not installed; the message is the pip line that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'token-handlers[{extra}]'", name=package)


class BudgetExceeded(TokenHandlersError):
    """A call was not sent because it would pass a limit; the message names the scope, the limit and what was spent.

    ``scope`` is the budget's name with whose account it is, ``limit`` 'max_cost', 'max_tokens', 'max_requests' or
    'max_cost_per_minute' (None where the budget's store could not be asked), ``maximum`` and ``spent`` are USD
    (Decimal), tokens or requests.
    """

    def __init__(
        self,
        message: str,
        *,
        scope: str | None = None,
        limit: str | None = None,
        maximum: Decimal | int | None = None,
        spent: Decimal | int | None = None,
        model: str | None = None,
    ) -> None:
        super().__init__(message)
        self.scope = scope
        self.limit = limit
        self.maximum = maximum
        self.spent = spent
        self.model = model


class StoreUnavailable(TokenHandlersError):
    """A fleet's store can't be used; the message says why, and never shows a password."""


class StoreRefused(StoreUnavailable):
    """The store answered, and what it answered is that it will not."""


class MisplacedCallback(TypeError, AttributeError):
    """Something that is no handler is in LangChain's callbacks list; the message names what belongs there.

    It is an AttributeError too, so that looking at an object's attributes stays harmless.
    """


class NoLangChainHandler:
    """An attribute that LangChain asks each of its handlers for, on what is none: asking raises MisplacedCallback."""

    def __get__(self, instance: object, owner: type) -> NoReturn:
        """Raise; an instance that has the attribute itself never comes here."""
        what = f"the class {owner.__name__}" if instance is None else f"a {owner.__name__}"
        remedy = "LangChainTokenHandler(counter)" if owner.__name__ == "TokenCounter" else "LangChainTokenHandler()"
        raise MisplacedCallback(f"LangChain's callbacks list takes a handler, not {what}: put {remedy} into it")


_seen_faults: set[tuple[str, str]] = set()
_strict = False


def raise_faults(strict: bool) -> None:  # noqa: FBT001 (a switch)
    """Let shielded functions raise instead of logging: for test suites."""
    global _strict  # noqa: PLW0603 (the one switch)
    _strict = strict


def shielded(function: Callable[P, R]) -> Callable[P, R | None]:
    """Make a function of ours harmless to the application that calls it: a fault is logged once and the call goes on.

    BudgetExceeded passes: it is meant for the application.
    """

    @functools.wraps(function)
    def shield(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the application's
            absorb(error, getattr(function, "__qualname__", repr(type(function))))
            return None

    return shield


def absorb(error: Exception, where: str) -> None:
    """Stop a fault of ours, as `shielded` does, where a wrapper's time is too dear: for an except clause."""
    if _strict or isinstance(error, BudgetExceeded):
        raise error
    fault = where, type(error).__name__
    if fault not in _seen_faults:
        _seen_faults.add(fault)
        message = "%s failed with %s; the application goes on, and this is logged once (%s)"
        logger.error(message, *fault, WHY, exc_info=error)
