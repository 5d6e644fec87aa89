import random
import threading
from collections.abc import Iterator
from decimal import Decimal

import pytest
from genai_prices.data_snapshot import set_custom_snapshot
from genai_prices.data_units import unit_data
from genai_prices.types import ModelPrice

from tests.support.prices import CACHED_CALL, CALL, as_genai, epoch, our_cost, random_counts
from token_handlers.pricing import Price, load_prices, price_call, reset_prices, set_price
from token_handlers.pricing.calculator import find_plan
from token_handlers.pricing.overrides import PRICE_KEYS


@pytest.fixture(autouse=True)
def _no_prices_left() -> Iterator[None]:
    """A test's prices, snapshots and warnings end with it."""
    yield
    set_custom_snapshot(None)
    reset_prices()


@pytest.mark.parametrize("amount", [Decimal("2.5"), "2.5", 2.5], ids=repr)
def test_money_may_be_of_any_type(amount):
    """A float means the digits that it prints."""
    set_price("mine", input_mtok=amount, output_mtok=0.1)
    assert Price(Decimal("0.00251"), "user") == price_call(CALL, "mine", "openai")


def test_own_prices_come_first():
    """They replace the table's, at the stated provider or at any, the more particular first."""
    set_price("gpt-4o", input_mtok=1, output_mtok=1)
    set_price("GPT-4o", "azure_openai", input_mtok=2, output_mtok=2)
    costs = [price_call(CALL, "gpt-4o", provider).cost for provider in ("openai", "azure", "ollama", None)]
    assert [Decimal("0.0011"), Decimal("0.0022"), Decimal("0.0011"), Decimal("0.0011")] == costs
    assert 1 == price_call(CALL, "gpt-4o-mini", "openai").source.count("genai")


def test_own_prices_of_either_name_come_before_the_table():
    """A deployment's price holds although the answer states a model that the table has."""
    set_price("deployment", input_mtok=1, output_mtok=1)
    assert "user" == price_call(CALL, "gpt-4o-2024-08-06", "azure", requested="deployment").source


def test_own_prices_hold_at_the_servers_provider():
    """A price that was set for OpenRouter holds for an OpenAI client that talks to it."""
    set_price("openai/gpt-4o", "openrouter", input_mtok=1, output_mtok=1)
    assert "user" == price_call(CALL, "openai/gpt-4o", "openai", base_url="https://openrouter.ai/api/v1").source


def test_own_prices_hold_for_the_long_forms_of_a_name():
    """A price for gemini-2.5-flash is one for models/gemini-2.5-flash, whatever its case."""
    set_price("Gemini-2.5-flash", "google", input_mtok=1, output_mtok=1)
    assert "user" == price_call(CALL, "models/gemini-2.5-flash", "google_genai").source


def test_own_prices_of_parts_and_events():
    """Parts with a price take it, parts without one cost what the whole does, a request has its fee."""
    set_price(
        "mine",
        input_mtok=10,
        output_mtok=20,
        cache_read_mtok=1,
        cache_write_1h_mtok=30,
        output_reasoning_mtok=40,
        web_searches_kcount=5,
        requests_kcount=7,
    )
    counts = {
        "input_tokens": 1000,
        "cache_read_tokens": 100,
        "cache_write_tokens": 300,
        "cache_write_1h_tokens": 200,
        "input_audio_tokens": 50,
        "output_tokens": 100,
        "reasoning_tokens": 60,
        "web_searches": 2,
    }
    tokens = Decimal(100 * 1 + 200 * 30 + 700 * 10 + 60 * 40 + 40 * 20) / 10**6
    assert tokens + Decimal("0.017") == price_call(counts, "mine").cost


def test_cached_tokens_without_a_price_cost_what_input_does():
    """No discount that was not stated."""
    set_price("mine", input_mtok=10, output_mtok=0)
    assert price_call(CALL, "mine") == price_call(CACHED_CALL, "mine")


def test_cached_audio_without_a_price_costs_what_audio_does():
    """Of two prices that could apply, the one without an unstated discount does; how much there was must be known."""
    set_price("mine", input_mtok=10, output_mtok=0, cache_read_mtok=1, input_audio_mtok=40)
    counts = {"input_tokens": 1000, "cache_read_tokens": 300, "input_audio_tokens": 200}
    assert price_call(counts, "mine") is None
    tokens = Decimal(600 * 10 + 200 * 1 + 200 * 40) / 10**6
    assert tokens == price_call({**counts, "cache_audio_read_tokens": 100}, "mine").cost


TABLES_KEYS = [key for key in PRICE_KEYS if key in {unit["price_key"] for unit in unit_data.values()}]


@pytest.mark.parametrize("keys", [("cache_read_mtok", "input_audio_mtok"), TABLES_KEYS[2:]])
def test_own_prices_equal_genai_prices_with_the_same_rates(keys):
    """Compiled or left to genai-prices, prices of one's own have one meaning, whatever parts they name."""
    set_price("mine", input_mtok=10, output_mtok=30, **{key: number for number, key in enumerate(keys)})
    draw = random.Random(7).choice
    for _ in range(300):
        counts = random_counts(draw)
        price = price_call(counts, "mine")
        try:
            expected = ModelPrice(**find_plan("mine").rates).calc_price(as_genai(counts))["total_price"]
        except ValueError:
            expected = None
        assert expected == (price and price.cost)


