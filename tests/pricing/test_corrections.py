"""Rows of genai-prices that are wrong or missing: what is right, and that each correction is still needed."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import StartDateConstraint

from tests.support.prices import epoch, price
from token_handlers.pricing import price_call
from token_handlers.pricing.adjustments import TIER_FACTORS
from token_handlers.pricing.corrections import ADDITIONS, CORRECTIONS
from token_handlers.pricing.fees import FEES

MILLION = {"input_tokens": 1_000_000}
PROVIDERS = {provider.id: provider for provider in get_snapshot().providers}
NAMES = {
    "deepseek-(flash|v4-flash.*|v4-pro.*)": "deepseek-v4-pro",
    "deepseek-(v4-flash.*|v4-pro.*)": "deepseek-v4-pro",
    "deepseek-v4-flash.*": "deepseek-v4-flash",
    "deepseek-(chat|reasoner)": "deepseek-chat",
    "grok-code-fast(-1(-0825)?)?": "grok-code-fast-1",
    "gpt-4o-audio-preview.*": "gpt-4o-audio-preview",
    "gpt-4o-mini-audio.*": "gpt-4o-mini-audio-preview",
    "gpt-oss-.*": "gpt-oss-20b",
}
"""A name for each pattern that is none but for its signs."""


def name_of(correction):
    """Return a name that a correction is about."""
    plain = correction.models.replace("(.*/)?", "").replace("(apac|jp)", "jp").replace("\\", "")
    return NAMES.get(correction.models, plain)


def rates_of(maker, name, at):
    """Return genai-prices' rates of a maker's model at a moment."""
    model = PROVIDERS[maker].find_model(name, all_providers=list(PROVIDERS.values()))
    return {} if model is None else {key: rate for key, rate in vars(model.get_prices(at)).items() if rate is not None}


def moments(correction):
    """Return the moments around the beginning of a correction at which it holds."""
    begin = correction.since or (correction.until or date(2026, 11, 1)) - timedelta(14)
    first = datetime(begin.year, begin.month, begin.day, tzinfo=UTC)
    name = name_of(correction)
    hours = (first + timedelta(hours=hour) for hour in range(14 * 24))
    return [at for at in hours if correction.holds(correction.maker, name, at)]


@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda each: f"{each.models} {each.since}")
def test_a_correction_is_needed(correction):
    """genai-prices differs from it at some moment at which it holds: else it has to go."""
    maker, name = correction.maker, name_of(correction)
    held = moments(correction)
    assert held
    if correction.doubt and not (correction.rates or correction.as_model):
        assert rates_of(maker, name, held[0]) != rates_of(maker, name, held[0].replace(hour=12))
    elif not correction.sold:
        assert rates_of(maker, name, held[0])
    elif correction.as_model:
        assert rates_of(maker, name, held[0]) != rates_of(maker, correction.as_model, held[0])
    elif correction.as_hour is not None:
        assert any(
            rates_of(maker, name, at) != rates_of(maker, name, at.replace(hour=correction.as_hour)) for at in held
        )
    else:
        ours = {key: Decimal(rate) for key, rate in correction.rates.items()}
        assert any({**rates_of(maker, name, at), **ours} != rates_of(maker, name, at) for at in held)


@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda each: f"{each.seller} {each.models}")
def test_an_addition_is_needed(addition):
    """genai-prices' table of that seller has no such model: else it has to go."""
    listed = {model.id for model in PROVIDERS[addition.seller].models if "rerank" in model.id or "ranker" in model.id}
    assert set() == listed


def test_dated_tiers_are_needed():
    """genai-prices still begins OpenAI's tiers in October 2026: else the rule for calls before that has to go."""
    (model,) = (model for model in PROVIDERS["openai"].models if model.id == "gpt-5")
    starts = [
        variant.constraint.start_date
        for variant in model.price_variants
        if isinstance(variant.constraint, StartDateConstraint)
    ]
    assert date(2026, 10, 12) == min(starts)


@pytest.mark.parametrize(
    ("seller", "tier", "model"),
    [
        ("openai", "ultrafast", "gpt-6-astra"),
        ("google", "flex", "gemini-3.8-flash"),
        ("google", "priority", "gemini-3.8-flash"),
        ("aws", "flex", "amazon.nova-pro-v1:0"),
        ("aws", "priority", "amazon.nova-pro-v1:0"),
    ],
)
def test_a_tiers_factor_is_needed(seller, tier, model):
    """genai-prices has no rates of that tier: else the factor has to go."""
    assert any(rule.seller == seller and rule.tier == tier for rule in TIER_FACTORS)
    (row,) = (each for each in PROVIDERS[seller].models if each.id == model)
    assert [] == [variant for variant in row.price_variants or () if variant.when.get("service_tier") == tier]


