"""Anthropic's usage, whose input tokens leave cache reads and writes out, and its stream events."""

from token_handlers.payloads.fields import Fields, items, part, text
from token_handlers.payloads.openai import inclusive, tool_fees
from token_handlers.payloads.reported import add, count, first, known, warn_once

_OPENAI = frozenset({"openai", "azure", "azure-openai", "azure_openai"})


def read_messages(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """Messages, and every plain pair of ``input_tokens`` and ``output_tokens``.

    Compaction is billed but left out of the top-level fields, so its iterations are added. An advisor is another
    model, billed at its own price: its tokens stay out, with a warning once.
    """
    counts = _read_fields(usage, provider)
    if counts is None:
        return None
    for iteration in items(usage, "iterations"):
        kind = text(iteration, "type")
        if kind == "compaction":
            for name, number in (_read_fields(iteration, provider) or {}).items():
                counts[name] = counts.get(name, 0) + number
        elif kind == "advisor_message":
            warn_once(
                "advisor",
                "Anthropic's advisor %s used %s input and %s output tokens that the call's usage leaves out, as they "
                "have a price of their own: record them as a call of that model.",
                text(iteration, "model"), first(iteration, "input_tokens"), first(iteration, "output_tokens"),
            )  # fmt: skip
    return counts


def _read_fields(usage: Fields, provider: str | None) -> dict[str, int] | None:
    tokens, output = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    if tokens is None and output is None:
        return None
    creation = part(usage, "cache_creation")
    short, long = first(creation, "ephemeral_5m_input_tokens"), first(creation, "ephemeral_1h_input_tokens")
    read, write = first(usage, "cache_read_input_tokens"), first(usage, "cache_creation_input_tokens")
    if write is None:
        write = add(short, long)
    total = count(usage.get("total_tokens"))
    return known(
        input_tokens=inclusive(tokens, (read or 0) + (write or 0), output, total, excludes=provider not in _OPENAI),
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_5m_tokens=short,
        cache_write_1h_tokens=long,
        reasoning_tokens=first(part(usage, "output_tokens_details"), "thinking_tokens"),
        **tool_fees(usage),
    )


_EVENT_FIELDS = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation",
    "output_tokens_details", "server_tool_use", "iterations", "service_tier", "speed",
)  # fmt: skip


def merge_events(events: list[Fields]) -> dict[str, object] | None:
    """A Messages stream as one message: what ``message_start`` says, overruled by the last ``message_delta``.

    Deltas are cumulative; older ones state the output alone.
    """
    usage: dict[str, object] = {}
    model = None
    for event in events:
        kind = text(event, "type")
        if kind == "message_start":
            message = part(event, "message")
            model = text(message, "model")
            usage |= _stated(part(message, "usage"))
        elif kind == "message_delta":
            usage |= _stated(part(event, "usage"))
    return {"usage": usage, "model": model} if usage else None


def _stated(usage: Fields) -> dict[str, object]:
    return {key: value for key in _EVENT_FIELDS if (value := usage.get(key)) is not None}
