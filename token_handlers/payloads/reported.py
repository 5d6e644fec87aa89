"""What a payload says: counts, money and the whole that a part belongs to."""

import logging
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from token_handlers.errors import WHY
from token_handlers.payloads.fields import Fields, named, part, text, view
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
    ``cost`` is the USD that the biller itself stated; ``billed`` are the counts that price the call if they differ
    from the counts that it used, as at Cohere.

    ``context`` is what was served and changes the price, beside the tier: ``speed`` (such as "fast"),
    ``inference_geo``, ``region``, ``search_context_size`` ("low", "medium", "high"), ``latency`` (such as
    "optimized"), ``web_search_tool`` ("web_search" or "web_search_preview"), ``cache_retention`` ("24h"), ``prompts``
    (of how many prompts a long input is the sum). ``beside`` are the parts of ``counts`` that another model is billed
    for, as (model, counts). ``doubts`` say, for people, what was billed but cannot be counted or read exactly: each
    makes the call an estimate.
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
    """Whether the payload states tokens, and all are 0: no bill of an answer that has text."""
    counts = reported.counts
    return not (counts.get("input_tokens") or counts.get("output_tokens") or counts.get("rerank_searches"))


def states_no_output(reported: ReportedUsage, model: str | None) -> bool:
    """Whether the payload states an output of 0, without a cost that makes up for it: no bill of an answer with text.

    Google's Gemma is free, and its output is not counted.
    """
    is_zero = reported.counts.get("output_tokens") == 0 and reported.cost is None
    return is_zero and "gemma" not in (model or "")


_INPUT_ALONE = frozenset({"embeddings", "rerank"})


def is_whole(reported: ReportedUsage, operation: str) -> bool:
    """Whether the payload says input and output, or what an operation without output is billed by.

    What it does not say is absent from ``counts``, so half a usage is no bill: the rest has to be estimated.
    """
    counts = reported.counts
    if operation in _INPUT_ALONE:
        return "input_tokens" in counts or "rerank_searches" in counts
    return "input_tokens" in counts and "output_tokens" in counts


MODELS = ("model", "model_name", "modelVersion", "model_version", "modelName", "model_id", "modelId", "modelType")
_PUNCTUATION = re.compile(r"[^a-z0-9]+")


class Hint(NamedTuple):
    """What settles a shape that several providers share: the provider that the caller names, and what stands around.

    ``provider`` is in lower case, letters and digits alone; ``around`` has what encloses the usage, the nearest first.
    """

    provider: str = ""
    around: tuple[Fields, ...] = ()

    def model(self) -> str:
        """The model that answered, in lower case and without its maker; empty where nothing says so."""
        for node in self.around:
            name = text(node, *MODELS)
            if name is not None:
                return name.lower().rpartition("/")[2]
        return ""

    def is_of(self, *providers: str) -> bool:
        """Whether the caller named one of these providers, or one of its products."""
        return self.provider.startswith(providers)


NO_HINT = Hint()


def hint_of(provider: object, *around: Fields) -> Hint:
    """The hint that a caller's ``provider`` gives."""
    return Hint(_PUNCTUATION.sub("", provider.lower()) if isinstance(provider, str) else "", around)


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


def reported(**counts: int | None) -> ReportedUsage | None:
    """What was reported of these counts; None where nothing was."""
    known = {name: number for name, number in counts.items() if number is not None}
    return ReportedUsage(known) if known else None


def with_total(found: ReportedUsage | None, total: int | None, *, left_out: int = 0) -> ReportedUsage | None:
    """A reading with a doubt where the total that its payload states is not what its two sides come to.

    ``left_out`` are input tokens that some servers' totals are without, such as those of a cache.
    """
    if found is None or total is None:
        return found
    tokens, output = found.counts.get("input_tokens"), found.counts.get("output_tokens")
    if tokens is None or output is None or total in (tokens + output, tokens + output - left_out):
        return found
    return found._replace(doubts=(*found.doubts, unexplained(total, tokens, output)))


def unexplained(total: int, tokens: int, output: int) -> str:
    """The doubt of a total that its parts do not explain."""
    return f"total_tokens ({total}) is not input + output ({tokens} + {output})"


def joined(*doubts: tuple[str, ...]) -> tuple[str, ...]:
    """The doubts, each once, in their order."""
    return tuple(dict.fromkeys(doubt for several in doubts for doubt in several))


_NUMBERS = ("_tokens", "Tokens", "TokenCount", "_token_count", "_requests", "_calls", "_queries", "eval_count")


def _shown(value: Any) -> str:
    kind = type(value)
    if kind is int:
        return "2**53 or more" if value >= MOST_TOKENS else f"{value}" if value > -MOST_TOKENS else "-2**53 or less"
    return f"{value:.6g}" if kind is float else f"a {kind.__name__}"


