"""What calls reserve of their budgets while they are under way, and book at their end."""

from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from functools import partial
from operator import attrgetter

from token_handlers.budget.budget import Budget
from token_handlers.budget.limits import NOTHING, Amounts, Asked, Reservation
from token_handlers.budget.tool_fees import AllowedFees
from token_handlers.errors import BudgetExceeded, absorb, shielded
from token_handlers.pricing.calculator import current_book, price_call, price_state
from token_handlers.pricing.price import Price
from token_handlers.tracking.call import Call
from token_handlers.tracking.result import CallResult
from token_handlers.usage import new_tuple

_NOTHING = Decimal(0)
_BOOKING = "booking what a call used in a budget"
_NONE: Mapping[Budget, Reservation] = {}
_PRICES, _COUNTS_TOKENS = attrgetter("prices"), attrgetter("counts_tokens")
_ONE_REQUEST = Amounts(requests=1)


class BoundReservation(Reservation):
    """Reserves what a call can't exceed; its prompt is estimated where that is in the way of another."""

    asker: Call
    is_bound = True
    first: "BoundReservation | None" = None  # that of the call's first budget, which knows the estimate
    _estimate: Amounts | None = None

    def exact(self) -> Amounts:
        """Return what the call is estimated to use."""
        if self.first is not None:
            return self.first.exact()
        if self._estimate is None:
            self._estimate = _estimated(self.asker).amounts
        return self._estimate


def reserve(call: Call) -> None:
    """Reserve what a call may use in each of its budgets, as far as they want to know it.

    Raises BudgetExceeded where one has no room for it. What a cache answers is not sent, and so is not refused. Whoever
    calls this releases the reservations where it raises: the call has each before it reserves anything.
    """
    reservations: dict[Budget, Reservation] = {}
    call.reservations = reservations
    try:
        call.describe()
        prices = any(map(_PRICES, call.budgets))
        first: Reservation
        if not prices and not any(map(_COUNTS_TOKENS, call.budgets)):
            first = Reservation(call, _ONE_REQUEST)
        elif (bound := call.prompt_bound()) is None:
            first = _estimated(call)
        else:
            output = call.max_output()
            cost: Decimal | None = _NOTHING
            if prices:
                book = price_state.book or current_book()
                cost = book.cost(call.priced_as(), bound, output, call.started_at)
            first = BoundReservation(call, new_tuple(Amounts, (cost or _NOTHING, bound + output, 1)))
            if cost is None:
                first.unpriced = True
        for budget in call.budgets:
            reservation = reservations[budget] = _another(first) if reservations else first
            budget.reserve(reservation)
    except BudgetExceeded:
        if not shielded(call.is_cached)():
            raise
        release(call)
        call.reservations = {}
    except Exception as error:  # noqa: BLE001 - as `shielded`, without its frames
        absorb(error, "reserving in a budget")


def _another(first: Reservation) -> Reservation:
    """Return a reservation of the same in another budget."""
    other = type(first)(first.asker, first.amounts)
    other.unpriced = first.unpriced
    if isinstance(first, BoundReservation) and isinstance(other, BoundReservation):
        other.first = first
    return other


def release(call: Call, *, wait: bool = False) -> None:
    """Release what a call reserved that is not sent, or that another call reserves too; ``wait`` until it is done."""
    for budget, reservation in (call.reservations or {}).items():
        try:
            budget.release(reservation, wait=wait)
        except Exception as error:  # noqa: BLE001 - as `shielded`, without its frames
            absorb(error, "releasing a reservation")
    call.reservations = None


def _estimated(call: Call) -> Reservation:
    tokens = {"input_tokens": call.estimate_prompt(), "output_tokens": call.max_output()}
    cost = _cost(call, tokens, call.allowed_fees()) if any(map(_PRICES, call.budgets)) else _NOTHING
    reservation = Reservation(call, Amounts(cost or _NOTHING, sum(tokens.values()), 1))
    reservation.unpriced = cost is None
    return reservation


