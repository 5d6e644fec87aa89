"""Tokens of a kind that a row has no rate of."""

from decimal import Decimal

import pytest

from tests.support.prices import price

WRITTEN = {"input_tokens": 1000, "cache_write_tokens": 1000}


@pytest.mark.parametrize(
    ("model", "provider", "counts", "usd"),
    [
        ("claude-sonnet-4-5", "anthropic", WRITTEN, "0.00375"),
        ("claude-sonnet-4-5", "anthropic", {**WRITTEN, "cache_write_5m_tokens": 1000}, "0.00375"),
        ("claude-sonnet-4-5", "anthropic", {**WRITTEN, "cache_write_1h_tokens": 1000}, "0.006"),
        ("claude-sonnet-4-5", "anthropic", {**WRITTEN, "cache_write_1h_tokens": 400}, "0.00465"),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", "bedrock", {**WRITTEN, "cache_write_1h_tokens": 1000}, "0.006"),
        ("gpt-6-sol", "openai", WRITTEN, "0.0025"),
        ("gpt-4o", "openai", WRITTEN, "0.0025"),
    ],
)
def test_cache_writes_cost_by_how_long_they_are_kept(model, provider, counts, usd):
    """Claude's cost 1.25 of the input rate for five minutes and 2 for an hour, on Bedrock too; gpt-4o's no more."""
    found = price(counts, model, provider)
    assert (Decimal(usd), ()) == (found.cost, found.doubts)


def test_openais_cache_writes_for_12_hours_are_an_estimate():
    """They cost twice the input rate by a price list alone, on any tier; what is not split may be for 12 hours."""
    split = {**WRITTEN, "cache_write_12h_tokens": 1000}
    found = price(split, "gpt-6-sol", "openai")
    assert (Decimal("0.004"), 1) == (found.cost, len(found.doubts))
    assert Decimal("0.002") == price(split, "gpt-6-sol", "openai", service_tier="flex").cost
    assert 1 == len(price(WRITTEN, "gpt-6-sol", "openai", context={"cache_retention": "24h"}).doubts)


def test_more_for_12_hours_than_was_written_is_no_usage():
    """A part above its whole leaves the price open."""
    assert price({**WRITTEN, "cache_write_12h_tokens": 1001}, "gpt-6-sol", "openai") is None


@pytest.mark.parametrize(
    ("model", "provider", "part", "doubts"),
    [
        ("gemini-2.5-flash-image", "google", "output_image_tokens", 0),
        ("gpt-image-1", "openai", "output_image_tokens", 0),
        ("gemini-2.5-flash-tts", "google", "output_audio_tokens", 0),
        ("gpt-audio", "openai", "output_audio_tokens", 0),
        ("gpt-5", "openai", "output_image_tokens", 1),
        ("gemini-3.8-flash", "google", "output_audio_tokens", 1),
        ("gpt-5", "openai", "output_video_tokens", 1),
    ],
)
def test_output_of_another_kind_needs_a_rate(model, provider, part, doubts):
    """Images, sound and video in the output never cost what text does, but where the model makes nothing else."""
    found = price({"output_tokens": 1000, part: 1000}, model, provider)
    assert doubts == len(found.doubts)


@pytest.mark.parametrize(
    ("model", "provider", "part", "doubts"),
    [
        ("gemini-2.5-flash", "google", "input_audio_tokens", 0),
        ("gemini-3.8-flash", "google", "input_audio_tokens", 0),
        ("gpt-5", "openai", "input_audio_tokens", 1),
        ("gpt-5", "openai", "input_image_tokens", 0),
        ("gemini-3.8-flash", "google", "input_video_tokens", 0),
        ("voxtral-small-24b-2507", "mistral", "input_audio_tokens", 1),
    ],
)
def test_a_prompt_of_another_kind(model, provider, part, doubts):
    """Images and video cost what text does; sound needs a rate, but with Gemini."""
    found = price({"input_tokens": 1000, part: 1000}, model, provider)
    assert doubts == len(found.doubts)


@pytest.mark.parametrize(("model", "doubts"), [("gpt-audio", 1), ("gpt-4o", 0)])
def test_cached_tokens_need_a_rate(model, doubts):
    """Where a row has none, whether reading the cache costs less is not known."""
    found = price({"input_tokens": 1000, "cache_read_tokens": 400}, model, "openai")
    assert doubts == len(found.doubts)


def test_an_image_costs_its_own_rate():
    """1,290 tokens of an image at 30 USD per million, beside text at 2.50."""
    found = price(
        {"input_tokens": 80, "output_tokens": 1290, "output_image_tokens": 1290}, "gemini-2.5-flash-image", "google"
    )
    assert Decimal("0.038724") == found.cost
