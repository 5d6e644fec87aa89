"""Prices here are those of genai-prices' table on a day of its past, which does not change any more."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from token_handlers.pricing import reset_prices, set_price
from token_handlers.pricing.recorded import price_again, price_as
from token_handlers.pricing.sellers import Sold, UnknownModel, find_seller, seller_of
from token_handlers.usage import Usage, UsageRecord

DAY = datetime(2026, 11, 20, 12, tzinfo=UTC)
MILLION = Usage(input_tokens=10**6)


@pytest.fixture(autouse=True)
def _prices():
    yield
    reset_prices()


def record(model="gpt-5", provider="openai", usage=MILLION, **fields):
    """Return a call of the day."""
    return UsageRecord(usage=usage, model=model, provider=provider, started_at=DAY, **fields)


@pytest.mark.parametrize(
    ("past", "cost"),
    [
        (record(), "1.25"),
        (record(service_tier="flex"), "0.625"),
        (record(service_tier="batch"), "0.625"),
        (record(service_tier="priority"), "2.5"),
        (record("gpt-5.4", host="eu.api.openai.com"), "5.5"),
        (record("gpt-5.4", host="api.openai.com"), "5"),
        (record("claude-opus-4-8", "anthropic", served={"speed": "fast", "inference_geo": "us"}), "11"),
        (record("claude-opus-4-8", "anthropic", region="us"), "5.5"),
        (record("gemini-3.8-flash", "vertexai", region="us-central1"), "0.825"),
        (record(usage=Usage(input_tokens=10**6, web_searches=1000)), "11.25"),
        (record(billed={"input_tokens": 2 * 10**6}), "2.5"),
        (record(beside=(("gpt-5-mini", {"input_tokens": 10**6}),)), "0.25"),
    ],
)  # fmt: skip
def test_a_past_call_is_priced_as_it_was_served(past, cost):
    """Tier, host, place, speed, fees, what was billed, and other models' parts: all that the record keeps counts."""
    assert Decimal(cost) == price_again(past).cost


def test_a_local_server_stays_unpriced():
    """A host that is nobody's is not billed as the maker of a model that anybody can serve."""
    assert None is price_again(record("gpt-oss-20b", host="127.0.0.1"))


def test_a_tier_without_rates_is_a_doubt():
    """What is not certain of the new price is said."""
    assert "service tier 'scale'" in price_again(record(service_tier="scale")).doubts[0]


@pytest.mark.parametrize(
    ("past", "sold", "cost"),
    [
        (record(), Sold("gpt-5-mini"), "0.25"),
        (record(service_tier="flex"), Sold("gpt-5-mini", "openai"), "0.125"),
        (record("gpt-5.4", host="eu.api.openai.com"), Sold("gpt-5.5"), "11"),
        (record("gpt-5.4", host="eu.api.openai.com"), Sold("gpt-5.5", "azure"), "10"),
        (record("claude-opus-4-8", "anthropic", served={"inference_geo": "us"}), Sold("gpt-5"), "1.25"),
        (record("gpt-5", host="api.openai.com"), Sold("claude-opus-4-8"), "5"),
        (record("llama3.2", "ollama", host="127.0.0.1"), Sold("gpt-5", "openai"), "1.25"),
        (record(usage=Usage(input_tokens=10**6, web_searches=1000)), Sold("claude-opus-4-8"), "15"),
    ],
)  # fmt: skip
def test_a_past_call_on_another_model(past, sold, cost):
    """The tier and the events stay; the host and the place stay with the seller."""
    assert Decimal(cost) == price_as(past, sold).cost


def test_cached_tokens_on_another_model():
    """Reads and writes cost what the other model's do, and as much as other input where it has no rates of them."""
    usage = Usage(input_tokens=10**6, cache_read_tokens=500_000, cache_write_tokens=100_000)
    past = record("claude-opus-4-8", "anthropic", usage)
    set_price("no-cache", "anthropic", input_mtok=1)

    assert Decimal("2.875") == price_again(past).cost  # 0.4 M at 5, 0.5 M at 0.5, 0.1 M at 6.25
    assert Decimal("0.1375") == price_as(past, Sold("gpt-5-mini")).cost  # 0.5 M at 0.25, 0.5 M at 0.025
    assert Decimal(1) == price_as(past, Sold("no-cache")).cost
    assert Decimal(0) == price_as(past, Sold("no-cache")).cache_saved


def test_what_has_no_rate_there_is_said(caplog):
    """A model without a price leaves the call unpriced, an event without a rate is a doubt; nobody is warned."""
    searched = record("gpt-5", usage=Usage(input_tokens=10**6, maps_searches=3))

    assert None is price_as(searched, Sold("nobody-knows-it"))
    doubts = price_as(searched, Sold("gpt-4o")).doubts
    assert ("no rate is known for maps searches: the cost is without them",) == doubts
    assert [] == caplog.messages


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-5-mini", Sold("gpt-5-mini")),
        ("openai/gpt-5-mini", Sold("gpt-5-mini", "openai")),
        ("amazon.nova-pro-v1:0", Sold("amazon.nova-pro-v1:0", "aws")),
    ],
)
def test_who_sells_a_model(name, expected):
    """A name is found at its maker, at the provider before a slash, or on Bedrock."""
    assert expected == find_seller(name)[0]


@pytest.mark.parametrize(
    ("name", "provider", "message"),
    [
        ("gpt-5-mni", None, "no price is known for 'gpt-5-mni': did you mean gpt-5-mini or "),
        ("gpt-oss-120b", None, "name its provider, such as "),
        ("zzz", None, "check the name, or name its provider: PROVIDER/MODEL"),
        ("gpt-5-mni", "openai", "no price is known for 'gpt-5-mni' of openai: did you mean"),
    ],
)
def test_a_name_that_nobody_sells(name, provider, message):
    """The error asks what was meant, or for the provider."""
    with pytest.raises(UnknownModel) as caught:
        find_seller(name, provider)

    assert message in str(caught.value)


def test_the_owner_of_the_host_bills():
    """Whatever the client is called, the owner of the host sells; else the provider does."""
    assert ("azure", "anthropic", "ollama", "") == (
        seller_of("openai", "x.openai.azure.com"),
        seller_of("ChatAnthropic", None),
        seller_of("ollama", "127.0.0.1"),
        seller_of(None, None),
    )
