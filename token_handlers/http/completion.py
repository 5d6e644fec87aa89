"""What an answer's price depends on and its body leaves out: by its headers, or by what the request asked for."""

from collections.abc import Mapping
from decimal import Decimal

from token_handlers.http.requests import ProviderRequest, provider_of
from token_handlers.payloads import GUARDED, UNNAMED_IMAGES, UNSTATED_LIFETIME, ReportedUsage

Headers = Mapping[str, str]
"""Headers of a response by their names in lower case."""

_FROM_LITELLMS_CACHE = "x-litellm-cache-key"  # LiteLLM's proxy sends it with what its own cache answers
_CACHES: dict[str | None, tuple[str, ...]] = {
    None: ("cf-aig-cache-status", "x-portkey-cache-status", "helicone-cache"),  # at hosts of any name
    "openrouter": ("x-openrouter-cache-status",),
}
"""By provider of the host, headers of gateways in which HIT says that their own cache has answered."""
_TIERS = {"google": "x-gemini-service-tier", "invoke": "x-amzn-bedrock-service-tier"}  # by provider or API
_LATENCY = "x-amzn-bedrock-performanceconfig-latency"
TELLING = frozenset(
    {_FROM_LITELLMS_CACHE, *(name for names in _CACHES.values() for name in names), *_TIERS.values(), _LATENCY}
)
"""Headers that may change the bill; an answer without any says all of it in its body, unless the request does."""
_MEDIA = frozenset({"images", "audio"})
_STANDARD = frozenset({"", "auto", "default", "standard", "standard_only", "on_demand"})
_LIFETIMES = {"5m": "cache_write_5m_tokens", "1h": "cache_write_1h_tokens"}


def completed(usage: ReportedUsage, request: ProviderRequest, headers: Headers) -> ReportedUsage:
    """Return what an answer reports, completed by its headers and its request.

    The body has precedence. A tier that was asked for need not be the one that served, so that the usage has a doubt.
    """
    is_plain = TELLING.isdisjoint(headers)
    if not is_plain and (headers.get(_FROM_LITELLMS_CACHE) or _is_from_a_cache(request, headers)):
        return usage._replace(cost=Decimal(0))
    if usage.cost is not None:
        return usage  # the stated cost includes everything
    if is_plain and request.is_plain and not usage.beside and not usage.counts.get("cache_write_tokens"):
        return usage if request.api not in _MEDIA else _of_media(usage, request)  # as nearly always
    return _with_what_was_asked(usage, request, headers)


def _with_what_was_asked(usage: ReportedUsage, request: ProviderRequest, headers: Headers) -> ReportedUsage:
    if request.api in _MEDIA:
        usage = _of_media(usage, request)
    if request.is_guarded or request.tools:
        usage = _with_what_bedrock_runs(usage, request)
    if (usage.service_tier or "") in _STANDARD:
        usage = _with_tier(usage, request, headers)
    asked = {"search_context_size": request.search_context_size}
    if usage.counts.get("cache_write_tokens"):
        asked["cache_retention"] = request.cache_retention
        usage = _with_lifetime(usage, request)
    if usage.counts.get("web_searches") and "web_search_tool" not in usage.context:
        asked["web_search_tool"] = _search_tool(request)
    if any(asked.values()):
        usage = _with_context(usage, asked)
    if request.tools and request.api == "chat" and _SEARCHES.isdisjoint(usage.counts):
        usage = _with_unseen_searches(usage, request)
    return usage if all(model for model, _ in usage.beside) else _with_image_model(usage, request)


def _with_what_bedrock_runs(usage: ReportedUsage, request: ProviderRequest) -> ReportedUsage:
    """Return a usage with doubts about a guardrail and about Nova's tools, which no answer counts."""
    if request.is_guarded:
        usage = _doubted(usage, GUARDED)
    if any(tool.kind == "systemTool" for tool in request.tools):
        usage = _doubted(usage, "a tool of Amazon's Nova, whose uses the answer does not count")
    return usage


def _of_media(usage: ReportedUsage, request: ProviderRequest) -> ReportedUsage:
    """Return the usage of an API that writes images, or that reads or writes sound and does not count it."""
    if request.api == "audio":
        return _doubted(usage, "sound, whose rate is not that of the tokens")
    return usage._replace(counts={"output_image_tokens": usage.counts.get("output_tokens", 0), **usage.counts})