def _cost(call: Call, tokens: Mapping[str, int], fees: AllowedFees) -> Decimal | None:
    model, provider, base_url = call.priced_as()
    price = foreseen_price(tokens, fees, model, provider, base_url=base_url, at=call.started_at)
    return None if price is None else price.cost


def foreseen_price(
    tokens: Mapping[str, int],
    fees: AllowedFees,
    model: str | None,
    provider: str | None,
    *,
    base_url: str | None = None,
    service_tier: str | None = None,
    at: float | None = None,
    warns: bool = True,
) -> Price | None:
    """Return the price of a call that uses so much; fees without a rate are left to its end."""
    price = partial(
        price_call, model=model, provider=provider, base_url=base_url, service_tier=service_tier, at=at, warns=warns
    )
    found = price({**tokens, **fees.counts}, context=fees.context) if fees.counts else None
    return price(tokens) if found is None else found


def settle(call: Call, result: CallResult, cost: Decimal | None) -> None:
    """Book what a call used in its budgets; a rejected one was sent all the same, one from a cache was not."""
    if result.outcome == "cached":
        release(call)
        return
    if cost is None:
        cost = _foreseen(call) if result.outcome == "success" else _NOTHING
    counts = result.usage.counts
    tokens = counts.get("input_tokens", 0) + counts.get("output_tokens", 0)
    amounts = new_tuple(Amounts, (cost, tokens, result.requests))
    reservations = call.reservations or _NONE
    try:
        for budget in call.budgets:
            budget.settle(reservations.get(budget) or _reservation(call, budget), amounts)
    except BaseException as error:  # also Ctrl-C in the middle: the call was made, and each budget books it once
        _settle_again({budget: _reservation(call, budget) for budget in call.budgets}, amounts)
        if not isinstance(error, Exception):
            raise
        absorb(error, _BOOKING)
    call.reservations = None


def _reservation(call: Call, budget: Budget) -> Reservation:
    """Return what a call has reserved in a budget, which may be nothing."""
    reserved = call.reservations or _NONE
    if budget not in reserved:
        reserved = call.reservations = {**reserved, budget: budget.open(Reservation(call, NOTHING))}
    return reserved[budget]


def _settle_again(reservations: Mapping[Budget, Reservation], amounts: Amounts) -> None:
    """Book what was not, after a fault: what failed once may not fail again, and what is booked is not booked twice."""
    for budget, reservation in reservations.items():
        with suppress(Exception):
            budget.settle(reservation, amounts)


def clear(call: Call, *, was_sent: bool) -> None:
    """Let nothing stay reserved: book it where the call was sent and could not be settled, else release it."""
    if was_sent:
        book_reserved(call)
    else:
        release(call)


def book_reserved(call: Call) -> None:
    """Book what a call reserved: it was made, and what it used will not be known."""
    for budget, reservation in (call.reservations or {}).items():
        book(budget, reservation.exact(), *call.labels, reservation=reservation)
    call.reservations = None


def _foreseen(call: Call) -> Decimal:
    """Return the cost that was reserved for a call, for one that turned out to have no price."""
    return max((reservation.exact().cost for reservation in (call.reservations or _NONE).values()), default=_NOTHING)


def book(
    budget: Budget,
    amounts: Amounts,
    session: str | None,
    user: str | None,
    tags: Mapping[str, str],
    *,
    reservation: Reservation | None = None,
) -> None:
    """Book what was used in a budget, once, in place of what was reserved where anything was."""
    if reservation is None:
        reservation = budget.open(Reservation(Asked(labels=(session, user, tags)), NOTHING))
    try:
        budget.settle(reservation, amounts)
    except Exception as error:  # noqa: BLE001 - as `shielded`, without its frames
        _settle_again({budget: reservation}, amounts)
        absorb(error, _BOOKING)
