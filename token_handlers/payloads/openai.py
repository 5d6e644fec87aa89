"""OpenAI's usage shapes, and those of the many providers that speak its API with fields of their own."""

from collections.abc import Iterator

from token_handlers.payloads.fields import Fields, items, part, text
from token_handlers.payloads.reported import (
    NO_HINT,
    Counts,
    Hint,
    ReportedUsage,
    add,
    count,
    first,
    reported,
    warn_once,
)


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


def read_chat(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Chat, completions and embeddings: ``prompt_tokens`` with cached tokens in it, and ``completion_tokens``.

    Cached tokens: OpenAI, Mistral, DeepSeek, Moonshot and Alibaba each spell them differently; Databricks and
    LangChain's Bedrock keep Anthropic's names. What a total says beyond both sides is told apart by `Sides.settle`.
    """
    prompt, completion = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    total = count(usage.get("total_tokens"))
    inputs = part(usage, "prompt_tokens_details", "prompt_token_details")
    outputs = part(usage, "completion_tokens_details", "completion_token_details")
    write = first(inputs, "cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens")
    if write is None:
        write = first(usage, "cache_creation_input_tokens", "cache_write_input_tokens")
    reasoning = first(outputs, "reasoning_tokens")
    if reasoning is None:
        reasoning = count(usage.get("reasoning_tokens"))
    audio = first(inputs, "audio_tokens")
    found = reported(
        input_tokens=inclusive(prompt, _anthropic_cache(usage), completion, total, excludes=False),
        output_tokens=completion,
        cache_read_tokens=_cache_read(usage, inputs),
        cache_write_tokens=write,
        **lifetimes(usage, inputs),
        reasoning_tokens=reasoning,
        input_audio_tokens=audio,
        input_image_tokens=first(inputs, "image_tokens"),
        input_video_tokens=first(inputs, "video_tokens"),
        output_audio_tokens=first(outputs, "audio_tokens"),
        output_image_tokens=first(outputs, "image_tokens"),
        output_video_tokens=first(outputs, "video_tokens"),
        output_citation_tokens=count(usage.get("citation_tokens")),
    )
    if found is None or prompt is None or completion is None:
        return found
    beside = hint.is_of("vercel") or usage.get("market_cost") is not None
    connected = count(usage.get("connector_tokens"))
    return found._replace(doubts=settle_total(found.counts, total, hint, beside=beside, connected=connected))


def lifetimes(*usages: Fields) -> dict[str, int | None]:
    """Cache writes by how long they are kept, as Anthropic and gateways before it say it."""
    found: dict[str, int | None] = {}
    for usage in usages:
        split = part(usage, "cache_creation", "cache_creation_token_details")
        for name in ("5m", "1h", "12h"):
            number = first(split, f"ephemeral_{name}_input_tokens")
            if number is not None:
                found[f"cache_write_{name}_tokens"] = number
    return found


def settle_total(
    counts: Counts, total: int | None, hint: Hint, *, beside: bool = False, connected: int | None = None
) -> tuple[str, ...]:
    """Complete input and output by what the total says beyond them, in place; a doubt where nothing explains it.

    Beyond both sides are Perplexity's citations and reasoning, which its total leaves out; xAI's reasoning; what
    Mistral's connectors fed; audio, which Mistral states in the total alone; and Gemini's thoughts at its OpenAI-like
    address. ``beside``: Vercel's gateway bills reasoning beside the completion and leaves it out of the total.
    """
    tokens, output, reasoning = counts["input_tokens"], counts["output_tokens"], counts.get("reasoning_tokens", 0)
    if "output_citation_tokens" in counts:
        counts["output_tokens"] = output + counts["output_citation_tokens"] + reasoning
        return ()
    gap = 0 if total is None else total - tokens - output
    if beside and gap in (0, reasoning):
        counts["output_tokens"] = output + reasoning
    elif gap == 0:
        pass
    elif gap == reasoning:
        counts["output_tokens"] = output + reasoning
    elif gap == connected or gap == counts.get("input_audio_tokens"):
        counts["input_tokens"] = tokens + gap
    elif gap > 0 and is_gemini(hint):
        counts["output_tokens"], counts["reasoning_tokens"] = output + gap, reasoning + gap
    else:
        warn_once(
            "total of chat",
            "A payload's total_tokens (%d) is not prompt_tokens + completion_tokens (%d + %d): these two stand. "
            "The provider may bill more than they say.",
            total, tokens, output,
        )  # fmt: skip
        return (f"total_tokens ({total}) is not input + output ({tokens} + {output})",)
    return ()


def is_gemini(hint: Hint) -> bool:
    """Whether a Gemini answered, at any address."""
    return hint.is_of("google", "gemini", "vertex") or hint.model().startswith("gemini")


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


def read_responses(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Responses, image generation and transcription: ``input_tokens_details``, with cached tokens in the input."""
    inputs, outputs = part(usage, "input_tokens_details"), part(usage, "output_tokens_details")
    if not inputs and first(outputs, "reasoning_tokens") is None:
        return None
    return reported(
        input_tokens=count(usage.get("input_tokens")),
        output_tokens=count(usage.get("output_tokens")),
        cache_read_tokens=first(inputs, "cached_tokens", "cache_read_input_tokens"),
        cache_write_tokens=first(inputs, "cache_write_tokens", "cache_creation_input_tokens"),
        **lifetimes(usage, inputs),
        reasoning_tokens=first(outputs, "reasoning_tokens"),
        input_audio_tokens=first(inputs, "audio_tokens"),
        input_image_tokens=first(inputs, "image_tokens"),
        output_audio_tokens=first(outputs, "audio_tokens"),
        output_image_tokens=first(outputs, "image_tokens"),
    )


def read_realtime(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Realtime and transcription: ``input_token_details`` with text, audio, image and cached tokens."""
    inputs, outputs = part(usage, "input_token_details"), part(usage, "output_token_details")
    if first(inputs, "text_tokens", "audio_tokens", "cached_tokens") is None:
        return None
    return reported(
        input_tokens=count(usage.get("input_tokens")),
        output_tokens=count(usage.get("output_tokens")),
        cache_read_tokens=first(inputs, "cached_tokens"),
        cache_audio_read_tokens=first(part(inputs, "cached_tokens_details"), "audio_tokens"),
        input_audio_tokens=first(inputs, "audio_tokens"),
        input_image_tokens=first(inputs, "image_tokens"),
        output_audio_tokens=first(outputs, "audio_tokens"),
    )


def read_total(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Embeddings, reranking and token counting that state a total alone: nothing is generated there, all is input."""
    if any(usage.get(key) is not None for key in _SPLIT):
        return None
    return reported(input_tokens=first(usage, "total_tokens", "totalTokens"))


_SPLIT = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "inputTokens", "outputTokens",
          "promptTokens", "completionTokens")  # fmt: skip


def read_output(response: Fields, hint: Hint) -> ReportedUsage | None:
    """What a response of the Responses API bills beside its tokens: its output items, and ``tool_usage``.

    A search is one item; pages that it opened are not billed. Code runs in containers, each of which is a session,
    however many items ran in it; xAI bills each run. An image is billed at the rates of the model that made it.
    """
    output = list(items(response, "output"))
    usage = part(response, "tool_usage")
    if not output and not usage:
        return None
    kinds = [text(item, "type") for item in output if _is_search(item)]
    searches = first(part(usage, "web_search"), "num_requests") or kinds.count("web_search_call")
    runs = kinds.count("code_interpreter_call") if _is_grok(response, hint) else 0
    containers, unnamed = (0, False) if runs else _containers(output)
    images = list(_images(response))
    found = {
        "web_searches": searches,
        "storage_searches": kinds.count("file_search_call"),
        "container_sessions": containers,
        "code_executions": runs,
    }
    tool = _search_tool(response) if searches else None
    doubts = ["code ran in a container that the answer does not name"] if unnamed else []
    if not images and any(kind == "image_generation_call" for kind in map(_kind, output)):
        doubts.append("an image was generated, whose tokens the answer does not state")
    if any(model is None for model, _ in images):
        doubts.append("an image was generated by a model that the answer does not name")
    return ReportedUsage(
        {name: number for name, number in found.items() if number},
        context={} if tool is None else {"web_search_tool": tool},
        beside=tuple(images),
        doubts=tuple(doubts),
    )


def _is_grok(response: Fields, hint: Hint) -> bool:
    return hint.is_of("xai") or (text(response, "model") or hint.model()).startswith("grok")


def _kind(item: Fields) -> str | None:
    return text(item, "type")


def _is_search(item: Fields) -> bool:
    return text(part(item, "action"), "type") in (None, "search")


def _search_tool(response: Fields) -> str | None:
    kinds = [kind for tool in items(response, "tools") if (kind := _kind(tool)) is not None]
    names = ("web_search_preview" if kind.startswith("web_search_preview") else "web_search"
             for kind in kinds if kind.startswith("web_search"))  # fmt: skip
    found = set(names)
    return found.pop() if len(found) == 1 else None


def _containers(output: list[Fields]) -> tuple[int, bool]:
    """The number of containers that code ran in, and whether it ran in one without a name."""
    named: set[str] = set()
    unnamed = False
    for item in output:
        kind = _kind(item)
        place = part(item, "environment") if kind == "shell_call" else item
        if kind == "code_interpreter_call" or (kind == "shell_call" and text(place, "type") != "local"):
            container = text(place, "container_id")
            unnamed |= container is None
            named |= set() if container is None else {container}
    return len(named), unnamed


def _images(response: Fields) -> Iterator[tuple[str | None, Counts]]:
    found = read_responses(part(part(response, "tool_usage"), "image_gen"), NO_HINT)
    if found is not None and (found.counts.get("input_tokens") or found.counts.get("output_tokens")):
        tools = [tool for tool in items(response, "tools") if _kind(tool) == "image_generation"]
        yield (text(tools[0], "model") if tools else None), found.counts


def read_annotations(response: Fields, hint: Hint) -> ReportedUsage | None:
    """The web search of a chat model that searches for each answer: its count is not stated, its citations show it.

    A gateway's own search shows in the same way, but not how many searches there were.
    """
    if not any(_kind(note) == "url_citation" for note in _annotations(response)):
        return None
    model = text(response, "model", "model_name") or hint.model()
    if "search" in model:
        return ReportedUsage({"web_searches": 1})
    if any(part(response, "usage").get(key) is not None for key in ("server_tool_use", "server_tool_use_details")):
        return None
    return ReportedUsage({}, doubts=("the answer cites a web search whose count it does not state",))


def _annotations(response: Fields) -> Iterator[Fields]:
    yield from items(response, "annotations")
    for choice in items(response, "choices"):
        yield from items(part(choice, "message", "delta"), "annotations")