def _is_from_a_cache(request: ProviderRequest, headers: Headers) -> bool:
    names = _CACHES.get(provider_of(request.host), ())
    return any(headers.get(name, "").strip().upper().endswith("HIT") for name in names)


_COUNTING = frozenset({"openai", "azure", "x-ai", "groq", "perplexity", "moonshotai", "openrouter"})
"""Providers whose chat answers show that the web was searched; others may search and bill without saying so."""
_COUNTED = frozenset({"web_search_options", "search_parameters", "$web_search"})
"""Declared searches that the answers of their APIs count: OpenAI's and Perplexity's, xAI's, Moonshot's."""
_SEARCHES = frozenset({"web_searches", "social_searches", "storage_searches", "sources"})
_WRITES = frozenset({"cache_write_5m_tokens", "cache_write_1h_tokens", "cache_write_12h_tokens"})


def _with_tier(usage: ReportedUsage, request: ProviderRequest, headers: Headers) -> ReportedUsage:
    header = _TIERS.get(request.api) or _TIERS.get(request.provider or "")
    stated = headers.get(header) if header is not None else None
    latency = headers.get(_LATENCY) if request.api == "invoke" else None
    if latency:
        usage = _with_context(usage, {"latency": latency.lower()})
    if stated:
        return usage._replace(service_tier=stated.lower())
    asked = (request.service_tier or "").lower()
    if usage.service_tier is not None or asked in _STANDARD:
        return usage
    return _doubted(usage._replace(service_tier=asked), f"the service tier {asked!r} was asked for: which one served "
                    "it, the answer does not say")  # fmt: skip


def _with_context(usage: ReportedUsage, more: Mapping[str, str | None]) -> ReportedUsage:
    said = {key: value for key, value in more.items() if value}
    return usage._replace(context={**said, **usage.context})


def _search_tool(request: ProviderRequest) -> str | None:
    kinds = {tool.kind for tool in request.tools if tool.kind.startswith("web_search")}
    names = {"web_search_preview" if kind.startswith("web_search_preview") else "web_search" for kind in kinds}
    return names.pop() if len(names) == 1 else None


def _with_unseen_searches(usage: ReportedUsage, request: ProviderRequest) -> ReportedUsage:
    """Return a usage with a doubt where a provider may have searched and does not count it, or is not known to."""
    searches = [tool.kind for tool in request.tools if "search" in tool.kind.lower()]
    provider = provider_of(request.host)
    kinds = searches if provider is not None else [kind for kind in searches if kind not in _COUNTED]
    if not kinds or not request.host or provider in _COUNTING:
        return usage
    return _doubted(usage, f"the tool {kinds[0]!r} was declared: whether it was used, the answer does not say")


def _with_lifetime(usage: ReportedUsage, request: ProviderRequest) -> ReportedUsage:
    """Return a usage with the lifetime of Claude's cache writes, if all marks of the prompt have the same one."""
    is_stated = not _WRITES.isdisjoint(usage.counts)
    if is_stated or "claude" not in f"{usage.model} {request.model}".lower():
        return usage
    lifetimes = request.cache_lifetimes
    if len(lifetimes) != 1 or not lifetimes <= _LIFETIMES.keys():
        return _doubted(usage, UNSTATED_LIFETIME)
    (lifetime,) = lifetimes
    counts = _with_writes_of(lifetime, usage.counts)
    beside = tuple((model, _with_writes_of(lifetime, part)) for model, part in usage.beside)
    return usage._replace(
        counts=counts, beside=beside, doubts=tuple(doubt for doubt in usage.doubts if doubt != UNSTATED_LIFETIME)
    )


def _with_writes_of(lifetime: str, counts: Mapping[str, int]) -> dict[str, int]:
    written = counts.get("cache_write_tokens")
    return {**counts, _LIFETIMES[lifetime]: written} if written else {**counts}


def _with_image_model(usage: ReportedUsage, request: ProviderRequest) -> ReportedUsage:
    """Return a usage with the model of the images that were generated beside an answer."""
    asked = next((tool.model for tool in request.tools if tool.kind == "image_generation" and tool.model), None)
    if asked is None:
        return usage
    beside = tuple((model or asked, counts) for model, counts in usage.beside)
    return usage._replace(beside=beside, doubts=tuple(doubt for doubt in usage.doubts if doubt != UNNAMED_IMAGES))


def _doubted(usage: ReportedUsage, doubt: str) -> ReportedUsage:
    return usage._replace(doubts=tuple(dict.fromkeys((*usage.doubts, doubt))))
