"""The prices and multipliers that a user sets: what they may say, and their refusal where they say something else."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, TypedDict

from token_handlers.pricing.providers import provider_id
from token_handlers.pricing.served import host_of, tier_name

Money = Decimal | str | int | float
Fee = Money | Mapping[str, Money]
"""USD per thousand events, or of each kind: {"low": 5, "medium": 8, "high": 12}."""


class Prices(TypedDict, total=False):
    """USD per million tokens or thousand events, under genai-prices' names."""

    input_mtok: Money
    output_mtok: Money
    cache_read_mtok: Money
    cache_write_mtok: Money
    cache_write_5m_mtok: Money
    cache_write_1h_mtok: Money
    cache_write_12h_mtok: Money
    output_reasoning_mtok: Money
    input_audio_mtok: Money
    output_audio_mtok: Money
    cache_audio_read_mtok: Money
    input_image_mtok: Money
    output_image_mtok: Money
    input_video_mtok: Money
    output_video_mtok: Money
    output_citation_mtok: Money
    web_searches_kcount: Fee
    social_searches_kcount: Fee
    storage_searches_kcount: Fee
    code_executions_kcount: Fee
    rerank_searches_kcount: Fee
    container_sessions_kcount: Fee
    maps_searches_kcount: Fee
    sources_kcount: Fee
    requests_kcount: Fee


PRICE_KEYS = tuple(Prices.__annotations__)

OwnKey = tuple[str, str | None, str]
"""A model's name in lower case, genai-prices' id of a provider or None for any, and a service tier or ""."""


class PriceOverride(NamedTuple):
    """Prices, fees that are added to those of the table, or the model that this one is billed as.

    ``kinds`` are fees that depend on what served: price key -> a value of the call's context -> USD.
    """

    prices: Mapping[str, Decimal]
    alias_of: str | None = None
    alias_provider: str | None = None
    kinds: Mapping[str, Mapping[str, Decimal]] = {}

    def of_call(self, context: Mapping[str, str]) -> tuple[dict[str, Decimal], dict[str, str]]:
        """Return the prices of a call, and by price key why one is in doubt: the call does not say its kind."""
        prices, doubts = dict(self.prices), {}
        for key, amounts in self.kinds.items():
            kind = next((said for said in context.values() if said in amounts), None)
            if kind is None:
                kind = next(iter(amounts))
                doubts[key] = f"whether {key} is that of {' or '.join(amounts)} is not known: {kind} is assumed"
            prices[key] = amounts[kind]
        return prices, doubts

    @property
    def adds_fees(self) -> bool:
        """Whether it leaves the token rates to the table."""
        return self.alias_of is None and "input_mtok" not in self.prices


class Multiplier(NamedTuple):
    """A factor on the rates of the calls that it is about; None is any."""

    factor: Decimal
    provider: str | None = None
    host: str | None = None
    region: str | None = None
    model: str | None = None
    since: float | None = None
    fees: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """What it is about: a later one about the same takes its place."""
        return self[1:]

    @property
    def names_place(self) -> bool:
        """Whether it is about a host or a region."""
        return self.host is not None or self.region is not None

    @property
    def says(self) -> str:
        """What it is about, in words."""
        about = [name for name in (self.provider, self.host, self.region, self.model) if name]
        return f"{', '.join(about) or 'every call'} (set_multiplier)"


def own_key(model: str, provider: str | None, service_tier: str | None) -> OwnKey:
    """Return what a user's price is kept by."""
    return model.lower(), provider_id(provider) if provider else None, tier_name(service_tier)


def own_price(
    model: str,
    names: Mapping[str, str | None],
    prices: Mapping[str, object],
) -> PriceOverride:
    """Check what `set_price` was given; raises TypeError and ValueError that name the value and the remedy.

    ``names`` are its other arguments: provider, service_tier, alias_of and alias_provider.
    """
    for what, name in {"model": model, **names}.items():
        if name is not None or what == "model":
            _check_name(what, name)
    alias_of, alias_provider = names["alias_of"], names["alias_provider"]
    if alias_of is None:
        kinds = {key: _by_kind(key, amount) for key, amount in prices.items() if isinstance(amount, Mapping)}
        flat = {key: amount for key, amount in prices.items() if key not in kinds}
        return PriceOverride(_checked(model, alias_provider, prices, flat), kinds=kinds)
    if prices:
        raise ValueError(f"set_price({model!r}) takes either alias_of or prices ({', '.join(prices)}), not both")
    return PriceOverride({}, alias_of, alias_provider)