@pytest.mark.parametrize(
    ("seller", "key", "model", "usd"),
    [
        ("openai", "requests_kcount", "gpt-4o-search-preview", None),
        ("openai", "web_searches_kcount", "gpt-4.1", Decimal(10)),
        ("openai", "container_sessions_kcount", "gpt-5", None),
        ("x-ai", "web_searches_kcount", "grok-4.6", None),
        ("perplexity", "requests_kcount", "sonar", Decimal(12)),
        ("google", "maps_searches_kcount", "gemini-3.8-flash", None),
        ("moonshotai", "web_searches_kcount", "kimi-k2.5", None),
    ],
)
def test_a_fee_is_needed(seller, key, model, usd):
    """genai-prices has no such rate of the model, or that of one kind alone: else the fee has to go."""
    assert any(each.seller == seller and each.key == key for each in FEES)
    assert usd == rates_of(seller, model, datetime(2026, 11, 25, tzinfo=UTC)).get(key)


@pytest.mark.parametrize(
    ("model", "moment", "usd"),
    [
        ("deepseek-flash", (2026, 11, 28, 2), "0.15"),
        ("deepseek-flash", (2026, 11, 29, 8), "0.15"),
        ("deepseek-flash", (2026, 11, 30, 0, 59, 59), "0.15"),
        ("deepseek-flash", (2026, 11, 30, 1), "0.30"),
        ("deepseek-flash", (2026, 11, 30, 4), "0.15"),
        ("deepseek-flash", (2026, 11, 30, 9, 59, 59), "0.30"),
        ("deepseek-v4-pro", (2026, 10, 1, 2), "0.66"),
        ("deepseek-v4-pro", (2026, 10, 8, 2), "1.32"),
        ("deepseek-v4-flash", (2026, 7, 15, 2), "0.14"),
        ("deepseek-v4-flash", (2026, 8, 20, 2), "0.44"),
        ("deepseek-v4-flash", (2026, 8, 20, 5), "0.22"),
        ("deepseek-v4-flash", (2026, 8, 22, 2), "0.22"),
        ("deepseek-v4-flash", (2026, 9, 10, 2), "0.30"),
        ("deepseek-chat", (2026, 11, 28, 2), "0.15"),
        ("deepseek-reasoner", (2026, 11, 30, 2), "0.30"),
        ("deepseek-chat", (2026, 7, 24, 2), "0.14"),
    ],
)
@pytest.mark.parametrize("before", [(2026, 11, 30, 2), (2026, 8, 21, 8), (2026, 11, 28, 12)])
def test_deepseeks_peak_hours(model, moment, usd, before):
    """Twice the rate in two windows of working days in China, since 17 August 2026, whatever was priced before."""
    price_call(MILLION, model, "deepseek", at=epoch(*before))
    found = price_call(MILLION, model, "deepseek", at=epoch(*moment))
    assert (Decimal(usd), ()) == (found.cost, found.doubts)


def test_a_year_whose_holidays_are_not_known_is_in_doubt():
    """In 2027 a peak hour may be on a Chinese holiday; other hours are certain."""
    doubts = [price_call(MILLION, "deepseek-flash", "deepseek", at=epoch(2027, 2, 9, hour)).doubts for hour in (2, 5)]
    assert [1, 0] == [len(each) for each in doubts]


@pytest.mark.parametrize(
    ("model", "provider", "counts", "day", "usd"),
    [
        ("mistral-large-latest", "mistral", MILLION, (2026, 10, 1), "0.5"),
        ("mistral-large-latest", "mistral", MILLION, (2025, 11, 1), "2"),
        ("mistral-medium", "mistral", MILLION, (2026, 11, 25), "1.5"),
        ("mistral-medium", "mistral", MILLION, (2026, 6, 1), "0.4"),
        ("magistral-small-latest", "mistral", MILLION, (2026, 11, 25), "0.15"),
        ("magistral-medium-latest", "mistral", MILLION, (2026, 11, 25), "1.5"),
        ("eu.amazon.nova-pro-v1:0", "bedrock", {"output_tokens": 10**6}, (2026, 11, 25), "4.2"),
        (
            "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.amazon.nova-lite-v1:0",
            "bedrock",
            {**MILLION, "cache_read_tokens": 10**6},
            (2026, 11, 25),
            "0.0195",
        ),
        ("apac.amazon.nova-micro-v1:0", "bedrock", MILLION, (2026, 11, 25), "0.037"),
        ("jp.amazon.nova-2-lite-v1:0", "bedrock", MILLION, (2026, 11, 25), "0.396"),
        ("grok-code-fast-1", "xai", {"output_tokens": 10**6}, (2026, 11, 25), "2"),
        ("grok-code-fast-1", "xai", {"output_tokens": 10**6}, (2026, 5, 14), "1.5"),
        (
            "gpt-4o-audio-preview",
            "openai",
            {"input_tokens": 100_000, "input_audio_tokens": 100_000},
            (2025, 3, 1),
            "4",
        ),
        (
            "gpt-4o-mini-audio-preview",
            "openai",
            {"output_tokens": 1000, "output_audio_tokens": 1000},
            (2025, 3, 1),
            "0.02",
        ),
    ],
)
def test_a_corrected_row(model, provider, counts, day, usd):
    """An alias costs what it means on the day, and sound what sound does."""
    found = price(counts, model, provider, day)
    assert (Decimal(usd), ()) == (found.cost, found.doubts)


