"""One answer and what it costs, and how the OpenAI formats state its usage."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from token_handlers.demo.server.answers import Answer, Ask
from token_handlers.demo.server.modes import Modes

OVERSTATED = 4


class Chunk(NamedTuple):
    """One event of a stream."""

    data: dict[str, Any]
    tokens: int = 0
    """Completion tokens that were generated for it."""
    piece: bool = False
    """Whether gates and cuts count it."""
    usage: bool = False
    """Whether it tells the client any usage."""
    event: str = ""
    """The event's name on the wire, in the formats that name them."""


class WorkCounts(NamedTuple):
    """What a usage object states."""

    prompt: int
    completion: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int = 0
    audio_in: int = 0
    audio_out: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """An ask with its answer, under the modes it is made in."""

    ask: Ask
    answer: Answer
    modes: Modes
    id: int
    created: int
    reasoning: int = 0
    """Reasoning tokens of each choice."""

    @property
    def model(self) -> str | None:
        """The model's name in the answer."""
        return self.modes.resolve(self.ask.model)

    @property
    def tier(self) -> str:
        """The served tier."""
        asked = "" if self.ask.tier == "auto" else self.ask.tier
        return self.modes.tier or asked or "default"

    @property
    def prompt_tokens(self) -> int:
        """The prompt's tokens, counted or as the modes state them."""
        return self.ask.prompt_tokens if self.modes.prompt is None else self.modes.prompt

    @property
    def cached_tokens(self) -> int:
        """Cached tokens, inside the prompt's."""
        return min(self.modes.cached, self.prompt_tokens)

    @property
    def written_tokens(self) -> int:
        """Cache writes, inside the prompt's and apart from the cached."""
        return min(self.modes.written, self.prompt_tokens - self.cached_tokens)

    @property
    def completion_tokens(self) -> int:
        """What the full answer is billed, for every choice that is billed."""
        return (self.reasoning + self.answer.tokens) * self.ask.billed_choices

    def counts(self) -> WorkCounts:
        """What the full answer's usage states."""
        prompt, completion, audio = self.prompt_tokens, self.completion_tokens, self.modes.audio
        reasoning = self.reasoning * self.ask.billed_choices
        heard, said = min(audio, prompt), min(audio, completion - reasoning)
        return WorkCounts(prompt, completion, self.cached_tokens, self.written_tokens, reasoning, heard, said)

    def envelope(self, prefix: str, kind: str) -> dict[str, Any]:
        """The members that every object of an answer starts with."""
        head: dict[str, Any] = {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created}
        return head if self.model is None else {**head, "model": self.model}


def usage_object(work: Work, counts: WorkCounts) -> dict[str, Any]:
    """Usage as chat and legacy completions state it."""
    usage: dict[str, Any] = {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_tokens_details": {
            "cached_tokens": counts.cached,
            "audio_tokens": counts.audio_in,
            **written(counts),
        },
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning,
            "audio_tokens": counts.audio_out,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    return {**usage, "cost": float(work.modes.cost)} if work.modes.cost else usage


def written(counts: WorkCounts) -> dict[str, int]:
    """Cache writes as OpenAI states them: only where there are any."""
    return {"cache_write_tokens": counts.written} if counts.written else {}


class Step(NamedTuple):
    """One chunk of one choice, before usage and envelope are put around it."""

    choice: dict[str, Any]
    tokens: int = 0
    piece: bool = False


def chunks(work: Work, head: dict[str, Any], steps: Callable[[Work, int], Iterable[Step]]) -> Iterator[Chunk]:
    """A stream of chat or legacy completions: one choice after the other, with usage where the modes put it."""
    state = _STATEMENTS.get(work.modes.usage)
    nulls = {"usage": None} if work.ask.include_usage and work.modes.usage == "asked" else {}
    for step, place in _placed(work, steps):
        counts = state and state(work, place)
        usage = {"usage": usage_object(work, counts)} if counts else nulls
        yield Chunk({**head, "choices": [step.choice], **usage}, step.tokens, step.piece, counts is not None)
    for _ in range(_tails(work)):
        yield Chunk({**head, "choices": [], "usage": usage_object(work, work.counts())}, usage=True)


class _Place(NamedTuple):
    """Where in its stream a step stands."""

    tokens: int
    so_far: int
    """This choice's tokens up to here, the step's among them."""
    first: bool
    last: bool


def _placed(work: Work, steps: Callable[[Work, int], Iterable[Step]]) -> Iterator[tuple[Step, _Place]]:
    first = True
    for index in range(work.ask.choices):
        so_far = 0
        for step in steps(work, index):
            so_far += step.tokens
            last = index == work.ask.choices - 1 and step.choice["finish_reason"] is not None
            yield step, _Place(step.tokens, so_far, first, last)
            first = False


def _tails(work: Work) -> int:
    asked = work.ask.include_usage and work.modes.usage == "asked"
    return {"always": 1, "every": 1, "doubled": 2}.get(work.modes.usage, int(asked))


def _cumulative(work: Work, place: _Place) -> WorkCounts:
    full = work.counts()
    return full._replace(completion=place.so_far, reasoning=min(work.reasoning, place.so_far), audio_out=0)


def _delta(work: Work, place: _Place) -> WorkCounts:
    reasoning = work.reasoning if place.so_far == place.tokens else 0
    full = work.counts() if place.first else WorkCounts(0)
    return full._replace(completion=place.tokens, reasoning=reasoning, audio_out=0)


def _corrected(work: Work, place: _Place) -> WorkCounts:
    counts = _delta(work, place)
    return counts._replace(prompt=counts.prompt + OVERSTATED * (place.first - place.last))


def _at_the_end(work: Work, place: _Place) -> WorkCounts | None:
    return work.counts() if place.last else None


_STATEMENTS: dict[str, Callable[[Work, _Place], WorkCounts | None]] = {
    "last": _at_the_end,
    "every": _cumulative,
    "deltas": _delta,
    "negative": _corrected,
}
