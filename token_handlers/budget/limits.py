"""What budgets are made of: amounts, limits, reservations, and the protocol of a fleet's store."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple, Protocol, TypeVar

from token_handlers.usage import EXACT, new_tuple

Window = Literal["hour", "day", "month"]
Limits = Mapping[str, Decimal | int | None]
Labels = tuple[str | None, str | None, Mapping[str, str]]
"""Session, user and tags."""

LIMITS = {"max_cost": "cost", "max_tokens": "tokens", "max_requests": "requests"}
"""Each limit of a window, and the amount that it is for, in the order in which they are checked."""

PER_MINUTE = "max_cost_per_minute"
UNITS = {"max_cost": " USD", PER_MINUTE: " USD"}
"""What messages write behind a limit; tokens and requests have their unit in the limit's name."""

LONGEST_HOLD = 10**9
T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., object])

_ZERO = Decimal(0)
_add = EXACT.add


class Amounts(NamedTuple):
    """What budgets count: ``cost`` in USD, exact, tokens (input and output), and requests that were sent."""

    cost: Decimal = _ZERO
    tokens: int = 0
    requests: int = 0

    def under(self, limit: str) -> Decimal | int:
        """Return the amount that a limit applies to."""
        amount: Decimal | int = self.cost if limit == PER_MINUTE else getattr(self, LIMITS[limit])
        return amount

    def plus(self, other: "Amounts") -> "Amounts":
        """Return the sum."""
        cost, tokens, requests = self
        return new_tuple(Amounts, (_add(cost, other[0]), tokens + other[1], requests + other[2]))

    def minus(self, other: "Amounts") -> "Amounts":
        """Return the difference."""
        return Amounts(
            EXACT.subtract(self.cost, other.cost), self.tokens - other.tokens, self.requests - other.requests
        )


NOTHING = Amounts()


class BudgetState(NamedTuple):
    """What an account has spent, and what the calls that are under way have reserved."""

    spent: Amounts
    reserved: Amounts


class ReservationResult(NamedTuple):
    """Whether a call may be sent; if not, which limit it would exceed. ``reserved`` is what other calls reserved."""

    granted: bool
    exceeded: str | None
    spent: Amounts
    reserved: Amounts


Spent = BudgetState
Reserved = ReservationResult


class Store(Protocol):
    """The store of a fleet's budget: a RedisCounter. ``scope`` is an account's name in it."""

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
    ) -> ReservationResult:
        """Reserve what a call may use if the limits leave room; raise StoreUnavailable without an answer."""

    def settle(
        self, scope: str, reservation: str, *, cost: Decimal, tokens: int, requests: int = ..., wait: bool = ...
    ) -> bool:
        """Book what a call used in place of what it reserved; without ``wait`` it may be done later."""

    def release(self, scope: str, reservation: str, *, wait: bool = ...) -> bool:
        """Release what a call reserved."""

    def spent(self, scope: str, window: str | None = ...) -> BudgetState:
        """Return what a scope has spent in the window, and what its calls have reserved."""


class Asker(Protocol):
    """What a reservation is made for: a call."""

    @property
    def model(self) -> str | None:
        """The model that was asked for."""

    @property
    def labels(self) -> Labels:
        """The labels of the call."""


class Asked(NamedTuple):
    """An Asker that is no open call, such as usage that was counted by hand."""

    model: str | None = None
    labels: Labels = (None, None, {})


class Reservation:
    """What one call may use at most, and reserves in an account of a budget until it is booked or released.

    ``account`` is the store's name of the account, "" until it is opened, and ``name`` the session, user or tag whose
    it is; ``id`` names the reservation in a fleet's store, and ``held`` is whether it may stand reserved there.
    ``booked`` and ``in_minute`` are whether the call is in what was spent, and in what the last minute cost.
    ``unpriced`` is whether the model has no price. With ``is_bound`` the amounts are an upper bound that costs nothing
    to know, and `exact` estimates them.
    """

    account = ""
    name: str | None = None
    id: str | None = None
    held = False
    booked = False
    in_minute = False
    unpriced = False
    is_bound = False

    def __init__(self, asker: Asker, amounts: Amounts) -> None:
        self.asker = asker
        self.amounts = amounts

    def exact(self) -> Amounts:
        """Return the amounts, estimated where they are an upper bound."""
        return self.amounts


class BudgetWarning(NamedTuple):
    """What on_warning gets: ``spent`` of the ``maximum`` of a limit, in USD, tokens or requests.

    ``scope`` names the budget, and the account where each session, user or tag has its own.
    """

    scope: str
    limit: str
    maximum: Decimal | int
    spent: Decimal | int


