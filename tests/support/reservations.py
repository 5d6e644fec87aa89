"""Reserving and booking in a budget by hand, as a call does it."""

from collections.abc import Mapping
from decimal import Decimal

from token_handlers import Budget
from token_handlers.budget import Amounts
from token_handlers.budget.limits import Asked, Reservation


def request(
    tokens: int = 0,
    cost: Decimal | str | int | None = 0,
    model: str | None = None,
    session: str | None = None,
    user: str | None = None,
    tags: Mapping[str, str] = {},
) -> Reservation:
    """Return what one call may use; no cost is that of a model without a price."""
    asked = Reservation(Asked(model, (session, user, tags)), Amounts(Decimal(cost or 0), tokens, 1))
    asked.unpriced = cost is None
    return asked


def reserve(budget: Budget, asked: Reservation) -> Reservation:
    """Reserve in a budget; raise where there is no room."""
    budget.reserve(asked)
    return asked


def spend(budget: Budget, tokens: int = 0, cost: Decimal | str | int = 0, **whose: str) -> None:
    """Make a call that uses what it asked for; raise where it is refused."""
    asked = request(tokens, cost, "gpt-4o-mini", whose.get("session"), whose.get("user"))
    budget.settle(reserve(budget, asked), Amounts(Decimal(cost), tokens, 1))
