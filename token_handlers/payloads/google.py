"""Gemini's usage in its JSON's spelling, its SDKs' spelling and the Interactions API's; Vertex AI's embeddings."""

from typing import Any

from token_handlers.payloads.fields import Fields, entries, items, part, text, view
from token_handlers.payloads.reported import Hint, ReportedUsage, add, count, first, reported, unexplained, with_total

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


def read_gemini(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """GenerateContent and Live: the output is candidates plus thoughts, the input is prompt plus tool results.

    A proto leaves out what is 0: an output without both of its parts is the total less the input. What the total says
    beyond all parts is thoughts where none are stated, and a doubt.
    """
    prompt, candidates, thoughts = first(usage, *_PROMPT), first(usage, *_OUTPUT), first(usage, *_THOUGHTS)
    if (prompt is None and candidates is None and thoughts is None) or _is_llama(usage):
        return None
    tokens = None if prompt is None else add(prompt, first(usage, *_TOOLS))
    output, total = add(candidates, thoughts), first(usage, *_TOTAL)
    if output is None and tokens is not None and total is not None:
        output = max(0, total - tokens)
    doubts: tuple[str, ...] = ()
    if tokens is not None and output is not None and total not in (None, tokens + output):
        doubts = (unexplained(total, tokens, output),)
        if thoughts is None and total > tokens + output:
            output = total - tokens
    inputs, tools = _modalities(usage, *_PROMPT_DETAILS), _modalities(usage, *_TOOL_DETAILS)
    outputs = _modalities(usage, *_OUTPUT_DETAILS)
    found = reported(
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
        output_video_tokens=outputs.get("VIDEO"),
    )
    return found._replace(doubts=doubts) if found is not None and doubts else found


def _is_llama(usage: Fields) -> bool:
    return usage.get("generation_token_count") is not None


def read_interactions(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Gemini's Interactions: ``total_input_tokens`` and its siblings."""
    prompt, output = count(usage.get("total_input_tokens")), count(usage.get("total_output_tokens"))
    if prompt is None and output is None:
        return None
    thoughts = count(usage.get("total_thought_tokens"))
    inputs, outputs = _modalities(usage, "input_tokens_by_modality"), _modalities(usage, "output_tokens_by_modality")
    found = reported(
        input_tokens=None if prompt is None else add(prompt, count(usage.get("total_tool_use_tokens"))),
        output_tokens=None if output is None else add(output, thoughts),
        cache_read_tokens=count(usage.get("total_cached_tokens")),
        reasoning_tokens=thoughts,
        input_audio_tokens=inputs.get("AUDIO"),
        input_image_tokens=inputs.get("IMAGE"),
        input_video_tokens=inputs.get("VIDEO"),
        output_audio_tokens=outputs.get("AUDIO"),
        output_image_tokens=outputs.get("IMAGE"),
        output_video_tokens=outputs.get("VIDEO"),
    )
    return with_total(found, count(usage.get("total_tokens")))


def read_tool_counts(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """The Interactions API's own counts of its grounding tools."""
    counts = {text(each, "type"): first(each, "count") for each in items(usage, "grounding_tool_count")}
    searches, maps = counts.get("google_search"), counts.get("google_maps")
    return reported(web_searches=_billed(searches, hint), maps_searches=_billed(maps, hint))


def read_grounding(response: Fields, hint: Hint) -> ReportedUsage | None:
    """Google Search and Maps that an answer is grounded on; see `_billed` for what one of them is.

    How often Maps were asked is not stated, and what a search of one's own data costs is not known.
    """
    grounds = [found for each in _candidates(response) for key in _GROUNDING if (found := view(each.get(key)))]
    grounds += items(response, "vertex_ai_grounding_metadata")  # by LiteLLM
    doubts = [] if is_finished(response) else [UNFINISHED]
    counted = _read_grounds(grounds, hint, doubts) if grounds else None
    if not doubts:
        return counted
    return ReportedUsage({} if counted is None else counted.counts, doubts=tuple(doubts))


def read_litellm_searches(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Searches as LiteLLM counts them in a chat's usage, its proxy's included: Gemini's by query."""
    return reported(web_searches=_billed(first(part(usage, "prompt_tokens_details"), "web_search_requests"), hint))


def _read_grounds(grounds: list[Fields], hint: Hint, doubts: list[str]) -> ReportedUsage | None:
    queries = [query for ground in grounds for key in _QUERIES for query in entries(ground.get(key)) or ()]
    distinct = {str.strip(query) for query in queries if issubclass(type(query), str)} - {""}
    maps = any(_has_maps(ground) for ground in grounds)
    if maps and not _is_by_prompt(hint):
        doubts.append("Google Maps, whose queries the answer does not count")
    if any(entries(ground.get(key)) for ground in grounds for key in ("retrievalQueries", "retrieval_queries")):
        doubts.append("a search of stored data, whose price is not known")
    return reported(web_searches=_billed(len(distinct) or None, hint), maps_searches=1 if maps else None)


UNFINISHED = "the usage of an answer that went on after it"
_GROUNDING = ("groundingMetadata", "grounding_metadata")
_QUERIES = ("webSearchQueries", "web_search_queries", "imageSearchQueries", "image_search_queries")


def _candidates(response: Fields) -> list[Fields]:
    """The candidates of a response; else the response itself, which LlamaIndex and LangChain make of one."""
    return list(items(response, "candidates")) or [response]


def _has_maps(ground: Fields) -> bool:
    if text(ground, "googleMapsWidgetContextToken", "google_maps_widget_context_token") is not None:
        return True
    chunks = items(ground, "groundingChunks", "grounding_chunks")
    return any(view(chunk.get("maps")) is not None for chunk in chunks)


def _is_by_prompt(hint: Hint) -> bool:
    return hint.model().removeprefix("models/").startswith(("gemini-1", "gemini-2"))


def _billed(queries: int | None, hint: Hint) -> int | None:
    """Searches as they are billed: up to Gemini 2.5 by prompt, however many queries it made, later by query."""
    return min(1, queries) if queries is not None and _is_by_prompt(hint) else queries


def is_finished(response: Fields) -> bool:
    """Whether a response with a candidate says why it finished: in a stream the chunks before the last don't.

    LlamaIndex makes one of the candidate and its usage.
    """
    if has_finish_reason(response):
        return True
    is_candidate = view(response.get("content")) is not None and view(response.get("usage_metadata")) is not None
    return not is_candidate and next(items(response, "candidates"), None) is None


def has_finish_reason(response: Fields) -> bool:
    """Whether one of a response's candidates says why it finished."""
    return any(each.get(key) for each in _candidates(response) for key in ("finishReason", "finish_reason"))


def read_vertex_embeddings(response: Fields, hint: Hint) -> ReportedUsage | None:
    """Vertex AI's text embeddings: a token count per prediction."""
    statistics = [part(part(each, "embeddings"), "statistics") for each in items(response, "predictions")]
    return reported(input_tokens=add(*(first(each, "token_count") for each in statistics)))


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
