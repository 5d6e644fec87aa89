"""Cohere, which bills other numbers than its models read and wrote."""

from token_handlers.payloads.fields import Fields, part
from token_handlers.payloads.reading import add, first, known


def read_cohere(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """Chat (v1 ``meta``, v2 ``usage``), embeddings and reranking: the counts are the billed units.

    Billed units leave out Cohere's own prompt template and what its cache held, so ``cached_tokens``, a part of
    ``tokens``, only counts where ``tokens`` is all there is.
    """
    billed = part(usage, "billed_units", "billedUnits")
    images, searches = first(billed, "image_tokens", "imageTokens"), first(billed, "search_units", "searchUnits")
    tokens, output = add(_input(billed), images), first(billed, "output_tokens", "outputTokens")
    if tokens is None and output is None and searches is None:
        return _read_tokens(usage)
    return known(input_tokens=tokens, output_tokens=output, input_image_tokens=images or None, rerank_searches=searches)


def _read_tokens(usage: Fields) -> dict[str, int] | None:
    tokens = part(usage, "tokens")
    prompt, output = _input(tokens), first(tokens, "output_tokens", "outputTokens")
    if prompt is None and output is None:
        return None
    return known(
        input_tokens=prompt, output_tokens=output, cache_read_tokens=first(usage, "cached_tokens", "cachedTokens")
    )


def _input(tokens: Fields) -> int | None:
    return first(tokens, "input_tokens", "inputTokens")