def unreadable(usage: Fields, depth: int = 2) -> Iterator[str]:
    """A doubt for each field of a usage, or of its details, that should be a count and is none.

    A text's words are left out: no text of a payload is kept.
    """
    for name, value in named(usage):
        kind = type(value)
        if kind is int and 0 <= value < MOST_TOKENS:
            continue
        if value is not None and name.endswith(_NUMBERS) and count(value) is None:
            yield f"{name} is no count: {_shown(value)}"
        elif depth and name.endswith(("etails", "creation", "tool_use")) and (inner := view(value)) is not None:
            yield from unreadable(inner, depth - 1)


def warn_once(topic: str, message: str, *args: object) -> None:
    """One warning for the process's life about each topic."""
    if topic not in _warned:
        _warned.add(topic)
        logger.warning("%s (%s)", message % args, WHY)


def clamp_parts(counts: Counts, shape: str) -> tuple[str, ...]:
    """Keep every part within its whole, in place, and return a doubt for each that was not.

    The whole stands as reported, the part is cut to what fits. A part whose whole was not reported is dropped, unless
    it is 0.
    """
    if not any(map(counts.get, _PART_NAMES)):
        return ()
    doubts: list[str] = []
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
                doubts.append(f"{name} ({number}) is more than {whole} has room for ({room})")
                warn_once(
                    f"parts of {shape}",
                    "The %s payload reports %s = %d, more than %s has room for (%d): the latter stands. "
                    "If the payload is another provider's, name it: usage_from_payload(payload, provider=...).",
                    shape, name, number, whole, room,
                )  # fmt: skip
                counts[name] = number = room
            room -= number
    return tuple(doubts)


def usd(value: Any) -> Decimal | None:
    """An amount of money, or None: bools, texts, negatives, NaN and a million dollars a call are none."""
    kind = type(value)
    if kind is bool or not issubclass(kind, (int, float, Decimal)):
        return None
    amount = Decimal(repr(value)) if kind is float else Decimal(value)
    return amount if amount.is_finite() and 0 <= amount <= MOST_USD else None


def reported_cost(fields: Fields) -> Decimal | None:
    """USD that the biller states next to its usage, or in LangChain's ``response_metadata``.

    OpenRouter and gateways: ``cost``. With one's own key (BYOK) that is OpenRouter's fee alone, so the upstream
    provider's bill is added; where it is not stated, the cost is unknown. Perplexity: ``cost.total_cost``.
    xAI: ``cost_in_usd_ticks``, of which 10**10 are one USD. DeepInfra: ``estimated_cost``, which is what it bills.
    """
    ticks = usd_ticks(fields.get("cost_in_usd_ticks"))
    if ticks is not None:
        return ticks
    stated = fields.get("cost")
    if stated is None:
        return usd(fields.get("estimated_cost"))
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
    if upstream is None and not cost and not (text(fields, "model_name") or ":free").endswith(":free"):
        return None  # and one of 0 of a model that is not free is no price
    return cost + upstream if upstream is not None and upstream > cost else cost


_TRAFFIC = {
    "ON_DEMAND": None,
    "TRAFFIC_TYPE_UNSPECIFIED": None,
    "ON_DEMAND_FLEX": "flex",
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_OFFPEAK": "offpeak",
}
_NUMBERED_TRAFFIC = {0: None, 1: None, 2: "provisioned_throughput"}  # by protocol buffers that keep enums as numbers


def served_tier(fields: Fields) -> str | None:
    """The service tier that served the call, in lower case: what was asked for ("auto") is none."""
    tier = text(fields, "service_tier", "serviceTier") or text(part(fields, "serviceTier"), "type")
    if tier is None:
        tier = _tier_of_traffic(fields)
    return None if tier is None or tier == "auto" else tier.lower()


def _tier_of_traffic(fields: Fields) -> str | None:
    """The tier of Vertex AI's traffic type; of one that is not known here, its own name."""
    fields = part(part(fields, "extra_properties"), "google") or fields  # at its OpenAI-like address
    named, numbered = text(fields, "trafficType", "traffic_type"), first(fields, "trafficType", "traffic_type")
    if named is not None:
        return _TRAFFIC.get(named, named)
    return None if numbered is None else _NUMBERED_TRAFFIC.get(numbered, f"traffic type {numbered}")


_STANDARD = frozenset({"standard", "default", "normal"})


def served_context(fields: Fields) -> dict[str, str]:
    """What a usage or response says of place, speed and size where it has a price; see `ReportedUsage`."""
    found: dict[str, str] = {}
    speed = text(fields, "speed")
    if speed is not None and speed.lower() not in _STANDARD:
        found["speed"] = speed.lower()
    geo = text(fields, "inference_geo")
    if geo is not None and geo not in ("global", "not_available"):
        found["inference_geo"] = geo.lower()
    size = text(fields, "search_context_size")
    if size in ("low", "medium", "high"):
        found["search_context_size"] = size
    if text(fields, "prompt_cache_retention") == "24h":
        found["cache_retention"] = "24h"
    latency = text(part(fields, "performanceConfig"), "latency")
    if latency is not None and latency.lower() not in _STANDARD:
        found["latency"] = latency.lower()
    return found
