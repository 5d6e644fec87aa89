"""Totals to report."""

from decimal import Decimal

from token_handlers.usage import UsageTotals

CHEAP = UsageTotals(prompt_tokens=1, successful_requests=1, cost=Decimal("0.10"))

DEAR = UsageTotals(
    prompt_tokens=1000,
    prompt_tokens_cached=400,
    completion_tokens=200,
    reasoning_tokens=50,
    embedding_tokens=30,
    successful_requests=2,
    cost=Decimal(3),
)

UNKNOWN = UsageTotals(successful_requests=1, estimated_requests=1, cost=None, unpriced_requests=1)

EVIL = "<script>document.title='broken'</script>"
"""A name that is not to run."""
