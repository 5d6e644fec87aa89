"""What a payload says: counts, money and the whole that a part belongs to."""

import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from token_handlers.guide import WHY
from token_handlers.payloads.fields import Fields, part, text
from token_handlers.usage import PARTS

logger = logging.getLogger("token_handlers")

MOST_TOKENS = 2**53  # what a JSON number carries exactly
MOST_USD = 10**6
_TICKS_PER_USD = 10**10
_PART_NAMES = tuple(dict.fromkeys(name for parts, _ in PARTS for name in parts))
_warned: set[str] = set()


Counts = dict[str, int]
NO_CONTEXT: Mapping[str, str] = {}


class ReportedUsage(NamedTuple):
    """What one payload reports.

    ``counts`` are keyed by Usage's fields and inclusive: a reported 0 is there as 0, what was not reported is absent.
    ``cost`` is USD that the biller itself stated; ``billed`` are the counts that price the call where they are
    others than those it used, which is so at Cohere.

    ``context`` is what was served and changes the price, beside the tier: ``speed`` ("fast"), ``inference_geo``,
    ``region``, ``search_context_size`` ("low", "medium", "high"), ``latency`` ("optimized"), ``web_search_tool``
    ("web_search" or "web_search_preview"), ``cache_retention`` ("24h"). ``beside`` are the parts of ``counts`` that
    another model is billed for, as (model, counts). ``doubts`` say, for people, what was billed but cannot be
    counted or read exactly: each makes the call an estimate.
    """

    counts: Counts
    cost: Decimal | None = None
    service_tier: str | None = None
    model: str | None = None
    billed: Counts | None = None
    context: Mapping[str, str] = NO_CONTEXT
    beside: tuple[tuple[str | None, Counts], ...] = ()
    doubts: tuple[str, ...] = ()


def is_empty(reported: ReportedUsage) -> bool:
    """Whether the payload states tokens, and 0 of them all: no bill of an answer that has text."""
    return not any(reported.counts.get(name, 0) for name in ("input_tokens", "output_tokens", "rerank_searches"))


_INPUT_ALONE = frozenset({"embeddings", "rerank"})


def is_whole(reported: ReportedUsage, operation: str) -> bool:
    """Whether the payload says input and output, or what an operation without output is billed by.

    What it does not say is absent from ``counts``, so half a usage is no bill: the rest has to be estimated.
    """
    counts = reported.counts
    if operation in _INPUT_ALONE:
        return "input_tokens" in counts or "rerank_searches" in counts
    return "input_tokens" in counts and "output_tokens" in counts


def count(value: Any) -> int | None:
    """A number of tokens, or None where it is none.

    Integral floats such as 12.0 count, as JSON has one number type; bools, texts, fractions, negatives, NaN and
    numbers of 2**53 and more don't.
    """
    kind = type(value)
    if kind is int:
        return value if 0 <= value < MOST_TOKENS else None
    if kind is bool or not issubclass(kind, (int, float)):
        return None
    if issubclass(kind, int):
        return count(int.__int__(value))
    return count(float.__int__(value)) if float.is_integer(value) else None


def first(fields: Fields, *keys: str) -> int | None:
    """The first of the named fields that is a count."""
    for key in keys:
        found = count(fields.get(key))
        if found is not None:
            return found
    return None


def add(*numbers: int | None) -> int | None:
    """The sum of what is known, None where nothing is."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def known(**counts: int | None) -> dict[str, int]:
    """The counts that were reported."""
    return {name: number for name, number in counts.items() if number is not None}


def warn_once(topic: str, message: str, *args: object) -> None:
    """One warning for the process's life about each topic."""
    if topic not in _warned:
        _warned.add(topic)
        logger.warning("%s (%s)", message % args, WHY)


def clamp_parts(counts: dict[str, int], shape: str) -> None:
    """Keep every part within its whole, in place: the whole stands as reported, the part is cut to what fits.

    A part whose whole was not reported is dropped, unless it is 0.
    """
    if not any(map(counts.get, _PART_NAMES)):
        return
    for parts, whole in PARTS:
        room = counts.get(whole)
        for name in parts:
            number = counts.get(name)
            if not number:
                continue
            if room is None:
                del counts[name]
                continue
            if number > room:
                warn_once(
                    f"parts of {shape}",
                    "The %s payload reports %s = %d, more than %s has room for (%d): the latter stands. "
                    "If the payload is another provider's, name it: usage_from_payload(payload, provider=...).",
                    shape, name, number, whole, room,
                )  # fmt: skip
                counts[name] = number = room
            room -= number


def usd(value: Any) -> Decimal | None:
    """An amount of money, or None: bools, texts, negatives, NaN and a million dollars a call are none."""
    kind = type(value)
    if kind is bool or not issubclass(kind, (int, float, Decimal)):
        return None
    amount = Decimal(repr(value)) if kind is float else Decimal(value)
    return amount if amount.is_finite() and 0 <= amount <= MOST_USD else None


def reported_cost(fields: Fields) -> Decimal | None:
    """USD that the provider states next to its usage, or in LangChain's ``response_metadata``.

    OpenRouter and gateways: ``cost``. With one's own key (BYOK) that is OpenRouter's fee alone, so the upstream
    provider's bill is added; where it is not stated, the cost is unknown. Perplexity: ``cost.total_cost``.
    xAI: ``cost_in_usd_ticks``, of which 10**10 are one USD.
    """
    ticks = usd_ticks(fields.get("cost_in_usd_ticks"))
    if ticks is not None:
        return ticks
    stated = fields.get("cost")
    if stated is None:
        return None
    cost = usd(stated)
    if cost is None:
        return usd(part(fields, "cost").get("total_cost"))
    return _with_upstream(cost, fields)


def usd_ticks(value: Any) -> Decimal | None:
    """XAI's ticks as USD."""
    ticks = count(value)
    return None if ticks is None else usd(Decimal(ticks) / _TICKS_PER_USD)


def _with_upstream(cost: Decimal, fields: Fields) -> Decimal | None:
    own_key = fields.get("is_byok")
    if own_key is False:
        return cost
    upstream = usd(part(fields, "cost_details").get("upstream_inference_cost"))
    if own_key is True:
        return None if upstream is None else cost + upstream
    # LangChain drops is_byok; a price below what the provider upstream took can only be a fee
    return cost + upstream if upstream is not None and upstream > cost else cost


def served_tier(fields: Fields) -> str | None:
    """The service tier that served the call, in lower case; Anthropic's fast mode is the tier "fast"."""
    if text(fields, "speed") == "fast":
        return "fast"
    tier = text(fields, "service_tier", "serviceTier") or text(part(fields, "serviceTier"), "type")
    traffic = text(fields, "trafficType", "traffic_type")
    if tier is None and traffic is not None:
        tier = {"ON_DEMAND_FLEX": "flex", "ON_DEMAND_PRIORITY": "priority"}.get(traffic)
    return None if tier is None or tier == "auto" else tier.lower()
