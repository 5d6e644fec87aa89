"""Amazon Bedrock: Converse, whose input tokens leave cache reads and writes out, and what InvokeModel's models say."""

from typing import Any

from token_handlers.payloads.fields import Fields, items, part, text
from token_handlers.payloads.openai import inclusive
from token_handlers.payloads.reported import add, count, first, known

_READ = ("cacheReadInputTokens", "cacheReadInputTokenCount")
_WRITE = ("cacheWriteInputTokens", "cacheWriteInputTokenCount")


def read_converse(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """Converse and Nova; also Cognigy's and any other plain pair of ``inputTokens`` and ``outputTokens``."""
    tokens, output = count(usage.get("inputTokens")), count(usage.get("outputTokens"))
    if tokens is None and output is None:
        return None
    read, write = first(usage, *_READ), first(usage, *_WRITE)
    total = count(usage.get("totalTokens"))
    ttl = {text(each, "ttl"): first(each, "inputTokens") for each in items(usage, "cacheDetails")}
    return known(
        input_tokens=inclusive(tokens, (read or 0) + (write or 0), output, total, excludes=True),
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_5m_tokens=ttl.get("5m"),
        cache_write_1h_tokens=ttl.get("1h"),
    )


def read_invocation_metrics(event: Fields, provider: str | None) -> dict[str, int] | None:
    """The last event of an InvokeModel stream; its input leaves cache reads and writes out, too."""
    metrics = part(event, "amazon-bedrock-invocationMetrics")
    tokens, output = first(metrics, "inputTokenCount"), first(metrics, "outputTokenCount")
    read, write = first(metrics, _READ[1]), first(metrics, _WRITE[1])
    return known(
        input_tokens=None if tokens is None else add(tokens, read, write),
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=write,
    )


def read_invoke_headers(headers: Fields, provider: str | None) -> dict[str, int] | None:
    """InvokeModel's HTTP headers, texts as all headers are: the only usage that some models there report."""
    names = {"input": "input_tokens", "output": "output_tokens"}
    return {
        name: number
        for key, name in names.items()
        if (number := _digits(headers.get(f"x-amzn-bedrock-{key}-token-count"))) is not None
    }


def _digits(value: Any) -> int | None:
    is_number = issubclass(type(value), str) and str.isascii(value) and str.isdigit(value) and str.__len__(value) < 17
    return count(int(value)) if is_number else None


def read_titan(response: Fields, provider: str | None) -> dict[str, int] | None:
    """Titan text and embeddings."""
    prompt = count(response.get("inputTextTokenCount"))
    if prompt is None:
        return None
    outputs = [first(result, "tokenCount") for result in items(response, "results")]
    return known(input_tokens=prompt, output_tokens=add(first(response, "totalOutputTextTokenCount"), *outputs))


def read_llama(response: Fields, provider: str | None) -> dict[str, int] | None:
    """Meta's Llama."""
    output = count(response.get("generation_token_count"))
    if output is None:
        return None
    return known(input_tokens=count(response.get("prompt_token_count")), output_tokens=output)
