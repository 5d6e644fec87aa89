"""Cohere, which bills other numbers than its models read and wrote."""

from token_handlers.payloads.fields import Fields, part
from token_handlers.payloads.reported import add, first, known


def read_cohere(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """Chat (v1 ``meta``, v2 ``usage``), embeddings and reranking: the tokens used, or the billed units alone.

    The tokens include Cohere's own prompt template and what its cache held, which the billed units leave out.
    """
    tokens = part(usage, "tokens")
    prompt, output = _input(tokens), first(tokens, "output_tokens", "outputTokens")
    if prompt is None and output is None:
        return read_billed_units(usage)
    cached = first(usage, "cached_tokens", "cachedTokens")
    return known(input_tokens=prompt, output_tokens=output, cache_read_tokens=cached)


def read_billed_units(usage: Fields) -> dict[str, int] | None:
    """What Cohere bills, which prices the call."""
    billed = part(usage, "billed_units", "billedUnits")
    images, searches = first(billed, "image_tokens", "imageTokens"), first(billed, "search_units", "searchUnits")
    tokens, output = add(_input(billed), images), first(billed, "output_tokens", "outputTokens")
    if tokens is None and output is None and searches is None:
        return None
    return known(input_tokens=tokens, output_tokens=output, input_image_tokens=images or None, rerank_searches=searches)


def _input(tokens: Fields) -> int | None:
    return first(tokens, "input_tokens", "inputTokens")
