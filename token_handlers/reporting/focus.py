"""Calls as rows of FOCUS 1.2, the FinOps Open Cost and Usage Specification (focus.finops.org).

Each part of a call's cost that has a rate is a charge of its own; a cost that no rates explain, such as one that the
provider stated, is one charge.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from token_handlers.counter.tables import money
from token_handlers.pricing.providers import provider_id
from token_handlers.pricing.recorded import price_again
from token_handlers.sinks.escapes import escaped
from token_handlers.usage import CostPart, UsageRecord

COLUMNS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd",
    "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost",
    "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit",
    "ProviderName", "PublisherName", "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType",
    "ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceId", "SubAccountId",
    "SubAccountName", "Tags",
    "x_EventId", "x_Operation", "x_Session", "x_User", "x_Estimated",
)  # fmt: skip
"""FOCUS' mandatory columns, those of its others that a call can fill, and ours, which begin with x_ as it asks for."""

UNKNOWN = "unknown"
"""The account or provider of a call that states none: FOCUS wants one."""

_CONSTANT = {
    "BillingCurrency": "USD",
    "ChargeCategory": "Usage",
    "ChargeFrequency": "Usage-Based",
    "PricingCategory": "Standard",
    "ServiceCategory": "AI and Machine Learning",
    "ServiceSubcategory": "Generative AI",
}
_HOUR = timedelta(hours=1)

Row = Mapping[str, str | None]


def focus_rows(record: UsageRecord) -> Iterator[Row]:
    """Yield the charges of a call, by column; none of one that was not billed, or whose cost is not known."""
    if record.outcome != "success" or record.cost is None:
        return
    common = _common(record)
    for part in _parts(record) or (_whole(record),):
        yield {**common, **_charge(record, part)}


def _parts(record: UsageRecord) -> tuple[CostPart, ...]:
    """Return what each part of the cost was, where that is exactly what was booked."""
    parts = record.cost_breakdown or _explained(record)
    return parts if parts and sum((part.cost for part in parts), Decimal(0)) == record.cost else ()


def _explained(record: UsageRecord) -> tuple[CostPart, ...]:
    if record.cost_source not in ("genai-prices", "token_handlers", "user", "repriced"):
        return ()
    price = price_again(record)
    return () if price is None else price.parts


def _whole(record: UsageRecord) -> CostPart:
    return CostPart("calls", 1, record.cost or Decimal(0), 1, record.cost or Decimal(0))


def _common(record: UsageRecord) -> dict[str, str | None]:
    """Return what all charges of a call have."""
    at = (record.started_at or record.ended_at or datetime.now(UTC)).astimezone(UTC)
    hour = at.replace(minute=0, second=0, microsecond=0)
    month = hour.replace(day=1, hour=0)
    provider = provider_id(record.provider) if record.provider else UNKNOWN
    tags = {escaped(name): escaped(value) for name, value in record.tags.items()}
    found = {
        **_CONSTANT,
        "BillingAccountId": record.organization or UNKNOWN,
        "BillingPeriodStart": _time(month),
        "BillingPeriodEnd": _time((month + timedelta(days=32)).replace(day=1)),
        "ChargePeriodStart": _time(hour),
        "ChargePeriodEnd": _time(hour + _HOUR),
        **dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), provider),
        "RegionId": record.region,
        "RegionName": record.region,
        "ServiceName": f"{provider} {record.operation}",
        "SubAccountId": record.project,
        "Tags": json.dumps(tags, ensure_ascii=False) if tags else None,
        "x_EventId": record.event_id,
        "x_Operation": record.operation,
        "x_Session": record.session,
        "x_User": record.user,
        "x_Estimated": "true" if record.source == "estimated" or record.doubts else "false",
    }
    return {name: None if value is None else escaped(value) for name, value in found.items()}


def _charge(record: UsageRecord, part: CostPart) -> dict[str, str | None]:
    """Return what is one charge's own."""
    model = escaped(part.model or record.model or UNKNOWN)
    name = record.tags.get("tool", model) if record.operation == "tool" else model
    unit = _unit(part.unit)
    note = f" ({part.note})" if part.note else ""
    cost, rate = money(part.cost), money(part.rate)
    return {
        **dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), cost),
        **dict.fromkeys(("ContractedUnitPrice", "ListUnitPrice"), rate),
        "ChargeDescription": escaped(f"{name}: {part.unit.replace('_', ' ')}{note}"),
        "ConsumedQuantity": str(part.number),
        "ConsumedUnit": unit,
        "PricingQuantity": money(Decimal(part.number) / part.per),
        "PricingUnit": unit if part.per == 1 else f"{part.per} {unit}",
        "SkuId": model,
        "SkuMeter": part.unit.replace("_", " ").title(),
        "SkuPriceId": f"{model}/{part.unit}",
    }


def _unit(unit: str) -> str:
    return "Tokens" if unit.endswith("_tokens") else unit.replace("_", " ").title()


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
