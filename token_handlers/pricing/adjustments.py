"""Factors on a model's token rates: the service tier, the speed and the place that served a call.

A tier or a place that has no known rate leaves the standard rate, and a doubt. Fees of tools are never multiplied.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date
from decimal import Decimal
from typing import NamedTuple

from genai_prices.types import ModelInfo, StartDateConstraint

from token_handlers.pricing.rates import Rate, RateSheet, amount_of, increased, scaled, token_keys
from token_handlers.pricing.served import Served, version

_HALF = Decimal("0.5")
_TENTH_MORE = Decimal("1.1")


class Factor(NamedTuple):
    """A multiple of the standard token rates that a seller bills, and where it is from.

    With a ``doubt`` it is an estimate. ``models`` is a pattern of names, ``tier`` a service tier.
    """

    seller: str
    models: str
    tier: str
    factor: Decimal
    source: str
    doubt: str = ""
    since: date | None = None

    @property
    def says(self) -> str:
        """What is billed, in words."""
        return f"{self.factor:f} of the standard rate for the service tier {self.tier}"


TIER_FACTORS = (
    Factor("openai", r"gpt-6-astra|gpt-6\.1-sol", "ultrafast", Decimal(6), "OpenAI's guide to fast mode"),
    Factor("openai", "gpt-5.6-sol", "ultrafast", Decimal(6), "OpenAI's guide to fast mode", "ultrafast is a preview"),
    Factor("anthropic", "claude", "batch", _HALF, "Anthropic's pricing page: half in the Message Batches API"),
    Factor("google", "gemini", "flex", _HALF, "Google's pricing page"),
    Factor("google", "gemini", "batch", _HALF, "Google's pricing page"),
    Factor("google", "gemini", "priority", Decimal("1.8"), "Google's pricing page: 1.75 to 2 in other places"),
    Factor("google", "claude", "batch", _HALF, "Google's pricing page", "half the standard rate is assumed for batch"),
    Factor("groq", "", "flex", Decimal(1), "Groq's documentation: the price of on-demand"),
    Factor("x-ai", "grok", "batch", Decimal("0.8"), "xAI's pricing page", "a fifth off is assumed for batch"),
    Factor("mistral", "", "batch", _HALF, "Mistral's pricing page", "half the standard rate is assumed for batch"),
    Factor("together", "", "batch", _HALF, "Together's pricing page", "half the standard rate is assumed for batch"),
    Factor("azure", "", "batch", _HALF, "OpenAI's rates", "half the standard rate is assumed for batch"),
    Factor("azure", "", "flex", _HALF, "OpenAI's rates", "half the standard rate is assumed for flex"),
    # most models of Amazon's price list; some differ by up to a tenth
    Factor("aws", "", "flex", _HALF, "Amazon's price list", "half the standard rate is assumed for flex"),
    Factor("aws", "", "batch", _HALF, "Amazon's price list", "half the standard rate is assumed for batch"),
    Factor(
        "aws",
        "",
        "priority",
        Decimal("1.75"),
        "Amazon's price list",
        "1.75 of the standard rate is assumed for priority",
    ),
    Factor(
        "fireworks",
        "",
        "priority",
        Decimal("1.25"),
        "Fireworks' page",
        "1.25 of the standard rate is assumed for priority",
    ),
)
"""Tiers that genai-prices has no rates of, the more particular rule first."""

_VERTEX_SINCE = date(2026, 7, 1)
_VERTEX_GEMINI = re.compile(r"gemini-(3\.1-flash-(lite|image)|3\.5-|3\.[678]-|4-)")
_VERTEX_PLAIN = re.compile(r"gemini-(1|2|3-flash|3\.1-pro)")
_OPENAI_SINCE = date(2026, 3, 5)
_OPENAI_OLDER = re.compile(
    r"(ft:)?(gpt-(3|4|5(?![.\d])|5\.[0-3])|o\d|chatgpt-4o|text-|codex-mini|computer-use|davinci|babbage|whisper|tts"
    r"|gpt-(audio|realtime(?!-2)|image-1)|omni-moderation)"
)


def price_context(served: Served) -> dict[str, str]:
    """Return genai-prices' context of a call, which has other names for the tiers batch and fast too."""
    tier = served.tier
    other = {"batch": {"processing": "batch"}, "fast": {"speed": "fast"}}.get(tier, {})
    if tier == "flex" and served.seller == "google":
        other = {"processing": "batch"}  # Google's pages: the same rates, cached tokens at the full one for some models
    context = {"service_tier": tier} | other if tier else {}
    if served.said("speed") == "fast" and tier != "batch":
        context["speed"] = "fast"
    for key in ("search_type", "route"):
        if said := served.said(key):
            context[key] = said
    return context


