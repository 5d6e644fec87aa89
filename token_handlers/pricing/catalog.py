"""Which entry of genai-prices' table a call is billed by. Importing this imports genai-prices, about 0.2 s."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import inf
from typing import NamedTuple
from urllib.parse import urlsplit

from genai_prices import Usage as GenaiUsage
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import (
    ClauseAnd,
    ClauseContains,
    ClauseEndsWith,
    ClauseEquals,
    ClauseOr,
    ClauseStartsWith,
    MatchLogic,
    ModelInfo,
    Provider,
    StartDateConstraint,
    TimeOfDateConstraint,
)

from token_handlers.pricing.plans import Plan, is_countable
from token_handlers.pricing.providers import COMPATIBLE, NOT_IN_CATALOG, flat, provider_id

_OWN_HOSTS = {  # as well as genai-prices' patterns: regional, private and newer hosts
    "openai": re.compile(r"(.+\.)?api\.openai\.com"),
    "azure": re.compile(r".+\.openai\.azure\.(com|us)"),
    "aws": re.compile(r"(.+\.)?bedrock[a-z-]*\.[a-z0-9-]+\.((vpce\.)?amazonaws\.com(\.cn)?|api\.aws)"),
    "together": re.compile(r"api\.together\.ai"),
}
_STANDARD_TIERS = frozenset(("", "default", "standard", "auto", "on_demand"))
_WRAPPED = re.compile(r"(?:models|publishers|projects)/|arn:")
_DATED = re.compile(r"[-@](?:20\d\d-?[01]\d-?[0-3]\d|latest)$")


class Entry(NamedTuple):
    """A model as one provider sells it."""

    provider: Provider
    model: ModelInfo


def find_entry(snapshot: DataSnapshot, model: str, provider: str | None, base_url: str | None) -> Entry | None:
    """The entry that a call is billed by, or None where that cannot be known.

    The server's address outweighs the client's name: an OpenAI client that talks to Groq is billed by Groq. At an
    address that is not known, and where the provider is not, only an id that the table has literally (or with a date
    or ``latest`` after it) counts: a gateway sells gpt-4o, a local server my-gpt-4o.
    """
    named = provider_id(provider) if provider else None
    if named == "litellm" and "/" in model:
        seller, _, name = model.partition("/")
        return find_entry(snapshot, name, seller, None)
    host = provider_of_url(snapshot, base_url)
    if host is not None:
        return _lookup(snapshot, host, model)
    if named in NOT_IN_CATALOG:
        return None
    seller_table = _provider(snapshot, "openai" if named == COMPATIBLE else named)
    if seller_table is None:
        return find_by_name(snapshot, model)
    return _lookup(snapshot, seller_table, model, literally=bool(base_url) or named == COMPATIBLE)


def find_by_name(snapshot: DataSnapshot, model: str) -> Entry | None:
    """The entry of the one maker whose table has the id literally."""
    found = [
        entry
        for provider in snapshot.providers
        if provider.model_match and any(provider.model_match.is_match(name) for name in spellings(model))
        if (entry := _lookup(snapshot, provider, model, literally=True))
    ]
    return found[0] if len(found) == 1 else None


def provider_of_url(snapshot: DataSnapshot, base_url: str | None) -> Provider | None:
    """The provider that an address belongs to."""
    if not base_url:
        return None
    url = base_url.lower() if "//" in base_url else f"https://{base_url.lower()}"
    for provider in snapshot.providers:
        match = re.match(provider.api_pattern, url)
        if match and (match[0][-1:] in "/." or url[match.end() :][:1] in "/:?#"):
            return provider
    return _provider(snapshot, _owner_of_host(url))


def _owner_of_host(url: str) -> str | None:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return None
    return next((owner for owner, own in _OWN_HOSTS.items() if own.fullmatch(host)), None)


def _provider(snapshot: DataSnapshot, named: str | None) -> Provider | None:
    return next((provider for provider in snapshot.providers if named and flat(provider.id) == flat(named)), None)


def _lookup(snapshot: DataSnapshot, provider: Provider, model: str, *, literally: bool = False) -> Entry | None:
    for name in spellings(model):
        # not snapshot.find_provider_model: it remembers every name for ever
        found = provider.find_model(name, all_providers=snapshot.providers)
        if found and (not literally or _is_literal(found, name)):
            return Entry(provider, found)
    return None


def spellings(model: str) -> tuple[str, ...]:
    """The names a model may be listed under: in lower case, and without the path of a resource name or an ARN."""
    name = model.lower()
    return (name, name.rsplit("/", 1)[-1]) if _WRAPPED.match(name) else (name,)


def _is_literal(model: ModelInfo, name: str) -> bool:
    known = {model.id.lower(), *_literals(model.match)}
    return name in known or _DATED.sub("", name) in known


def _literals(match: MatchLogic) -> Iterator[str]:
    match match:
        case ClauseOr(or_=parts) | ClauseAnd(and_=parts):
            for part in parts:
                yield from _literals(part)
        case ClauseEquals(text) | ClauseStartsWith(text) | ClauseEndsWith(text) | ClauseContains(text):
            yield text.lower()


def table_plan(entry: Entry, service_tier: str | None, at: float) -> Plan:
    """The entry's prices at a moment (epoch seconds).

    An entry without prices, or with prices that no Usage can count for (hours of audio alone), is not ``priced``.
    A service tier that the entry has no rates for is billed as standard, as in genai-prices: see `knows_tier`.
    Raises ValueError, OverflowError or OSError for a moment that no calendar has.
    """
    moment = datetime.fromtimestamp(at, UTC)
    context = _own_context(entry, service_tier)

    def exact(usage: GenaiUsage) -> Decimal:
        priced = entry.model.calc_price(usage, entry.provider, genai_request_timestamp=moment, price_context=context)
        return priced.total_price

    rates = {key: price for key, price in vars(entry.model.get_prices(moment, context)).items() if price is not None}
    start, end = _validity(entry.model, moment, at)
    return Plan(rates, exact if is_countable(rates) else None, source="genai-prices", start=start, end=end)


def knows_tier(entry: Entry, service_tier: str | None, at: float) -> bool:
    """Whether the entry has rates of its own for a service tier at a moment; the standard tiers are always known."""
    context, moment = _context(service_tier), datetime.fromtimestamp(at, UTC)
    return not context or any(
        variant.when.items() <= context.items() and (variant.constraint is None or variant.constraint.active(moment))
        for variant in entry.model.price_variants or ()
        if _own_context(entry, service_tier)
    )


def _context(service_tier: str | None) -> dict[str, str]:
    """genai-prices' context of a tier: what providers report as the tiers batch and fast, it has under other names."""
    tier = (service_tier or "").lower()
    if tier in _STANDARD_TIERS:
        return {}
    other = {"batch": {"processing": "batch"}, "fast": {"speed": "fast"}}.get(tier, {})
    return {"service_tier": tier} | other


def _own_context(entry: Entry, service_tier: str | None) -> dict[str, str]:
    # a provider that sells another's model at the other's price does not have the other's service tiers
    return _context(service_tier) if any(entry.model is model for model in entry.provider.models) else {}


def _validity(model: ModelInfo, moment: datetime, at: float) -> tuple[float, float]:
    edges = [edge.timestamp() for edge in _edges(model, moment)]
    start = max((edge for edge in edges if edge <= at), default=-inf)
    return start, min((edge for edge in edges if edge > at), default=inf)


def _edges(model: ModelInfo, moment: datetime) -> Iterator[datetime]:
    """The moments around this one at which a price may change."""
    dated = model.prices if isinstance(model.prices, list) else []
    for price in (*dated, *(model.price_variants or ())):
        match price.constraint:
            case StartDateConstraint(day):
                yield datetime(day.year, day.month, day.day, tzinfo=UTC)
            case TimeOfDateConstraint(begin, end):
                for edge in (begin, end):
                    for days in range(-2, 3):
                        day = moment.date() + timedelta(days)
                        yield datetime.combine(day, edge, edge.tzinfo or UTC)
