"""record_cost(): what a tool cost by itself, such as a search API that is billed by the query."""

from datetime import UTC, datetime

from token_handlers.pricing.overrides import Money, checked_usd
from token_handlers.tracking.call import current_context
from token_handlers.tracking.recorder import record_manual
from token_handlers.tracking.surroundings import MOST_CHARACTERS, counters_in_run, labels_in_run
from token_handlers.usage import TOOLS, UsageRecord

MOST_USD = 1_000_000
"""What one call of a tool may cost: a ledger's column holds the sum of millions of such."""


def record_cost(name: str, usd: Money) -> None:
    """Book what a tool cost by itself, to be called where it was spent: a search API, a page of OCR, a sandbox.

    ``usd`` is a Decimal, str, int or float, 0 or more. It counts in the blocks around, in their budgets, in the
    handlers of LangChain's run here, in the shared counter and in every sink, under their labels and those of the run,
    agent and node here: ``by("tool")[name]``, whichever tool this is called in. It adds no token and no request, and
    has the model "(tools)". It is spent already: where it takes a budget beyond its limit, the next call is refused.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of what was paid for must be a string such as 'search API', not {name!r}")
    if not name.strip():
        raise ValueError(f"the name of what was paid for must be one such as 'search API', not {name!r}")
    cost = checked_usd("usd", usd)
    if cost >= MOST_USD:
        raise ValueError(f"usd must be less than {MOST_USD:,}, not {usd!r}: it is what one call of a tool cost")
    context, now = current_context(), datetime.now(UTC)
    labels, node = labels_in_run(context.labels)
    record = UsageRecord(
        model=TOOLS,
        operation="tool",
        source="manual",
        requests=0,
        session=labels.session,
        user=labels.user,
        tags={**labels.tags, "tool": name[:MOST_CHARACTERS]},
        node=node,
        cost=cost,
        cost_source="reported",
        started_at=now,
        ended_at=now,
    )
    record_manual(record, (*context.own, *counters_in_run()), context.sinks, context.budgets)
