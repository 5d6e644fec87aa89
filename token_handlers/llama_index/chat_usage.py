"""The usage of OpenAI's own chat completions, read in 2 µs where `read_payload`, which reads any shape, takes 28."""

from typing import Any

from token_handlers.payloads import Reading

_PLAIN = ("ChatCompletion", "ChatCompletionChunk")
_INPUTS = {"cached_tokens": "cache_read_tokens", "audio_tokens": "input_audio_tokens"}
_OUTPUTS = {"reasoning_tokens": "reasoning_tokens", "audio_tokens": "output_audio_tokens"}


def read_chat_completion(raw: Any) -> Reading | None:
    """Return what a plain ChatCompletion reports; None for whatever is not plain, which is for `read_payload`."""
    if type(raw).__name__ not in _PLAIN:
        return None
    usage = raw.usage
    if type(usage).__name__ != "CompletionUsage" or usage.__pydantic_extra__ or raw.__pydantic_extra__:
        return None
    sent, received = usage.prompt_tokens, usage.completion_tokens
    if type(sent) is not int or type(received) is not int or sent < 0 or received < 0:
        return None
    if usage.total_tokens != sent + received:
        return None
    counts = {"input_tokens": sent, "output_tokens": received}
    # openai's client has these fields since 1.51; where an older one is told of them, they are extras
    inputs, outputs = getattr(usage, "prompt_tokens_details", None), getattr(usage, "completion_tokens_details", None)
    if (_says(inputs) and not _add(counts, inputs, _INPUTS, sent)) or (
        _says(outputs) and not _add(counts, outputs, _OUTPUTS, received)
    ):
        return None
    tier, model = raw.service_tier, raw.model
    return Reading(counts, None, tier if isinstance(tier, str) else None, model if isinstance(model, str) else None)


def _says(details: Any) -> bool:
    return details is not None and (details.__pydantic_extra__ or any(details.__dict__.values()))


def _add(counts: dict[str, int], details: Any, names: dict[str, str], whole: int) -> bool:
    """Add the parts of a whole; False where there is one that is not known, or no part of it."""
    if details.__pydantic_extra__:
        return False
    for theirs, number in details.__dict__.items():
        if number is None:
            continue
        ours = names.get(theirs)
        if ours is None:
            if number:
                return False
        elif type(number) is not int or not 0 <= number <= whole:
            return False
        else:
            counts[ours] = number
    return True
