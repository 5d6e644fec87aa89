"""How the loopback server behaves towards one client: the modes, written into the path of the client's base URL."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

CHOICES = {
    "usage": ("asked", "never", "always", "last", "every", "doubled", "deltas", "negative"),
    "bill": ("sent", "full"),
    "drop": ("close", "reset"),
}
TEXTS = {"chan", "usage", "model", "bill", "drop", "status", "tier", "cost"}
DATED = {"gpt-4o-mini": "gpt-4o-mini-2024-07-18", "gpt-4o": "gpt-4o-2024-08-06"}


class Fault(NamedTuple):
    """An HTTP status that requests ``first`` to ``last`` of a channel are answered with."""

    status: int
    first: int
    last: float

    def hits(self, number: int) -> bool:
        """Whether the channel's request of this number, from 1, is refused."""
        return self.first <= number <= self.last


@dataclass(frozen=True, slots=True)
class Modes:
    """What a base URL asks of the server; every mode combines with every other, and each has a default like OpenAI's.

    A *piece* is one generated token: a word or a punctuation mark, or a called function's name.
    """

    chan: str = ""
    """The channel under which the ledger keeps the requests."""
    usage: str = "asked"
    """When usage is stated: ``asked``, in streams only for include_usage, else always; ``never``; or in streams of chat
    and legacy completions: ``always``, at the end unasked; ``last``, in the chunk that says why the text ended, as
    Mistral does; ``every``, cumulative in every chunk (per choice), then the total; ``doubled``, the last usage chunk
    twice; ``deltas``, each chunk its own tokens alone; ``negative``, likewise, with an input that is first overstated
    by 4 and then corrected by -4."""
    model: str = "dated"
    """The name in the answer. ``dated``: the requested one, gpt-4o and gpt-4o-mini with their date; ``echo``: the
    requested one; ``omit``: none; anything else is that name."""
    words: int = 12
    """Words of an answer in text; max_tokens cuts it."""
    rounds: int = 1
    """Rounds of tool calls before the answer in text, where the request has tools."""
    prompt: int | None = None
    """The prompt's tokens, instead of those counted."""
    cached: int = 0
    """Cached tokens inside the prompt, at most all of it."""
    written: int = 0
    """Cache writes inside the prompt, at most what is not cached (chat, responses, messages)."""
    reasoning: int = 0
    """Reasoning tokens inside the output, for each choice, before its first piece; none in legacy completions."""
    audio: int = 0
    """Audio tokens inside the prompt and inside the output, each at most what there is (chat only)."""
    tier: str = ""
    """The served tier; empty is the requested one, or ``default``."""
    cost: str = ""
    """USD that the usage states as ``cost`` (chat and legacy completions)."""
    status: str = ""
    """``500``: every request is refused with it; ``429x2``: the channel's first two; ``500@2``: its second."""
    cut: int | None = None
    """Drop the connection after this many pieces of a stream; other answers are dropped whole."""
    drop: str = "close"
    """How a cut ends: ``close`` without a terminator, or a TCP ``reset``."""
    bill: str = "sent"
    """What a broken stream's output is billed at: the tokens ``sent``, or the ``full`` answer."""
    gate: int | None = None
    """Pause after this many pieces of a stream, and before any other answer, until the channel is released."""
    hold: int = 0
    """1: pause before the answer's first byte, streams too, until the channel is released."""
    close: int = 0
    """1: close the connection after each answer, so that a client leaves none open in an event loop that ends."""
    delay: int = 0
    """Milliseconds before the answer."""
    chunk_delay: int = 0
    """Milliseconds before each piece of a stream."""

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name}={value!r} is none of {', '.join(allowed)}")
        if self.status:
            _fault(self.status)
        if not re.fullmatch(r"|\d+(\.\d+)?(e-?\d+)?", self.cost, re.IGNORECASE):
            raise ValueError(f"cost={self.cost!r} is not a number of USD")

    def fault(self) -> Fault | None:
        """The refusal that ``status`` asks for."""
        return _fault(self.status) if self.status else None

    def resolve(self, requested: str) -> str | None:
        """The model's name in the answer."""
        names = {"dated": DATED.get(requested, requested), "echo": requested, "omit": None}
        return names.get(self.model, self.model)


DEFAULTS = asdict(Modes())


def modes_from(settings: Mapping[str, object]) -> Modes:
    """Modes from names and values, numbers or text; a ValueError names what is wrong."""
    return Modes(**{name: _value(name, value) for name, value in settings.items()})  # type: ignore[arg-type]


def path_segment(modes: Modes) -> str:
    """The modes that are not the default as one path segment, percent-encoded."""
    pairs = ((field.name, getattr(modes, field.name)) for field in fields(modes))
    return ",".join(f"{name}={quote(str(value), safe='')}" for name, value in pairs if value != DEFAULTS[name])


@lru_cache(maxsize=1024)
def read_segment(segment: str) -> Modes:
    """The modes that a path segment spells."""
    pairs = (pair.partition("=") for pair in segment.split(",") if pair)
    return modes_from({name: unquote(value) for name, _, value in pairs})


def _value(name: str, value: object) -> str | int | None:
    if name not in DEFAULTS:
        raise ValueError(f"there is no mode {name!r}; the modes are {', '.join(DEFAULTS)}")
    if name in TEXTS:
        return str(value)
    if value is None and DEFAULTS[name] is None:
        return None
    if not re.fullmatch(r"\d+", text := str(int(value) if isinstance(value, bool) else value)):
        raise ValueError(f"{name}={value!r} is not a whole number")
    return int(text)


def _fault(text: str) -> Fault:
    match = re.fullmatch(r"([45]\d\d)(?:([x@])(\d+))?", text)
    if match is None:
        raise ValueError(f"status={text!r} is not like 500, 429x2 or 500@2")
    status, count = int(match[1]), int(match[3] or 0)
    if match[2] == "@":
        return Fault(status, count, count)
    return Fault(status, 1, count if match[2] else float("inf"))
