"""Estimated tokens, for when a provider reports none: text -> tokens, and by which method.

The ladder: the counter that the user gave to set_tokenizer(); tiktoken, if its vocabulary was on this machine for
prepare() to load, or the application has loaded it; the byte-class estimator. Models that are not OpenAI's have the
count of o200k times their family's factor. Nothing here reaches the network.

A method is one of "custom", "tiktoken:o200k_base", "bytes:o200k", each with the family where that is another
("tiktoken:o200k_base*claude", "bytes:claude"), and then "+sampled" for a text too long for tiktoken and "+no-media"
where images or audio were left out: they are not guessed.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from token_handlers.errors import WHY, logger
from token_handlers.tokenizer.byte_classes import Vocabulary, count_by_class
from token_handlers.tokenizer.tool_schemas import render_tools
from token_handlers.tokenizer.vocabularies import load, loaded, may_wait

if TYPE_CHECKING:
    from tiktoken import Encoding


class Estimate(NamedTuple):
    """Estimated tokens and how they were estimated, such as "custom", "tiktoken:o200k_base" or "bytes:o200k"."""

    tokens: int
    method: str


class _Family(NamedTuple):
    name: str
    vocabulary: Vocabulary = "o200k"
    factor: float = 1.0  # its tokens per token of the vocabulary, measured on reported outputs


_OPENAI = _Family("o200k")
_CLAUDE = _Family("claude", factor=1.12)  # up to 4.6
_CLAUDE_NEWER = _Family("claude-4.8", factor=1.43)
_FAMILIES: tuple[tuple[re.Pattern[str], _Family], ...] = tuple(
    (re.compile(pattern), family)
    for pattern, family in (
        (r"gpt-?3|gpt-4(?![.o\d])|embedding-(3|ada)|davinci|babbage|curie", _Family("cl100k", "cl100k")),
        (r"gemini|gemma", _Family("gemini", factor=1.04)),
        (r"(mis|mix|minis|magis|codes|devs|pix|vox)tral", _Family("mistral", factor=1.04)),
        (r"llama", _Family("llama", factor=1.03)),
        (r"nova", _Family("nova")),
    )
)
_CLAUDE_VERSION = re.compile(r"claude\D*(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")

# A message is 3 tokens of markup and 1 for its role, the beginning of the answer 3.
_PER_MESSAGE = 4
_PER_PROMPT = 3
# Tools are 9 more than their text, or 5 where a system message takes them in.
_TOOLS = 9
_TOOLS_IN_SYSTEM = 5

# tiktoken takes 2 ms for so many characters; what is longer is counted by class, set right by what it says of samples.
_LONGEST = 16_000
_SAMPLES = 8

own_counter: Callable[[str], int] | None = None
_warned = False
_families: dict[str | None, _Family] = {None: _OPENAI}


def set_tokenizer(count: Callable[[str], int] | None) -> None:
    """Let estimates ask a counter of your own, which takes a text and returns its tokens; None goes back to the rest.

    Where it raises or returns something else than an int of 0 or more, the other methods are used, with one warning.
    It is called inside callbacks, on the event loop: it must not block.
    """
    global own_counter, _warned
    own_counter, _warned = count, False


def prepare(model: str | None = None) -> None:
    """Load the model's tiktoken vocabulary, if it is on this machine: about 0.3 s and 75 MB.

    Estimates never load one: they count by class until it is loaded, by this or by the application. The handlers call
    it when a first call of theirs reported nothing. On an event loop or beside the main thread it does nothing, as
    everybody else would wait too: an application that is all coroutines or threads calls it before it starts serving.
    """
    if may_wait():
        load(_family(model).vocabulary + "_base")


def estimate_tokens(text: str, model: str | None = None) -> Estimate:
    """Return the estimated tokens of a text; 0 for an empty one, at least 1 for any other."""
    return _estimate([text], model)


def estimate_prompt(
    messages: Iterable[tuple[str, str]],
    tools: Iterable[Mapping[str, object]] = (),
    model: str | None = None,
    *,
    media: bool = False,
) -> Estimate:
    """Return the estimated tokens of a chat: (role, text) pairs, the tools it may call, and the markup around them.

    Tools are JSON schemas as OpenAI, Anthropic, Gemini or Bedrock take them; what is not one is left out. ``media``
    says that the messages had images or audio, which are not in the estimate: the method then ends in "+no-media".
    """
    roles, texts = [], []
    for role, text in messages:
        roles.append(role)
        texts.append(text)
    overhead = _PER_PROMPT + _PER_MESSAGE * len(roles) if roles else 0
    if rendered := render_tools(tools):
        host = next((index for index, role in enumerate(roles) if role in {"system", "developer"}), None)
        if host is not None:
            texts[host] += "\n"
        overhead += _TOOLS if host is None else _TOOLS_IN_SYSTEM
        texts.append(rendered)
    tokens, method = _estimate(texts, model)
    return Estimate(tokens + overhead, f"{method}+no-media" if media else method)


def _estimate(texts: Sequence[str], model: str | None) -> Estimate:
    if own_counter is not None and (counted := _ask(own_counter, texts)) is not None:
        return Estimate(counted, "custom")
    family = _family(model)
    encoding = loaded(family.vocabulary + "_base")
    if encoding is None:
        tokens, method = count_by_class("".join(texts), family.vocabulary), f"bytes:{family.name}"
    else:
        tokens, method = _encode(encoding, texts, family)
    return Estimate(min(max(round(tokens * family.factor), int(any(texts))), _bytes(texts)), method)


def _bytes(texts: Sequence[str]) -> int:
    """Return the bytes of texts, of which each token takes at least one."""
    return sum(len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) for text in texts)


def _ask(counter: Callable[[str], int], texts: Sequence[str]) -> int | None:
    """Return what the user's counter says, or None where it fails, with one warning."""
    global _warned  # noqa: PLW0603 - see set_tokenizer
    try:
        counts = [counter(text) for text in texts]
    except Exception as error:  # noqa: BLE001 - it is the user's, and may raise anything
        problem = f"raised {type(error).__name__}"  # its message may quote the text
    else:
        wrong = [count for count in counts if isinstance(count, bool) or not _is_count(count)]
        if not wrong:
            return sum(map(operator.index, counts))
        problem = f"returned {wrong[0]}" if isinstance(wrong[0], int) else f"returned a {type(wrong[0]).__name__}"
    if not _warned:
        _warned = True
        logger.warning(
            "the counter given to set_tokenizer() %s; tokens are estimated without it: it must return an int >= 0 (%s)",
            problem,
            WHY,
        )
    return None


