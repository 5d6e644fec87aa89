"""The prices that a user sets: what they may say, and their refusal where they say something else."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, TypedDict

Money = Decimal | str | int | float


class Prices(TypedDict, total=False):
    """USD per million tokens or thousand events, under genai-prices' names."""

    input_mtok: Money
    output_mtok: Money
    cache_read_mtok: Money
    cache_write_mtok: Money
    cache_write_5m_mtok: Money
    cache_write_1h_mtok: Money
    output_reasoning_mtok: Money
    input_audio_mtok: Money
    output_audio_mtok: Money
    cache_audio_read_mtok: Money
    input_image_mtok: Money
    output_image_mtok: Money
    input_video_mtok: Money
    output_citation_mtok: Money
    web_searches_kcount: Money
    social_searches_kcount: Money
    storage_searches_kcount: Money
    code_executions_kcount: Money
    rerank_searches_kcount: Money
    requests_kcount: Money


PRICE_KEYS = tuple(Prices.__annotations__)


class PriceOverride(NamedTuple):
    """Either prices or the model that this one is billed as."""

    prices: Mapping[str, Decimal]
    alias_of: str | None = None
    alias_provider: str | None = None


def own_price(
    model: str, provider: str | None, alias_of: str | None, alias_provider: str | None, prices: Mapping[str, object]
) -> PriceOverride:
    """Check what `set_price` was given; raises TypeError and ValueError that name the value and the remedy."""
    for what, name in {
        "model": model,
        "provider": provider,
        "alias_of": alias_of,
        "alias_provider": alias_provider,
    }.items():
        if not isinstance(name, str) and (name is not None or what == "model"):
            raise TypeError(f"{what} must be a name, not {name!r}")
        if name is not None and not name.strip():
            raise ValueError(f"{what} must be a name, not {name!r}")
    if alias_of is None:
        return PriceOverride(_checked(model, alias_provider, prices))
    if prices:
        raise ValueError(f"set_price({model!r}) takes either alias_of or prices ({', '.join(prices)}), not both")
    return PriceOverride({}, alias_of, alias_provider)


def _checked(model: str, alias_provider: str | None, prices: Mapping[str, object]) -> dict[str, Decimal]:
    unknown = [key for key in prices if key not in PRICE_KEYS]
    if unknown:
        raise TypeError(f"set_price({model!r}) knows no {', '.join(unknown)}; it knows {', '.join(PRICE_KEYS)}")
    if alias_provider is not None:
        raise ValueError(f"alias_provider={alias_provider!r} needs alias_of, the model of that provider")
    if "input_mtok" not in prices:
        raise TypeError(f"set_price({model!r}) needs input_mtok, the USD per million input tokens, or alias_of")
    parts = [key for key in prices if key.startswith("output_") and key != "output_mtok"]
    if parts and "output_mtok" not in prices:
        raise ValueError(f"{parts[0]} prices a part of the output tokens: set output_mtok too")
    return {key: _money(key, amount) for key, amount in prices.items()}


def _money(key: str, amount: object) -> Decimal:
    if isinstance(amount, bool) or not isinstance(amount, Decimal | str | int | float):
        raise TypeError(f"{key} must be USD as a Decimal, str, int or float, not {amount!r}")
    try:
        money = Decimal(str(amount))
    except InvalidOperation:
        raise ValueError(f'{key} must be USD such as "2.50", not {amount!r}') from None
    if not money.is_finite() or not (money == 0 or Decimal("1e-18") <= money <= Decimal("1e12")):
        raise ValueError(f"{key} must be 0 or a positive, plausible amount of USD, not {amount!r}")
    return money or Decimal(0)