class Check(NamedTuple):
    """A limit of a window: the most, inclusive, of the amount at a position of Amounts."""

    limit: str
    position: int
    maximum: Decimal | int


def checks_of(limits: Limits) -> tuple[Check, ...]:
    """Return the limits of a window that are set, in the order in which they are checked."""
    given = ((name, position, limits.get(name)) for position, name in enumerate(LIMITS))
    return tuple(Check(name, position, maximum) for name, position, maximum in given if maximum is not None)


def text(amount: Decimal | int) -> str:
    """Return an amount as people write it."""
    return f"{amount.normalize(EXACT):f}" if isinstance(amount, Decimal) else str(amount)


def checked_limits(
    max_cost: Decimal | str | float | None = None,
    max_tokens: int | None = None,
    max_requests: int | None = None,
    max_cost_per_minute: Decimal | str | float | None = None,
) -> dict[str, Decimal | int | None]:
    """Return limits by name; raise a ValueError that names one that is not valid."""
    limits = {
        "max_cost": _usd("max_cost", max_cost),
        "max_tokens": _whole("max_tokens", max_tokens),
        "max_requests": _whole("max_requests", max_requests),
    }
    per_minute = _usd(PER_MINUTE, max_cost_per_minute)
    return limits if per_minute is None else {**limits, PER_MINUTE: per_minute}


def _whole(name: str, value: int | None) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value <= 0):
        raise ValueError(f"{name} must be a whole number, more than 0, not {value!r}")
    return value


def _usd(name: str, value: Decimal | str | float | None) -> Decimal | None:
    if value is None:
        return None
    try:
        cost = Decimal(str(value))
    except InvalidOperation:
        cost = Decimal("NaN")
    if isinstance(value, bool) or not cost.is_finite() or cost <= 0 or math.isinf(float(cost)):
        raise ValueError(f"{name} must be USD, more than 0, not {value!r}")
    return cost


def checked_shares(name: str, value: float | Sequence[float] | None) -> tuple[Decimal, ...]:
    """Return shares of a limit, exact, the smallest first; none for None."""
    if value is None:
        return ()
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(sorted({_share(name, one) for one in values}))


def _share(name: str, value: object) -> Decimal:
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 < value <= 1:  # type: ignore[arg-type,operator]
        raise ValueError(f"{name} is a share of the limit, more than 0 and at most 1, not {value!r}")
    return Decimal(str(value))


def checked_each(each: str | None) -> str | None:
    """Return the label of which each value has an account of its own."""
    if each is not None and (not isinstance(each, str) or not each):
        raise ValueError(f"each must be 'session', 'user' or the name of a tag, not {each!r}")
    return each


def one_of(name: str, value: T, values: tuple[object, ...]) -> T:
    """Return a value that is one of these."""
    if value not in values:
        raise ValueError(f"{name} is one of {', '.join(map(repr, values))}, not {value!r}")
    return value


def checked_callback(name: str, callback: C | None) -> C | None:
    """Return a callback; raise a TypeError for one that is async, as nothing can be awaited where it is called."""
    if callback is not None and (not callable(callback) or _is_async(callback)):
        raise TypeError(f"{name} must be an ordinary function of one argument, not {callback!r}")
    return callback


def _is_async(callback: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)


def check_store(
    store: object, scope: str | None, each: str | None, on_outage: str | None, hold_seconds: float | None
) -> None:
    """Raise TypeError for what is no store, and ValueError where an argument that it needs is missing."""
    if scope is not None and (not isinstance(scope, str) or not scope):
        raise ValueError(f"scope must be a non-empty string, not {scope!r}")
    if hold_seconds is not None and not 0 < hold_seconds <= LONGEST_HOLD:
        raise ValueError(f"hold_seconds must be seconds, more than 0, not {hold_seconds!r}")
    one_of("on_outage", on_outage, (None, "fail_open", "fail_closed"))
    if store is None:
        if on_outage is not None and each is None:
            raise ValueError("on_outage is for a budget with a store, or with each=")
        if hold_seconds is not None:
            raise ValueError("hold_seconds is for a budget with a store")
    elif not callable(getattr(store, "reserve", None)):
        raise TypeError(f"store must be a RedisCounter, not {store!r}")
    elif scope is None or on_outage is None:
        raise ValueError("a budget with a store needs a scope, its name there, and on_outage='fail_open'|'fail_closed'")
