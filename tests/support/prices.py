"""What the price tests compare: what genai-prices says, what we say, and random calls to ask both about."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import genai_prices
from genai_prices.types import ModelInfo

from token_handlers.pricing import Price, price_call
from token_handlers.pricing.corrections import correction_of
from token_handlers.pricing.fees import FEES
from token_handlers.pricing.overrides import PRICE_KEYS

Draw = Callable[[Sequence[Any]], Any]

CALL = {"input_tokens": 1000, "output_tokens": 100}
CACHED_CALL = {**CALL, "cache_read_tokens": 400}

_CONTEXTS = {"batch": {"processing": "batch"}, "fast": {"service_tier": "fast", "speed": "fast"}}
_SIZES = (0, 1, 7, 999, 128_000, 200_000, 200_001, 272_001, 10**6, 10**9)


def epoch(*when: int) -> float:
    """Return the epoch seconds of a moment in UTC."""
    year, month, day, *clock = when
    seconds = sum(part * size for part, size in zip(clock, (3600, 60, 1), strict=False))
    return datetime(year, month, day, tzinfo=UTC).timestamp() + seconds


def as_genai(counts: Mapping[str, int]) -> genai_prices.Usage:
    """Return the counts under genai-prices' names."""
    named = {"output_reasoning_tokens" if key == "reasoning_tokens" else key: count for key, count in counts.items()}
    return genai_prices.Usage(**named)


def genai_cost(
    counts: Mapping[str, int], model: str, provider: str, at: float, tier: str | None = None
) -> Decimal | None:
    """Return calc_price's price, or None where there is none: no entry, no prices, none that a Usage can count."""
    context = _CONTEXTS.get(tier or "") or ({"service_tier": tier} if tier else None)
    try:
        priced = genai_prices.calc_price(
            as_genai(counts),
            model,
            provider_id=provider,
            genai_request_timestamp=datetime.fromtimestamp(at, UTC),
            price_context=context,
        )
    except (LookupError, ValueError):
        return None
    keys = {key for key, price in vars(priced.model_price).items() if price is not None}
    return priced.total_price if keys & set(PRICE_KEYS) else None


def noon(*day: int) -> float:
    """Return the epoch seconds of a day's noon in UTC."""
    return epoch(*day, 12)


def price(
    counts: Mapping[str, int],
    model: str | None,
    provider: str | None = None,
    day: tuple[int, ...] = (2026, 11, 25),
    **call: Any,
) -> Price | None:
    """Return price_call's price at noon of a day, a Wednesday unless said."""
    return price_call(counts, model, provider, at=noon(*day), **call)


def is_as_in_table(provider: str, model: ModelInfo, at: float, tier: str | None) -> bool:
    """Whether tokens cost what genai-prices says: nothing of ours is about the row, the tier or the request."""
    moment = datetime.fromtimestamp(at, UTC)
    context = _CONTEXTS.get(tier or "") or {"service_tier": tier}
    has_tier = any(
        variant.when.items() <= context.items() and (variant.constraint is None or variant.constraint.active(moment))
        for variant in model.price_variants or ()
    )
    has_fee = any(
        fee.seller == provider and fee.key == "requests_kcount" and re.search(fee.models, model.id) for fee in FEES
    )
    return (
        (tier in (None, "default", "auto") or has_tier)
        and not has_fee
        and not correction_of(provider, model.id, moment)
    )


def our_cost(
    counts: Mapping[str, int], model: str, provider: str, at: float, tier: str | None = None
) -> Decimal | None:
    """Return price_call's cost."""
    price = price_call(counts, model, provider, at=at, service_tier=tier)
    return price and price.cost


def random_counts(draw: Draw) -> dict[str, int]:
    """Return a breakdown as providers report one: parts within their wholes, some absent, some contradictory."""
    size = draw(_SIZES)
    counts = {"input_tokens": size, "output_tokens": draw(_SIZES)}
    left = counts["input_tokens"]
    for part in ("cache_read_tokens", "cache_write_tokens"):
        if draw((True, True, False)):
            counts[part] = min(left, draw(_SIZES))
            left -= counts[part]
    if draw((True, False, False)) and "cache_write_tokens" in counts:
        counts["cache_write_1h_tokens"] = counts["cache_write_tokens"] // draw((1, 2, 3))
        counts["cache_write_5m_tokens"] = counts["cache_write_tokens"] - counts["cache_write_1h_tokens"]
    for part, whole in (
        ("input_audio_tokens", "input_tokens"),
        ("cache_audio_read_tokens", "cache_read_tokens"),
        ("input_image_tokens", "input_tokens"),
        ("reasoning_tokens", "output_tokens"),
        ("output_audio_tokens", "output_tokens"),
        ("output_citation_tokens", "output_tokens"),
    ):
        if draw((True, False, False, False)):
            counts[part] = counts.get(whole, 0) // draw((1, 2, 5, 1000)) + draw((0, 0, 0, 0, 0, 1))
    absent = draw((None, None, None, None, None, "input_tokens", "output_tokens", "cache_read_tokens"))
    return {name: count for name, count in counts.items() if name != absent}


def random_moment(draw: Draw) -> float:
    """Return epoch seconds of 2023 to 2027."""
    day = datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=draw(range(5 * 365)))
    return (day + timedelta(minutes=draw(range(24 * 60)), seconds=draw((0, 0, 59.5)))).timestamp()
