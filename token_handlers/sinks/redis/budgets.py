"""What budgets say to the server, and what it answers."""

from collections.abc import Mapping
from decimal import Decimal
from typing import cast

from token_handlers.budget.limits import LIMITS, Amounts, Reserved, Spent
from token_handlers.sinks.redis.increments import DOWN, NEAREST, UP, nano, usd

WINDOWS = {None: "all", "hour": "hour", "day": "day", "month": "month"}


def amounts_of(cost: Decimal, tokens: int, requests: int, *, reserve: bool = False) -> list[int]:
    """Return amounts as the server counts them; a reservation's cost is rounded up."""
    amounts = [_nano("cost", cost, UP if reserve else NEAREST), _count("tokens", tokens), _count("requests", requests)]
    if max(amounts) > 2**53:
        raise ValueError(f"{cost} USD, {tokens} tokens and {requests} requests are beyond all measure")
    return amounts


def limits_of(limits: Mapping[str, Decimal | int | None]) -> list[int | str]:
    """Return the limits as the server compares them, in its order; a cost is rounded down."""
    if not set(limits) <= set(LIMITS):
        raise ValueError(f"limits are {', '.join(LIMITS)}, not {', '.join(sorted(set(limits) - set(LIMITS)))}")
    return [_limit(name, limits.get(name)) for name in LIMITS]


def sums_of(window: str | None) -> str:
    """Return the server's name of a window's sums."""
    if window not in WINDOWS:
        raise ValueError(f"a window is 'hour', 'day', 'month' or None, not {window!r}")
    return WINDOWS[window]


def spent_of(reply: object) -> Spent:
    """Return what SPENT answers."""
    cost, tokens, requests, held_cost, held_tokens, held_requests = (int(part) for part in cast("list[bytes]", reply))
    return Spent(Amounts(usd(cost), tokens, requests), Amounts(usd(held_cost), held_tokens, held_requests))


def reserved_of(reply: object) -> Reserved:
    """Return what RESERVE answers."""
    exceeded, *figures = cast("list[bytes]", reply)
    names = {amount: limit for limit, amount in LIMITS.items()}
    return Reserved(not exceeded, names.get(exceeded.decode()), *spent_of(figures))


def _limit(name: str, limit: Decimal | int | None) -> int | str:
    if limit is None:
        return ""
    if name == "max_cost":
        return _nano(name, limit if isinstance(limit, Decimal) else Decimal(_count(name, limit)), DOWN)
    return _count(name, limit)


def _nano(name: str, cost: Decimal, rounding: str) -> int:
    if not isinstance(cost, Decimal) or not cost.is_finite() or cost < 0:
        raise ValueError(f"{name} must be a Decimal of USD, 0 or more, not {cost!r}")
    if cost.adjusted() > 9:
        raise ValueError(f"{name} is beyond all measure: {cost} USD")
    return nano(cost, rounding)


def _count(name: str, count: object) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ValueError(f"{name} must be an int, 0 or more, not {count!r}")
    return count
