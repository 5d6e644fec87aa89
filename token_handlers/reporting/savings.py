"""What the provider's prompt cache saved, as people read it."""

from token_handlers.reporting.amounts import counted, dollars
from token_handlers.usage import UsageTotals


def cached_tokens(totals: UsageTotals) -> int:
    """Return how many tokens were read from the prompt cache or written to it."""
    return totals.prompt_tokens_cached + totals.cache_write_tokens


def in_words(totals: UsageTotals) -> str:
    """Return what the cache saved, such as "saved $0.50"; "" where that is not known, or nothing was cached."""
    saved = totals.cache_saved_cost
    if saved is None or not cached_tokens(totals):
        return ""
    return f"saved {dollars(saved)}" if saved >= 0 else f"cost {dollars(-saved)} more than it saved"


def unknown_in_words(totals: UsageTotals) -> list[str]:
    """Return how many tokens the amount leaves out, if any."""
    if not totals.unpriced_cache_tokens:
        return []
    unknown = counted(totals.unpriced_cache_tokens, "cached token")
    return [f"{unknown} saved an unknown amount (token-handlers reprice)."]
