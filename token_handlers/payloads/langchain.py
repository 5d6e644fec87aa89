"""LangChain's and LangChain.js' own usage: ``usage_metadata`` and ``response_metadata``."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from token_handlers.payloads.fields import Fields, text, view
from token_handlers.payloads.reported import ReportedUsage, clamp_parts, count, reported_cost, served_tier

_INPUT = {
    "cache_read": "cache_read_tokens",
    "cache_creation": "cache_write_tokens",
    "ephemeral_5m_input_tokens": "cache_write_5m_tokens",
    "ephemeral_1h_input_tokens": "cache_write_1h_tokens",
    "audio": "input_audio_tokens",
    "image": "input_image_tokens",
    "video": "input_video_tokens",
}
_OUTPUT = {
    "reasoning": "reasoning_tokens",
    "audio": "output_audio_tokens",
    "image": "output_image_tokens",
    "citation_tokens": "output_citation_tokens",
}
_PLAIN_INPUT = {"cache_read": "cache_read_tokens", "audio": "input_audio_tokens"}
_PLAIN_OUTPUT = {"reasoning": "reasoning_tokens", "audio": "output_audio_tokens"}
_WHOLE_NUMBERS = {int}  # and neither bools nor floats
_TIERS = ("priority", "flex")
_Slots = dict[str, tuple[str | None, str | None]]


def _slots(names: dict[str, str]) -> _Slots:
    slots: _Slots = {key: (name, None) for key, name in names.items()}
    for tier in _TIERS:
        slots |= {f"{tier}_{key}": (name, tier) for key, name in names.items()}
        slots[tier] = (None, tier)  # the tier's tokens without their parts
    return slots


_INPUT_SLOTS, _OUTPUT_SLOTS = _slots(_INPUT), _slots(_OUTPUT)


def read_usage_metadata(usage: Fields) -> ReportedUsage | None:
    """LangChain's UsageMetadata, whose input includes cache tokens for every provider.

    OpenAI's service tiers rename the details (``priority_cache_read``): the names are undone and the tier is returned.
    Reasoning that xAI leaves out of the output but not out of the total, and what Perplexity bills beside the
    output, are put into the output. The mark of LangChain's cache alone, ``{"total_cost": 0}``, is no usage.
    """
    counts: dict[str, int] = {}
    for name in ("input_tokens", "output_tokens"):
        number = usage.get(name)
        if number is not None and (number := count(number)) is not None:
            counts[name] = number
    if not counts:
        return None
    given, generated = usage.get("input_token_details"), usage.get("output_token_details")
    if given is None and generated is None:
        return ReportedUsage(counts)
    tier = None if given is None else _add_details(counts, given, _INPUT_SLOTS)
    if generated is not None:
        tier = _add_details(counts, generated, _OUTPUT_SLOTS) or tier
    _complete(counts, usage)
    clamp_parts(counts, "LangChain usage_metadata")
    return ReportedUsage(counts, None, tier)


def plain_counts(usage: Fields) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """The counts of an OpenAI client's UsageMetadata in which nothing needs a second look, else None: names, numbers.

    As `read_usage_metadata` counts, in a sixth of its time.
    """
    given, generated = usage.get("input_token_details") or {}, usage.get("output_token_details") or {}
    sent, received = usage.get("input_tokens"), usage.get("output_tokens")
    numbers = (sent, received, *given.values(), *generated.values())
    if set(map(type, numbers)) != _WHOLE_NUMBERS or min(numbers) < 0 or usage.get("total_tokens") != sent + received:
        return None
    names = _plain_names(tuple(given), tuple(generated))
    if names is None or sum(given.values()) > sent or sum(generated.values()) > received:
        return None
    return names, numbers


@lru_cache(maxsize=64)
def _plain_names(given: tuple[str, ...], generated: tuple[str, ...]) -> tuple[str, ...] | None:
    if not (set(given) <= _PLAIN_INPUT.keys() and set(generated) <= _PLAIN_OUTPUT.keys()):
        return None
    parts = *map(_PLAIN_INPUT.__getitem__, given), *map(_PLAIN_OUTPUT.__getitem__, generated)
    return "input_tokens", "output_tokens", *parts


def implied_tier(usage: Fields) -> str | None:
    """The service tier that a UsageMetadata's renamed details imply."""
    slots = {"input_token_details": _INPUT_SLOTS, "output_token_details": _OUTPUT_SLOTS}
    listed = (_add_details({}, found, names) for key, names in slots.items() if (found := usage.get(key)) is not None)
    return next((tier for tier in listed if tier is not None), None)


def _add_details(counts: dict[str, int], details: Any, slots: _Slots) -> str | None:
    tier = None
    for key, value in details.items() if type(details) is dict else _listed(details, slots):
        if key in slots and (number := count(value)) is not None:
            name, implied = slots[key]
            tier = implied or tier
            if name is not None:
                counts[name] = counts.get(name, 0) + number
    return tier


