import random
import threading
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from genai_prices.data_units import unit_data
from genai_prices.types import ModelPrice

from tests.support.prices import CACHED_CALL, CALL, as_genai, epoch, our_cost, random_counts
from token_handlers.pricing import Price, load_prices, price_call, reset_prices, set_multiplier, set_price
from token_handlers.pricing.calculator import find_plan
from token_handlers.pricing.overrides import PRICE_KEYS


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
    assert price_call(CALL, "mine").cost == price_call(CACHED_CALL, "mine").cost


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
        (ValueError, "service_tier", {"input_mtok": 1, "service_tier": ""}),
        (TypeError, "service_tier", {"input_mtok": 1, "service_tier": 5}),
        (TypeError, "input_mtok", {"input_audio_mtok": 1}),
        (TypeError, "input_mtok", {}),
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


def test_every_count_has_a_price_of_its_own():
    """Each count of a Usage can be priced by itself: 1,000 of everything cost what was set for each part."""
    set_price("mine", input_mtok=1, output_mtok=1, **dict.fromkeys(PRICE_KEYS[2:-1], 2))
    for unit in ("container_sessions", "maps_searches", "sources", "rerank_searches"):
        assert Price(Decimal("0.002"), "user") == price_call({"input_tokens": 0, unit: 1}, "mine")
    for part, whole in (("cache_write_12h_tokens", "cache_write_tokens"), ("output_video_tokens", "output_tokens")):
        counts = {"input_tokens": 1000, "output_tokens": 1000, whole: 1000, part: 1000}
        assert Decimal("0.003") == price_call(counts, "mine").cost


def test_an_event_without_an_own_price_is_an_estimate():
    """A search is not free because its price was left out; a price of 0 says that it is."""
    counts = {**CALL, "web_searches": 3}
    set_price("mine", input_mtok=1, output_mtok=1)
    assert ("no rate is known for web searches: the cost is without them",) == price_call(counts, "mine").doubts
    set_price("mine", input_mtok=1, output_mtok=1, web_searches_kcount=0)
    assert () == price_call(counts, "mine").doubts


def test_fees_alone_are_added_to_the_table():
    """Without input_mtok the table's token rates hold, tiers and dates included, and its other fees."""
    set_price("gpt-4.1", web_searches_kcount=20)
    set_price("gpt-5", "openai", requests_kcount=1)
    searched = {**CALL, "web_searches": 1, "storage_searches": 1}
    found = price_call(searched, "gpt-4.1", "openai")

    assert (Decimal("0.0028") + Decimal("0.020") + Decimal("0.0025"), ()) == (found.cost, found.doubts)
    flex, standard = (price_call(CALL, "gpt-5", "openai", service_tier=tier).cost for tier in ("flex", None))
    assert (Decimal("0.002125"), Decimal("0.00325")) == (flex, standard)
    set_price("deployment", alias_of="gpt-4.1")
    assert found.cost == price_call(searched, "deployment", "openai").cost


def test_fees_alone_price_no_unknown_model():
    """There has to be a row that they can be added to."""
    set_price("nobodys", web_searches_kcount=20)
    assert price_call(CALL, "nobodys", "openai") is None


def test_a_tier_has_a_price_of_its_own():
    """It holds on that tier alone; without a tier, a price holds on all of them."""
    set_price("gpt-4o", service_tier="scale", input_mtok=1, output_mtok=1)
    scale, standard, flex = (
        price_call(CALL, "gpt-4o", "openai", service_tier=tier) for tier in ("Scale", None, "flex")
    )
    assert (Price(Decimal("0.0011"), "user"), "genai-prices", 1) == (scale, standard.source, len(flex.doubts))

    set_price("gpt-4o", input_mtok=2, output_mtok=2)
    costs = [price_call(CALL, "gpt-4o", "openai", service_tier=tier).cost for tier in ("scale", "default", "flex")]
    assert [Decimal("0.0011"), Decimal("0.0022"), Decimal("0.0022")] == costs


@pytest.mark.parametrize(
    ("alias", "provider", "remedy"),
    [
        ("gpt-4o-min", None, "did you mean 'gpt-4o-mini'"),
        ("claude-sonet-4-5", None, "did you mean 'claude-sonnet-4-5'"),
        ("nonsense", None, "set its own price first"),
        ("gpt-4o-mini", "groq", "of 'groq' is no model with a price"),
    ],
)
def test_an_alias_that_has_no_price_is_refused(alias, provider, remedy):
    """A slip of the pen is found at once, with the name that was meant, and changes nothing."""
    with pytest.raises(ValueError, match=remedy):
        set_price("mine", alias_of=alias, alias_provider=provider)
    assert price_call(CALL, "mine") is None


