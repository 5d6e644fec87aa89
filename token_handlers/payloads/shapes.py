"""Makes the reader of one shape of plain answers: a function that is left with what depends on the answer's values.

A shape is all that an answer has in common with the next one of its client: the keys of its dicts, in their order, and
the types of their values. Which usage stands where, how it is counted, and what keeps an answer from being plain, is
decided here, once a shape. The rules of both frameworks' answers and of the SDKs' are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from operator import itemgetter
from types import NoneType
from typing import Any, NamedTuple

from token_handlers.payloads.plain_contents import are_plain_blocks, are_plain_choices, is_of_sdk
from token_handlers.payloads.reported import MOST_TOKENS, ReportedUsage
from token_handlers.usage import PARTS, new_tuple

Parts = Sequence[Mapping[str, Any] | None]
"""An answer's dicts: what is around its usages, these, and their details; None where one is missing."""

Reader = Callable[..., ReportedUsage | None]
"""Reads an answer of the shape that it was made for; None for one of another shape, or whose values aren't plain."""


class NotPlain(Exception):
    """An answer of this shape is left to the readers of every shape."""


class _Value(NamedTuple):
    """A value of an answer: the name that it has in the reader, and the type that its shape gives it."""

    name: str
    kind: type  # object: any


_Values = dict[str, _Value]
_ABSENT = _Value("None", NoneType)

USAGE_DETAILS = "input_token_details", "output_token_details"
"""Where LangChain's UsageMetadata has details."""

RAW_DETAILS = "prompt_tokens_details", "completion_tokens_details", "cache_creation", "output_tokens_details"
"""Where the providers' own usages have them, of whatever form."""

_Names = Mapping[str, str | None]


class _Form(NamedTuple):
    """A form of usage: where it states its numbers, and how they are counted. In braces are the keys of its heads.

    ``keys`` are all that it may have. ``heads`` are the numbers that it must have. ``given`` and
    ``generated`` are where its details are, and ``inputs`` and ``outputs`` what is counted of them by key; None: what
    the others leave, such as text. ``counted`` is what is counted of the heads, ``sound`` what must hold of them (none
    is negative, which for one that details are parts of is known), and ``whole`` what the details of ``given`` are
    parts of; those of ``generated`` are parts of the output. ``unset`` must be None or absent, and ``place`` is where
    it says in which part of the world it ran. ``adds_timed`` is whether what is kept for a time may stand beside what
    was written.
    """

    keys: frozenset[str]
    heads: tuple[str, ...]
    given: str
    inputs: _Names
    generated: str
    outputs: _Names
    counted: Mapping[str, str]
    sound: str
    whole: str
    unset: tuple[str, ...] = ()
    place: str | None = None
    adds_timed: bool = False


_LIFETIMES: _Names = {
    "ephemeral_5m_input_tokens": "cache_write_5m_tokens",
    "ephemeral_1h_input_tokens": "cache_write_1h_tokens",
}

_LANGCHAIN = _Form(
    keys=frozenset({"input_tokens", "output_tokens", "total_tokens", "input_token_details", "output_token_details"}),
    heads=("input_tokens", "output_tokens", "total_tokens"),
    given="input_token_details",
    inputs={"cache_read": "cache_read_tokens", "cache_creation": "cache_write_tokens", **_LIFETIMES,
            "audio": "input_audio_tokens"},
    generated="output_token_details",
    outputs={"reasoning": "reasoning_tokens", "audio": "output_audio_tokens"},
    counted={"input_tokens": "{input_tokens}", "output_tokens": "{output_tokens}"},
    sound="{total_tokens} == {input_tokens} + {output_tokens}",
    whole="{input_tokens}",
    adds_timed=True,
)  # fmt: skip
"""LangChain's UsageMetadata; see `read_usage_metadata`."""

_OPENAI = _Form(
    keys=frozenset({"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details",
                    "completion_tokens_details", "queue_time", "prompt_time", "completion_time", "total_time"}),
    heads=("prompt_tokens", "completion_tokens", "total_tokens"),
    given="prompt_tokens_details",
    inputs={"cached_tokens": "cache_read_tokens", "cache_write_tokens": "cache_write_tokens",
            "audio_tokens": "input_audio_tokens", "image_tokens": "input_image_tokens",
            "video_tokens": "input_video_tokens", "text_tokens": None},
    generated="completion_tokens_details",
    outputs={"reasoning_tokens": "reasoning_tokens", "audio_tokens": "output_audio_tokens",
             "image_tokens": "output_image_tokens", "text_tokens": None, "accepted_prediction_tokens": None,
             "rejected_prediction_tokens": None},
    counted={"input_tokens": "{prompt_tokens}", "output_tokens": "{completion_tokens}"},
    sound="{total_tokens} == {prompt_tokens} + {completion_tokens}",
    whole="{prompt_tokens}",
)  # fmt: skip
"""OpenAI's usage; see `read_chat`."""

