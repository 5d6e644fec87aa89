"""What a call asked for that changes its price and that its response leaves out: where no HTTP answer was seen."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from token_handlers.http import completed, read_parameters
from token_handlers.llama_index.calls import ModelCall
from token_handlers.payloads import ReportedUsage

ANTHROPIC = "Anthropic_LLM"
"""The class name of Anthropic's LLMs."""

_UNSHOWN = (  # Anthropic's server tools: how their type begins, their field of Usage, and their name in a doubt
    ("web_search", "web_searches", "web searches"),
    ("code_execution", "code_executions", "code executions"),
)


def with_asked(call: ModelCall, usage: ReportedUsage) -> ReportedUsage:
    """Return a reported usage with what the call asked for, unless an HTTP answer or a stated cost includes that."""
    if usage.cost is not None or call.answers:
        return usage
    if call.response is None and not (call.asks_more() or usage.counts.get("cache_write_tokens")):
        return usage  # as nearly always
    call.describe()
    asked = call.asked()
    if not asked and not usage.counts.get("cache_write_tokens"):
        return usage if call.response is None else _of_stream(call, usage, {})
    fields = {"model": call.model, **asked, "messages": list(_marks(call.prompt))}
    request = read_parameters(call.base_url or "", "/chat/completions", fields)
    if request is not None:
        usage = completed(usage, request, {})
    return usage if call.response is None else _of_stream(call, usage, asked)


def _marks(prompt: object) -> Iterator[dict[str, Any]]:
    """Yield the cache_control marks of a prompt's messages and blocks, which say how long the cache keeps these."""
    for message in prompt if isinstance(prompt, Iterable) and not isinstance(prompt, str) else ():
        mark = (getattr(message, "additional_kwargs", None) or {}).get("cache_control")
        if isinstance(mark, Mapping):
            yield {"cache_control": dict(mark)}
        for block in getattr(message, "blocks", None) or ():
            ttl = getattr(getattr(block, "cache_control", None), "ttl", None)
            if isinstance(ttl, str):
                yield {"cache_control": {"ttl": ttl}}


def _of_stream(call: ModelCall, usage: ReportedUsage, asked: Mapping[str, Any]) -> ReportedUsage:
    """Return the usage of a stream with doubts about what LlamaIndex leaves out of those of Anthropic's.

    Their first event alone says how fast the call was served and where, and by older servers what was cached.
    """
    if call.provider != ANTHROPIC:
        return usage
    context, doubts = dict(usage.context), [*usage.doubts]
    speed, place = asked.get("speed"), asked.get("inference_geo")
    if isinstance(place, str) and place != "global":
        context.setdefault("inference_geo", place.lower())
    if isinstance(speed, str) and speed != "standard":
        context.setdefault("speed", speed.lower())
        doubts.append(f"the speed {speed!r} was asked for: which one served it, the stream does not say")
    lost = ["cached tokens"] if "cache_read_tokens" not in usage.counts else []
    lost += [said for kind, unit, said in _UNSHOWN if unit not in usage.counts and _declares(asked, kind)]
    doubts += [f"{what}, which LlamaIndex leaves out of streams" for what in lost]
    return usage._replace(context=context, doubts=tuple(doubts))


def _declares(asked: Mapping[str, Any], kind: str) -> bool:
    tools = asked.get("tools")
    listed = tools if isinstance(tools, list | tuple) else ()
    return any(isinstance(tool, Mapping) and str(tool.get("type")).startswith(kind) for tool in listed)
