"""Cohere, which bills other numbers than its models read and wrote."""

from token_handlers.payloads.fields import Fields, part
from token_handlers.payloads.reported import Counts, Hint, ReportedUsage, add, first, reported


def read_cohere(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Chat (v1 ``meta``, v2 ``usage``), embeddings and reranking: the tokens used, or the billed units alone.

    The tokens include Cohere's own prompt template and what its cache held, which the billed units leave out.
    """
    tokens = part(usage, "tokens")
    prompt, output = _input(tokens), first(tokens, "output_tokens", "outputTokens")
    if prompt is None and output is None:
        billed = billed_units(usage)
        return None if billed is None else ReportedUsage(billed)
    cached = first(usage, "cached_tokens", "cachedTokens")
    return reported(input_tokens=prompt, output_tokens=output, cache_read_tokens=cached)


def billed_units(usage: Fields) -> Counts | None:
    """What Cohere bills, which prices the call."""
    billed = part(usage, "billed_units", "billedUnits")
    images, searches = first(billed, "image_tokens", "imageTokens"), first(billed, "search_units", "searchUnits")
    tokens, output = add(_input(billed), images), first(billed, "output_tokens", "outputTokens")
    if tokens is None and output is None and searches is None:
        if first(billed, "images") is None:
            return None
        tokens = 0  # images alone, which `read_billed_extras` tells
    found = reported(
        input_tokens=tokens, output_tokens=output, input_image_tokens=images or None, rerank_searches=searches
    )
    return None if found is None else found.counts


def _input(tokens: Fields) -> int | None:
    return first(tokens, "input_tokens", "inputTokens")


def read_lost_units(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """A chat's usage of a model of Cohere's, as gateways give it: what Cohere bills is not what the model read."""
    if first(usage, "prompt_tokens") is None or not hint.model().startswith("command"):
        return None
    return ReportedUsage({}, doubts=(LOST_UNITS,)) if billed_units(usage) is None else None


LOST_UNITS = "the units that Cohere bills, in place of which tokens are counted"


def read_billed_extras(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """Billed units that are no tokens and no searches: images without their tokens, and classifications."""
    billed = part(usage, "billed_units", "billedUnits")
    doubts = [f"{number} billed {name}" for name in ("images", "classifications") if (number := first(billed, name))]
    if first(billed, "image_tokens", "imageTokens"):
        doubts = [doubt for doubt in doubts if not doubt.endswith("images")]
    return ReportedUsage({}, doubts=tuple(doubts)) if doubts else None
