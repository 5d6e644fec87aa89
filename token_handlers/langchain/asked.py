"""What a run asked for: what its price depends on and its event leaves out, where nobody saw the provider's answer."""

from collections.abc import Iterator, Mapping
from typing import Any

from token_handlers.http import ProviderRequest, completed, read_parameters
from token_handlers.langchain.calls import Run
from token_handlers.payloads import GUARDED, ReportedUsage

_GUARDRAILS = ("guardrail_config", "guardrails")
NOTABLE = frozenset(
    {
        "service_tier",
        "prompt_cache_retention",
        "tools",
        "web_search_options",
        "extra_body",
        "model_kwargs",
        *_GUARDRAILS,
    }
)
"""What of a model's parameters may change the price of an answer that looks plain."""

_LOST_IN_STREAMS = {
    "context_management": "a compaction",
    "fallbacks": "attempts of other models",
    "search_parameters": "sources of a live search",
}
_HEADERS = ("additional_headers", "default_headers", "extra_headers")
"""Where other kinds of Vertex AI's traffic are asked for."""
_SOUND = frozenset({"audio", "input_audio", "media", "video", "file"})


def with_asked(run: Run, usage: ReportedUsage) -> ReportedUsage:
    """Return what a run's event reported with what the run asked for, unless its answer was read or states its cost."""
    if usage.cost is not None or any(answer.usage is not None for answer in run.answers):
        return usage
    asked = _asked(run)
    request = read_parameters(run.base_url or "", "/chat/completions", {**asked, "messages": list(_contents(run))})
    if request is not None:
        usage = completed(usage, request, {})
    if run.chunk is not None and run.provider == "anthropic":
        usage = _with_place(usage, asked)
    lost = (*_lost(run, usage, asked), *(() if request is None else _lost_by_openais_client(run, usage, request)))
    return usage._replace(doubts=tuple(dict.fromkeys((*usage.doubts, *lost))))


def _asked(run: Run) -> dict[str, Any]:
    """Return a model's parameters, those of the call before its own."""
    own, call = (run.serialized or {}).get("kwargs") or {}, run.invocation or {}
    found: dict[str, Any] = {}
    for fields in (own, call):
        for each in (fields, fields.get("model_kwargs"), fields.get("extra_body")):
            if isinstance(each, Mapping):
                found.update({name: value for name, value in each.items() if value is not None})
    return found


def _contents(run: Run) -> Iterator[dict[str, Any]]:
    """Yield what of the prompt may have marks of a cache's lifetime, or sound."""
    for message in run.prompt[0] if run.prompt and not isinstance(run.prompt[0], str) else ():
        content = getattr(message, "content", None)
        if isinstance(content, list):
            yield {"content": content}


def _with_place(usage: ReportedUsage, asked: Mapping[str, Any]) -> ReportedUsage:
    """Return the usage of one of Anthropic's streams with the speed and the place that were asked for."""
    context, doubts = dict(usage.context), usage.doubts
    speed, geo = asked.get("speed"), asked.get("inference_geo")
    if isinstance(geo, str) and geo != "global":
        context.setdefault("inference_geo", geo.lower())
    if isinstance(speed, str) and speed not in ("standard", context.get("speed")):
        context.setdefault("speed", speed.lower())
        doubts = (*doubts, f"the speed {speed!r} was asked for: which one served it, the stream does not say")
    return usage._replace(context=context, doubts=doubts)


def _lost(run: Run, usage: ReportedUsage, asked: Mapping[str, Any]) -> Iterator[str]:
    tools = asked.get("tools")
    kinds = {tool.get("type") for tool in tools if isinstance(tool, Mapping)} if isinstance(tools, list | tuple) else ()
    if "shell" in kinds and "container_sessions" not in usage.counts:
        yield "a shell may have run in containers, which LangChain leaves out"
    if any(_is_guarded(asked.get(name)) for name in _GUARDRAILS):
        yield GUARDED
    if run.provider == "litellm":
        yield "LiteLLM's own cache may have answered: no request was seen"
    is_asked = any("vertex-ai-llm" in str(asked.get(name)).lower() for name in _HEADERS)
    if is_asked or (run.served and run.provider == "google_genai" and usage.service_tier is None):
        yield "which kind of Vertex AI's traffic served it, LangChain leaves out"
    if run.chunk is not None:
        for name, lost in _LOST_IN_STREAMS.items():
            if asked.get(name):
                yield f"{lost}, which LangChain leaves out of streams"
    if (run.provider or "").startswith("google") and "input_audio_tokens" not in usage.counts:
        blocks = (block for each in _contents(run) for block in each["content"] if isinstance(block, Mapping))
        if any(block.get("type") in _SOUND for block in blocks):
            yield "sound in the prompt, whose tokens LangChain does not tell apart"


def _is_guarded(config: object) -> bool:
    """Return whether a guardrail of Bedrock's is set: ChatBedrock has a setting of one without values."""
    names = config.items() if isinstance(config, Mapping) else ()
    return any(value for name, value in names if str(name).lower().startswith("guardrail"))


_OTHER_CACHED = {"deepseek": "DeepSeek", "mistral": "Mistral", "moonshotai": "Moonshot", "together": "Together"}
"""Providers that state cached tokens in fields of their own."""


def _lost_by_openais_client(run: Run, usage: ReportedUsage, request: ProviderRequest) -> Iterator[str]:
    """Yield doubts about what OpenAI's client does not know of others' answers, and so leaves out."""
    counts, is_streamed = usage.counts, run.chunk is not None
    is_openais = is_streamed and run.provider == "openai"
    if is_openais and request.provider in _OTHER_CACHED and "cache_read_tokens" not in counts:
        yield f"cached tokens, which LangChain leaves out of {_OTHER_CACHED[request.provider]}'s streams"
    if request.provider == "moonshotai" and any(tool.kind == "$web_search" for tool in request.tools):
        yield "searches of Moonshot's, which LangChain does not tell from other tool calls"
    if is_openais and request.provider == "x-ai":
        yield "xAI's own cost, which the client leaves out of the message"
    if is_openais and request.cache_lifetimes and "cache_write_tokens" not in counts:
        yield "cache writes, which LangChain leaves out of streams of OpenAI's client"