def _is_count(value: object) -> bool:
    try:
        return operator.index(value) >= 0  # type: ignore[arg-type] # that is the question
    except TypeError:
        return False


def _family(model: str | None) -> _Family:
    """Return the family of a model name, with any prefix of provider or region; a stranger is taken for OpenAI's."""
    found = _families.get(model)
    if found is None:
        found = _find_family(str(model).lower())
        if len(_families) < 1_000:
            _families[model] = found
    return found


def _find_family(name: str) -> _Family:
    if "claude" in name:
        version = _CLAUDE_VERSION.search(name)
        newer = version is not None and (int(version[1]), int(version[2] or 0)) > (4, 6)
        return _CLAUDE_NEWER if newer else _CLAUDE
    return next((family for pattern, family in _FAMILIES if pattern.search(name)), _OPENAI)


def _encode(encoding: "Encoding", texts: Sequence[str], family: _Family) -> tuple[float, str]:
    """Return tiktoken's count, exact up to _LONGEST characters and in bounded time above."""
    method = f"tiktoken:{encoding.name}"
    if family.name != family.vocabulary:
        method += f"*{family.name}"
    if sum(map(len, texts)) <= _LONGEST:
        return float(sum(len(encoding.encode_ordinary(text)) for text in texts)), method
    whole = "\n".join(texts)
    step, size = len(whole) // _SAMPLES, _LONGEST // _SAMPLES
    samples = [whole[start : start + size] for start in range(0, step * _SAMPLES, step)]
    counted = sum(len(encoding.encode_ordinary(sample)) for sample in samples)
    by_class = sum(count_by_class(sample, family.vocabulary) for sample in samples)
    return count_by_class(whole, family.vocabulary) * counted / by_class, f"{method}+sampled"