def own_multiplier(factor: object, names: Mapping[str, str | None], since: date | None, *, fees: bool) -> Multiplier:
    """Check what `set_multiplier` was given; raises TypeError and ValueError that name the value and the remedy.

    ``names`` are provider, host, region and model.
    """
    for what, name in names.items():
        if name is not None:
            _check_name(what, name)
    if since is not None and not isinstance(since, date):
        raise TypeError(f"since must be a date or a datetime, not {since!r}")
    amount = checked_usd("factor", factor)
    if amount > _LARGEST_FACTOR:
        raise ValueError(f'factor must be at most {_LARGEST_FACTOR}, such as "1.1" for a tenth more, not {factor!r}')
    provider, host = names["provider"], names["host"]
    if host is not None and host_of(host) is None:
        raise ValueError(f"host must be a host name such as 'eu.api.openai.com', not {host!r}")
    return Multiplier(
        amount,
        provider_id(provider) if provider else None,
        host_of(host),
        (names["region"] or "").lower() or None,
        (names["model"] or "").lower() or None,
        None if since is None else _epoch(since),
        fees,
    )


_LARGEST_FACTOR = 1000


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a name, not {name!r}")
    if not name.strip():
        raise ValueError(f"{what} must be a name, not {name!r}")


def _epoch(since: date) -> float:
    if isinstance(since, datetime):
        return since.timestamp() if since.tzinfo else since.astimezone().timestamp()
    return datetime(since.year, since.month, since.day, tzinfo=UTC).timestamp()


_KINDS = ("low", "medium", "high", "web_search", "web_search_preview")


def _by_kind(key: str, amounts: Mapping[object, object]) -> dict[str, Decimal]:
    """Check the amounts of a fee that depends on the size of a search's context, or on which tool it was."""
    if not key.endswith("_kcount"):
        raise TypeError(f"{key} must be one amount of USD: only fees (..._kcount) may depend on the kind")
    unknown = [kind for kind in amounts if kind not in _KINDS]
    if unknown or not amounts:
        raise ValueError(f"{key} must be USD by {', '.join(_KINDS)}, not {unknown[0] if unknown else amounts!r}")
    return {str(kind): checked_usd(key, amount) for kind, amount in amounts.items()}


def _checked(
    model: str, alias_provider: str | None, prices: Mapping[str, object], flat: Mapping[str, object]
) -> dict[str, Decimal]:
    unknown = [key for key in prices if key not in PRICE_KEYS]
    if unknown:
        raise TypeError(f"set_price({model!r}) knows no {', '.join(unknown)}; it knows {', '.join(PRICE_KEYS)}")
    if alias_provider is not None:
        raise ValueError(f"alias_provider={alias_provider!r} needs alias_of, the model of that provider")
    only_fees = bool(prices) and all(key.endswith("_kcount") for key in prices)
    if "input_mtok" not in prices and not only_fees:
        raise TypeError(
            f"set_price({model!r}) needs input_mtok, the USD per million input tokens, or alias_of; fees alone "
            "(..._kcount) are added to the rates of the table"
        )
    parts = [key for key in prices if key.startswith("output_") and key != "output_mtok"]
    if parts and "output_mtok" not in prices:
        raise ValueError(f"{parts[0]} prices a part of the output tokens: set output_mtok too")
    return {key: checked_usd(key, amount) for key, amount in flat.items()}


def checked_usd(key: str, amount: object) -> Decimal:
    """Return an amount of USD, exact as it is written; raises TypeError and ValueError that name it."""
    if isinstance(amount, bool) or not isinstance(amount, Decimal | str | int | float):
        raise TypeError(f"{key} must be USD as a Decimal, str, int or float, not {amount!r}")
    try:
        money = Decimal(str(amount))
    except InvalidOperation:
        raise ValueError(f'{key} must be USD such as "2.50", not {amount!r}') from None
    if not money.is_finite() or not (money == 0 or Decimal("1e-18") <= money <= Decimal("1e12")):
        raise ValueError(f"{key} must be 0 or a positive, plausible amount of USD, not {amount!r}")
    return money or Decimal(0)
