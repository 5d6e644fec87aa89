import random
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext

import pytest
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from genai_prices.data_units import unit_data
from genai_prices.types import ClauseEquals, ConditionalPrice, ModelInfo, ModelPrice, Provider, StartDateConstraint
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.prices import (
    CALL,
    epoch,
    genai_cost,
    is_as_in_table,
    our_cost,
    random_counts,
    random_moment,
)
from token_handlers.pricing import calculator as pricing
from token_handlers.pricing import price as prices
from token_handlers.pricing.calculator import find_plan, price_call
from token_handlers.pricing.overrides import PRICE_KEYS
from token_handlers.pricing.rates import UNITS
from token_handlers.usage import CostPart, Usage

ENTRIES = [(provider, model) for provider in get_snapshot().providers for model in provider.models]
INTRICATE = [
    (provider.id, model)
    for provider, model in ENTRIES
    if model.price_variants or not isinstance(model.prices, ModelPrice) or len(vars(model.prices)) > 3
]
TIERS = (None, "default", "auto", "flex", "priority", "fast", "batch")
OFF_PEAK_EDGES = ((0, 0), (0, 29, 59), (0, 30), (12, 0), (16, 29, 59), (16, 30), (23, 59, 59))


def test_cost_equals_genai_prices_for_every_model():
    """Every model of the table costs what calc_price says, to the last digit, or is unpriced in both."""
    draw = random.Random(20261101).choice
    wrong, compared = [], 0
    for provider, model in ENTRIES:
        for _ in range(2):
            call = random_counts(draw), model.id, provider.id, random_moment(draw), draw(TIERS)
            if is_as_in_table(provider.id, model, *call[3:]) and not writes_for_an_hour(call[0], model):
                compared += 1
                if our_cost(*call) != genai_cost(*call):
                    wrong.append(call)
    assert [] == wrong
    assert compared > len(ENTRIES) // 2


def writes_for_an_hour(counts, model):
    """Whether a call has cache writes of an hour, and a Claude row no rate of them: they cost more than its others."""
    rows = model.prices if isinstance(model.prices, list) else [model]
    return "claude" in model.id and any(
        "cache_write_1h_mtok" not in vars(row.prices) and counts.get("cache_write_1h_tokens") for row in rows
    )


@pytest.mark.parametrize("part", range(10))  # one test of all would last for minutes on a busy machine
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.data(), st.randoms(use_true_random=True))
def test_cost_equals_genai_prices(part, data, chance):
    """Any call of a model with tiers, dates, times of day or variants costs what calc_price says, or neither knows."""
    provider, model = data.draw(st.sampled_from(INTRICATE[part::10]))
    draw = chance.choice
    counts, at, tier = random_counts(draw), random_moment(draw), draw(TIERS)
    assume(is_as_in_table(provider, model, at, tier) and not writes_for_an_hour(counts, model))
    assert genai_cost(counts, model.id, provider, at, tier) == our_cost(counts, model.id, provider, at, tier)


def test_warm_calls_reuse_one_plan_until_its_window_ends():
    """A plan is kept between calls, and another one made where its prices do not hold, before as after."""
    days = ((2026, 8, 21), (2026, 8, 20), (2026, 8, 20, 23, 59, 59), (2026, 8, 21))
    costs = [our_cost(CALL, "gpt-5.6-sol", "openai", epoch(*day)) for day in days]
    plans = [find_plan("gpt-5.6-sol", "openai", at=epoch(*day)) for day in days[1:3]]
    later, before = (genai_cost(CALL, "gpt-5.6-sol", "openai", epoch(2026, 8, day)) for day in (21, 20))

    assert later != before
    assert [later, before, before, later] == costs
    assert plans[0] is plans[1]


