"""What budgets are made of: amounts, limits, and the store that holds and books them."""

import inspect
import math
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple, Protocol, TypeVar

from token_handlers.usage import EXACT

Window = Literal["hour", "day", "month"]
Limits = Mapping[str, Decimal | int | None]

LIMITS = {"max_cost": "cost", "max_tokens": "tokens", "max_requests": "requests"}
"""Each limit, and the amount that it is for, in the order in which they are checked."""

LONGEST_HOLD = 10**9
T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., object])


class Amounts(NamedTuple):
    """USD, tokens and requests."""

    cost: Decimal = Decimal(0)
    tokens: int = 0
    requests: int = 0

    def under(self, limit: str) -> Decimal | int:
        """Return the amount that a limit is for."""
        amount: Decimal | int = getattr(self, LIMITS[limit])
        return amount

    def plus(self, other: "Amounts") -> "Amounts":
        """Return the sum."""
        return Amounts(EXACT.add(self.cost, other.cost), self.tokens + other.tokens, self.requests + other.requests)

    def minus(self, other: "Amounts") -> "Amounts":
        """Return the difference."""
        return Amounts(
            EXACT.subtract(self.cost, other.cost), self.tokens - other.tokens, self.requests - other.requests
        )


class Spent(NamedTuple):
    """What a scope has spent, and what the calls that are under way hold."""

    spent: Amounts
    reserved: Amounts


class Reserved(NamedTuple):
    """Whether a call may be sent; if not, which limit it would pass. ``reserved`` is what the other calls hold."""

    granted: bool
    exceeded: str | None
    spent: Amounts
    reserved: Amounts


class Store(Protocol):
    """Where a budget's amounts are held and booked: in this process, or in a RedisCounter for a fleet."""

    def reserve(
        self,
        scope: str,
        *,
        reservation: str,
        cost: Decimal = ...,
        tokens: int = ...,
        requests: int = ...,
        limits: Limits,
        window: str | None = ...,
        ttl: float = ...,
    ) -> Reserved:
        """Hold what a call may use where the limits leave room; raise StoreUnavailable where that can't be asked."""

    def settle(
        self, scope: str, reservation: str, *, cost: Decimal, tokens: int, requests: int = ..., wait: bool = ...
    ) -> bool:
        """Book what a call used, in place of what it held; without ``wait`` it may be done later."""

    def release(self, scope: str, reservation: str, *, wait: bool = ...) -> bool:
        """Let go of what a call held."""

    def spent(self, scope: str, window: str | None = ...) -> Spent:
        """Return what a scope has spent in the window, and what its calls hold."""


class Asked(NamedTuple):
    """What a call may use, and whose it is. ``cost`` is None where its model has no price."""

    tokens: int = 0
    cost: Decimal | None = Decimal(0)
    model: str | None = None
    session: str | None = None
    user: str | None = None


class Hold(NamedTuple):
    """What one call holds of a budget until it is booked or released."""

    account: str
    reservation: str


class BudgetWarning(NamedTuple):
    """What on_warning gets: so much of a limit is spent. ``scope`` is the budget's name and whose account it is."""

    scope: str
    limit: str
    maximum: Decimal | int
    spent: Decimal | int


def passed(limits: Limits, taken: Amounts, amounts: Amounts) -> str | None:
    """Return the first limit that amounts would pass; limits are inclusive."""
    total = taken.plus(amounts)
    for name, limit in limits.items():
        if limit is not None and total.under(name) > limit:
            return name
    return None


def text(amount: Decimal | int) -> str:
    """Return an amount as people write it."""
    return f"{amount.normalize(EXACT):f}" if isinstance(amount, Decimal) else str(amount)


def checked_limits(
    max_cost: Decimal | str | float | None, max_tokens: int | None, max_requests: int | None
) -> dict[str, Decimal | int | None]:
    """Return limits by name; raise a ValueError that names the one that is none."""
    return {
        "max_cost": None if max_cost is None else _usd(max_cost),
        "max_tokens": _whole("max_tokens", max_tokens),
        "max_requests": _whole("max_requests", max_requests),
    }


def _whole(name: str, value: int | None) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value <= 0):
        raise ValueError(f"{name} must be a whole number, more than 0, not {value!r}")
    return value


def _usd(value: Decimal | str | float) -> Decimal:
    try:
        cost = Decimal(str(value))
    except InvalidOperation:
        cost = Decimal("NaN")
    if isinstance(value, bool) or not cost.is_finite() or cost <= 0 or math.isinf(float(cost)):
        raise ValueError(f"max_cost must be USD, more than 0, not {value!r}")
    return cost


def checked_share(name: str, value: float | None) -> Decimal | None:
    """Return a share of a limit, EXACT."""
    if value is None:
        return None
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 < value <= 1:
        raise ValueError(f"{name} is a share of the limit, more than 0 and at most 1, not {value!r}")
    return Decimal(str(value))


def one_of(name: str, value: T, values: tuple[object, ...]) -> T:
    """Return a value that is one of these."""
    if value not in values:
        raise ValueError(f"{name} is one of {', '.join(map(repr, values))}, not {value!r}")
    return value


def checked_callback(name: str, callback: C | None) -> C | None:
    """Return a callback that can be called where nothing can be awaited."""
    if callback is not None and (not callable(callback) or _is_async(callback)):
        raise TypeError(f"{name} must be an ordinary function of one argument, not {callback!r}")
    return callback


def _is_async(callback: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)


def check_store(store: object, scope: str | None, on_outage: str | None, hold_seconds: float | None) -> None:
    """Raise where a budget's store is none, or what it needs was not said."""
    if scope is not None and (not isinstance(scope, str) or not scope):
        raise ValueError(f"scope must be a non-empty string, not {scope!r}")
    if hold_seconds is not None and not 0 < hold_seconds <= LONGEST_HOLD:
        raise ValueError(f"hold_seconds must be seconds, more than 0, not {hold_seconds!r}")
    one_of("on_outage", on_outage, (None, "fail_open", "fail_closed"))
    if store is None:
        if on_outage is not None:
            raise ValueError("on_outage is for a budget with a store")
        if hold_seconds is not None:
            raise ValueError("hold_seconds is for a budget with a store")
    elif not callable(getattr(store, "reserve", None)):
        raise TypeError(f"store must be a RedisCounter, not {store!r}")
    elif scope is None or on_outage is None:
        raise ValueError("a budget with a store needs a scope, its name there, and on_outage='fail_open'|'fail_closed'")
