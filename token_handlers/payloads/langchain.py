"""LangChain's and LangChain.js' own usage: ``usage_metadata``, and the blocks of a message's content."""

from collections.abc import Iterable, Iterator
from typing import Any

from token_handlers.payloads.anthropic import UNSTATED_LIFETIME
from token_handlers.payloads.cohere import LOST_UNITS
from token_handlers.payloads.fields import Fields, entries, part, text, view, views
from token_handlers.payloads.openai import settle_total
from token_handlers.payloads.reported import (
    NO_HINT,
    Counts,
    Hint,
    ReportedUsage,
    clamp_parts,
    count,
    joined,
    unreadable,
)

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
    "video": "output_video_tokens",
    "citation_tokens": "output_citation_tokens",
}
_TIERS = ("priority", "flex")
_Slots = dict[str, tuple[str | None, str | None]]


def _slots(names: dict[str, str]) -> _Slots:
    slots: _Slots = {key: (name, None) for key, name in names.items()}
    for tier in _TIERS:
        slots |= {f"{tier}_{key}": (name, tier) for key, name in names.items()}
        slots[tier] = (None, tier)  # the tier's tokens without their parts
    return slots


_INPUT_SLOTS, _OUTPUT_SLOTS = _slots(_INPUT), _slots(_OUTPUT)


def read_usage_metadata(usage: Fields, hint: Hint = NO_HINT) -> ReportedUsage | None:
    """LangChain's UsageMetadata, whose input includes cache tokens for every provider.

    OpenAI's service tiers rename the details (``priority_cache_read``): the names are undone and the tier is returned.
    What the total says beyond both sides is told apart by `settle_total`. The mark of LangChain's cache alone,
    ``{"total_cost": 0}``, is no usage.
    """
    counts: Counts = {}
    for name in ("input_tokens", "output_tokens"):
        number = usage.get(name)
        if number is not None and (number := count(number)) is not None:
            counts[name] = number
    if not counts:
        return None
    given, generated = usage.get("input_token_details"), usage.get("output_token_details")
    tier = None if given is None else _add_details(counts, given, _INPUT_SLOTS)
    if generated is not None:
        tier = _add_details(counts, generated, _OUTPUT_SLOTS) or tier
    unsettled = _settle(counts, usage, hint)
    doubts = joined(unsettled, clamp_parts(counts, "LangChain usage_metadata"), tuple(unreadable(usage)))
    return ReportedUsage(counts, None, tier, doubts=doubts)


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


def _settle(counts: Counts, usage: Fields, hint: Hint) -> tuple[str, ...]:
    timed = counts.get("cache_write_5m_tokens", 0) + counts.get("cache_write_1h_tokens", 0)
    if timed and counts.get("cache_write_tokens") != timed:
        # LangChain moves the tokens of a known lifetime out of cache_creation
        counts["cache_write_tokens"] = counts.get("cache_write_tokens", 0) + timed
    if len(counts.keys() & _SIDES) < len(_SIDES):
        return ()
    total, reasoning = count(usage.get("total_tokens")), counts.get("reasoning_tokens", 0)
    if total is not None and 0 < reasoning == total - counts["input_tokens"] < counts["output_tokens"]:
        counts["output_tokens"] = reasoning  # a Gemini stream whose answer was taken back: thoughts are all it bills
        return ()
    return settle_total(counts, total, hint, beside=hint.is_of("vercel"))


_SIDES = frozenset({"input_tokens", "output_tokens"})


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


def combine(reading: ReportedUsage | None, raw: ReportedUsage | None) -> ReportedUsage | None:
    """A message's ``usage_metadata`` completed from the provider's own usage in its ``response_metadata``.

    The latter has what LangChain does not carry over: Mistral's cached tokens, searches, the provider's cost. Where
    the two disagree on input or output, the larger stands: LangChain leaves Anthropic's compaction out.
    """
    if reading is None or raw is None:
        return reading or raw
    counts, doubts = reading.counts, joined(raw.doubts, reading.doubts)
    if same_call(counts, raw.counts):
        counts = {**raw.counts, **counts}
        doubts = joined(doubts, clamp_parts(counts, "LangChain message"))
    elif _size(raw.counts) > _size(counts):
        counts, doubts = raw.counts, raw.doubts
    return raw._replace(counts=counts, service_tier=raw.service_tier or reading.service_tier, doubts=doubts)