def _listed(details: Any, slots: _Slots) -> Iterable[tuple[str, Any]]:
    fields = view(details)
    return [] if fields is None else [(key, fields.get(key)) for key in slots]


def _complete(counts: dict[str, int], usage: Fields) -> None:
    if counts.get("cache_write_5m_tokens") or counts.get("cache_write_1h_tokens"):
        # LangChain moves the tokens of a known lifetime out of cache_creation
        timed = counts.get("cache_write_5m_tokens", 0) + counts.get("cache_write_1h_tokens", 0)
        if counts.get("cache_write_tokens") != timed:
            counts["cache_write_tokens"] = counts.get("cache_write_tokens", 0) + timed
    if "output_tokens" in counts and (counts.get("reasoning_tokens") or counts.get("output_citation_tokens")):
        counts["output_tokens"] = _whole_output(counts, count(usage.get("total_tokens")))


def _whole_output(counts: dict[str, int], total: int | None) -> int:
    output, reasoning = counts["output_tokens"], counts.get("reasoning_tokens", 0)
    citations = counts.get("output_citation_tokens")
    if citations is not None:  # Perplexity bills citations and reasoning beside the completion and outside the total
        return output + citations + reasoning
    beyond_input = (total or 0) - counts.get("input_tokens", 0)
    if reasoning and beyond_input == output + reasoning:  # xAI
        return output + reasoning
    if 0 < reasoning == beyond_input < output:  # a Gemini stream whose answer was taken back: thoughts are all it bills
        return reasoning
    return output


def add_usage_metadata(messages: Iterable[Fields]) -> dict[str, Any]:
    """A stream's chunks as one ``usage_metadata``: their sum, or the last where every chunk repeats the running total.

    Servers repeat it when the first and the last input that is not 0 are the same. Gemini's inputs may be corrected
    by a negative number, so the sum is a signed one.
    """
    usages = [usage for message in messages if (usage := view(message.get("usage_metadata"))) is not None]
    stated = [usage for usage in usages if count(usage.get("input_tokens"))]
    if len(stated) > 1 and count(stated[0].get("input_tokens")) == count(stated[-1].get("input_tokens")):
        return _signed(stated[-1])
    sums: dict[str, Any] = {}
    for usage in usages:
        for key, value in _signed(usage).items():
            sums[key] = _plus(sums.get(key), value)
    return sums


def _signed(usage: Fields) -> dict[str, Any]:
    whole: dict[str, Any] = {key: usage.get(key) for key in ("input_tokens", "output_tokens", "total_tokens")}
    numbers = {key: value for key, value in whole.items() if type(value) is int}
    details = {"input_token_details": _INPUT_SLOTS, "output_token_details": _OUTPUT_SLOTS}
    return numbers | {
        key: {name: value for name, value in _listed(usage.get(key), slots) if type(value) is int}
        for key, slots in details.items()
    }


def _plus(left: Any, right: Any) -> Any:
    if type(right) is int:
        return (left or 0) + right
    return {key: (left or {}).get(key, 0) + right.get(key, 0) for key in {**(left or {}), **right}}


def combine(reading: ReportedUsage | None, raw: ReportedUsage | None, metadata: Fields) -> ReportedUsage | None:
    """A message's ``usage_metadata`` completed from its ``response_metadata``.

    The latter has what LangChain does not carry over: Mistral's cached tokens, searches, the provider's cost. Where
    the two disagree on input or output, the larger stands: LangChain leaves Anthropic's compaction out.
    """
    found = _joined(reading, raw) if reading is not None and raw is not None else reading or raw
    if found is None:
        return None
    cost, tier = reported_cost(metadata), served_tier(metadata)
    model = text(metadata, "model_name", "model", "model_id", "modelName")
    return found._replace(
        cost=found.cost if cost is None else cost,
        service_tier=tier or found.service_tier,
        model=model or found.model,
    )


def _joined(reading: ReportedUsage, raw: ReportedUsage) -> ReportedUsage:
    counts = reading.counts
    if same_call(counts, raw.counts):
        counts = {**raw.counts, **counts}
        clamp_parts(counts, "LangChain message")
    elif _size(raw.counts) > _size(counts):
        counts = raw.counts
    return raw._replace(counts=counts, service_tier=raw.service_tier or reading.service_tier)


def same_call(left: dict[str, int], right: dict[str, int]) -> bool:
    """Whether two readings agree on input and output."""
    return all(left.get(key, 0) == right.get(key, 0) for key in ("input_tokens", "output_tokens"))


def _size(counts: dict[str, int]) -> int:
    return counts.get("input_tokens", 0) + counts.get("output_tokens", 0)
