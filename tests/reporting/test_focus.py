import json
import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from token_handlers import Usage, UsageRecord
from token_handlers.pricing import price_call
from token_handlers.reporting.focus import COLUMNS, focus_rows

MANDATORY = {
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
}
"""The columns that FOCUS 1.2 wants in every data set."""

OPTIONAL = {
    "AvailabilityZone",
    "BillingAccountType",
    "CapacityReservationId",
    "CapacityReservationStatus",
    "ChargeFrequency",
    "CommitmentDiscountCategory",
    "CommitmentDiscountId",
    "CommitmentDiscountName",
    "CommitmentDiscountQuantity",
    "CommitmentDiscountStatus",
    "CommitmentDiscountType",
    "CommitmentDiscountUnit",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedUnitPrice",
    "InvoiceId",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrency",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
}
NULLABLE = {"BillingAccountName", "ChargeClass"}
NUMBERS = {name for name in MANDATORY | OPTIONAL if re.search(r"Cost$|Quantity$|UnitPrice$", name)}
MOMENTS = {name for name in MANDATORY | OPTIONAL if re.search(r"Period(Start|End)$", name)}
VALUES = {
    "BillingCurrency": {"USD"},
    "ChargeCategory": {"Usage"},
    "ChargeFrequency": {"Usage-Based"},
    "PricingCategory": {"Standard"},
    "ServiceCategory": {"AI and Machine Learning"},
    "ServiceSubcategory": {"Generative AI"},
}
AT = datetime(2026, 11, 28, 23, 30, tzinfo=UTC)
COUNTS = {"input_tokens": 1000, "output_tokens": 50, "cache_read_tokens": 200}


def call(**fields):
    """Return a record of a call that the table prices."""
    counts = fields.pop("counts", COUNTS)
    price = price_call(counts, "gpt-4o", "openai", at=AT.timestamp())
    common = {"model": "gpt-4o", "provider": "openai", "cost": price.cost, "cost_source": price.source}
    return UsageRecord(**{"usage": Usage(**counts), "started_at": AT, **common, **fields})


CALLS = {
    "by rates": call(tags={"team": "search"}, session="s", user="u", organization="org-1", project="p-1", region="eu"),
    "stated": call(cost=Decimal("0.1234567890123"), cost_source="reported", model="a/b", provider=None),
    "an estimate": call(source="estimated"),
    "a free one": call(cost=Decimal(0), cost_source="user"),
    "a tool's": UsageRecord(
        operation="tool", source="manual", model="(tools)", tags={"tool": "OCR"}, cost="0.5", requests=0, started_at=AT
    ),
    "of odd names": call(model="\ud800", tags={"=cmd": "\n"}, cost_source="reported"),
    "without a time": call(started_at=None),
}


@pytest.mark.parametrize("name", CALLS)
def test_columns_and_types(name):
    """Each row has FOCUS' mandatory columns, no column that it does not know but ours, and values of its types."""
    rows = list(focus_rows(CALLS[name]))
    assert MANDATORY <= set(COLUMNS)
    assert {column for column in set(COLUMNS) - MANDATORY - OPTIONAL if not column.startswith("x_")} == set()
    assert rows
    for row in rows:
        assert row.keys() <= set(COLUMNS)
        for column in MANDATORY - NULLABLE:
            assert row[column] not in (None, ""), column
        for column in NUMBERS & row.keys():
            assert re.fullmatch(r"\d+(\.\d+)?", row[column]), column
        for column in MOMENTS:
            assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:00:00Z", row[column]), column
        for column, values in VALUES.items():
            assert row[column] in values
        assert row["Tags"] is None or isinstance(json.loads(row["Tags"]), dict)
        assert re.fullmatch(r"(\d+ )?[A-Z][\w ]*", row["PricingUnit"])
        assert row["x_Estimated"] in ("true", "false")


@pytest.mark.parametrize("name", CALLS)
def test_the_charges_are_the_cost(name):
    """The charges of a call add up to its cost, and each is its quantity times its price."""
    rows = list(focus_rows(CALLS[name]))

    for column in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"):
        assert CALLS[name].cost == sum((Decimal(row[column]) for row in rows), Decimal(0))
    for row in rows:
        assert Decimal(row["ListCost"]) == Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"])


def test_a_call_by_rates():
    """Each kind of token is a charge, with the hour and the month of the call."""
    rows = list(focus_rows(CALLS["by rates"]))

    assert [("800", "Tokens", "1000000 Tokens", "2.5"), ("50", "Tokens", "1000000 Tokens", "10")] == [
        (row["ConsumedQuantity"], row["ConsumedUnit"], row["PricingUnit"], row["ListUnitPrice"]) for row in rows[:2]
    ]
    assert ["gpt-4o/input_tokens", "gpt-4o/output_tokens", "gpt-4o/cache_read_tokens"] == [
        row["SkuPriceId"] for row in rows
    ]
    first = rows[0]
    assert ("2026-11-28T23:00:00Z", "2026-11-29T00:00:00Z") == (first["ChargePeriodStart"], first["ChargePeriodEnd"])
    assert ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z") == (first["BillingPeriodStart"], first["BillingPeriodEnd"])
    assert ("org-1", "p-1", "eu") == (first["BillingAccountId"], first["SubAccountId"], first["RegionId"])
    assert ("s", "u", '{"team": "search"}') == (first["x_Session"], first["x_User"], first["Tags"])
    assert {"openai"} == {first[name] for name in ("ProviderName", "PublisherName", "InvoiceIssuerName")}


def test_a_cost_that_no_rates_explain():
    """It is one charge of one call."""
    (row,) = focus_rows(CALLS["stated"])

    assert ("1", "Calls", "1", "0.1234567890123") == (
        row["PricingQuantity"],
        row["PricingUnit"],
        row["ConsumedQuantity"],
        row["BilledCost"],
    )


@pytest.mark.parametrize("fields", [{"cost": None}, {"outcome": "failed"}, {"outcome": "cached", "cost": None}])
def test_what_is_no_charge(fields):
    """A call of unknown cost is not one of 0, and what was not billed is none."""
    assert [] == list(focus_rows(call(**fields)))
