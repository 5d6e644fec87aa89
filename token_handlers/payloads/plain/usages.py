"""The forms of usage in plain answers, and how each is counted: as expressions over the variables of a reader."""

from collections.abc import Mapping
from types import NoneType
from typing import Any, NamedTuple

from token_handlers.payloads.reported import MOST_TOKENS
from token_handlers.usage import PARTS


class NotPlain(Exception):
    """An answer of this shape is left to the readers of every shape."""


class Variable(NamedTuple):
    """A variable of a reader, which holds one value of an answer; ``kind`` is the type that the shape gives it."""

    name: str
    kind: type  # object: any


Variables = dict[str, Variable]
"""By the keys under which their values stand in an answer."""

ABSENT = Variable("None", NoneType)

USAGE_DETAILS = "input_token_details", "output_token_details"
"""Where LangChain's UsageMetadata has details."""

RAW_DETAILS = "prompt_tokens_details", "completion_tokens_details", "cache_creation", "output_tokens_details"
"""Where the providers' own usages have them, of whatever form."""


class UsageForm(NamedTuple):
    """A form of usage: the keys that it has, and how its numbers are counted.

    ``keys`` are all that it may have, ``required`` those whose numbers it must have. ``input_details`` and
    ``output_details`` are the keys of its details; ``input_counts`` and ``output_counts`` say by the keys in these
    which field of Usage each is, None for what the others leave, such as text.

    ``counts``, ``check`` and ``whole`` are expressions, with required keys in braces: the fields of Usage that the
    required numbers make, what must hold of these, and what the input details are parts of. (Those of the output are
    parts of the output.) ``check`` makes sure that no number is negative; one that details are parts of is not.

    ``unset`` must be None or absent. ``place`` is the key that says in which part of the world the call ran.
    ``adds_lifetimes`` is whether tokens that a cache keeps for a stated time may come on top of those written to it.
    """

    keys: frozenset[str]
    required: tuple[str, ...]
    input_details: str
    input_counts: Mapping[str, str | None]
    output_details: str
    output_counts: Mapping[str, str | None]
    counts: Mapping[str, str]
    check: str
    whole: str
    unset: tuple[str, ...] = ()
    place: str | None = None
    adds_lifetimes: bool = False


LIFETIMES: Mapping[str, str] = {
    "ephemeral_5m_input_tokens": "cache_write_5m_tokens",
    "ephemeral_1h_input_tokens": "cache_write_1h_tokens",
}

LANGCHAIN = UsageForm(
    keys=frozenset({"input_tokens", "output_tokens", "total_tokens", "input_token_details", "output_token_details"}),
    required=("input_tokens", "output_tokens", "total_tokens"),
    input_details="input_token_details",
    input_counts={"cache_read": "cache_read_tokens", "cache_creation": "cache_write_tokens", **LIFETIMES,
                  "audio": "input_audio_tokens"},
    output_details="output_token_details",
    output_counts={"reasoning": "reasoning_tokens", "audio": "output_audio_tokens"},
    counts={"input_tokens": "{input_tokens}", "output_tokens": "{output_tokens}"},
    check="{total_tokens} == {input_tokens} + {output_tokens}",
    whole="{input_tokens}",
    adds_lifetimes=True,
)  # fmt: skip
"""LangChain's UsageMetadata; see `read_usage_metadata`."""

OPENAI = UsageForm(
    keys=frozenset({"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details",
                    "completion_tokens_details", "queue_time", "prompt_time", "completion_time", "total_time"}),
    required=("prompt_tokens", "completion_tokens", "total_tokens"),
    input_details="prompt_tokens_details",
    input_counts={"cached_tokens": "cache_read_tokens", "cache_write_tokens": "cache_write_tokens",
                  "audio_tokens": "input_audio_tokens", "image_tokens": "input_image_tokens",
                  "video_tokens": "input_video_tokens", "text_tokens": None},
    output_details="completion_tokens_details",
    output_counts={"reasoning_tokens": "reasoning_tokens", "audio_tokens": "output_audio_tokens",
                   "image_tokens": "output_image_tokens", "text_tokens": None, "accepted_prediction_tokens": None,
                   "rejected_prediction_tokens": None},
    counts={"input_tokens": "{prompt_tokens}", "output_tokens": "{completion_tokens}"},
    check="{total_tokens} == {prompt_tokens} + {completion_tokens}",
    whole="{prompt_tokens}",
)  # fmt: skip
"""OpenAI's usage; see `read_chat`."""

