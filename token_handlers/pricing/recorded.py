"""What a recorded call costs, priced again or as another model, by all that its record keeps of how it was served."""

from collections.abc import Mapping
from functools import partial

from token_handlers.pricing.calculator import price_call
from token_handlers.pricing.price import Price
from token_handlers.pricing.providers import provider_id
from token_handlers.pricing.sellers import Sold, seller_of
from token_handlers.usage import UsageRecord

_PLACES = ("region", "location", "inference_geo")


def price_again(record: UsageRecord) -> Price | None:
    """Return what a past call costs by today's table as of its day; None where that can't be known.

    By the counts that were billed, the tier, the host, the place and the models beside it, as far as its record has
    them.
    """
    if not record.beside and any(part.model is not None for part in record.cost_breakdown):
        return None  # an older ledger does not say which tokens were the other models'
    return price_call(
        _counts(record) if record.billed is None else record.billed,
        record.model,
        record.provider,
        requested=record.requested_model,
        base_url=record.host,
        service_tier=record.service_tier,
        at=_epoch(record),
        context=_served(record),
        beside=record.beside,
    )


def price_as(record: UsageRecord, sold: Sold) -> Price | None:
    """Return what a past call would have cost on another model: the same tokens, events, tier and day.

    Where no seller is named, who served the call sells the model if they have it, else its maker. The host and the
    place count where the seller stays the same. What other models were billed for is taken for the model's own.
    """
    price = partial(
        price_call, _counts(record), sold.model, service_tier=record.service_tier, at=_epoch(record), warns=False
    )
    served = _served(record)
    if sold.provider is None or provider_id(sold.provider) == seller_of(record.provider, record.host):
        there = price(provider=record.provider or sold.provider, base_url=record.host, context=served)
        if there is not None:
            return there
    elsewhere = {name: value for name, value in served.items() if name not in _PLACES}
    return price(provider=sold.provider, context=elsewhere)


def _counts(record: UsageRecord) -> dict[str, int]:
    counts: dict[str, int] = record.usage.model_dump(exclude={"total_tokens"}, exclude_unset=True)
    return counts


def _served(record: UsageRecord) -> Mapping[str, str]:
    """Return `price_call`'s context; a record of an older ledger has its place alone."""
    if record.served or not record.region:
        return record.served
    return {"region": record.region, "inference_geo": record.region}


def _epoch(record: UsageRecord) -> float | None:
    return None if record.started_at is None else record.started_at.timestamp()
