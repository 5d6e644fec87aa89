"""What calls hold of their budgets while they are under way, and book in place of it at their end."""

from decimal import Decimal

from token_handlers.budget.limits import Amounts, Asked
from token_handlers.errors import shielded
from token_handlers.tracking.call import Call
from token_handlers.tracking.result import Spent, price_spent


def release(call: Call, *, wait: bool = False) -> None:
    """Let go of what a call holds that is not sent, or that another call holds as well; ``wait`` until it is done."""
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
            cost = price_spent(call, Spent(counts), call.model)[0]
    return Asked(tokens, cost, call.model, call.labels.session, call.labels.user)


def book(call: Call, spent: Spent, cost: Decimal | None) -> None:
    """Book what a call used in its budgets; a rejected one was sent all the same, one from a cache was not."""
    if spent.outcome == "cached":
        release(call)
        return
    tokens = spent.counts.get("input_tokens", 0) + spent.counts.get("output_tokens", 0)
    amounts = Amounts(cost or Decimal(0), tokens, spent.requests)
    holds, call.holds = call.holds or {}, None
    for budget in call.budgets:
        shielded(budget.settle)(holds.get(budget), amounts, call.labels.session, call.labels.user)
