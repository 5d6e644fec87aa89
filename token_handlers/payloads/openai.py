"""OpenAI's usage shapes, and those of the many providers that speak its API with fields of their own."""

from token_handlers.payloads.fields import Fields, items, part, text
from token_handlers.payloads.reported import add, count, first, known, warn_once


def inclusive(
    tokens: int | None, cached: int | None, output: int | None, total: int | None, *, excludes: bool
) -> int | None:
    """A prompt with its cache tokens in it: the stated total tells whether they are, else the shape's habit does."""
    if tokens is None or not cached:
        return tokens
    if total is not None and output is not None:
        if total == tokens + cached + output:
            return tokens + cached
        if total == tokens + output and not (excludes and cached > tokens):
            return tokens
    return tokens + cached if excludes else tokens


def read_chat(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """Chat, completions and embeddings: ``prompt_tokens`` with cached tokens in it, and ``completion_tokens``.

    Cached tokens: OpenAI, Mistral, DeepSeek, Moonshot and Alibaba each spell them differently; Databricks and
    LangChain's Bedrock keep Anthropic's names. xAI leaves reasoning out of the completion but not out of the total.
    """
    prompt, completion = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    total = count(usage.get("total_tokens"))
    inputs = part(usage, "prompt_tokens_details", "prompt_token_details")
    outputs = part(usage, "completion_tokens_details", "completion_token_details")
    read = _cache_read(usage, inputs)
    write = first(inputs, "cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens")
    if write is None:
        write = first(usage, "cache_creation_input_tokens", "cache_write_input_tokens")
    reasoning = first(outputs, "reasoning_tokens")
    if reasoning is None:
        reasoning = count(usage.get("reasoning_tokens"))
    prompt = inclusive(prompt, _anthropic_cache(usage), completion, total, excludes=False)
    return known(
        input_tokens=prompt,
        output_tokens=_whole_output(usage, prompt, completion, reasoning, total),
        cache_read_tokens=read,
        cache_write_tokens=write,
        reasoning_tokens=reasoning,
        input_audio_tokens=first(inputs, "audio_tokens"),
        input_image_tokens=first(inputs, "image_tokens"),
        input_video_tokens=first(inputs, "video_tokens"),
        output_audio_tokens=first(outputs, "audio_tokens"),
        output_image_tokens=first(outputs, "image_tokens"),
        output_citation_tokens=count(usage.get("citation_tokens")),
        **tool_fees(usage),
    )


def _cache_read(usage: Fields, inputs: Fields) -> int | None:
    read = first(inputs, "cached_tokens")
    if read is None:
        read = first(
            usage, "num_cached_tokens", "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens",
            "cached_prompt_text_tokens",
        )  # fmt: skip
    return read


def _anthropic_cache(usage: Fields) -> int | None:
    return add(
        first(usage, "cache_read_input_tokens"), first(usage, "cache_creation_input_tokens", "cache_write_input_tokens")
    )


def _whole_output(
    usage: Fields, prompt: int | None, completion: int | None, reasoning: int | None, total: int | None
) -> int | None:
    if completion is None:
        return None
    citations = count(usage.get("citation_tokens"))
    if citations is not None:  # Perplexity bills citations and reasoning beside the completion and outside the total
        return completion + citations + (reasoning or 0)
    if total is None or total == (prompt or 0) + completion:
        return completion
    if reasoning and total == (prompt or 0) + completion + reasoning:
        return completion + reasoning
    warn_once(
        "total of chat",
        "A payload's total_tokens (%d) is not prompt_tokens + completion_tokens (%d + %d): these two stand. "
        "The provider may bill more than they say.",
        total, prompt or 0, completion,
    )  # fmt: skip
    return completion


def read_responses(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """Responses, image generation and transcription: ``input_tokens_details``, with cached tokens in the input."""
    inputs, outputs = part(usage, "input_tokens_details"), part(usage, "output_tokens_details")
    if not inputs and first(outputs, "reasoning_tokens") is None:
        return None
    return known(
        input_tokens=count(usage.get("input_tokens")),
        output_tokens=count(usage.get("output_tokens")),
        cache_read_tokens=first(inputs, "cached_tokens", "cache_read_input_tokens"),
        cache_write_tokens=first(inputs, "cache_write_tokens", "cache_creation_input_tokens"),
        reasoning_tokens=first(outputs, "reasoning_tokens"),
        input_audio_tokens=first(inputs, "audio_tokens"),
        input_image_tokens=first(inputs, "image_tokens"),
        output_audio_tokens=first(outputs, "audio_tokens"),
        output_image_tokens=first(outputs, "image_tokens"),
        **tool_fees(usage),
    )


def read_realtime(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """Realtime and transcription: ``input_token_details`` with text, audio, image and cached tokens."""
    inputs, outputs = part(usage, "input_token_details"), part(usage, "output_token_details")
    if first(inputs, "text_tokens", "audio_tokens", "cached_tokens") is None:
        return None
    return known(
        input_tokens=count(usage.get("input_tokens")),
        output_tokens=count(usage.get("output_tokens")),
        cache_read_tokens=first(inputs, "cached_tokens"),
        cache_audio_read_tokens=first(part(inputs, "cached_tokens_details"), "audio_tokens"),
        input_audio_tokens=first(inputs, "audio_tokens"),
        input_image_tokens=first(inputs, "image_tokens"),
        output_audio_tokens=first(outputs, "audio_tokens"),
    )


def read_total(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """Embeddings, reranking and token counting that state a total alone: nothing is generated there, all is input."""
    if any(usage.get(key) is not None for key in _SPLIT):
        return None
    return known(input_tokens=first(usage, "total_tokens", "totalTokens"))


_SPLIT = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "inputTokens", "outputTokens",
          "promptTokens", "completionTokens")  # fmt: skip


_TOOLS = ("server_tool_use", "server_tool_use_details", "server_side_tool_usage_details", "num_search_queries",
          "tool_calls_details")  # fmt: skip


def tool_fees(usage: Fields) -> dict[str, int]:
    """Server tools that are billed per call: Anthropic's, OpenRouter's, xAI's and Perplexity's counts of them."""
    if all(usage.get(key) is None for key in _TOOLS):
        return {}
    tools, grok = part(usage, *_TOOLS[:2]), part(usage, _TOOLS[2])
    searches = first(tools, "web_search_requests")
    for other in (first(grok, "web_search_calls"), first(usage, _TOOLS[3]), _invocations(usage)):
        searches = other if searches is None else searches
    executions = first(tools, "code_execution_requests")
    return known(
        web_searches=searches,
        code_executions=first(grok, "code_interpreter_calls") if executions is None else executions,
        social_searches=first(grok, "x_search_calls"),
        storage_searches=add(first(grok, "file_search_calls"), first(grok, "document_search_calls")),
    )


def _invocations(usage: Fields) -> int | None:
    return first(part(part(usage, _TOOLS[4]), "search_web"), "invocation")


def output_fees(response: Fields) -> dict[str, int]:
    """Searches among the output items of a whole response of the Responses API; pages opened are not billed."""
    kinds = [text(item, "type") for item in items(response, "output") if _is_billed(item)]
    counts = {"web_searches": kinds.count("web_search_call"), "storage_searches": kinds.count("file_search_call")}
    return {name: number for name, number in counts.items() if number}


def _is_billed(item: Fields) -> bool:
    return text(part(item, "action"), "type") in (None, "search")
