"""The kinds of plain answers: what is read of each, and what keeps one from being plain.

The rules of both frameworks' answers and of the SDKs' are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import NoneType
from typing import Any, NamedTuple

from token_handlers.payloads.plain.contents import is_of_sdk
from token_handlers.payloads.plain.usages import (
    ABSENT,
    LANGCHAIN,
    LIFETIMES,
    OPENAI,
    RAW_DETAILS,
    USAGE_DETAILS,
    CountedUsage,
    NotPlain,
    UsageForm,
    Variable,
    Variables,
    counted,
    first,
    form_of,
    test_of,
)
from token_handlers.payloads.reported import hint_of

Parts = Sequence[Mapping[str, Any] | None]
"""An answer's dicts: what is around its usages, these, and their details; None where one is missing."""

METADATA_KEYS = frozenset({"token_usage", "usage", "model_name", "model", "model_provider", "service_tier",
                       "system_fingerprint", "id", "finish_reason", "logprobs", "object", "created", "created_at",
                       "status", "metadata", "type", "role", "stop_reason", "stop_sequence", "stop_details",
                       "container", "grounding_metadata", "context_management", "diagnostics", "safety_ratings",
                       "prompt_feedback", "incomplete_details", "user", "done", "done_reason", "total_duration",
                       "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count",
                       "eval_duration", "ResponseMetadata", "stopReason", "metrics"})  # fmt: skip
_COMPLETION = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint",
                         "service_tier"})  # fmt: skip
_MESSAGE = frozenset({"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "stop_details",
                      "usage", "container", "diagnostics"})  # fmt: skip
_CUT_BY_LANGCHAIN = ("mistral", "openrouter", "cohere", "together", "xai")
"""Providers that bill by something that LangChain leaves out of their streams."""


class OpenedDict(NamedTuple):
    """A dict of an answer, or an SDK's object: the variable that holds it, and those of its fields."""

    variable: Variable
    fields: Variables


class AnswerPlan(NamedTuple):
    """What the reader of a shape does.

    ``parameters`` are the reader's. ``levels`` are the dicts that it opens, from the outermost, whose keys are known
    already, to the details. ``others`` are parameters whose type it checks besides. ``tests`` are expressions that must
    hold, else the answer is not plain.
    """

    parameters: tuple[str, ...]
    levels: Sequence[Sequence[OpenedDict]]
    usage: CountedUsage
    tier: Variable = ABSENT
    model: Variable = ABSENT
    content: Variable = ABSENT
    others: Sequence[Variable] = ()
    tests: Sequence[str] = ()


AnswerKind = Callable[[str | None, Parts, Sequence[Any]], AnswerPlan]
"""Plans the reader of an answer's shape by its provider, its parts, and what its reader gets besides.

Raises NotPlain.
"""


def of_message(provider: str | None, parts: Parts, others: Sequence[Any]) -> AnswerPlan:
    """A message of LangChain's: response_metadata, usage_metadata, raw usage, their details; besides additional_kwargs.

    The metadata has no other keys than METADATA_KEYS.
    """
    stated_usage = parts[2]
    form = None if stated_usage is None else form_of(stated_usage, provider)
    if form is None and hint_of(provider).is_of(*_CUT_BY_LANGCHAIN):
        raise NotPlain
    (metadata, usage, raw, *several), (more,) = _variables(parts, {"more": others[0]})
    details = dict(zip((*USAGE_DETAILS, *RAW_DETAILS), several, strict=False))
    counted_usage = counted(LANGCHAIN, usage, details)
    tier = first(metadata, "service_tier")
    usages = [OpenedDict(Variable("usage", dict), usage)]
    if form is not None:
        counted_usage = counted_usage.confirmed_by(counted(form, raw, details))
        tier = first(raw, "service_tier") if tier is ABSENT else tier
        usages.append(OpenedDict(first(metadata, "token_usage", "usage"), raw))
    if "cache_write_tokens" in counted_usage.counts and counted_usage.counts.keys().isdisjoint(LIFETIMES.values()):
        # the prompt says how long the cache keeps them
        counted_usage.tests.append(f"{counted_usage.counts['cache_write_tokens']} == 0")
    return AnswerPlan(
        parameters=("metadata", "usage", "content", "more"),
        levels=[[OpenedDict(Variable("metadata", dict), metadata)], usages, _details_in(usages, details)],
        usage=counted_usage,
        tier=tier,
        model=first(metadata, "model_name", "model"),
        content=Variable("content", object),
        others=[more],
        tests=[
            *_refusal_tests(metadata),
            *test_of(metadata.get("grounding_metadata", ABSENT), dict, "not {}"),  # Google bills its searches
            *test_of(more, dict, "SHOWING_FEES.isdisjoint({})"),
        ],
    )