def same_call(left: Counts, right: Counts) -> bool:
    """Whether two readings agree on input and output."""
    return all(left.get(key, 0) == right.get(key, 0) for key in ("input_tokens", "output_tokens"))


def _size(counts: Counts) -> int:
    return counts.get("input_tokens", 0) + counts.get("output_tokens", 0)


_MEDIA = frozenset({"image", "image_url", "inlineData", "audio", "video"})
_V1 = {"web_search": "web_search_call", "file_search": "file_search_call", "code_interpreter": "code_interpreter_call"}


_SHOWN = ("annotations", "executed_tools", "groundingMetadata")  # the last by LangChain.js


def answer_of(content: Any, additional_kwargs: Any, usage: Fields | None) -> dict[str, Any]:
    """A message's content as the provider's answer that it was: blocks, output items, tools that ran.

    langchain-core's standard blocks ("v1") are named as their provider named them.
    """
    more = view(additional_kwargs) or {}
    blocks = [_native(block) for block in views(entries(content) or [])]
    answer: dict[str, Any] = {"content": blocks, "output": [*blocks, *views(entries(more.get("tool_outputs")) or [])]}
    answer |= {key: value for key in _SHOWN if (value := more.get(key)) is not None}
    return answer if usage is None else answer | {"usage": usage}


def _native(block: Fields) -> Fields:
    kind, name, extras = text(block, "type"), text(block, "name"), part(block, "extras")
    if kind == "server_tool_call" and name in _V1:
        return {"type": _V1[name], "action": block.get("args"), "container_id": extras.get("container_id")}
    if kind == "server_tool_call":
        return {"type": "server_tool_use", "name": name, "caller": extras.get("caller")}
    if kind == "server_tool_result":
        failed = text(block, "status") == "error"
        return {"type": extras.get("block_type"), "content": {} if failed else block.get("output")}
    return part(block, "value") if kind == "non_standard" else block


def lost_parts(reading: ReportedUsage, content: Any, hint: Hint) -> Iterator[str]:
    """Doubts about what LangChain's ``usage_metadata`` by itself, as in streams, does not carry over.

    Whether cache writes of Anthropic's live five minutes or an hour, Mistral's and Together's cached tokens, Cohere's
    billed units, OpenRouter's and xAI's cost, and how many tokens an image took.
    """
    counts = reading.counts
    if hint.is_of("mistral", "together") and "cache_read_tokens" not in counts:
        client = "langchain-mistralai" if hint.is_of("mistral") else "langchain-together"
        yield f"cached tokens, which {client} leaves out of streams"
    if hint.is_of("cohere") and reading.billed is None:
        yield LOST_UNITS
    if hint.is_of("openrouter") and reading.cost is None:
        yield "OpenRouter's own cost, which the client leaves out of streams"
    if hint.is_of("xai") and reading.cost is None:
        yield "xAI's own cost, which the client leaves out of the message"
    if counts.get("cache_write_tokens") and counts.keys().isdisjoint(_LIFETIMES) and hint.is_of("anthropic"):
        yield UNSTATED_LIFETIME
    media = [block for block in views(entries(content) or []) if text(block, "type") in _MEDIA]
    if media and not any(counts.get(name) for name in _MEDIA_TOKENS):
        yield "images or sound in the answer, whose tokens it does not tell apart"


_LIFETIMES = frozenset({"cache_write_5m_tokens", "cache_write_1h_tokens", "cache_write_12h_tokens"})
_MEDIA_TOKENS = ("output_image_tokens", "output_audio_tokens", "output_video_tokens")