def test_output_without_an_output_price_is_unpriced(caplog):
    """An embedding's price has no output; a chat model's output is not free because its price was left out."""
    set_price("embedder", input_mtok="0.02")
    assert Decimal("0.00002") == price_call({"input_tokens": 1000, "output_tokens": 0}, "embedder").cost
    assert price_call(CALL, "embedder") is None
    assert "output_mtok" in caplog.text


def test_free_is_not_unpriced():
    """A price of 0 is a price."""
    set_price("llama3", "ollama", input_mtok=0, output_mtok=0)
    assert Price(Decimal(0), "user") == price_call(CALL, "llama3", "Ollama_llm")


def test_an_alias_is_billed_as_its_model():
    """Deployments and fine-tunes take the model's tiers and dates, at the call's provider or at its maker."""
    at = epoch(2026, 11, 1)
    set_price("deployment", alias_of="gpt-5")
    for tier in (None, "flex"):
        assert our_cost(CACHED_CALL, "gpt-5", "openai", at, tier) == our_cost(
            CACHED_CALL, "deployment", "openai", at, tier
        )
    gpt5 = price_call(CALL, "gpt-5", "openai")
    local = price_call(CALL, "deployment", "openai", base_url="http://localhost:1")
    set_price("Copilots", alias_of="gpt-4o")
    assert price_call(CALL, "gpt-4o", "openai") == price_call(CALL, "copilots", "github-copilot")
    assert [gpt5] * 3 == [price_call(CALL, "deployment", "azure"), price_call(CALL, "Deployment", "ollama"), local]


def test_an_alias_may_name_its_provider():
    """alias_provider decides whose table it is, for a model of the same name too."""
    set_price("llama", alias_of="llama-3.3-70b-versatile", alias_provider="groq")
    set_price("gpt-4o", "acme", alias_of="gpt-4o", alias_provider="openai")
    assert price_call(CALL, "llama-3.3-70b-versatile", "groq") == price_call(CALL, "llama", "vllm")
    assert price_call(CALL, "gpt-4o", "openai") == price_call(CALL, "gpt-4o", "acme", base_url="http://acme")


def test_an_alias_of_a_model_with_an_own_price_has_that_price():
    """Aliases follow each other, and end where they come round."""
    set_price("c", input_mtok=1, output_mtok=1)
    set_price("b", alias_of="c")
    set_price("a", alias_of="b")
    assert Price(Decimal("0.0011"), "user") == price_call(CALL, "a")
    set_price("c", alias_of="a")
    assert price_call(CALL, "a") is None


def test_reset_prices_forgets_what_was_set():
    """After it the table holds again."""
    set_price("gpt-4o", input_mtok=0, output_mtok=0)
    price_call(CALL, "gpt-4o", "openai")
    reset_prices()
    assert Price(Decimal("0.0035"), "genai-prices") == price_call(CALL, "gpt-4o", "openai")


@pytest.mark.parametrize(
    ("error", "named", "prices"),
    [
        (TypeError, "input_mtok", {"output_mtok": 1}),
        (TypeError, "reasoning_mtok", {"input_mtok": 1, "reasoning_mtok": 1}),
        (TypeError, "output_reasoning_mtok", {"input_mtok": 1, "reasoning_mtok": 1}),
        (TypeError, "True", {"input_mtok": True}),
        (TypeError, "None", {"input_mtok": None}),
        (ValueError, "'cheap'", {"input_mtok": "cheap"}),
        (ValueError, "-1", {"input_mtok": -1}),
        (ValueError, "nan", {"input_mtok": float("nan")}),
        (ValueError, "Infinity", {"input_mtok": Decimal("Infinity")}),
        (ValueError, "1E+999999", {"input_mtok": Decimal("1E+999999")}),
        (ValueError, "output_mtok", {"input_mtok": 1, "output_audio_mtok": 1}),
        (ValueError, "alias_of", {"input_mtok": 1, "alias_of": "gpt-4o"}),
        (ValueError, "alias_of", {"input_mtok": 1, "alias_provider": "openai"}),
        (ValueError, "alias_of", {"alias_of": " "}),
        (TypeError, "provider", {"input_mtok": 1, "provider": 7}),
    ],
)
def test_set_price_refuses_what_is_no_price(error, named, prices):
    """A refusal names the value, or the keyword that helps, and nothing is set."""
    with pytest.raises(error, match=named.replace("+", r"\+")):
        set_price("mine", **prices)
    assert price_call(CALL, "mine") is None


@pytest.mark.parametrize("model", ["", None, 7])
def test_set_price_needs_a_model(model):
    """A price belongs to a name."""
    with pytest.raises((TypeError, ValueError), match="model"):
        set_price(model, input_mtok=1)


def test_prices_change_under_the_feet_of_running_calls():
    """Threads that price while another sets prices see one price or the other, and the last one in the end."""
    load_prices()
    seen = set()
    done = threading.Event()

    def call():
        while not done.is_set():
            seen.add(price_call({"input_tokens": 10**6}, "mine").cost)

    set_price("mine", input_mtok=0)
    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for amount in range(1, 50):
        set_price("mine", input_mtok=amount)
    done.set()
    for thread in threads:
        thread.join()
    assert seen <= set(range(50))
    assert 49 == price_call({"input_tokens": 10**6}, "mine").cost
