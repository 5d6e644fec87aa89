"""Amazon Bedrock: Converse, whose input tokens leave cache reads and writes out, and what InvokeModel's models say."""

from collections.abc import Iterator
from typing import Any

from token_handlers.payloads.fields import Fields, entries, items, named, part, text, views
from token_handlers.payloads.openai import inclusive
from token_handlers.payloads.reported import Hint, ReportedUsage, add, count, first, reported, with_total

_READ = ("cacheReadInputTokens", "cacheReadInputTokenCount")
_WRITE = ("cacheWriteInputTokens", "cacheWriteInputTokenCount")


def read_converse(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Converse and Nova; also Cognigy's and any other plain pair of ``inputTokens`` and ``outputTokens``."""
    tokens, output = count(usage.get("inputTokens")), count(usage.get("outputTokens"))
    if tokens is None and output is None:
        return None
    read, write = first(usage, *_READ), first(usage, *_WRITE)
    total = count(usage.get("totalTokens"))
    ttl = {text(each, "ttl"): first(each, "inputTokens") for each in items(usage, "cacheDetails")}
    cached = (read or 0) + (write or 0)
    found = reported(
        input_tokens=inclusive(tokens, cached, output, total, excludes=True),
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_5m_tokens=ttl.get("5m"),
        cache_write_1h_tokens=ttl.get("1h"),
    )
    return with_total(found, total, left_out=cached)


def read_invocation_metrics(event: Fields, hint: Hint) -> ReportedUsage | None:
    """The last event of an InvokeModel stream; its input leaves cache reads and writes out, too."""
    metrics = part(event, "amazon-bedrock-invocationMetrics")
    tokens, output = first(metrics, "inputTokenCount"), first(metrics, "outputTokenCount")
    read, write = first(metrics, _READ[1]), first(metrics, _WRITE[1])
    return reported(
        input_tokens=None if tokens is None else add(tokens, read, write),
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=write,
    )


def read_invoke_headers(headers: Fields, hint: Hint) -> ReportedUsage | None:
    """InvokeModel's HTTP headers, texts as all headers are: the only usage that some models there report."""
    tokens, output, read, write = (
        _digits(headers.get(f"x-amzn-bedrock-{key}-token-count"))
        for key in ("input", "output", "cache-read-input", "cache-write-input")
    )
    return reported(
        input_tokens=None if tokens is None else add(tokens, read, write),
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=write,
    )


def _digits(value: Any) -> int | None:
    is_number = issubclass(type(value), str) and str.isascii(value) and str.isdigit(value) and str.__len__(value) < 17
    return count(int(value)) if is_number else None


def read_titan(response: Fields, hint: Hint) -> ReportedUsage | None:
    """Titan text and embeddings."""
    prompt = count(response.get("inputTextTokenCount"))
    if prompt is None:
        return None
    outputs = [first(result, "tokenCount") for result in items(response, "results")]
    return reported(input_tokens=prompt, output_tokens=add(first(response, "totalOutputTextTokenCount"), *outputs))


def read_llama(response: Fields, hint: Hint) -> ReportedUsage | None:
    """Meta's Llama."""
    output = count(response.get("generation_token_count"))
    if output is None:
        return None
    return reported(input_tokens=count(response.get("prompt_token_count")), output_tokens=output)


GUARDED = "a guardrail's units, which Bedrock bills beside the model"


def read_bedrock_extras(response: Fields, hint: Hint) -> ReportedUsage | None:
    """Guardrails and server tools, which Bedrock bills beside the model."""
    doubts = []
    units = [part(part(each, "invocationMetrics"), "usage") for each in _assessments(response)]
    if any(count(value) and name.endswith("Units") for unit in units for name, value in named(unit)):
        doubts.append(GUARDED)
    if any(count(value) for _, value in named(part(response, "serverToolUsage"))):
        doubts.append("server tools, which Bedrock bills beside the model")
    return ReportedUsage({}, doubts=tuple(doubts)) if doubts else None


def _assessments(response: Fields) -> Iterator[Fields]:
    """What each guardrail made of the prompt and of the answers, by its id."""
    guardrail = part(part(response, "trace"), "guardrail")
    yield guardrail
    for _, assessed in named(part(guardrail, "inputAssessment")):
        yield from views([assessed])
    for _, assessed in named(part(guardrail, "outputAssessments")):
        yield from views(entries(assessed) or [])
