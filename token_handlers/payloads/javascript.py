"""Spellings of JavaScript: LangChain.js' ``tokenUsage``, the Vercel AI SDK's ``usage``, Cognigy's map of models."""

from token_handlers.payloads.fields import Fields, part
from token_handlers.payloads.openai import settle_total
from token_handlers.payloads.reported import Hint, ReportedUsage, count, first, reported


def read_token_usage(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """LangChain.js' ``tokenUsage`` and Vercel's AI SDK up to 4: ``promptTokens`` and ``completionTokens``.

    LangChain.js' ``estimatedTokenUsage`` is not looked for: what it holds is counted, not reported.
    """
    prompt, completion = count(usage.get("promptTokens")), count(usage.get("completionTokens"))
    if prompt is None and completion is None:
        return None
    inputs, outputs = part(usage, "promptTokensDetails"), part(usage, "completionTokensDetails")
    found = reported(
        input_tokens=prompt,
        output_tokens=completion,
        cache_read_tokens=first(inputs, "cachedTokens"),
        input_audio_tokens=first(inputs, "audioTokens"),
        reasoning_tokens=first(outputs, "reasoningTokens"),
        output_audio_tokens=first(outputs, "audioTokens"),
    )
    return _settled(found, usage, hint)


def read_vercel(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Vercel's AI SDK from 5 on: ``inputTokens`` with cached tokens in it, ``outputTokens`` with reasoning in it.

    Gemini's reasoning is beside the output in version 5, as the total tells.
    """
    inputs, outputs = part(usage, "inputTokenDetails"), part(usage, "outputTokenDetails")
    cached = first(inputs, "cacheReadTokens")
    if cached is None:
        cached = count(usage.get("cachedInputTokens"))
    reasoning = first(outputs, "reasoningTokens")
    if reasoning is None:
        reasoning = count(usage.get("reasoningTokens"))
    if cached is None and reasoning is None:
        return None
    found = reported(
        input_tokens=count(usage.get("inputTokens")),
        output_tokens=count(usage.get("outputTokens")),
        cache_read_tokens=cached,
        cache_write_tokens=first(inputs, "cacheWriteTokens"),
        reasoning_tokens=reasoning,
    )
    return _settled(found, usage, hint)


def _settled(found: ReportedUsage | None, usage: Fields, hint: Hint) -> ReportedUsage | None:
    if found is None or not found.counts.keys() >= {"input_tokens", "output_tokens"}:
        return found
    return found._replace(doubts=settle_total(found.counts, count(usage.get("totalTokens")), hint))
