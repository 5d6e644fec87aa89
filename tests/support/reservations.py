"""Reserving and booking in a budget by hand, as a call does it."""

from decimal import Decimal

from token_handlers import Budget
from token_handlers.budget import Amounts
from token_handlers.budget.limits import Reservation, ReservationRequest


def reserve(budget: Budget, request: ReservationRequest) -> Reservation:
    """Reserve in a budget; raise where there is no room."""
    reservation = budget.open(request)
    budget.reserve(reservation)
    return reservation


def spend(budget: Budget, tokens: int = 0, cost: Decimal | str | int = 0, **whose: str) -> None:
    """Make a call that uses what it asked for; raise where it is refused."""
    request = ReservationRequest(tokens, Decimal(cost), "gpt-4o-mini", whose.get("session"), whose.get("user"))
    budget.settle(reserve(budget, request), Amounts(Decimal(cost), tokens, 1))
