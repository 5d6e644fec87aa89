"""Anthropic's usage, whose input tokens leave cache reads and writes out, its content, and its stream events."""

from collections.abc import Iterator

from token_handlers.payloads.fields import Fields, items, named, part, text, view
from token_handlers.payloads.openai import inclusive, lifetimes
from token_handlers.payloads.reported import Counts, Hint, ReportedUsage, add, count, first, reported, with_total

_OPENAI = frozenset({"openai", "azure", "azureopenai"})
UNSTATED_LIFETIME = "cache writes whose lifetime the answer does not state"
"""The doubt of writes that may be kept five minutes or an hour, for callers who know it from the prompt."""


def read_messages(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Messages, and every plain pair of ``input_tokens`` and ``output_tokens``.

    The top-level fields are those of the attempts of the model that answered. What else ``iterations`` lists is
    billed beside them: a compaction by the same model, an advisor and each fallback attempt by a model of its own.
    """
    found = _read_fields(usage, hint)
    iterations = list(items(usage, "iterations"))
    return found if found is None or not iterations else _with_iterations(found, iterations, hint)


_LIFETIMES = frozenset({"cache_write_5m_tokens", "cache_write_1h_tokens"})
_ATTEMPTS = frozenset({"message", "fallback_message"})
_BILLED_ALWAYS = frozenset({"compaction", "advisor_message"})


def _with_iterations(found: ReportedUsage, iterations: list[Fields], hint: Hint) -> ReportedUsage:
    counts, beside, doubts, prompts = dict(found.counts), [], [], 0
    fallbacks = [text(each, "model") for each in iterations if text(each, "type") == "fallback_message"]
    model = fallbacks[-1] if fallbacks else None
    served = hint.model() if model is None else model.lower()
    for each in iterations:
        kind, own = text(each, "type"), text(each, "model")
        other = own is not None and own.lower() != served
        reading = _read_fields(each, hint)
        if reading is None or (kind in _ATTEMPTS and not (other and fallbacks)):
            prompts += 1
            continue
        if kind not in _BILLED_ALWAYS and not reading.counts.get("output_tokens"):
            continue  # an attempt that declined before it wrote anything costs nothing
        if reading.counts.get("cache_write_tokens") and _LIFETIMES.isdisjoint(reading.counts):
            doubts += _take_lifetime(reading.counts, found.counts, is_own=kind != "advisor_message")
        for name, number in reading.counts.items():
            counts[name] = counts.get(name, 0) + number
        if kind not in _BILLED_ALWAYS and kind not in _ATTEMPTS:
            doubts.append("an iteration of a kind that is not known here, counted beside the others")
        # its own prompt decides whether it costs what a long one does, a compaction's by the same model, too
        beside.append((own if other else None, reading.counts))
        if kind == "advisor_message" and own is None:
            doubts.append("an advisor was asked whose model the answer does not name")
    # whether the steps of a price are those of the sum or of each prompt, Anthropic's page does not say
    is_long = prompts > 1 and found.counts.get("input_tokens", 0) > _LOWEST_STEP
    context = {"prompts": str(prompts)} if is_long else found.context
    return found._replace(counts=counts, model=model, context=context, beside=tuple(beside), doubts=tuple(doubts))


_LOWEST_STEP = 100_000


def _take_lifetime(written: Counts, answer: Counts, *, is_own: bool) -> list[str]:
    """Take the one lifetime of the answer's own writes for an iteration that does not state it, in place; else doubt.

    ``is_own``: it has the marks of the answer's prompt; an advisor's cache has its own. Where the answer states none,
    the request may, which says so for both.
    """
    if _LIFETIMES.isdisjoint(answer):
        return []
    stated = [name for name in sorted(_LIFETIMES) if answer.get(name)]
    if len(stated) == 1:
        written[stated[0]] = written["cache_write_tokens"]
    return [] if len(stated) == 1 and is_own else [UNSTATED_LIFETIME]


def _read_fields(usage: Fields, hint: Hint) -> ReportedUsage | None:
    tokens, output = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    if tokens is None and output is None:
        return None
    kept = lifetimes(usage)
    read, write = first(usage, "cache_read_input_tokens"), first(usage, "cache_creation_input_tokens")
    if write is None:
        write = add(*kept.values())
    total = count(usage.get("total_tokens"))
    excludes = hint.provider not in _OPENAI
    cached = (read or 0) + (write or 0)
    found = reported(
        input_tokens=inclusive(tokens, cached, output, total, excludes=excludes),
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=write,
        **kept,
        reasoning_tokens=first(part(usage, "output_tokens_details"), "thinking_tokens"),
    )
    return with_total(found, total, left_out=cached)


def read_server_tools(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Server tools that are billed per call, as Anthropic and OpenRouter count them; one that is not known is a doubt.

    Fetching pages and searching for tools cost the tokens that they add alone.
    """
    tools = part(usage, "server_tool_use", "server_tool_use_details")
    found = reported(
        web_searches=first(tools, "web_search_requests"), code_executions=first(tools, "code_execution_requests")
    )
    others = tuple(
        f"{number} {name}"
        for name, value in named(tools)
        if name.endswith("_requests") and name not in _TOOLS and (number := count(value))
    )
    return (found or ReportedUsage({}))._replace(doubts=others) if others else found


_TOOLS = frozenset({"web_search_requests", "code_execution_requests", "web_fetch_requests", "tool_search_requests"})


_BESIDE = {
    "compaction": "a compaction, whose tokens the answer does not state",
    "fallback": "an attempt of another model, whose tokens the answer does not state",
    "advisor_tool_result": "an advisor, whose tokens the answer does not state",
}
_EXECUTIONS = frozenset({"code_execution", "bash_code_execution", "text_editor_code_execution"})


def read_content(message: Fields, hint: Hint) -> ReportedUsage | None:
    """What the blocks of an answer show of server tools and iterations, for a usage that has lost them.

    A search that failed is not billed, nor code that filtered what a search found. A refusal without output costs
    nothing, though it states its prompt.
    """
    usage = part(message, "usage")
    if text(message, "stop_reason") == "refusal" and count(usage.get("output_tokens")) == 0:
        free = ReportedUsage({}, billed=_billed_beside(usage, hint))
        return free if _sells_itself(hint) else free._replace(doubts=(_ELSEWHERE,))
    kinds: dict[str | None, int] = {}
    executions = filters = 0
    for block in items(message, "content"):
        kind = text(block, "type")
        if kind == "web_search_tool_result" and view(block.get("content")) is not None:
            continue  # a failure; what was found is a list
        kinds[kind] = kinds.get(kind, 0) + 1
        executions += kind == "server_tool_use" and text(block, "name") in _EXECUTIONS
        filters += (text(part(block, "caller"), "type") or "").startswith("code_execution")
    # OpenAI's compactions have a block of that name, and are in its usage
    lost = usage.get("iterations") is None and not hint.is_of("openai", "azure")
    doubts = _lost_iterations(kinds) if lost else ()
    searches = kinds.get("web_search_tool_result")
    found = reported(web_searches=searches, code_executions=(executions or None) if not filters else None)
    return ReportedUsage({}, doubts=tuple(doubts)) if found is None else found._replace(doubts=tuple(doubts))


_ELSEWHERE = "a refusal without output, which is free with Anthropic itself"


def _sells_itself(hint: Hint) -> bool:
    """Whether Anthropic itself answered, by the names that frameworks have for it, or nobody knows who."""
    other = any(seller in hint.provider for seller in ("bedrock", "vertex", "mantle", "foundry"))
    return not hint.provider or (hint.is_of("anthropic") and not other)


def _billed_beside(usage: Fields, hint: Hint) -> Counts:
    """What a refusal without output is billed for: nothing but other attempts that wrote something, and compactions."""
    reading = read_messages(usage, hint)
    billed: Counts = {"input_tokens": 0, "output_tokens": 0}
    for _, part_of_it in () if reading is None else reading.beside:
        for name, number in part_of_it.items():
            billed[name] = billed.get(name, 0) + number
    return billed


def _lost_iterations(kinds: dict[str | None, int]) -> Iterator[str]:
    return (doubt for kind, doubt in _BESIDE.items() if kind in kinds)


_EVENT_FIELDS = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation",
    "output_tokens_details", "server_tool_use", "iterations", "service_tier", "speed", "inference_geo",
    "cost", "cost_details", "is_byok",
)  # fmt: skip


def merge_events(events: list[Fields]) -> dict[str, object] | None:
    """A Messages stream as one message: what ``message_start`` says, overruled by the last ``message_delta``.

    Deltas are cumulative; older ones state the output alone. The output of ``message_start`` is no count of what
    will be written: without a delta the output is not stated.
    """
    usage: dict[str, object] = {}
    message: dict[str, object] = {}
    blocks: list[Fields] = []
    ended = False
    for event in events:
        kind = text(event, "type")
        if kind == "message_start":
            message["model"] = text(part(event, "message"), "model")
            usage |= _stated(part(part(event, "message"), "usage"))
        elif kind == "content_block_start":
            blocks.append(part(event, "content_block"))
        elif kind == "message_delta":
            stated = _stated(part(event, "usage"))
            usage |= stated
            ended |= "output_tokens" in stated
            message["stop_reason"] = text(part(event, "delta"), "stop_reason")
    if not ended:
        usage.pop("output_tokens", None)
    return {"usage": usage, "content": blocks, **message} if usage else None


def _stated(usage: Fields) -> dict[str, object]:
    return {key: value for key in _EVENT_FIELDS if (value := usage.get(key)) is not None}
