from datetime import UTC, datetime
from decimal import Decimal

import pytest

from token_handlers.pricing import reset_prices, set_price
from token_handlers.reporting.savings import CacheSavings, ModelSavings, cache_savings
from token_handlers.usage import UsageTotals

NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _prices():
    """Two models with a price: reads at a tenth, writes at a quarter more, and twice as much for an hour."""
    prices = {"input_mtok": 10, "output_mtok": 20, "cache_read_mtok": 1, "cache_write_mtok": "12.5"}
    set_price("writer", "anthropic", **prices, cache_write_1h_mtok=20)
    set_price("reader", "openai", input_mtok=4, output_mtok=8, cache_read_mtok=1)
    yield
    reset_prices()


def totals(prompt, read=0, write=0, write_1h=0):
    """Return totals with these tokens, in millions."""
    numbers = {
        "prompt_tokens": prompt,
        "prompt_tokens_cached": read,
        "cache_write_tokens": write,
        "cache_write_1h_tokens": write_1h,
    }
    return UsageTotals(**{name: number * 10**6 for name, number in numbers.items()})


def test_what_reads_save_less_what_writes_cost_more():
    """Reads are compared with the input price, writes for five minutes and for an hour too."""
    models = {("anthropic", "writer"): totals(10, 5, 3, 1), ("openai", "reader"): totals(4, 2)}
    expected = 5 * 9 - 2 * Decimal("2.5") - 1 * 10 + 2 * 3

    found = cache_savings(models, NOW)

    assert (expected, 7 * 10**6, 14 * 10**6, 0) == found[:4]
    assert 0.5 == found.hit_rate
    assert {
        "writer": ModelSavings(expected - 6, 5 * 10**6, 10 * 10**6),
        "reader": ModelSavings(Decimal(6), 2 * 10**6, 4 * 10**6),
    } == found.models
    assert 0.5 == found.models["reader"].hit_rate


def test_writes_that_were_never_read():
    """A cache that is only written to cost more than it saved."""
    assert Decimal("-2.5") == cache_savings({("anthropic", "writer"): totals(1, 0, 1)}, NOW).saved


def test_a_model_without_a_price():
    """What is not known is counted, and not taken for nothing."""
    models = {(None, "nobody-knows-it"): totals(2, 1), ("openai", "reader"): totals(2, 1)}

    found = cache_savings(models, NOW)

    assert (Decimal(3), 2 * 10**6, 4 * 10**6, 10**6) == found[:4]
    assert None is found.models["nobody-knows-it"].saved


def test_a_model_at_two_providers():
    """What is known of a model is summed over its providers."""
    found = cache_savings({("openai", "reader"): totals(2, 1), ("azure", "reader"): totals(4, 1)}, NOW)

    assert {"reader": ModelSavings(found.saved, 2 * 10**6, 6 * 10**6)} == found.models


def test_nothing_was_cached():
    """A model without cached tokens is not asked for a price."""
    assert CacheSavings(Decimal(0), 0, 10**6, 0, {}) == cache_savings({(None, "nobody-knows-it"): totals(1)}, NOW)
    assert 0.0 == cache_savings({}, NOW).hit_rate
