"""Gemini's usage in its JSON's spelling, its SDKs' spelling and the Interactions API's; Vertex AI's embeddings."""

from typing import Any

from token_handlers.payloads.fields import Fields, items, part
from token_handlers.payloads.reported import add, count, first, known

_PROMPT = ("promptTokenCount", "prompt_token_count")
_OUTPUT = ("candidatesTokenCount", "candidates_token_count", "responseTokenCount", "response_token_count")
_THOUGHTS = ("thoughtsTokenCount", "thoughts_token_count")
_TOOLS = ("toolUsePromptTokenCount", "tool_use_prompt_token_count")
_CACHED = ("cachedContentTokenCount", "cached_content_token_count")
_TOTAL = ("totalTokenCount", "total_token_count")
_PROMPT_DETAILS = ("promptTokensDetails", "prompt_tokens_details", "promptTokenDetails")
_OUTPUT_DETAILS = ("candidatesTokensDetails", "candidates_tokens_details", "responseTokensDetails",
                   "response_tokens_details")  # fmt: skip
_TOOL_DETAILS = ("toolUsePromptTokensDetails", "tool_use_prompt_tokens_details")
_CACHE_DETAILS = ("cacheTokensDetails", "cache_tokens_details")
_NUMBERED = {2: "IMAGE", 3: "VIDEO", 4: "AUDIO"}


def read_gemini(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """GenerateContent and Live: the output is candidates plus thoughts, the input is prompt plus tool results.

    A proto leaves out what is 0: an output without both of its parts is the total less the input.
    """
    prompt, candidates, thoughts = first(usage, *_PROMPT), first(usage, *_OUTPUT), first(usage, *_THOUGHTS)
    if (prompt is None and candidates is None and thoughts is None) or _is_llama(usage):
        return None
    tokens = None if prompt is None else add(prompt, first(usage, *_TOOLS))
    output, total = add(candidates, thoughts), first(usage, *_TOTAL)
    if output is None and tokens is not None and total is not None:
        output = max(0, total - tokens)
    inputs, tools = _modalities(usage, *_PROMPT_DETAILS), _modalities(usage, *_TOOL_DETAILS)
    outputs = _modalities(usage, *_OUTPUT_DETAILS)
    return known(
        input_tokens=tokens,
        output_tokens=output,
        cache_read_tokens=first(usage, *_CACHED),
        cache_audio_read_tokens=_modalities(usage, *_CACHE_DETAILS).get("AUDIO"),
        reasoning_tokens=thoughts,
        input_audio_tokens=add(inputs.get("AUDIO"), tools.get("AUDIO")),
        input_image_tokens=add(inputs.get("IMAGE"), tools.get("IMAGE")),
        input_video_tokens=add(inputs.get("VIDEO"), tools.get("VIDEO")),
        output_audio_tokens=outputs.get("AUDIO"),
        output_image_tokens=outputs.get("IMAGE"),
    )


def _is_llama(usage: Fields) -> bool:
    return usage.get("generation_token_count") is not None


def read_interactions(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """Gemini's Interactions: ``total_input_tokens`` and its siblings."""
    prompt, output = count(usage.get("total_input_tokens")), count(usage.get("total_output_tokens"))
    if prompt is None and output is None:
        return None
    thoughts = count(usage.get("total_thought_tokens"))
    inputs, outputs = _modalities(usage, "input_tokens_by_modality"), _modalities(usage, "output_tokens_by_modality")
    return known(
        input_tokens=None if prompt is None else add(prompt, count(usage.get("total_tool_use_tokens"))),
        output_tokens=None if output is None else add(output, thoughts),
        cache_read_tokens=count(usage.get("total_cached_tokens")),
        reasoning_tokens=thoughts,
        input_audio_tokens=inputs.get("AUDIO"),
        input_image_tokens=inputs.get("IMAGE"),
        input_video_tokens=inputs.get("VIDEO"),
        output_audio_tokens=outputs.get("AUDIO"),
        output_image_tokens=outputs.get("IMAGE"),
    )


def read_vertex_embeddings(response: Fields, provider: str | None) -> dict[str, int] | None:
    """Vertex AI's text embeddings: a token count per prediction."""
    statistics = [part(part(each, "embeddings"), "statistics") for each in items(response, "predictions")]
    return known(input_tokens=add(*(first(each, "token_count") for each in statistics)))


def _modalities(usage: Fields, *keys: str) -> dict[str, int]:
    sums: dict[str, int] = {}
    for entry in items(usage, *keys):
        modality, number = _modality(entry.get("modality")), first(entry, "tokenCount", "token_count", "tokens")
        if number is not None:
            sums[modality] = sums.get(modality, 0) + number
    return sums


def _modality(value: Any) -> str:
    if issubclass(type(value), str):
        return str.upper(value)
    return _NUMBERED.get(count(value) or 0, "")