def adjust(sheet: RateSheet, model: ModelInfo, served: Served, *, sells_itself: bool) -> None:
    """Bring a row's rates to the tier, the speed and the place that served a call.

    ``sells_itself``: whether the seller has the row itself; another maker's tiers are not those of who resells it.
    """
    _adjust_to_tier(sheet, model, served, sells_itself=sells_itself)
    _adjust_to_speed(sheet, model, served, sells_itself=sells_itself)
    _adjust_to_latency(sheet, served)
    for models, doubt in _OF_AZURE if served.seller == "azure" else ():
        if re.search(models, served.name):
            sheet.doubt(doubt)
    if not sheet.place_is_set:
        _adjust_to_place(sheet, served)
    if served.seller == "azure" and "router" in served.requested + served.deployment:
        _add_router(sheet, served)


def _adjust_to_tier(sheet: RateSheet, model: ModelInfo, served: Served, *, sells_itself: bool) -> None:
    tier = served.tier
    if not tier:
        return
    if sells_itself and _is_active(model, served, _tier_keys(tier)):
        sheet.note_tokens(f"service tier {tier}")
        return
    if sells_itself and _take_dated_variant(sheet, model, served):
        sheet.note_tokens(f"service tier {tier}")
        return
    rule = next((rule for rule in TIER_FACTORS if _is_about(rule, served)), None)
    if rule is None:
        sheet.doubt(f"no rates are known for the service tier {tier!r}: the standard rates are used")
        return
    _multiply(sheet, rule.factor, f"service tier {tier}", rule.doubt)


def _is_about(rule: Factor, served: Served) -> bool:
    return (
        rule.seller == served.seller
        and rule.tier == served.tier
        and re.search(rule.models, served.name) is not None
        and (rule.since is None or served.at.date() >= rule.since)
    )


def _tier_keys(tier: str) -> tuple[str, ...]:
    return ("service_tier", *{"batch": ("processing",), "flex": ("processing",), "fast": ("speed",)}.get(tier, ()))


def _is_active(model: ModelInfo, served: Served, keys: tuple[str, ...]) -> bool:
    context = price_context(served)
    return any(
        variant.when.items() <= context.items()
        and not variant.when.keys().isdisjoint(keys)
        and (variant.constraint is None or variant.constraint.active(served.at))
        for variant in model.price_variants or ()
    )


def _take_dated_variant(sheet: RateSheet, model: ModelInfo, served: Served) -> bool:
    """Price a tier by the first rates that genai-prices has of it, where these are dated later than the call.

    The dates there are those of the table, October 2026, not those of the tiers. Where the standard rate was another
    one at the time, the tier's was in the same proportion to it.
    """
    context = price_context(served)
    later = [
        (variant.constraint.start_date, variant)
        for variant in model.price_variants or ()
        if isinstance(variant.constraint, StartDateConstraint)
        and variant.when.items() <= context.items()
        and "speed" not in variant.when
    ]
    if not later:
        return False
    start, variant = min(later, key=lambda dated: dated[0])
    then = vars(model.get_prices(served.at.replace(year=start.year, month=start.month, day=start.day)))
    for key, rate in vars(variant.prices).items():
        if rate is not None:
            sheet.rates[key] = _in_proportion(rate, then.get(key), sheet.rates.get(key))
    return True


def _in_proportion(rate: Rate, standard: Rate | None, standard_then: Rate | None) -> Rate:
    if standard is None or standard_then is None or standard == standard_then or not amount_of(standard):
        return rate
    return scaled(standard_then, amount_of(rate) / amount_of(standard))


