"""What calls reserve of their budgets while they are under way, and book at their end."""

import functools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal

from token_handlers.budget.budget import Budget
from token_handlers.budget.limits import Amounts, Reservation, ReservationRequest
from token_handlers.budget.tool_fees import AllowedFees
from token_handlers.errors import BudgetExceeded, absorb, shielded
from token_handlers.pricing.calculator import current_book, price_call, price_state
from token_handlers.pricing.price import Price
from token_handlers.tracking.call import Call
from token_handlers.tracking.result import CallResult

_NOTHING = Decimal(0)


def reserve(call: Call) -> None:
    """Reserve what a call may use in each of its budgets; BudgetExceeded where one has no room for it.

    What a cache answers is not sent, and so is not refused. Whoever calls this releases the reservations where it
    raises: the call has each before it reserves anything.
    """
    reservations: dict[Budget, Reservation] = {}
    call.reservations = reservations
    try:
        request = requested(call)
        for budget in call.budgets:
            reservation = reservations[budget] = budget.open(request)
            budget.reserve(reservation)
    except BudgetExceeded:
        if not shielded(call.is_cached)():
            raise
        release(call)
        call.reservations = {}
    except Exception as error:  # noqa: BLE001 - as `shielded`, without its frames
        absorb(error, "reserving in a budget")


def release(call: Call, *, wait: bool = False) -> None:
    """Release what a call reserved that is not sent, or that another call reserves too; ``wait`` until it is done."""
    for budget, reservation in (call.reservations or {}).items():
        try:
            budget.release(reservation, wait=wait)
        except Exception as error:  # noqa: BLE001 - as `shielded`, without its frames
            absorb(error, "releasing a reservation")
    call.reservations = None


def requested(call: Call) -> ReservationRequest:
    """Return what a call that is about to be sent may use, as far as its budgets want to know."""
    call.describe()
    counts_tokens = prices = False
    for budget in call.budgets:
        counts_tokens = counts_tokens or budget.counts_tokens
        prices = prices or budget.prices
    if not counts_tokens:
        return ReservationRequest(0, _NOTHING, call.model, *call.labels)
    bound = call.prompt_bound()
    if bound is None:
        return _estimated(call, prices=prices)
    output = call.max_output()
    cost: Decimal | None = _NOTHING
    if prices:
        counts = {"input_tokens": bound, "output_tokens": output}
        book = price_state.book or current_book()
        price = book.price((*call.priced_as(), None, None, ()), counts, call.started_at)
        cost = None if price is None else price.cost
    estimate = functools.partial(_estimated, call, prices=prices)
    return ReservationRequest(bound + output, cost, call.model, *call.labels, estimate=estimate)


def _estimated(call: Call, *, prices: bool) -> ReservationRequest:
    tokens = {"input_tokens": call.estimate_prompt(), "output_tokens": call.max_output()}
    cost = _NOTHING if not prices else _cost(call, tokens, call.allowed_fees())
    return ReservationRequest(sum(tokens.values()), cost, call.model, *call.labels)


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
    price = functools.partial(
        price_call, model=model, provider=provider, base_url=base_url, service_tier=service_tier, at=at, warns=warns
    )
    found = price({**tokens, **fees.counts}, context=fees.context) if fees.counts else None
    return price(tokens) if found is None else found


def settle(call: Call, result: CallResult, cost: Decimal | None) -> None:
    """Book what a call used in its budgets; a rejected one was sent all the same, one from a cache was not."""
    if result.outcome == "cached":
        release(call)
        return
    counts = result.usage.counts
    tokens = counts.get("input_tokens", 0) + counts.get("output_tokens", 0)
    amounts = Amounts(_NOTHING if cost is None else cost, tokens, result.requests)
    reservations = call.reservations or {}
    if cost is None and result.outcome == "success":
        amounts = amounts._replace(cost=_foreseen(reservations.values()))
    try:
        for budget in call.budgets:
            book(budget, amounts, *call.labels, reservation=reservations.get(budget))
    except BaseException:  # such as Ctrl-C in the middle: the call was made, and each budget books it once
        for budget in call.budgets:
            book(budget, amounts, *call.labels, reservation=reservations.get(budget))
        raise
    call.reservations = None


def clear(call: Call, *, was_sent: bool) -> None:
    """Let nothing stay reserved: book it where the call was sent and could not be settled, else release it."""
    if was_sent:
        book_reserved(call)
    else:
        release(call)


def book_reserved(call: Call) -> None:
    """Book what a call reserved: it was made, and what it used will not be known."""
    for budget, reservation in (call.reservations or {}).items():
        book(budget, reservation.request.exact().amounts, *call.labels, reservation=reservation)
    call.reservations = None


def _foreseen(reservations: Iterable[Reservation]) -> Decimal:
    """Return the cost that was reserved for a call, for one that turned out to have no price."""
    return max((reservation.request.exact().amounts.cost for reservation in reservations), default=_NOTHING)


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
        reservation = budget.open(ReservationRequest(session=session, user=user, tags=tags))
    try:
        budget.settle(reservation, amounts)
    except Exception as error:  # noqa: BLE001 - as `shielded`, without its frames
        with suppress(Exception):  # what failed once may not fail again, and what is booked is not booked twice
            budget.settle(reservation, amounts)
        absorb(error, "booking what a call used in a budget")
