"""Writes the reader of one shape of plain answers, from our own names and numbers alone."""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from types import NoneType
from typing import Any

from token_handlers.payloads.plain.answers import AnswerKind, AnswerPlan, OpenedDict, Parts
from token_handlers.payloads.plain.contents import are_plain_blocks, are_plain_choices
from token_handlers.payloads.plain.usages import ABSENT, NotPlain, test_of
from token_handlers.payloads.reported import MOST_TOKENS, ReportedUsage
from token_handlers.usage import new_tuple

PlainReader = Callable[..., ReportedUsage | None]
"""Reads an answer of the shape that it was made for; None for one of another shape, or whose values aren't plain."""


def make_reader(kind: AnswerKind, provider: str | None, parts: Parts, others: Sequence[Any]) -> PlainReader | None:
    """Return the reader of an answer's shape, None where it is not plain."""
    if provider is not None and "vercel" in provider.lower():
        return None  # its gateway bills reasoning beside the output
    try:
        return _ReaderSource(kind(provider, parts, others)).compiled()
    except NotPlain:
        return None


class _ReaderSource:
    """The source of a reader, which takes a third of the steps of loops.

    The reader opens one dict after the other, and checks that types and keys are those of its shape: a dict of as many
    keys, of which none is missing, has no others. A dict is opened once its type is known, so that no code of the
    application runs.
    """

    def __init__(self, plan: AnswerPlan) -> None:
        self._plan = plan
        self._lines: list[str] = []
        self._globals: dict[str, Any] = {**_GLOBALS}
        self._dicts = {each.variable.name for level in plan.levels for each in level}
        self._variables = [*plan.others]

    def compiled(self) -> PlainReader:
        """Return the reader."""
        outermost, *levels = self._plan.levels
        for each in outermost:
            self._unpack(each)
        for level in levels:
            self._open(level)
        typed = [variable for variable in self._variables if variable.kind is not object]
        self._check("type", [variable.name for variable in typed], [variable.kind for variable in typed])
        self._lines += [f"if not ({' and '.join(self._tests())}): return None", f"return {self._usage()}"]
        parameters, body = ", ".join(self._plan.parameters), "\n  ".join(self._lines)
        exec(f"def read({parameters}):\n try:\n  {body}\n except KeyError:\n  return None", self._globals)  # noqa: S102
        made: PlainReader = self._globals["read"]
        return made

    def _open(self, level: Sequence[OpenedDict]) -> None:
        self._check("type", [each.variable.name for each in level], [each.variable.kind for each in level])
        level = [each for each in level if each.variable.kind is not NoneType]
        for name in (each.variable.name for each in level if each.variable.kind is not dict):
            self._lines += [f"if {name}.__pydantic_extra__: return None", f"{name} = {name}.__dict__"]
        self._check("len", [each.variable.name for each in level], [len(each.fields) for each in level])
        for each in level:
            self._unpack(each)

    def _check(self, function: str, names: Sequence[str], expected: Sequence[object]) -> None:
        if len(names) == 1:
            differs = "is not" if function == "type" else "!="
            self._lines.append(f"if {function}({names[0]}) {differs} {self._constant(expected[0])}: return None")
        elif names:
            found = f"(*map({function}, ({', '.join(names)})),)"
            self._lines.append(f"if {found} != {self._constant(tuple(expected))}: return None")

    def _unpack(self, each: OpenedDict) -> None:
        if not each.fields:
            return
        names = [variable.name for variable in each.fields.values()]
        values = f"{self._constant(itemgetter(*each.fields))}({each.variable.name})"
        self._lines.append(f"{', '.join(names)} = {values}")
        self._variables += [variable for variable in each.fields.values() if variable.name not in self._dicts]

    def _constant(self, value: object) -> str:
        name = f"c{len(self._globals)}"
        self._globals[name] = value
        return name

    def _tests(self) -> list[str]:
        plan, usage = self._plan, self._plan.usage
        tokens, output = usage.counts["input_tokens"], usage.counts["output_tokens"]
        tests = [*usage.tests, *plan.tests]
        if usage.details:
            tests.append(f"min(0, {', '.join(usage.details)}) == 0")
        tests += [f"({tokens} or {output} == 0)", f"{tokens} + {output} < {MOST_TOKENS}"]  # none writes out of nothing
        tests += test_of(plan.tier, str, "{}")
        tests += test_of(plan.model, str, "{0} and 'ommand' not in {0}")  # Cohere bills other units for its Command
        content = plan.content.name
        if content != ABSENT.name:
            tests.append(f"(type({content}) is str or are_plain_blocks({content}))")
        return tests

    def _usage(self) -> str:
        plan, tier = self._plan, self._plan.tier.name
        counts = ", ".join(f"{name!r}: {source}" for name, source in plan.usage.counts.items())
        shown = tier if plan.tier is ABSENT else f"None if {tier} == 'auto' else {tier}.lower()"
        return f"new(ReportedUsage, ({{{counts}}}, None, {shown}, {plan.model.name}, *REST))"


_GLOBALS: Mapping[str, Any] = {
    "__builtins__": {},
    **{each.__name__: each for each in (type, map, len, min, str, KeyError, ReportedUsage)},
    **{each.__name__: each for each in (are_plain_blocks, are_plain_choices)},
    "new": new_tuple,
    "REST": ReportedUsage({})[4:],
    "SHOWING_FEES": frozenset({"tool_outputs", "annotations", "executed_tools", "groundingMetadata"}),
}
