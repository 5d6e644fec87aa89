"""A counter's totals in the form of LangChain's UsageMetadata."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from token_handlers.counter.counter import TokenCounter

if TYPE_CHECKING:
    from langchain_core.messages.ai import UsageMetadata

_INPUT_DETAILS = {
    "cache_read_tokens": "cache_read",
    "cache_write_5m_tokens": "ephemeral_5m_input_tokens",
    "cache_write_1h_tokens": "ephemeral_1h_input_tokens",
    "input_audio_tokens": "audio",
}
_OUTPUT_DETAILS = {"reasoning_tokens": "reasoning", "output_audio_tokens": "audio"}


def usage_metadata(counter: TokenCounter) -> "dict[str, UsageMetadata]":
    """Return model -> UsageMetadata, with the details that were reported."""
    return {
        model: _metadata(numbers) for model, numbers in counter.numbers_by("model").items() if "input_tokens" in numbers
    }


def _metadata(numbers: Mapping[str, int]) -> "UsageMetadata":
    sent, received = numbers.get("input_tokens", 0), numbers.get("output_tokens", 0)
    usage: UsageMetadata = {"input_tokens": sent, "output_tokens": received, "total_tokens": sent + received}
    inputs = {theirs: numbers[ours] for ours, theirs in _INPUT_DETAILS.items() if ours in numbers}
    if "cache_write_tokens" in numbers:
        timed = numbers.get("cache_write_5m_tokens", 0) + numbers.get("cache_write_1h_tokens", 0)
        inputs["cache_creation"] = numbers["cache_write_tokens"] - timed
    outputs = {theirs: numbers[ours] for ours, theirs in _OUTPUT_DETAILS.items() if ours in numbers}
    if inputs:
        usage["input_token_details"] = inputs  # type: ignore[typeddict-item]
    if outputs:
        usage["output_token_details"] = outputs  # type: ignore[typeddict-item]
    return usage