@pytest.mark.parametrize(
    ("alias", "provider"),
    [
        ("gpt-4o-2024-11-20", None),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", None),
        ("models/gemini-2.5-flash", None),
        ("ft:gpt-4o-mini-2024-07-18:org::id", None),
        ("openai/gpt-4o", "openrouter"),
        ("gpt-4o-mini", "azure"),
        ("rerank-v3.5", "cohere"),
    ],
)
def test_an_alias_may_be_any_name_with_a_price(alias, provider):
    """Dated, regional, tuned and resold models are no slips."""
    set_price("mine", alias_of=alias, alias_provider=provider)


def test_a_multiplier_is_about_what_it_names():
    """A provider, a host, a region, a model, a day: as far as they are given, and no other call."""
    set_multiplier("0.9", provider="claude")
    set_multiplier(2, provider="anthropic", model="claude-opus-4-8")
    set_multiplier("1.5", host="https://eu.api.openai.com/v1")
    set_multiplier("1.2", provider="bedrock", region="eu-central-1")
    haiku, opus, gpt, nova = "claude-haiku-4-5", "claude-opus-4-8", "gpt-4.1", "us.amazon.nova-lite-v1:0"

    listed = {haiku: "0.0015", opus: "0.0075", gpt: "0.0028", nova: "0.000084"}

    def factor(model, provider, **call):
        return price_call(CALL, model, provider, **call).cost / Decimal(listed[model])

    assert Decimal("0.9") == factor(haiku, "anthropic")
    assert Decimal("1.8") == factor(opus, "anthropic")
    assert Decimal("1.5") == factor(gpt, "openai", base_url="https://eu.api.openai.com/v1")
    assert Decimal(1) == factor(gpt, "openai", base_url="https://api.openai.com/v1")
    assert Decimal("1.2") == factor(nova, "bedrock", context={"region": "EU-Central-1"})
    assert Decimal(1) == factor(nova, "bedrock", context={"region": "us-east-1"})


def test_a_multiplier_of_a_place_takes_the_place_of_ours():
    """Where we know a place's factor, a user's own is not multiplied with it."""
    call = {"base_url": "https://eu.api.openai.com/v1"}
    known = price_call(CALL, "gpt-5.4", "openai", **call).cost
    set_multiplier("1.1", provider="openai", host="eu.api.openai.com")
    assert known == price_call(CALL, "gpt-5.4", "openai", **call).cost
    set_multiplier("0.5", provider="openai")
    assert known / 2 == price_call(CALL, "gpt-5.4", "openai", **call).cost


def test_a_multiplier_leaves_fees_unless_told():
    """Searches and other events are multiplied with fees=True alone."""
    searched = {**CALL, "web_searches": 1}
    set_multiplier("0.5", provider="anthropic")
    assert Decimal("0.00225") + Decimal("0.010") == price_call(searched, "claude-sonnet-4-5", "anthropic").cost
    reset_prices()
    set_multiplier("0.5", provider="anthropic", fees=True)
    assert Decimal("0.00225") + Decimal("0.005") == price_call(searched, "claude-sonnet-4-5", "anthropic").cost


def test_a_multiplier_leaves_own_fees():
    """What set_price says of a fee is multiplied by none, whatever is told."""
    set_price("claude-sonnet-4-5", web_searches_kcount=20)
    set_multiplier("0.5", provider="anthropic", fees=True)
    searched = {**CALL, "web_searches": 1}
    assert Decimal("0.00225") + Decimal("0.020") == price_call(searched, "claude-sonnet-4-5", "anthropic").cost


@pytest.mark.parametrize(
    ("answered", "asked"), [("gpt-4o-2024-08-06", "Our-EU-Zone"), ("our-eu-zone", None), ("our-eu-zone", "our-eu-zone")]
)
def test_a_multiplier_knows_a_deployment(answered, asked):
    """A multiplier for an Azure deployment, such as a data zone's, holds by the name that was asked for."""
    set_price("our-eu-zone", "azure", alias_of="gpt-4o")
    set_multiplier("1.1", provider="azure", model="our-eu-zone")
    assert Decimal("0.00385") == price_call(CALL, answered, "azure", requested=asked).cost
    assert Decimal("0.0035") == price_call(CALL, "gpt-4o", "azure").cost