def _adjust_to_speed(sheet: RateSheet, model: ModelInfo, served: Served, *, sells_itself: bool) -> None:
    speed = served.said("speed")
    if not speed and served.seller == "azure" and "claude" in served.name and served.requested.endswith("-fast"):
        sheet.doubt(f"whether the deployment {served.requested!r} is fast, the answer does not say")
    if speed in ("", "standard", "default", "normal"):
        return
    if speed == "fast" and served.tier == "batch":
        sheet.doubt("Anthropic's batches have no fast mode: whether both were billed is not known")
        return
    if speed == "fast" and sells_itself and _is_active(model, served, ("speed",)):
        sheet.note_tokens("speed fast")
        return
    sheet.doubt(f"no rates are known for the speed {speed!r}: those of the standard one are used")


def _adjust_to_latency(sheet: RateSheet, served: Served) -> None:
    latency = served.said("latency")
    if latency in ("", "standard"):
        return
    if latency == "optimized" and served.seller == "aws" and "amazon.nova-pro" in served.name:
        _multiply(
            sheet, Decimal("1.25"), "optimized latency", "1.25 of the standard rate is assumed for optimized latency"
        )
        return
    sheet.doubt(f"no rates are known for the latency {latency!r}: the standard rates are used")


def _adjust_to_place(sheet: RateSheet, served: Served) -> None:
    for factor, note, doubt in _places(served):
        if factor is not None:
            _multiply(sheet, factor, note, doubt)
        else:
            sheet.doubt(doubt)


def _places(served: Served) -> Iterator[tuple[Decimal | None, str, str]]:
    """Yield a factor, what it is for, and a doubt; a doubt alone where the factor is not known."""
    if served.seller in ("anthropic", "azure") and "claude" in served.name:
        yield from _anthropic_place(served)
    elif served.seller == "openai":
        yield from _openai_place(served)
    elif served.seller == "x-ai":
        yield from _xai_place(served)
    elif served.on_vertex:
        yield from _vertex_place(served)
    elif served.seller == "aws":
        yield from _bedrock_place(served)


def _anthropic_place(served: Served) -> Iterator[tuple[Decimal | None, str, str]]:
    # Anthropic's pricing page: inference_geo "us" is 1.1 of every token rate, for Claude 4.6 and later
    geo = served.said("inference_geo")
    if geo in ("", "global", "not_available"):
        return
    if geo == "us" and (version(served.name) or (0, 0)) >= (4, 6):
        yield _TENTH_MORE, "inference_geo us", ""
        return
    yield None, "", f"no rates are known for the inference_geo {geo!r}: the global rates are used"


def _openai_place(served: Served) -> Iterator[tuple[Decimal | None, str, str]]:
    # OpenAI's guide to data residency: 1.1 for models that were released on 5 March 2026 or later
    region = (served.host or "").removesuffix("api.openai.com").strip(".")
    if not region or not (served.host or "").endswith("api.openai.com"):
        return
    if "fedramp" in region or "gov" in region:  # all models, by LiteLLM's price list
        yield _TENTH_MORE, f"host {served.host}", ""
    elif served.at.date() < _OPENAI_SINCE or _OPENAI_OLDER.match(served.name):
        return
    elif (version(served.name) or (0, 0)) >= (5, 4) or served.name.startswith("gpt-realtime-2.1"):
        yield _TENTH_MORE, f"host {served.host}", ""
    else:
        yield None, "", f"whether {served.host} bills 1.1 of the rates for this model is not known"


def _xai_place(served: Served) -> Iterator[tuple[Decimal | None, str, str]]:
    # xAI's page on regions: us.api.x.ai is 1.1 for grok-4.6 alone, its tools excepted
    region = (served.host or "").removesuffix("api.x.ai").strip(".")
    if not region or not (served.host or "").endswith("api.x.ai"):
        return
    if not served.name.removeprefix("x-ai/").startswith("grok-4.6"):
        return
    if region == "us":
        yield _TENTH_MORE, f"host {served.host}", ""
    else:
        yield None, "", f"no rates are known for {served.host}: those of api.x.ai are used"