def test_an_alias_that_may_mean_two_models_is_an_estimate():
    """Which model mistral-large-latest has meant since 29 October 2026 is not known."""
    assert 1 == len(price(MILLION, "mistral-large-latest", "mistral").doubts)


@pytest.mark.parametrize("model", ["gpt-oss-20b", "gpt-oss-120b"])
@pytest.mark.parametrize(
    ("provider", "base_url"),
    [
        ("openai", None),
        ("openai", "http://127.0.0.1:8000/v1"),
        ("openai_like", "http://127.0.0.1:8000/v1"),
        ("ollama", None),
        ("vllm", None),
        (None, None),
        ("litellm", None),
    ],
)
def test_open_weights_are_never_openais(model, provider, base_url):
    """OpenAI sells no gpt-oss: at a server of one's own it has no price."""
    assert price(MILLION, model, provider, base_url=base_url) is None
    assert price(MILLION, f"openai/{model}", "litellm") is None


@pytest.mark.parametrize(("tokens", "doubts"), [(200_000, 0), (200_001, 1)])
def test_the_long_prompts_of_a_beta_are_in_doubt(tokens, doubts):
    """Sonnet 4.5 above 200,000 tokens costs twice as much by the table, and by Anthropic's page no more."""
    found = price({"input_tokens": tokens}, "claude-sonnet-4-5", "anthropic")
    assert doubts == len(found.doubts)
    assert () == price({"input_tokens": tokens}, "claude-sonnet-4-6", "anthropic").doubts


@pytest.mark.parametrize(
    ("model", "provider", "tokens", "doubts"),
    [
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock", 200_001, 1),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock", 200_000, 0),
        ("global.anthropic.claude-sonnet-4-6-v1:0", "bedrock", 200_001, 0),
        ("openai.gpt-5.4", "bedrock", 272_001, 1),
        ("openai.gpt-5.4", "bedrock", 272_000, 0),
        ("gpt-5.6-cyber", "openai", 272_001, 1),
        ("gpt-5.4", "openai", 272_001, 0),
    ],
)
def test_long_prompts_are_in_doubt_where_the_table_lacks_their_rate(model, provider, tokens, doubts):
    """Other price lists have a second rate for these models; the table has one for all prompts."""
    assert doubts == len(price({"input_tokens": tokens}, model, provider).doubts)


@pytest.mark.parametrize(
    ("model", "tokens", "context", "doubts"),
    [
        ("claude-haiku-5-5", 100_001, {"prompts": "2"}, 1),
        ("claude-haiku-5-5", 100_000, {"prompts": "2"}, 0),
        ("claude-haiku-5-5", 100_001, {}, 0),
        ("claude-opus-4-8", 100_001, {"prompts": "2"}, 0),
    ],
)
def test_several_prompts_are_in_doubt_above_a_step(model, tokens, context, doubts):
    """An answer with server tools has the sum of its prompts, each of which may be below the step."""
    assert doubts == len(price({"input_tokens": tokens}, model, "anthropic", context=context).doubts)


@pytest.mark.parametrize(("tier", "doubts"), [("batch", 1), (None, 0)])
def test_long_prompts_of_a_batch_are_in_doubt_where_its_rates_lack_a_step(tier, doubts):
    """The table's rates of gpt-5.5-pro have a step, those of its batches none."""
    found = price({"input_tokens": 272_001, "output_tokens": 1}, "gpt-5.5-pro", "openai", service_tier=tier)
    assert doubts == len(found.doubts)


def test_a_model_with_an_others_name_before_its_own_is_an_estimate():
    """The table takes gemini-3.8-flash-cyber for gemini-3.8-flash, whose rates are reduced until the year's end."""
    found = price(MILLION, "gemini-3.8-flash-cyber", "google")
    assert (Decimal("1.5"), 1) == (found.cost, len(found.doubts))


@pytest.mark.parametrize(
    ("model", "tokens", "doubts"), [("grok-4", 128_001, 1), ("grok-4", 9, 0), ("grok-4.6", 150_000, 0)]
)
def test_long_prompts_of_xai_are_in_doubt_where_no_table_has_their_rate(model, tokens, doubts):
    """xAI's page has twice the rates for long prompts of every model, the table for the newer ones alone."""
    assert doubts == len(price({"input_tokens": tokens}, model, "xai").doubts)
