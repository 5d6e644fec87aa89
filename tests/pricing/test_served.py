"""Who served a call, where and how, under one name each."""

from datetime import UTC, datetime

import pytest

from token_handlers.pricing.served import Served, host_of, location_of, tier_name, version

SERVED = Served("google", "google", "gemini-3.8-flash", "gemini-3.8-flash", datetime(2026, 11, 25, tzinfo=UTC))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude-opus-4-8", (4, 8)),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", (4, 5)),
        ("claude-opus-4-20250514", (4, 0)),
        ("claude-3-5-sonnet-20241022", (3, 5)),
        ("claude-sonnet-5", (5, 0)),
        ("claude-opus-4-1@20250805", (4, 1)),
        ("gpt-5.4-mini", (5, 4)),
        ("gpt-4o", (4, 0)),
        ("gpt-6-sol-2026-10-01", (6, 0)),
        ("gemini-3.1-pro-preview", (3, 1)),
        ("o3", None),
        ("gpt-image-1", None),
    ],
)
def test_a_version_is_read_from_a_name(model, expected):
    """Major and minor, of dots or dashes; a date is none."""
    assert expected == version(model)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, ""),
        ("", ""),
        ("default", ""),
        ("STANDARD", ""),
        ("ON_DEMAND", ""),
        ("Flex", "flex"),
        ("ON_DEMAND_PRIORITY", "priority"),
        ("scale", "scale"),
    ],
)
def test_a_tier_has_one_name(said, expected):
    """The standard one has none, whatever a provider calls it."""
    assert expected == tier_name(said)


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://EU.api.openai.com:443/v1", "eu.api.openai.com"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("eu.api.openai.com", "eu.api.openai.com"),
        ("https://[broken", None),
        ("", None),
        (None, None),
    ],
)
def test_a_host_is_read_from_an_address(base_url, expected):
    """In lower case, without its port; an address that is none has none."""
    assert expected == host_of(base_url)


@pytest.mark.parametrize(
    ("host", "context", "place"),
    [
        ("us-central1-aiplatform.googleapis.com", {}, "us-central1"),
        ("aiplatform.googleapis.com", {}, "global"),
        ("aiplatform.eu.rep.googleapis.com", {}, "eu"),
        ("us-central1-aiplatform.googleapis.com", {"region": "Europe-West4"}, "europe-west4"),
        ("generativelanguage.googleapis.com", {}, ""),
        (None, {}, ""),
    ],
)
def test_a_place_is_said_or_in_the_host(host, context, place):
    """What was said comes first; Vertex AI's hosts have their location in them."""
    assert place == SERVED._replace(host=host, context=context).place


@pytest.mark.parametrize(
    ("provider", "host", "requested", "expected"),
    [
        ("google_vertexai", None, "", True),
        ("google_genai", None, "", False),
        ("google_genai", "us-central1-aiplatform.googleapis.com", "", True),
        ("google_vertexai", "generativelanguage.googleapis.com", "", False),
        ("litellm", None, "vertex_ai/gemini-3.8-flash", True),
        ("litellm", None, "gemini/gemini-3.8-flash", False),
    ],
)
def test_vertex_is_told_from_the_gemini_api(provider, host, requested, expected):
    """By the host where it is known, else by the client's name, or by the route that LiteLLM was asked for."""
    assert expected is SERVED._replace(provider=provider, host=host, requested=requested).on_vertex


@pytest.mark.parametrize(
    ("base_url", "location"),
    [
        (
            "http://127.0.0.1:9/v1/projects/p/locations/US-Central1/publishers/google/models/m:generateContent",
            "us-central1",
        ),
        ("https://aiplatform.googleapis.com/v1/projects/p/locations/global", "global"),
        ("https://generativelanguage.googleapis.com/v1beta/models/m", ""),
        (None, ""),
    ],
)
def test_a_location_is_read_from_an_address(base_url, location):
    """Vertex AI's addresses name it wherever they lead, and so tell it from the Gemini API."""
    served = SERVED._replace(host="127.0.0.1", location=location_of(base_url))
    assert (location, location, bool(location)) == (served.location, served.place, served.on_vertex)
