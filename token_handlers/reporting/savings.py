"""What the provider's prompt cache saved, at list prices."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from token_handlers.pricing import calculator
from token_handlers.usage import UsageTotals

_PROBE = 1000
"""How many tokens a rate is asked for: below every threshold from which a model's tokens cost more."""


class ModelSavings(NamedTuple):
    """What the cache saved of one model's calls, at all its providers; None where the model's rates are not known."""

    saved: Decimal | None
    read_tokens: int
    prompt_tokens: int

    @property
    def hit_rate(self) -> float:
        """The share of the prompt tokens that were read from the cache."""
        return self.read_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


class CacheSavings(NamedTuple):
    """USD that reads from the provider's prompt cache did not cost, less what writes to it cost more.

    ``unknown_tokens`` are read or written tokens of models whose rates are not known: they are not in ``saved``.
    ``models`` has only those models of which tokens were read or written.
    """

    saved: Decimal
    read_tokens: int
    prompt_tokens: int
    unknown_tokens: int
    models: Mapping[str, ModelSavings]

    @property
    def hit_rate(self) -> float:
        """The share of the prompt tokens that were read from the cache, of all models."""
        return self.read_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


def cache_savings(models: Mapping[tuple[str | None, str], UsageTotals], at: datetime) -> CacheSavings:
    """Return what the caches saved, of totals by provider and model, at the list prices of a moment.

    Without long contexts' higher rates and without service tiers: totals do not say which calls had them.
    """
    saved, unknown = Decimal(0), 0
    found: dict[str, ModelSavings] = {}
    for (provider, model), totals in models.items():
        if not (totals.prompt_tokens_cached or totals.cache_write_tokens):
            continue
        amount = _saved(provider, model, totals, at)
        if amount is None:
            unknown += totals.prompt_tokens_cached + totals.cache_write_tokens
        else:
            saved += amount
        here = ModelSavings(amount, totals.prompt_tokens_cached, totals.prompt_tokens)
        found[model] = _both(found[model], here) if model in found else here
    read, prompt = (
        sum(getattr(totals, name) for totals in models.values()) for name in ("prompt_tokens_cached", "prompt_tokens")
    )
    return CacheSavings(saved, read, prompt, unknown, found)


def _both(one: ModelSavings, other: ModelSavings) -> ModelSavings:
    known = [each.saved for each in (one, other) if each.saved is not None]
    saved = sum(known, Decimal(0)) if known else None
    return ModelSavings(saved, one.read_tokens + other.read_tokens, one.prompt_tokens + other.prompt_tokens)


def _saved(provider: str | None, model: str, totals: UsageTotals, at: datetime) -> Decimal | None:
    tokens = (
        (totals.prompt_tokens_cached, {"cache_read_tokens": _PROBE}),
        (totals.cache_write_tokens - totals.cache_write_1h_tokens, {"cache_write_tokens": _PROBE}),
        (totals.cache_write_1h_tokens, {"cache_write_tokens": _PROBE, "cache_write_1h_tokens": _PROBE}),
    )
    saved = Decimal(0)
    for number, counts in tokens:
        if number:
            plain, cached = (
                calculator.price_call({"input_tokens": _PROBE, **parts}, model, provider, at=at.timestamp())
                for parts in ({}, counts)
            )
            if plain is None or cached is None:
                return None
            saved += (plain.cost - cached.cost) * number / _PROBE
    return saved
