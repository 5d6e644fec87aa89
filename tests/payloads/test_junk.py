import copy
import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.payload_samples import SAMPLES, both, objects
from token_handlers.payloads import ReportedUsage, read_message, read_payload, read_usage_metadata
from token_handlers.usage import Usage

KEYS = sorted({key for sample in SAMPLES for key in json.dumps(sample.payload).split('"')[1::2] if key.isidentifier()})
NUMBERS = st.integers(-5, 3_000) | st.integers() | st.floats() | st.booleans()
JUNK = st.recursive(
    st.none() | NUMBERS | st.text(max_size=5) | st.sampled_from(KEYS) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=25,
)


def check(found: ReportedUsage | None) -> None:
    """A reading is None or makes a Usage: no negatives, no part above its whole."""
    if found is not None:
        assert found.counts
        assert found.counts == {name: getattr(Usage(**found.counts), name) for name in found.counts}
        assert found.cost is None or found.cost >= 0


class Raises:
    def __getattribute__(self, name):
        raise RuntimeError(name)


class RaisingProperty:
    usage = property(lambda self: 1 / 0)
    __class__ = property(lambda self: 1 / 0)


class Itself:
    def __getattr__(self, name):
        return self


class Another:
    __slots__ = ()

    def __getattr__(self, name):
        return Another()


class NoTruth(dict):
    def get(self, key, default=None):
        raise KeyError(key)

    def __bool__(self):
        raise ValueError

    __len__ = __iter__ = __bool__


class HostileText(str):
    __slots__ = ()

    def __bool__(self):
        raise ValueError

    __len__ = upper = lower = __str__ = __bool__


def no_truth() -> NoTruth:
    """A dict that raises whatever one does with it."""
    return NoTruth(usage={})


def hostile_text() -> HostileText:
    """A text that raises likewise."""
    return HostileText("x")


HOSTILE = [Raises, RaisingProperty, Itself, Another, Mock, MagicMock, no_truth]


@pytest.mark.parametrize(
    "junk", [None, 5, "usage", b"usage", object, SimpleNamespace, {}, [], (), [[]], [{}], {1: 2}], ids=repr
)
def test_junk_is_none(junk):
    """What has no usage is None."""
    assert None is read_payload(junk)


@pytest.mark.parametrize("make", HOSTILE)
def test_hostile_objects_are_none(make):
    """What raises when it is asked for its fields, or has every field one asks for, is None."""
    assert None is read_payload(make())
    assert None is read_payload([make(), make()])


@pytest.mark.parametrize("make", HOSTILE)
@pytest.mark.parametrize("key", ["usage", "usage_metadata", "response_metadata", "generations", "cost", "model"])
def test_junk_inside_a_payload_is_passed_over(key, make):
    """Junk in one place leaves what stands elsewhere readable."""
    payload = {"data": {"usage": {"prompt_tokens": 5, "completion_tokens": 7}}, key: make()}

    assert both(5, 7) == read_payload(payload).counts


@pytest.mark.parametrize("make", [*HOSTILE, hostile_text])
def test_junk_inside_a_usage_is_passed_over(make):
    """Junk among the numbers leaves the numbers readable."""
    keys = ("prompt_tokens_details", "server_tool_use", "cost", "cost_details", "is_byok", "service_tier", "model")
    usage = {"prompt_tokens": 5, "completion_tokens": 7} | dict.fromkeys(keys, make())

    assert both(5, 7) == read_payload(usage).counts


@pytest.mark.parametrize("key", ["usage", "message", "response_metadata", "generations"])
def test_endless_payloads_end(key):
    """A payload ten thousand deep and one that contains itself are None, without a RecursionError."""
    deep: dict[str, Any] = {}
    for _ in range(10_000):
        deep = {key: [[deep]] if key == "generations" else deep}
    cycle: dict[str, Any] = {}
    cycle[key] = [[cycle]] if key == "generations" else cycle

    assert (None, None) == (read_payload(deep), read_payload(cycle))
    while deep:  # or the interpreter recurses when it frees it
        deep = deep.pop(key)
        deep = deep[0][0] if isinstance(deep, list) else deep


@given(payload=JUNK, provider=st.none() | st.text(max_size=3) | st.sampled_from(["openai", "anthropic", "xai"]))
def test_any_json_is_read_or_none(payload, provider):
    """Whatever JSON comes, there is no exception, no negative, and no part above its whole."""
    check(read_payload(payload, provider))


@given(payload=JUNK)
def test_any_objects_are_read_or_none(payload):
    """The same holds for objects."""
    check(read_payload(objects(payload)))


def places(payload: Any) -> list[tuple[Any, Any]]:
    """Every container of a payload with each of its keys."""
    if not isinstance(payload, dict | list):
        return []
    keys = list(payload) if isinstance(payload, dict) else list(range(len(payload)))
    return [place for key in keys for place in [(payload, key), *places(payload[key])]]


@given(data=st.data(), sample=st.sampled_from(SAMPLES))
def test_a_real_shape_with_junk_in_it_is_read_or_none(data, sample):
    """Fields of a real shape may be missing or anything: what is read still makes a Usage."""
    payload = copy.deepcopy(sample.payload)
    for _ in range(data.draw(st.integers(1, 4))):
        found = places(payload)
        if not found:
            break
        container, key = data.draw(st.sampled_from(found))
        if data.draw(st.booleans()):
            container[key] = data.draw(NUMBERS | JUNK)
        elif isinstance(container, dict):
            del container[key]
    check(read_payload(payload, sample.provider))


DETAILS = st.dictionaries(
    st.sampled_from(
        ["cache_read", "flex_cache_read", "cache_creation", "ephemeral_5m_input_tokens", "audio", "reasoning"]
    )
    | st.sampled_from(["ephemeral_1h_input_tokens", "image", "priority", "citation_tokens", "priority_reasoning"]),
    st.integers(0, 50) | NUMBERS,
)
PARTS = {
    **dict.fromkeys(["input_tokens", "output_tokens", "total_tokens"], st.integers(0, 50) | NUMBERS),
    **dict.fromkeys(["input_token_details", "output_token_details"], DETAILS | JUNK),
}


@given(usage=st.fixed_dictionaries({}, optional=PARTS))
def test_any_usage_metadata_is_read_or_none(usage):
    """LangChain's usage_metadata is read directly in callbacks, and so is as safe by itself."""
    check(read_usage_metadata(usage))
    check(read_message(usage, usage))