def _vertex_place(served: Served) -> Iterator[tuple[Decimal | None, str, str]]:
    if served.place == "global":
        return
    costs_more = _costs_more_on_vertex(served)
    if costs_more is None:
        yield None, "", "whether this model costs a tenth more outside Vertex AI's global endpoint is not known"
    elif costs_more and not served.place:
        yield None, "", "Vertex AI's location is not known: outside the global endpoint it costs a tenth more"
    elif costs_more:
        yield _TENTH_MORE, f"Vertex AI in {served.place}", ""


def _costs_more_on_vertex(served: Served) -> bool | None:
    """Whether a model costs a tenth more at endpoints that are not global; None where that is not known.

    Google's pricing page: Claude 4.5 and later do from their start, the newer Gemini models since 1 July 2026.
    """
    if "claude" in served.name:
        return (version(served.name) or (9, 0)) >= (4, 5)
    if served.at.date() < _VERTEX_SINCE or "gemini" not in served.name:
        return False
    if _VERTEX_GEMINI.search(served.name):
        return True
    return None if not _VERTEX_PLAIN.search(served.name) else False


_OF_AZURE = (  # where LiteLLM's price list has other rates than the maker
    ("deepseek|grok-(code|build)", "Azure's own rates of this model are not known: those of its maker are used"),
    ("^gpt-audio(-2025|$)", "price lists differ on what Azure bills for sound: up to a quarter more"),
)
_ROUTER, _ROUTER_SINCE = Decimal("0.14"), date(2025, 11, 1)


def _add_router(sheet: RateSheet, served: Served) -> None:
    """Add what Azure's model router bills for each token of the prompt, beside the model that it chose."""
    asked = served.deployment or served.requested
    if not re.search("model[-_]router", f"{served.requested} {asked}"):
        sheet.doubt(f"whether the deployment {asked!r} is a model router, the answer does not say")
    elif served.at.date() >= _ROUTER_SINCE:
        for key in token_keys(sheet.rates):
            if not key.startswith("output_"):
                sheet.rates[key] = increased(sheet.rates[key], _ROUTER)
                sheet.note(key, f"with {_ROUTER} for the model router")


_GOV = Decimal("1.2")


def _bedrock_place(served: Served) -> Iterator[tuple[Decimal | None, str, str]]:
    # LiteLLM's price list: the regions of a profile cost a tenth more than the global one, others more or less so
    place, profile = served.place, served.profile
    if "us-gov" in (profile, place[:6]):
        factor = _GOV / _TENTH_MORE if _is_raised_on_bedrock(served) else _GOV
        yield factor, "AWS GovCloud", "1.2 of the global rate is assumed for AWS GovCloud"
    elif profile == "global" or "claude" in served.name or _is_raised_on_bedrock(served):
        return
    elif (profile or place[:2] or "us") != "us":
        where = f"the profile {profile}" if profile else place
        yield (
            None,
            "",
            f"Bedrock's rates of this model in {where} may be others: those of its regions in the US are used",
        )


def _is_raised_on_bedrock(served: Served) -> bool:
    """Whether a row has the rates of a region, a tenth above the global ones: Claude 4.5 and later, and OpenAI's."""
    if "claude" in served.name:
        return served.model.startswith("regional.") and (version(served.name) or (9, 0)) >= (4, 5)
    return re.match(r"regional\.(?!amazon)|openai\.gpt-\d", served.model) is not None


def _multiply(sheet: RateSheet, factor: Decimal, note: str, doubt: str) -> None:
    sheet.multiply(factor, note, token_keys(sheet.rates))
    if doubt:
        sheet.doubt(doubt)


def edges() -> Iterator[float]:
    """Yield the moments at which a factor begins, in epoch seconds."""
    from datetime import datetime

    for day in (_VERTEX_SINCE, _OPENAI_SINCE, _ROUTER_SINCE, *(rule.since for rule in TIER_FACTORS if rule.since)):
        yield datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