_ANTHROPIC = _Form(
    keys=frozenset({"input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
                    "cache_creation", "output_tokens_details", "service_tier", "inference_geo", "server_tool_use",
                    "iterations", "speed"}),
    heads=("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    given="cache_creation",
    inputs=_LIFETIMES,
    generated="output_tokens_details",
    outputs={"thinking_tokens": "reasoning_tokens"},
    counted={"input_tokens": "{input_tokens} + {cache_read_input_tokens} + {cache_creation_input_tokens}",
             "output_tokens": "{output_tokens}", "cache_read_tokens": "{cache_read_input_tokens}",
             "cache_write_tokens": "{cache_creation_input_tokens}"},
    sound="{input_tokens} >= 0 <= {cache_read_input_tokens}",
    whole="{cache_creation_input_tokens}",
    unset=("server_tool_use", "iterations", "speed"),
    place="inference_geo",
)  # fmt: skip
"""Anthropic's usage; see `read_messages`. Its input is what was neither read from a cache nor written to one."""

_ANTHROPIC_UNCACHED = _ANTHROPIC._replace(
    heads=("input_tokens", "output_tokens"),
    inputs={},
    counted={"input_tokens": "{input_tokens}", "output_tokens": "{output_tokens}"},
    sound="True",
    whole="{input_tokens}",
)
"""The same of older servers, and of those without a cache."""

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
_LOSSY = ("mistral", "openrouter", "cohere", "together", "xai")


class _Dict(NamedTuple):
    """A dict of an answer, or an SDK's object: the value that it is, and its fields."""

    value: _Value
    fields: _Values


class _Answer(NamedTuple):
    """How the answers of a shape are read.

    ``takes`` are the reader's parameters. ``dicts`` are those that it looks into, from the outermost, whose keys are
    known already, to the details. ``told`` is what it is given besides.
    """

    takes: tuple[str, ...]
    dicts: Sequence[Sequence[_Dict]]
    counted: "_Counted"
    tier: _Value = _ABSENT
    model: _Value = _ABSENT
    content: _Value = _ABSENT
    told: Sequence[_Value] = ()
    tests: Sequence[str] = ()


AnswerKind = Callable[[str | None, Parts, Sequence[Any]], _Answer]
"""Says of a provider's answer, by its parts and what is told besides, how all of its shape are read; see `NotPlain`."""


def make_reader(kind: AnswerKind, provider: str | None, parts: Parts, told: Sequence[Any]) -> Reader | None:
    """Return the reader of an answer's shape, None where it is not plain."""
    if provider is not None and "vercel" in provider.lower():
        return None  # its gateway bills reasoning beside the output
    try:
        return _Source(kind(provider, parts, told)).compiled()
    except NotPlain:
        return None


class _Source:
    """The source of a reader, of our own names and numbers alone: it runs in a third of the steps of loops.

    It opens dict by dict, and sees for itself that types and keys are those that it was made for: a dict of as many
    keys, of which none is missing, has no others. A dict is opened once its type is known, so nobody's code runs.
    """

    def __init__(self, answer: _Answer) -> None:
        self._answer = answer
        self._lines: list[str] = []
        self._globals: dict[str, Any] = {**_GLOBALS}
        self._dicts = {each.value.name for level in answer.dicts for each in level}
        self._values: list[_Value] = [*answer.told]

    def compiled(self) -> Reader:
        """Return the reader."""
        outermost, *levels = self._answer.dicts
        for each in outermost:
            self._unpack(each)
        for level in levels:
            self._open(level)
        typed = [value for value in self._values if value.kind is not object]
        self._check("type", [value.name for value in typed], [value.kind for value in typed])
        self._lines += [f"if not ({' and '.join(self._tests())}): return None", f"return {self._usage()}"]
        names, body = ", ".join(self._answer.takes), "\n  ".join(self._lines)
        exec(f"def read({names}):\n try:\n  {body}\n except KeyError:\n  return None", self._globals)  # noqa: S102
        made: Reader = self._globals["read"]
        return made

    def _open(self, level: Sequence[_Dict]) -> None:
        self._check("type", [each.value.name for each in level], [each.value.kind for each in level])
        level = [each for each in level if each.value.kind is not NoneType]
        for name in (each.value.name for each in level if each.value.kind is not dict):
            self._lines += [f"if {name}.__pydantic_extra__: return None", f"{name} = {name}.__dict__"]
        self._check("len", [each.value.name for each in level], [len(each.fields) for each in level])
        for each in level:
            self._unpack(each)

    def _check(self, function: str, names: Sequence[str], expected: Sequence[object]) -> None:
        if len(names) == 1:
            differs = "is not" if function == "type" else "!="
            self._lines.append(f"if {function}({names[0]}) {differs} {self._constant(expected[0])}: return None")
        elif names:
            found = f"(*map({function}, ({', '.join(names)})),)"
            self._lines.append(f"if {found} != {self._constant(tuple(expected))}: return None")

    def _unpack(self, each: _Dict) -> None:
        if not each.fields:
            return
        names, got = [value.name for value in each.fields.values()], self._constant(itemgetter(*each.fields))
        self._lines.append(f"{', '.join(names)} = {got}({each.value.name})")
        self._values += [value for value in each.fields.values() if value.name not in self._dicts]

    def _constant(self, value: object) -> str:
        name = f"c{len(self._globals)}"
        self._globals[name] = value
        return name

    def _tests(self) -> list[str]:
        answer, terms = self._answer, self._answer.counted.terms
        tokens, output = terms["input_tokens"], terms["output_tokens"]
        tests = [*answer.counted.tests, *answer.tests]
        if answer.counted.details:
            tests.append(f"min(0, {', '.join(answer.counted.details)}) == 0")
        tests += [f"({tokens} or {output} == 0)", f"{tokens} + {output} < {MOST_TOKENS}"]  # none writes out of nothing
        tests += _test(answer.tier, str, "{}")
        tests += _test(answer.model, str, "{0} and 'command' not in {0}")  # Cohere bills other units
        content = answer.content.name
        if content != _ABSENT.name:
            tests.append(f"(type({content}) is str or are_plain_blocks({content}))")
        return tests

    def _usage(self) -> str:
        counted, tier = self._answer.counted, self._answer.tier.name
        counts = ", ".join(f"{name!r}: {source}" for name, source in counted.terms.items())
        shown = tier if self._answer.tier is _ABSENT else f"None if {tier} == 'auto' else {tier}.lower()"
        return f"new(ReportedUsage, ({{{counts}}}, None, {shown}, {self._answer.model.name}, *REST))"


_GLOBALS: Mapping[str, Any] = {
    "__builtins__": {},
    **{each.__name__: each for each in (type, map, len, min, str, KeyError, ReportedUsage)},
    **{each.__name__: each for each in (are_plain_blocks, are_plain_choices)},
    "new": new_tuple,
    "REST": ReportedUsage({})[4:],
    "SHOWING_FEES": frozenset({"tool_outputs", "annotations", "executed_tools", "groundingMetadata"}),
}


def of_message(provider: str | None, parts: Parts, told: Sequence[Any]) -> _Answer:
    """A message of LangChain's: response_metadata, usage_metadata, raw usage, their details; additional_kwargs is told.

    The metadata has no other keys than METADATA_KEYS.
    """
    stated_usage = parts[2]
    form = None if stated_usage is None else _form_of(stated_usage, provider)
    if form is None and (provider or "").lower().startswith(_LOSSY):
        raise NotPlain  # LangChain's streams leave out what else these bill by
    (metadata, usage, raw, *several), (more,) = _named_values(parts, {"more": told[0]})
    details = dict(zip((*USAGE_DETAILS, *RAW_DETAILS), several, strict=False))
    counted = _counted(_LANGCHAIN, usage, details)
    tier = _first(metadata, "service_tier")
    dicts = [_Dict(_Value("usage", dict), usage)]
    if form is not None:
        counted = counted.confirmed_by(_counted(form, raw, details))
        tier = _first(raw, "service_tier") if tier is _ABSENT else tier
        dicts.append(_Dict(_first(metadata, "token_usage", "usage"), raw))
    elif "cache_write_tokens" in counted.terms:
        counted.tests.append(f"{counted.terms['cache_write_tokens']} == 0")  # nor do they say how long these are kept
    return _Answer(
        takes=("metadata", "usage", "content", "more"),
        dicts=[[_Dict(_Value("metadata", dict), metadata)], dicts, _inner(dicts, details)],
        counted=counted,
        tier=tier,
        model=_first(metadata, "model_name", "model"),
        content=_Value("content", object),
        told=[more],
        tests=[
            *_refusal(metadata),
            *_test(metadata.get("grounding_metadata", _ABSENT), dict, "not {}"),  # Google bills its searches
            *_test(more, dict, "SHOWING_FEES.isdisjoint({})"),
        ],
    )


def kind_of(body: Mapping[str, Any]) -> AnswerKind | None:
    """Return what a dict is by its keys: a chat completion, an answer of Anthropic's, or a usage of OpenAI's."""
    if _COMPLETION.issuperset(body):
        return of_completion
    if _MESSAGE.issuperset(body):
        return _of_anthropic
    return _of_usage if _OPENAI.keys.issuperset(body) else None


def of_completion(provider: str | None, parts: Parts, told: Sequence[Any]) -> _Answer:
    """A chat completion, its usage and that one's details."""
    answer = _of_answer(_OPENAI, "CompletionUsage", parts)
    body = answer.dicts[0][0].fields
    tests = _test(body.get("choices", _ABSENT), list, "are_plain_choices({})")
    return answer._replace(tier=_first(body, "service_tier"), tests=tests)


def _of_anthropic(provider: str | None, parts: Parts, told: Sequence[Any]) -> _Answer:
    answer = _of_answer(_form_of(parts[1] or {}, provider or "anthropic"), "Usage", parts)
    (outermost,), (usage,), _ = answer.dicts
    body, kind = outermost.fields, outermost.fields.get("type", _ABSENT)
    if kind.kind is not str:
        raise NotPlain
    return answer._replace(
        tier=_first(usage.fields, "service_tier"),
        content=body.get("content", _ABSENT),
        tests=[f"{kind.name} == 'message'", *_refusal(body)],
    )


def _of_answer(form: _Form, usage_type: str, parts: Parts) -> _Answer:
    (body, usage, *several), _ = _named_values(parts, {})
    value, details = body.get("usage", _ABSENT), dict(zip(RAW_DETAILS, several, strict=True))
    if value.kind is not dict and value.kind.__name__ != usage_type:
        raise NotPlain
    dicts = [_Dict(value, usage)]
    return _Answer(
        takes=("body",),
        dicts=[[_Dict(_Value("body", dict), body)], dicts, _inner(dicts, details)],
        counted=_counted(form, usage, details),
        model=_first(body, "model"),
    )


def _of_usage(provider: str | None, parts: Parts, told: Sequence[Any]) -> _Answer:
    (_, usage, *several), _ = _named_values(parts, {})
    details = dict(zip(RAW_DETAILS, several, strict=True))
    dicts = [_Dict(_Value("body", dict), usage)]
    return _Answer(("body",), [[], dicts, _inner(dicts, details)], _counted(_OPENAI, usage, details))


def _inner(dicts: Sequence[_Dict], details: Mapping[str, _Values]) -> list[_Dict]:
    """Return the details that stand in some usages."""
    return [_Dict(each.fields[key], details[key]) for each in dicts for key in details if key in each.fields]


def _refusal(body: _Values) -> list[str]:
    """Return the test that an answer is no refusal, which is billed in another way."""
    return _test(body.get("stop_reason", _ABSENT), str, "{} != 'refusal'")


def _form_of(usage: Mapping[str, Any], provider: str | None) -> _Form:
    if "prompt_tokens" in usage:
        return _OPENAI
    if not (provider or "").lower().startswith("anthropic"):
        raise NotPlain
    is_cached = not (usage.get("cache_read_input_tokens") is usage.get("cache_creation_input_tokens") is None)
    return _ANTHROPIC if is_cached else _ANTHROPIC_UNCACHED


_READ = frozenset({"token_usage", "usage", "service_tier", "model_name", "model", "stop_reason", "grounding_metadata",
                   "choices", "content", "type"})  # fmt: skip
"""What is read of what is around the usages: the rest may be of any type."""
_UNTYPED = frozenset({"content", "queue_time", "prompt_time", "completion_time", "total_time"})
_KINDS = frozenset({NoneType, bool, int, float, str, list, tuple, dict})


def shape_of(parts: Parts, told: Sequence[Any]) -> tuple[object, ...]:
    """Return what decides how an answer is read: the keys of its dicts, and the types of what is read."""
    outermost, *others = parts
    known = [type(value) for key, value in (outermost or {}).items() if key in _READ and key not in _UNTYPED]
    known += [type(value) for part in others for key, value in (part or {}).items() if key not in _UNTYPED]
    return *(part if part is None else tuple(part) for part in parts), *known, *map(type, told)


def _named_values(parts: Parts, told: Mapping[str, Any]) -> tuple[list[_Values], list[_Value]]:
    """Give what is read of each part the name of a variable."""
    outermost, *others = parts
    read = {key: value for key, value in (outermost or {}).items() if key in _READ}
    names = map("v{}".format, count())
    known = [
        {key: _Value(next(names), object if key in _UNTYPED else type(value)) for key, value in (part or {}).items()}
        for part in (read, *others)
    ]
    besides = [_Value(name, type(value)) for name, value in told.items()]
    kinds = {value.kind for each in (*(part.values() for part in known), besides) for value in each} - {object}
    if not all(map(is_of_sdk, kinds - _KINDS)):
        raise NotPlain  # a shape is kept, and would keep an application's own class
    return known, besides


def _first(values: _Values, *keys: str) -> _Value:
    """Return the first of these that is not None."""
    return next((values[key] for key in keys if key in values and values[key].kind is not NoneType), _ABSENT)


class _Counted(NamedTuple):
    """What a usage is counted as: the sources of its counts by name, what must hold, and all numbers of its details."""

    terms: dict[str, str]
    tests: list[str]
    details: list[str]

    def confirmed_by(self, raw: "_Counted") -> "_Counted":
        """Return this with what a raw usage says besides, where both state the same sides, and all fits together."""
        terms, added = raw.terms | self.terms, raw.terms.keys() - self.terms.keys()
        tests = [f"{raw.terms[side]} == {self.terms[side]}" for side in ("input_tokens", "output_tokens")]
        for names, whole in PARTS:
            parts = {name: terms[name] for name in names if name in terms}
            if not added.isdisjoint((*parts, whole)) and parts:
                tests.append(f"{_sum(parts)} <= {terms[whole]}")
        return _Counted(terms, [*self.tests, *raw.tests, *tests], self.details + raw.details)


def _counted(form: _Form, usage: _Values, details: Mapping[str, _Values]) -> _Counted:
    """Return how a usage of a form is counted where all details fit into their wholes, which is more than they must."""
    if not form.keys >= usage.keys():
        raise NotPlain
    if any(usage.get(key, _ABSENT).kind is not int for key in form.heads) or _first(usage, *form.unset) is not _ABSENT:
        raise NotPlain
    heads = {key: usage[key].name for key in form.heads}
    given, generated = (_stated(details.get(key, {})) for key in (form.given, form.generated))
    inputs, outputs = _named(given, form.inputs), _named(generated, form.outputs)
    terms = {name: source.format(**heads) for name, source in form.counted.items()} | inputs | outputs
    beside = _with_timed(terms, inputs) if form.adds_timed else inputs
    whole = form.whole.format(**heads)
    fits = [f"{_sum(beside)} <= {whole}", f"{_sum(outputs)} <= {terms['output_tokens']}"]
    place = _ABSENT if form.place is None else usage.get(form.place, _ABSENT)
    tests = [form.sound.format(**heads), *fits, *_test(place, str, "{} in ('global', 'not_available')")]
    numbers = [*given.values(), *generated.values()]
    uncounted = [number for number in numbers if number not in (*inputs.values(), *outputs.values())]
    if uncounted:
        tests.append(f"{' + '.join(uncounted)} < {MOST_TOKENS}")
    return _Counted(terms, tests, numbers)


def _stated(details: _Values) -> dict[str, str]:
    """Return the details that are not None."""
    if any(value.kind not in (int, NoneType) for value in details.values()):
        raise NotPlain
    return {key: value.name for key, value in details.items() if value.kind is int}


def _named(details: Mapping[str, str], names: _Names) -> dict[str, str]:
    if not names.keys() >= details.keys():
        raise NotPlain
    return {name: source for key, source in details.items() if (name := names[key]) is not None}


def _with_timed(terms: dict[str, str], inputs: dict[str, str]) -> dict[str, str]:
    """Return the inputs that stand beside each other: what is kept for a time is all that was written, or beside it."""
    timed = {name: source for name, source in inputs.items() if name in _LIFETIMES.values()}
    if not timed:
        return inputs
    if "cache_write_tokens" not in inputs:
        raise NotPlain
    write, several = inputs["cache_write_tokens"], _sum(timed)
    terms["cache_write_tokens"] = "written"
    written = f"(written := {write} if {several} == {write} else {write} + {several})"
    return {name: source for name, source in inputs.items() if name not in timed} | {"cache_write_tokens": written}


def _sum(terms: Mapping[str, str]) -> str:
    return " + ".join(terms.values()) or "0"


def _test(value: _Value, kind: type, source: str) -> list[str]:
    """Return the test of a value of this type. None needs none, and another type isn't plain."""
    if value.kind is NoneType:
        return []
    if value.kind is not kind:
        raise NotPlain
    return [source.format(value.name)]