def kind_of(body: Mapping[str, Any]) -> AnswerKind | None:
    """Return what a dict is by its keys: a chat completion, an answer of Anthropic's, or a usage of OpenAI's."""
    if _COMPLETION.issuperset(body):
        return of_completion
    if _MESSAGE.issuperset(body):
        return _of_anthropic
    return _of_usage if OPENAI.keys.issuperset(body) else None


def of_completion(provider: str | None, parts: Parts, others: Sequence[Any]) -> AnswerPlan:
    """A chat completion, its usage and that one's details."""
    plan = _of_answer(OPENAI, "CompletionUsage", parts)
    body = plan.levels[0][0].fields
    tests = test_of(body.get("choices", ABSENT), list, "are_plain_choices({})")
    return plan._replace(tier=first(body, "service_tier"), tests=tests)


def _of_anthropic(provider: str | None, parts: Parts, others: Sequence[Any]) -> AnswerPlan:
    plan = _of_answer(form_of(parts[1] or {}, provider or "anthropic"), "Usage", parts)
    (outermost,), (usage,), _ = plan.levels
    body, kind = outermost.fields, outermost.fields.get("type", ABSENT)
    if kind.kind is not str:
        raise NotPlain
    return plan._replace(
        tier=first(usage.fields, "service_tier"),
        content=body.get("content", ABSENT),
        tests=[f"{kind.name} == 'message'", *_refusal_tests(body)],
    )


def _of_answer(form: UsageForm, usage_type: str, parts: Parts) -> AnswerPlan:
    (body, usage, *several), _ = _variables(parts, {})
    variable, details = body.get("usage", ABSENT), dict(zip(RAW_DETAILS, several, strict=True))
    if variable.kind is not dict and variable.kind.__name__ != usage_type:
        raise NotPlain
    usages = [OpenedDict(variable, usage)]
    return AnswerPlan(
        parameters=("body",),
        levels=[[OpenedDict(Variable("body", dict), body)], usages, _details_in(usages, details)],
        usage=counted(form, usage, details),
        model=first(body, "model"),
    )


def _of_usage(provider: str | None, parts: Parts, others: Sequence[Any]) -> AnswerPlan:
    (_, usage, *several), _ = _variables(parts, {})
    details = dict(zip(RAW_DETAILS, several, strict=True))
    usages = [OpenedDict(Variable("body", dict), usage)]
    return AnswerPlan(("body",), [[], usages, _details_in(usages, details)], counted(OPENAI, usage, details))


def _details_in(usages: Sequence[OpenedDict], details: Mapping[str, Variables]) -> list[OpenedDict]:
    return [OpenedDict(each.fields[key], details[key]) for each in usages for key in details if key in each.fields]


def _refusal_tests(body: Variables) -> list[str]:
    """Return the tests that an answer is no refusal, which is billed in another way."""
    return test_of(body.get("stop_reason", ABSENT), str, "{} != 'refusal'")


_READ = frozenset({"token_usage", "usage", "service_tier", "model_name", "model", "stop_reason", "grounding_metadata",
                   "choices", "content", "type"})  # fmt: skip
"""What is read of what is around the usages: the rest may be of any type."""
_UNTYPED = frozenset({"content", "queue_time", "prompt_time", "completion_time", "total_time"})
_KINDS = frozenset({NoneType, bool, int, float, str, list, tuple, dict})


def shape_of(parts: Parts, others: Sequence[Any]) -> tuple[object, ...]:
    """Return what decides how an answer is read: the keys of its dicts, and the types of what is read."""
    outermost, *inner = parts
    kinds = [type(value) for key, value in (outermost or {}).items() if key in _READ and key not in _UNTYPED]
    kinds += [type(value) for part in inner for key, value in (part or {}).items() if key not in _UNTYPED]
    return *(part if part is None else tuple(part) for part in parts), *kinds, *map(type, others)


def _variables(parts: Parts, others: Mapping[str, Any]) -> tuple[list[Variables], list[Variable]]:
    """Return variables for what is read of each part, and those of the other parameters."""
    outermost, *inner = parts
    read = {key: value for key, value in (outermost or {}).items() if key in _READ}
    names = map("v{}".format, count())
    known = [
        {key: Variable(next(names), object if key in _UNTYPED else type(value)) for key, value in (part or {}).items()}
        for part in (read, *inner)
    ]
    besides = [Variable(name, type(value)) for name, value in others.items()]
    kinds = {value.kind for each in (*(part.values() for part in known), besides) for value in each} - {object}
    if not all(map(is_of_sdk, kinds - _KINDS)):
        raise NotPlain  # a shape is kept, and would keep an application's own class
    return known, besides
