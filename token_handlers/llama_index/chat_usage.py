"""The usage of OpenAI's own chat completions, read in 1 µs where `read_payload`, which reads any shape, takes 28."""

from typing import Any, NamedTuple

from token_handlers.payloads import ReportedUsage, read_payload

_PLAIN = ("ChatCompletion", "ChatCompletionChunk")
_WHOLES = ("input_tokens", "output_tokens")
_INPUTS = {"cached_tokens": "cache_read_tokens", "audio_tokens": "input_audio_tokens"}
_OUTPUTS = {"reasoning_tokens": "reasoning_tokens", "audio_tokens": "output_audio_tokens"}


class PlainUsage(NamedTuple):
    """What a plain ChatCompletion reports, in its own words: both sides' tokens, and no text to wait in a queue."""

    usage: Any
    model: Any
    service_tier: Any

    def counts(self) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
        """Return our names and the numbers, without parts that are 0; None where the details are not plain."""
        usage = self.usage
        sent, received = usage.prompt_tokens, usage.completion_tokens
        if usage.total_tokens != sent + received:
            return None
        # openai's client has these fields since 1.51; where an older one is told of them, they are extras
        inputs = getattr(usage, "prompt_tokens_details", None)
        outputs = getattr(usage, "completion_tokens_details", None)
        if _is_silent(inputs) and _is_silent(outputs):
            return _WHOLES, (sent, received)
        counts = dict(zip(_WHOLES, (sent, received), strict=True))
        if not (_add(counts, inputs, _INPUTS, sent) and _add(counts, outputs, _OUTPUTS, received)):
            return None
        return tuple(counts), tuple(counts.values())

    def read(self, provider: str | None) -> ReportedUsage:
        """Return all of it; what is not plain is for `read_payload`."""
        usage, model, tier = self
        found = self.counts()
        names, numbers = found or (_WHOLES, (usage.prompt_tokens, usage.completion_tokens))
        counts = dict(zip(names, numbers, strict=True))
        reading = read_payload(self._asdict(), provider) if found is None else None
        if reading is not None:
            return reading._replace(counts={**counts, **reading.counts})
        return ReportedUsage(
            counts, None, tier if isinstance(tier, str) else None, model if isinstance(model, str) else None
        )


def plain_usage(raw: Any) -> PlainUsage | None:
    """Return what a plain ChatCompletion reports; None for whatever is not plain, which is for `read_payload`."""
    if type(raw).__name__ not in _PLAIN:
        return None
    usage = raw.usage
    if type(usage).__name__ != "CompletionUsage" or usage.__pydantic_extra__ or raw.__pydantic_extra__:
        return None
    sent, received = usage.prompt_tokens, usage.completion_tokens
    if type(sent) is not int or type(received) is not int or sent < 0 or received < 0:
        return None
    return PlainUsage(usage, raw.model, raw.service_tier)


def _is_silent(details: Any) -> bool:
    return details is None or not (details.__pydantic_extra__ or any(details.__dict__.values()))


def _add(counts: dict[str, int], details: Any, names: dict[str, str], whole: int) -> bool:
    """Add the parts of a whole; False where there is one that is not known, or no part of it."""
    if details is None:
        return True
    if details.__pydantic_extra__:
        return False
    for theirs, number in details.__dict__.items():
        if not number:
            continue
        ours = names.get(theirs)
        if ours is None or type(number) is not int or not 0 <= number <= whole:
            return False
        counts[ours] = number
    return True