@pytest.mark.parametrize("step", [1, -1])
def test_time_of_day_prices_hold_to_the_second(step):
    """DeepSeek's off-peak price starts and ends where the table says, on any day, in any order."""
    moments = [epoch(2025, 3, day, *edge) for day in (1, 2, 5) for edge in OFF_PEAK_EDGES][::step]
    costs = [our_cost(CALL, "deepseek-chat", "deepseek", at) for at in moments]
    assert [genai_cost(CALL, "deepseek-chat", "deepseek", at) for at in moments] == costs
    assert 2 == len(set(costs))


def test_more_digits_than_decimal_keeps_are_rounded_as_genai_prices_does():
    """Counts that no call has, and prices of 18 digits, round where calc_price rounds."""
    draw = random.Random(3)
    models = [("gpt-4o", "openai"), ("claude-sonnet-4-5", "anthropic")]
    for _ in range(200):
        whole = draw.randrange(10**24, 10**33)
        counts = {"input_tokens": whole, "output_tokens": draw.randrange(10**30), "cache_read_tokens": whole // 7}
        for model, provider in models:
            assert genai_cost(counts, model, provider, 0) == our_cost(counts, model, provider, 0)


def test_a_tier_is_a_cliff_above_its_start():
    """At the start every token has the lower price, one token later every token the higher."""
    at_start = price_call({"input_tokens": 200_000, "output_tokens": 0}, "gemini-2.5-pro", "google")
    above = price_call({"input_tokens": 200_001, "output_tokens": 0}, "gemini-2.5-pro", "google")
    assert (Decimal("0.25"), Decimal("0.5000025")) == (at_start.cost, above.cost)


def test_a_changed_snapshot_is_seen_at_the_next_call():
    """UpdatePrices replaces the snapshot: its prices hold from then on."""
    old = price_call(CALL, "gpt-4o", "openai")
    model = ModelInfo(id="gpt-4o", match=ClauseEquals("gpt-4o"), prices=ModelPrice(input_mtok=Decimal(7)))
    provider = Provider(id="openai", name="OpenAI", api_pattern=r"https://api\.openai\.com", models=[model])
    set_custom_snapshot(DataSnapshot(providers=[provider], from_auto_update=True))
    assert (Decimal("0.0035"), Decimal("0.007")) == (old.cost, price_call(CALL, "gpt-4o", "openai").cost)


def test_an_entry_that_gets_its_first_price_later_is_unpriced_until_then():
    """A price that starts tomorrow is none today, and is used tomorrow without a restart."""
    prices = [
        ConditionalPrice(prices=ModelPrice()),
        ConditionalPrice(StartDateConstraint(date(2030, 1, 1)), prices=ModelPrice(input_mtok=Decimal(7))),
    ]
    model = ModelInfo(id="preview", match=ClauseEquals("preview"), prices=prices)
    provider = Provider(id="openai", name="OpenAI", api_pattern=r"https://api\.openai\.com", models=[model])
    set_custom_snapshot(DataSnapshot(providers=[provider], from_auto_update=True))
    costs = [our_cost(CALL, "preview", "openai", epoch(*day)) for day in ((2029, 12, 31), (2030, 1, 1))]
    assert [None, Decimal("0.007")] == costs


@pytest.mark.parametrize("counts", [{"input_tokens": 1234567}, {"input_tokens": 1234567 * 10**30 + 1}])
def test_the_threads_decimal_context_does_not_round_costs(counts):
    """A precision that a program sets for itself does not reach prices, compiled or left to genai-prices."""
    with localcontext() as context:
        context.prec = 3
        cost = our_cost(counts, "gpt-4o", "openai", 0)
    assert genai_cost(counts, "gpt-4o", "openai", 0) == cost


@pytest.mark.parametrize(
    ("tier", "cost"), [("flex", "0.0011250"), ("FLEX", "0.0011250"), ("default", "0.0022500"), ("batch", "0.0011250")]
)
def test_service_tiers_have_their_own_prices(tier, cost):
    """A tier is read whatever its case; batch is genai-prices' processing=batch."""
    assert Decimal(cost) == our_cost(CALL, "gpt-5", "openai", epoch(2026, 11, 1), tier)


def test_anthropics_fast_speed_is_a_tier():
    """The tier fast selects genai-prices' speed=fast too."""
    at = epoch(2026, 11, 1)
    assert genai_cost(CALL, "claude-opus-4-8", "anthropic", at, "fast") != our_cost(
        CALL, "claude-opus-4-8", "anthropic", at
    )
    assert genai_cost(CALL, "claude-opus-4-8", "anthropic", at, "fast") == our_cost(
        CALL, "claude-opus-4-8", "anthropic", at, "fast"
    )


def test_a_tier_without_rates_is_standard_and_says_so_once(caplog):
    """Nothing is silent: a tier that nobody knows costs the standard rate as an estimate, with one warning per tier."""
    for _ in range(3):
        scale = price_call(CALL, "gpt-4o", "openai", service_tier="scale")
        assert price_call(CALL, "gpt-4o", "openai").cost == scale.cost
        assert ("no rates are known for the service tier 'scale': the standard rates are used",) == scale.doubts
    for tier in ("standard", "on_demand", "auto", "default", ""):
        price_call(CALL, "gpt-4o", "openai", service_tier=tier)
    (warning,) = caplog.messages
    assert "'gpt-4o'" in warning
    assert "'scale'" in warning


def test_azure_does_not_inherit_openais_tiers(caplog):
    """As in genai-prices, another maker's service tiers are not those of a provider that sells its model."""
    priority, flex = (price_call(CALL, "gpt-5", "azure", service_tier=tier) for tier in ("priority", "flex"))
    standard = price_call(CALL, "gpt-5", "azure")
    assert (standard.cost, standard.cost / 2) == (priority.cost, flex.cost)
    assert [1, 1, 0] == [len(price.doubts) for price in (priority, flex, standard)]
    assert 2 == len(caplog.messages)


# Counts


def test_counts_are_named_as_genai_prices_names_them():
    """Every field of Usage is a unit of genai-prices under the same name, but for reasoning_tokens and our own."""
    own = {"cache_write_12h_tokens", "container_sessions", "maps_searches", "sources"}
    names = {"output_reasoning_tokens" if name == "reasoning_tokens" else name for name in Usage.model_fields}
    assert own == names - unit_data.keys()
    assert {unit_data[name]["price_key"] for name in names - own} < set(PRICE_KEYS)


def test_every_count_can_be_priced():
    """set_price knows a price for each field of Usage, and one for a request."""
    assert {UNITS.get(name, UNITS["output_reasoning_tokens"]).price_key for name in Usage.model_fields} | {
        "requests_kcount"
    } == set(PRICE_KEYS)


def test_an_absent_whole_is_zero():
    """Only output given: the input costs nothing."""
    assert Decimal("0.001") == price_call({"output_tokens": 100}, "gpt-4o", "openai").cost


@pytest.mark.parametrize(
    "counts",
    [
        {"input_tokens": 5, "output_tokens": 1, "cache_read_tokens": 9},
        {"input_tokens": 9, "cache_read_tokens": 5, "cache_write_tokens": 5},
        {"output_tokens": 1, "cache_read_tokens": 9},
        {"input_tokens": -1},
        {"input_tokens": 5, "output_tokens": 1, "web_searches": -1},
        {"input_tokens": None},
        {"input_tokens": "5", "output_tokens": "6"},
        {"input_tokens": [5]},
        {"input_tokens": float("nan")},
    ],
)
def test_counts_that_cannot_be_are_unpriced_with_one_warning(counts, caplog):
    """A contradiction, a part without its whole and what is no count have no price, and raise nothing."""
    for _ in range(3):
        assert price_call(counts, "claude-sonnet-4-5", "anthropic") is None
    (warning,) = caplog.messages
    assert "'claude-sonnet-4-5'" in warning


def test_an_overlap_that_is_priced_must_be_known():
    """Cached audio has a price of its own: unknown how much of it there was, the cost is unknown, not guessed."""
    counts = {"input_tokens": 100, "cache_read_tokens": 50, "input_audio_tokens": 40}
    assert price_call(counts, "gemini-2.5-flash", "google") is None
    known = {**counts, "cache_audio_read_tokens": 30}
    assert genai_cost(known, "gemini-2.5-flash", "google", 0) == our_cost(known, "gemini-2.5-flash", "google", 0)
    assert price_call({**counts, "input_audio_tokens": 0}, "gemini-2.5-flash", "google") is not None


def test_no_counts_have_no_cost():
    """Where nothing was reported there is no price, not a price of 0."""
    assert price_call({}, "gpt-4o", "openai") is None


def test_foreign_counts_and_many_combinations_are_harmless(recwarn):
    """Names that nobody prices cost nothing, and no number of combinations of names makes a plan grow."""
    for number in range(200):
        assert price_call(CALL, "gpt-4o", "openai") == price_call({**CALL, f"x{number}": 1}, "gpt-4o", "openai")
    assert len(find_plan("gpt-4o", "openai")._compiled) <= 64
    assert [] == recwarn.list


# Unknown is not free


def test_an_unknown_model_warns_once_and_names_the_remedy(caplog):
    """Every call of it is unpriced; the one warning names model, provider and what to do."""
    for _ in range(3):
        assert price_call(CALL, "resolved-7", "azure", requested="deployment-7") is None
        assert price_call(CALL, "resolved-7", "azure", requested="deployment-7", at=epoch(2025, 1, 1)) is None
    (warning,) = caplog.messages
    for part in ("'resolved-7'", "'deployment-7'", "'azure'", "token_handlers.set_price('deployment-7', input_mtok="):
        assert part in warning


def test_misses_are_looked_up_once(monkeypatch):
    """The table is searched for an unknown model once, not at each call."""
    price_call(CALL, "nowhere", "openai")
    monkeypatch.setattr(pricing, "_find_plan", None)
    assert price_call(CALL, "nowhere", "openai") is None


def test_entries_without_prices_are_unpriced():
    """179 models of the table have no price keys: that is unknown, not free."""
    bare = [(p.id, m.id) for p, m in ENTRIES if m.prices == ModelPrice() and p.find_model(m.id) is m]
    assert len(bare) > 100
    assert [] == [(provider, model) for provider, model in bare if price_call(CALL, model, provider)]


def test_prices_that_no_count_can_meet_are_unknown():
    """A model that is billed by the hour alone has no price for tokens."""
    assert price_call(CALL, "whisper-1", "openai") is None


def test_no_model_and_odd_arguments_raise_nothing(caplog):
    """A callback is never broken: what cannot be looked up is unpriced."""
    assert price_call(CALL, None, "openai") is None
    assert price_call(CALL, ["gpt-4o"], "openai") is None
    assert price_call(CALL, "gpt-4o", "openai", at="now") is None
    assert price_call(CALL, "gpt-4o", "openai", at=datetime.now(UTC)) is None
    assert price_call(CALL, "gpt-5.2", "openai", at=1e30) is None
    assert price_call(CALL, "gpt-5.2", "openai", at=float("nan")) is None
    assert price_call(CALL, "gpt-4o", "openai", context=["fast"]) is None
    assert price_call(CALL, "gpt-4o", "openai", beside=[("gpt-5", {"input_tokens": None})]) is None
    assert caplog.messages[0].startswith("calls through 'openai' state no model, and count as unpriced (see ")
    assert caplog.messages[-1].startswith("a call of 'gpt-4o' (provider 'openai') is unpriced: ")


def test_memory_does_not_grow_with_names(caplog):
    """Plans and warnings are bounded however many names come by, and the last warning says that it is the last."""
    for number in range(1100):
        price_call(CALL, f"random-{number}", "nvidia")
    assert len(pricing.price_state.book.plans) <= 1024
    assert len(prices._warned) <= 1024
    assert 1025 == len(caplog.messages)
    assert "further models are not named" in caplog.messages[-1]


def test_importing_pricing_does_not_import_genai_prices():
    """The table loads when it is asked for, not with the module."""
    code = (
        "import sys, token_handlers.pricing.calculator as p; assert 'genai_prices' not in sys.modules;"
        "p.set_price('m', input_mtok=1); assert 'genai_prices' not in sys.modules;"
        "p.load_prices(); assert 'genai_prices.data' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# What another model was billed for, and what each part cost


def test_each_part_costs_what_its_own_model_does():
    """A declined attempt of another model and what answered are billed apart, at their own rates."""
    counts, attempt = {"input_tokens": 2000, "output_tokens": 500}, {"input_tokens": 1000, "output_tokens": 300}
    found = price_call(counts, "claude-opus-4-8", "anthropic", beside=[("claude-fable-5", attempt)])
    assert (Decimal("0.035"), "genai-prices", ()) == found[:3]


def test_a_part_of_the_same_model_has_its_own_step():
    """A compaction and the message are billed by their own numbers of input tokens, not by the sum."""
    whole, part = {"input_tokens": 300_000, "output_tokens": 0}, {"input_tokens": 150_000}
    together, apart = (
        price_call(whole, "gemini-2.5-pro", "google", beside=beside).cost for beside in ((), [(None, part)])
    )
    assert (Decimal("0.75"), Decimal("0.375")) == (together, apart)


def test_a_system_of_models_is_billed_by_theirs():
    """Where all of the counts are those of other models, the system's own name needs no price."""
    counts, part = {"input_tokens": 1000, "output_tokens": 100}, {"input_tokens": 400, "output_tokens": 100}
    models = [("llama-3.3-70b-versatile", part), ("openai/gpt-oss-120b", {"input_tokens": 600})]
    found = price_call(counts, "groq/compound", "groq", beside=models)

    each = [price_call(used, model, "groq").cost for model, used in models]
    assert sum(each) == found.cost


@pytest.mark.parametrize(
    ("other", "part"),
    [("nobodys", {"input_tokens": 10}), ("claude-fable-5", {"input_tokens": 5000}), (None, {"web_searches": 1})],
)
def test_parts_that_cannot_be_priced_leave_the_call_unpriced(other, part):
    """An unknown model, and more than the whole: no price can be right."""
    assert price_call({"input_tokens": 2000}, "claude-opus-4-8", "anthropic", beside=[(other, part)]) is None


def test_doubts_of_parts_are_doubts_of_the_call():
    """What is not certain of one part makes the whole an estimate."""
    found = price_call(
        {"input_tokens": 2000, "output_tokens": 900, "output_image_tokens": 900},
        "gpt-5",
        "openai",
        beside=[("gpt-4.1-mini", {"input_tokens": 10, "output_tokens": 900, "output_image_tokens": 900})],
    )
    assert ("no rate is known for image in the output: that of text is used",) == found.doubts


def test_a_call_is_explained_by_its_parts():
    """Each counted unit has its number, its rate with every factor, its cost and which rate that is."""
    counts = {"input_tokens": 3000, "cache_read_tokens": 1000, "output_tokens": 200, "web_searches": 2}
    parts = price_call(counts, "claude-opus-4-8", "anthropic", context={"inference_geo": "us"}).parts

    assert [
        CostPart("input_tokens", 2000, Decimal("5.5"), 10**6, Decimal("0.011"), "x1.1 for inference_geo us"),
        CostPart("output_tokens", 200, Decimal("27.5"), 10**6, Decimal("0.0055"), "x1.1 for inference_geo us"),
        CostPart("cache_read_tokens", 1000, Decimal("0.55"), 10**6, Decimal("0.00055"), "x1.1 for inference_geo us"),
        CostPart("web_searches", 2, Decimal(10), 1000, Decimal("0.02")),
    ] == list(parts)


def test_parts_name_the_model_that_was_billed():
    """Where another model was billed for a part, it is named there alone."""
    counts = {"input_tokens": 2000, "output_tokens": 500}
    attempt = {"input_tokens": 1000, "output_tokens": 300}
    parts = price_call(counts, "claude-opus-4-8", "anthropic", beside=[("claude-fable-5", attempt)]).parts
    assert [None, None, "claude-fable-5", "claude-fable-5"] == [part.model for part in parts]


def test_parts_add_up_to_the_cost_of_every_model():
    """The parts of any call are its cost, to the last digit, fees and steps included."""
    draw = random.Random(20261129).choice
    for provider, model in ENTRIES:
        counts = random_counts(draw) | {"web_searches": draw((0, 2)), "storage_searches": draw((0, 1))}
        at, tier = random_moment(draw), draw(TIERS)
        found = price_call(counts, model.id, provider.id, at=at, service_tier=tier)
        if found is not None:
            assert sum(part.cost for part in found.parts) == found.cost


def test_what_was_served_is_part_of_the_key():
    """Plans of calls that differ in what was served are kept apart, in any order."""
    context = {"speed": "fast", "inference_geo": "us"}
    costs = [
        price_call(CALL, "claude-opus-4-8", "anthropic", context=each).cost
        for each in (None, context, {}, dict(reversed(context.items())))
    ]
    assert costs[0] == costs[2] != costs[1] == costs[3]


@pytest.mark.parametrize(
    ("model", "provider", "counts", "saved"),
    [
        ("gpt-4o", "openai", {"input_tokens": 10**6, "cache_read_tokens": 10**6}, "1.25"),
        ("claude-opus-4-8", "anthropic", {"input_tokens": 10**6, "cache_read_tokens": 800_000}, "3.6"),
        ("claude-opus-4-8", "anthropic", {"input_tokens": 10**6, "cache_write_tokens": 10**6}, "-1.25"),
        (
            "claude-opus-4-8",
            "anthropic",
            {"input_tokens": 10**6, "cache_write_tokens": 10**6, "cache_write_1h_tokens": 10**6},
            "-5",
        ),
        ("claude-opus-4-8", "anthropic", {"input_tokens": 10**6, "cache_read_tokens": 0}, None),
        ("claude-opus-4-8", "anthropic", {"input_tokens": 10**6}, None),
    ],
)
def test_what_the_prompt_cache_saved(model, provider, counts, saved):
    """A price says what reads did not cost, less what writes cost more; None where nothing was read or written."""
    assert (saved and Decimal(saved)) == price_call(counts, model, provider, at=epoch(2026, 11, 20)).cache_saved


def test_what_the_prompt_cache_saved_has_the_tier_and_every_part():
    """Reads of a cheaper tier save less, and each model of a call saves by its own rates."""
    counts = {"input_tokens": 10**6, "cache_read_tokens": 10**6}
    flex = price_call(counts, "gpt-5", "openai", service_tier="flex", at=epoch(2026, 11, 20))
    both = price_call(
        {"input_tokens": 2 * 10**6, "cache_read_tokens": 2 * 10**6},
        "gpt-5",
        "openai",
        at=epoch(2026, 11, 20),
        beside=[("gpt-5-mini", counts)],
    )

    assert Decimal("0.5625") == flex.cache_saved
    assert Decimal("1.125") + Decimal("0.225") == both.cache_saved


def test_a_caller_that_wants_no_warning(caplog):
    """With warns=False nothing is logged, and a later call of the same model warns all the same."""
    assert None is price_call(CALL, "nobody-knows-it", warns=False)
    assert [] == caplog.messages
    assert None is price_call(CALL, "nobody-knows-it")
    assert 1 == len(caplog.messages)
