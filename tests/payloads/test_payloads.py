import copy
import logging
from collections import UserDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from types import MappingProxyType
from typing import Any
from unittest.mock import Mock

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, LLMResult
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict

from tests.support.payload_samples import SAMPLES, Sample, both, objects
from token_handlers.payloads import (
    ReportedUsage,
    read_message,
    read_payload,
    read_usage_metadata,
    reported_cost,
    usage_from_payload,
)
from token_handlers.payloads import reported as reading
from token_handlers.usage import Usage


class Seven(IntEnum):
    SEVEN = 7


def named(samples: Sequence[Sample]) -> pytest.MarkDecorator:
    """A run of the test for each sample, under its name."""
    return pytest.mark.parametrize("sample", samples, ids=lambda sample: sample.name)


@pytest.fixture
def warnings(monkeypatch, caplog):
    """What is logged, from a process that has not warned yet."""
    monkeypatch.setattr(reading, "_warned", set())
    caplog.set_level(logging.WARNING, "token_handlers")
    return caplog


@named(SAMPLES)
def test_reads_every_shape(sample):
    """Each shape's counts, cost, tier and model are what the payload says; what it does not say is absent."""
    assert sample.expected == read_payload(sample.payload, sample.provider)


@named([sample for sample in SAMPLES if not sample.name.startswith("cognigy, ")])
def test_reads_objects_as_it_reads_dicts(sample):
    """An SDK's objects say what the same payload as JSON says; Cognigy's map of models is JSON alone."""
    assert sample.expected == read_payload(objects(sample.payload), sample.provider)


@named(SAMPLES)
def test_leaves_the_payload_as_it_was(sample):
    """ReportedUsage changes nothing in the payload."""
    before = copy.deepcopy(sample.payload)

    read_payload(sample.payload)

    assert before == sample.payload


def test_usage_from_payload_is_a_usage():
    """usage_from_payload returns the reading's counts as a Usage."""
    payload = {"usage": {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}}

    assert Usage(input_tokens=5, output_tokens=7, cache_read_tokens=3) == usage_from_payload(payload)


def test_usage_from_payload_without_usage_is_none():
    """A payload that says nothing of usage is None, not a Usage of zeros."""
    assert None is usage_from_payload({"choices": [], "usage": None})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), (7, 7), (12.0, 12), (Seven.SEVEN, 7), (2**53 - 1, 2**53 - 1)],
    ids=["0", "7", "12.0", "an enum of 7", "the most"],
)
def test_counts_are_whole_numbers(value, expected):
    """A reported 0 stays; an integral float is a count, as JSON has one type of number."""
    assert {"input_tokens": expected} == read_payload({"prompt_tokens": value}).counts


@pytest.mark.parametrize(
    "value",
    [True, False, -1, 1.5, float("nan"), float("inf"), 1e300, 2**53, "7", None, [], {}, b"7", Decimal(7)],
    ids=repr,
)
def test_what_is_no_count_is_ignored(value):
    """Bools, texts, fractions, negatives and what no JSON number carries are as if they were missing."""
    assert None is read_payload({"prompt_tokens": value})
    assert {"output_tokens": 3} == read_payload({"prompt_tokens": value, "completion_tokens": 3}).counts


@pytest.mark.parametrize("cost", [True, "0.5", -1, float("nan"), float("inf"), 10**7, None, {}, {"total_cost": "1"}])
def test_what_is_no_money_is_unknown(cost):
    """A cost that cannot be one is None, never 0."""
    assert None is reported_cost({"cost": cost, "is_byok": False})


def test_a_whole_stands_and_its_part_is_cut(warnings):
    """A part above its whole is cut to the whole, with one warning that names both."""
    payload = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 21}}

    counts = [read_payload(payload).counts for _ in range(3)]

    assert [both(7, 3, cache_read_tokens=7)] * 3 == counts
    assert 1 == len(warnings.records)
    assert "cache_read_tokens = 21" in warnings.text
    assert "(7)" in warnings.text


def test_disjoint_parts_share_their_whole(warnings):
    """Cache reads and writes together never exceed the input: what is left after the first is the second's."""
    usage = {"input_tokens": 10, "output_tokens": 1, "input_token_details": {"cache_read": 8, "cache_creation": 8}}

    assert both(10, 1, cache_read_tokens=8, cache_write_tokens=2) == read_usage_metadata(usage).counts


def test_a_part_of_an_unknown_whole_is_dropped():
    """Cache reads without an input are not a usage of 0 input tokens with reads in it."""
    assert {"output_tokens": 5} == read_payload({"outputTokens": 5, "cacheReadInputTokens": 100}).counts


def test_a_total_that_nothing_explains_warns_once(warnings):
    """Input and output stand as reported where the total says more, with one warning that names all three."""
    payload = {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109}

    counts = [read_payload(payload).counts for _ in range(2)]

    assert [both(35, 12)] * 2 == counts
    assert 1 == len(warnings.records)
    assert "(109) is not prompt_tokens + completion_tokens (35 + 12)" in warnings.text


def test_an_advisor_is_billed_beside_the_answer():
    """Another model's tokens within a call are in its counts, and apart, to be priced at that model's rates."""
    advisor = {"type": "advisor_message", "model": "opus", "input_tokens": 250, "output_tokens": 9}

    found = read_payload({"input_tokens": 20, "output_tokens": 4, "iterations": [advisor]})

    assert both(270, 13) == found.counts
    assert (("opus", both(250, 9)),) == found.beside
    assert () == found.doubts