_ANTHROPIC = UsageForm(
    keys=frozenset({"input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
                    "cache_creation", "output_tokens_details", "service_tier", "inference_geo", "server_tool_use",
                    "iterations", "speed"}),
    required=("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    input_details="cache_creation",
    input_counts=LIFETIMES,
    output_details="output_tokens_details",
    output_counts={"thinking_tokens": "reasoning_tokens"},
    counts={"input_tokens": "{input_tokens} + {cache_read_input_tokens} + {cache_creation_input_tokens}",
            "output_tokens": "{output_tokens}", "cache_read_tokens": "{cache_read_input_tokens}",
            "cache_write_tokens": "{cache_creation_input_tokens}"},
    check="{input_tokens} >= 0 <= {cache_read_input_tokens}",
    whole="{cache_creation_input_tokens}",
    unset=("server_tool_use", "iterations", "speed"),
    place="inference_geo",
)  # fmt: skip
"""Anthropic's usage; see `read_messages`. Its input is what was neither read from a cache nor written to one."""

_ANTHROPIC_UNCACHED = _ANTHROPIC._replace(
    required=("input_tokens", "output_tokens"),
    input_counts={},
    counts={"input_tokens": "{input_tokens}", "output_tokens": "{output_tokens}"},
    check="True",
    whole="{input_tokens}",
)
"""The same of older servers, and of those without a cache."""


def form_of(usage: Mapping[str, Any], provider: str | None) -> UsageForm:
    """Return the form of a provider's raw usage; raises NotPlain."""
    if "prompt_tokens" in usage:
        return OPENAI
    if not (provider or "").lower().startswith("anthropic"):
        raise NotPlain
    is_cached = not (usage.get("cache_read_input_tokens") is usage.get("cache_creation_input_tokens") is None)
    return _ANTHROPIC if is_cached else _ANTHROPIC_UNCACHED


class CountedUsage(NamedTuple):
    """What a usage is counted as: expressions by Usage's fields, and others that must hold, else it is not plain.

    ``details`` are the variables with all numbers of its details, of which none may be negative.
    """

    counts: dict[str, str]
    tests: list[str]
    details: list[str]

    def confirmed_by(self, raw: "CountedUsage") -> "CountedUsage":
        """Return this with what a raw usage says besides, where both state the same sides, and all fits together."""
        counts, added = raw.counts | self.counts, raw.counts.keys() - self.counts.keys()
        tests = [f"{raw.counts[side]} == {self.counts[side]}" for side in ("input_tokens", "output_tokens")]
        for names, whole in PARTS:
            parts = {name: counts[name] for name in names if name in counts}
            if not added.isdisjoint((*parts, whole)) and parts:
                tests.append(f"{_sum(parts)} <= {counts[whole]}")
        return CountedUsage(counts, [*self.tests, *raw.tests, *tests], self.details + raw.details)


def counted(form: UsageForm, usage: Variables, details: Mapping[str, Variables]) -> CountedUsage:
    """Return how a usage of a form is counted where all details fit into their wholes, which is more than they must.

    Raises NotPlain if the usage has other keys, or if a count is not an int.
    """
    if not form.keys >= usage.keys():
        raise NotPlain
    if any(usage.get(key, ABSENT).kind is not int for key in form.required) or first(usage, *form.unset) is not ABSENT:
        raise NotPlain
    required = {key: usage[key].name for key in form.required}
    given, generated = (_stated(details.get(key, {})) for key in (form.input_details, form.output_details))
    inputs, outputs = _by_field(given, form.input_counts), _by_field(generated, form.output_counts)
    counts = {name: source.format(**required) for name, source in form.counts.items()} | inputs | outputs
    beside = _with_lifetimes(counts, inputs) if form.adds_lifetimes else inputs
    whole = form.whole.format(**required)
    fits = [f"{_sum(beside)} <= {whole}", f"{_sum(outputs)} <= {counts['output_tokens']}"]
    place = ABSENT if form.place is None else usage.get(form.place, ABSENT)
    tests = [form.check.format(**required), *fits, *test_of(place, str, "{} in ('global', 'not_available')")]
    numbers = [*given.values(), *generated.values()]
    uncounted = [number for number in numbers if number not in (*inputs.values(), *outputs.values())]
    if uncounted:
        tests.append(f"{' + '.join(uncounted)} < {MOST_TOKENS}")
    return CountedUsage(counts, tests, numbers)


def _stated(details: Variables) -> dict[str, str]:
    """Return the variables of the details that are not None, by their keys."""
    if any(value.kind not in (int, NoneType) for value in details.values()):
        raise NotPlain
    return {key: value.name for key, value in details.items() if value.kind is int}


def _by_field(details: Mapping[str, str], fields: Mapping[str, str | None]) -> dict[str, str]:
    if not fields.keys() >= details.keys():
        raise NotPlain
    return {name: source for key, source in details.items() if (name := fields[key]) is not None}


def _with_lifetimes(counts: dict[str, str], inputs: dict[str, str]) -> dict[str, str]:
    """Return the inputs that stand beside each other, and correct the cache writes in ``counts``.

    What a cache keeps for a stated time is either all that was written, or comes on top of it.
    """
    timed = {name: source for name, source in inputs.items() if name in LIFETIMES.values()}
    if not timed:
        return inputs
    if "cache_write_tokens" not in inputs:
        raise NotPlain
    write, several = inputs["cache_write_tokens"], _sum(timed)
    counts["cache_write_tokens"] = "written"
    written = f"(written := {write} if {several} == {write} else {write} + {several})"
    return {name: source for name, source in inputs.items() if name not in timed} | {"cache_write_tokens": written}


def _sum(expressions: Mapping[str, str]) -> str:
    return " + ".join(expressions.values()) or "0"


def first(variables: Variables, *keys: str) -> Variable:
    """Return the variable of the first of these keys whose value is not None, else ABSENT."""
    return next((variables[key] for key in keys if key in variables and variables[key].kind is not NoneType), ABSENT)


def test_of(variable: Variable, kind: type, source: str) -> list[str]:
    """Return the test of a variable of this type, named in ``source`` by braces.

    One that is None needs no test; another type is NotPlain.
    """
    if variable.kind is NoneType:
        return []
    if variable.kind is not kind:
        raise NotPlain
    return [source.format(variable.name)]
