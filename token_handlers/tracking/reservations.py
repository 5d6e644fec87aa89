"""What calls reserve of their budgets while they are under way, and settle at their end."""

from decimal import Decimal

from token_handlers.budget.budget import Budget
from token_handlers.budget.limits import Amounts, Asked, Hold
from token_handlers.errors import shielded
from token_handlers.pricing.calculator import price_call
from token_handlers.tracking.call import Call
from token_handlers.tracking.result import CallResult


def reserve(call: Call) -> None:
    """Reserve what a call may use in each of its budgets; BudgetExceeded where one has no room for it."""
    holds: dict[Budget, Hold] = {}
    call.holds = holds
    wanted = asked(call)
    for budget in call.budgets:
        holds[budget] = budget.reserve(wanted)


def release(call: Call, *, wait: bool = False) -> None:
    """Release what a call reserved that is not sent, or that another call reserves too; ``wait`` until it is done."""
    holds, call.holds = call.holds, None
    for budget, hold in (holds or {}).items():
        shielded(budget.release)(hold, wait=wait)


def asked(call: Call) -> Asked:
    """Return what a call that is about to be sent may use, as far as its budgets want to know."""
    call.describe()
    tokens, cost = 0, None
    if any(budget.counts_tokens for budget in call.budgets):
        counts = {"input_tokens": call.estimate_prompt(), "output_tokens": call.max_output()}
        tokens = sum(counts.values())
        if any(budget.prices for budget in call.budgets):
            price = price_call(counts, call.model, call.provider, base_url=call.base_url, at=call.started_at)
            cost = None if price is None else price.cost
    return Asked(tokens, cost, call.model, call.labels.session, call.labels.user)


def settle(call: Call, result: CallResult, cost: Decimal | None) -> None:
    """Book what a call used in its budgets; a rejected one was sent all the same, one from a cache was not."""
    if result.outcome == "cached":
        release(call)
        return
    counts = result.usage.counts
    amounts = Amounts(
        cost or Decimal(0), counts.get("input_tokens", 0) + counts.get("output_tokens", 0), result.requests
    )
    holds, call.holds = call.holds or {}, None
    for budget in call.budgets:
        shielded(budget.settle)(holds.get(budget), amounts, call.labels.session, call.labels.user)