def test_a_multiplier_holds_since_its_day():
    """Calls before that day, or moment, keep the rate, in either order of asking."""
    set_multiplier("0.5", provider="openai", since=date(2026, 11, 10))
    set_multiplier("0.5", provider="openai", model="gpt-4.1", since=datetime(2026, 11, 20, 12, tzinfo=UTC))
    days = [(2026, 11, 20, 12), (2026, 11, 9), (2026, 11, 10), (2026, 11, 20, 11), (2026, 11, 9, 23)]
    costs = [our_cost(CALL, "gpt-4.1", "openai", epoch(*day)) for day in days]
    assert [Decimal("0.0028") * Decimal(factor) for factor in ("0.25", "1", "0.5", "0.5", "1")] == costs


def test_a_multiplier_leaves_own_prices():
    """What set_price says is the price; an alias is billed as the model, and so multiplied."""
    set_multiplier("0.5")
    set_price("mine", "openai", input_mtok=1, output_mtok=1)
    set_price("deployment", alias_of="gpt-4.1")
    assert Decimal("0.0011") == price_call(CALL, "mine", "openai").cost
    assert Decimal("0.0014") == price_call(CALL, "deployment", "azure").cost
    reset_prices()
    assert Decimal("0.0028") == price_call(CALL, "gpt-4.1", "openai").cost


@pytest.mark.parametrize(
    ("error", "named", "arguments"),
    [
        (TypeError, "factor", {"factor": None}),
        (TypeError, "factor", {"factor": True}),
        (ValueError, "factor", {"factor": "-1"}),
        (ValueError, "factor", {"factor": "a tenth"}),
        (ValueError, "1000", {"factor": 1001}),
        (TypeError, "provider", {"factor": 1, "provider": 5}),
        (ValueError, "region", {"factor": 1, "region": " "}),
        (ValueError, "host", {"factor": 1, "host": "https://"}),
        (TypeError, "since", {"factor": 1, "since": "2026-01-01"}),
    ],
)
def test_set_multiplier_refuses_what_is_none(error, named, arguments):
    """A refusal names the value, and nothing is set."""
    with pytest.raises(error, match=named):
        set_multiplier(arguments.pop("factor"), **arguments)
    assert Decimal("0.0028") == price_call(CALL, "gpt-4.1", "openai").cost


SIZES = {"low": "5", "medium": "8", "high": 12}


@pytest.mark.parametrize(("size", "fee", "doubts"), [("low", "0.005", 0), ("high", "0.012", 0), (None, "0.005", 1)])
@pytest.mark.parametrize("prices", [{"input_mtok": 0}, {}])
def test_a_fee_by_the_size_of_a_searchs_context(prices, size, fee, doubts):
    """The size that the answer states decides; without one the first is assumed, and the cost an estimate."""
    set_price("gpt-4.1", requests_kcount=SIZES, **prices)
    context = {"search_context_size": size} if size else {}
    found = price_call({"input_tokens": 0}, "gpt-4.1", "openai", context=context)
    assert (Decimal(fee), doubts) == (found.cost, len(found.doubts))


def test_a_fee_by_the_tool():
    """A search of one kind may cost more than of another."""
    set_price("gpt-4.1", web_searches_kcount={"web_search": 9, "web_search_preview": 20})
    context = {"web_search_tool": "web_search_preview"}
    found = price_call({"input_tokens": 0, "web_searches": 1}, "gpt-4.1", "openai", context=context)
    assert (Decimal("0.02"), ()) == (found.cost, found.doubts)


@pytest.mark.parametrize(
    ("prices", "error", "said"),
    [
        ({"input_mtok": {"low": 1}}, TypeError, "input_mtok must be one amount"),
        (
            {"requests_kcount": {"huge": 1}},
            ValueError,
            "by low, .* web_search_preview, not 'huge'",
        ),
        ({"requests_kcount": {}}, ValueError, "requests_kcount must be USD by low"),
        ({"requests_kcount": {"low": -1}}, ValueError, "requests_kcount must be 0 or a positive"),
    ],
)
def test_a_fee_by_kind_that_is_none(prices, error, said):
    """What is wrong is named, and nothing is set."""
    with pytest.raises(error, match=said):
        set_price("gpt-4.1", **prices)
    assert "genai-prices" == price_call({"input_tokens": 1}, "gpt-4.1", "openai").source