def test_read_usage_metadata_of_the_cache_mark_is_none():
    """The total_cost of 0 that LangChain's cache puts on a hit without usage is no usage."""
    assert None is read_usage_metadata({"total_cost": 0})


def test_read_usage_metadata_keeps_a_reported_zero():
    """A detail of 0 is reported, a missing one is absent."""
    usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0, "input_token_details": {"cache_read": 0}}

    assert ReportedUsage(both(0, 0, cache_read_tokens=0)) == read_usage_metadata(usage)


def test_read_usage_metadata_counts_writes_once_where_both_keys_state_them():
    """Cache writes that stand in cache_creation and by lifetime are the same tokens."""
    details = {"cache_creation": 19, "ephemeral_5m_input_tokens": 12, "ephemeral_1h_input_tokens": 7}

    found = read_usage_metadata({"input_tokens": 30, "output_tokens": 1, "input_token_details": details})

    assert 19 == found.counts["cache_write_tokens"]


def test_read_message_takes_both_halves():
    """A message's counts come from its usage_metadata, cost and model from its response_metadata."""
    found = read_message({"input_tokens": 3, "output_tokens": 4}, {"model_name": "m", "cost": 0.5})

    assert ReportedUsage(both(3, 4), Decimal("0.5"), None, "m") == found


def test_of_two_disagreeing_halves_the_larger_stands():
    """A usage_metadata that says more than the response_metadata is not replaced by it."""
    raw = {"promptTokens": 0, "completionTokens": 0}

    assert both(3, 4) == read_message({"input_tokens": 3, "output_tokens": 4}, {"tokenUsage": raw}).counts


def test_of_a_batch_llm_output_is_the_whole():
    """Where llm_output and the sum of the messages differ, llm_output stands for several prompts, not for one."""
    prompt = [{"message": {"usage_metadata": {"input_tokens": 3, "output_tokens": 4}, "response_metadata": {}}}]
    output = {"token_usage": {"prompt_tokens": 9, "completion_tokens": 9}}

    assert both(9, 9) == read_payload({"generations": [prompt, prompt], "llm_output": output}).counts
    assert both(3, 4) == read_payload({"generations": [prompt], "llm_output": output}).counts


def test_an_unexplained_total_leaves_the_shape_s_habit():
    """Where the total says neither that the cache is in the prompt nor that it is not, Anthropic's leaves it out."""
    usage = {"input_tokens": 17, "output_tokens": 190, "cache_read_input_tokens": 10, "total_tokens": 999}

    assert both(27, 190, cache_read_tokens=10) == read_payload(usage).counts


def test_reads_langchain_objects():
    """An LLMResult with real messages says what its first message says."""
    usage = {"input_tokens": 9, "output_tokens": 12, "total_tokens": 21, "input_token_details": {"cache_read": 4}}
    message = AIMessage("hi", usage_metadata=usage, response_metadata={"model_name": "m", "service_tier": "flex"})
    result = LLMResult(generations=[[ChatGeneration(message=message)] * 2])

    expected = ReportedUsage(both(9, 12, cache_read_tokens=4), None, "flex", "m")
    assert expected == read_payload(result)
    assert expected == read_payload(message)


def test_adds_up_langchain_chunks():
    """A list of real AIMessageChunks is the sum of their usage."""
    start = AIMessageChunk(content="", usage_metadata={"input_tokens": 9, "output_tokens": 0, "total_tokens": 9})
    end = AIMessageChunk(content="", usage_metadata={"input_tokens": 0, "output_tokens": 5, "total_tokens": 5})

    assert both(9, 5) == read_payload([start, AIMessageChunk(content="hi"), end]).counts


def test_reads_an_sdk_model_with_fields_it_does_not_know():
    """A pydantic response is read with the extra fields that a gateway put into it."""
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12, "cost": 0.25, "is_byok": False}
    response = ChatCompletion.model_validate(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [], "usage": usage}
    )

    assert ReportedUsage(both(5, 7), Decimal("0.25"), None, "m") == read_payload(response)


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")
    usage: Any = None


@dataclass
class Data:
    usage: Any


class Slots:
    __slots__ = ("usage",)

    def __init__(self, usage: Any) -> None:
        self.usage = usage


@pytest.mark.parametrize(
    "wrap",
    [
        MappingProxyType,
        UserDict,
        lambda payload: defaultdict(dict, payload),
        lambda payload: Data(**payload),
        lambda payload: Slots(**payload),
        lambda payload: Model(**payload),
        lambda payload: Model.model_validate({"response": payload}),
        lambda payload: Mock(**payload),
        lambda payload: Mock(usage=Mock(**payload["usage"])),
    ],
    ids=["proxy", "user dict", "default dict", "dataclass", "slots", "model", "nested model", "mock", "nested mock"],
)
def test_reads_anything_with_fields(wrap):
    """Mappings, dataclasses, slots, models and mocks that were given a usage are read alike."""
    payload = {"usage": {"prompt_tokens": 5, "completion_tokens": 7}}

    assert both(5, 7) == read_payload(wrap(payload)).counts
