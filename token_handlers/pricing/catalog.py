"""Which entry of genai-prices' table a call is billed by. Importing this imports genai-prices, about 0.2 s."""

import difflib
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from math import inf
from typing import NamedTuple

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

from token_handlers.pricing import adjustments, corrections, fees
from token_handlers.pricing.kinds import price_kinds
from token_handlers.pricing.providers import COMPATIBLE, NOT_IN_CATALOG, flat, provider_id
from token_handlers.pricing.rates import RateSheet, is_countable
from token_handlers.pricing.served import Served, host_of

_OWN_HOSTS = {  # as well as genai-prices' patterns: regional, private and newer hosts
    "openai": re.compile(r"(.+\.)?api\.openai\.com"),
    "azure": re.compile(r".+\.openai\.azure\.(com|us)"),
    "aws": re.compile(r"(.+\.)?bedrock[a-z-]*\.[a-z0-9-]+\.((vpce\.)?amazonaws\.com(\.cn)?|api\.aws)"),
    "together": re.compile(r"api\.together\.ai"),
    "x-ai": re.compile(r"(.+\.)?api\.x\.ai"),
}
_BEDROCK_ROUTE = re.compile(r"^(?:converse|converse_like|invoke)/")  # LiteLLM's
_WRAPPED = re.compile(r"(?:models|publishers|projects)/|arn:")
_DATED = re.compile(r"[-@](?:20\d\d-?[01]\d-?[0-3]\d|00\d|latest)$")
_SNAPSHOT = re.compile(r"[-@](?:20\d\d-?[01]\d-?[0-3]\d|\d{3,4}|latest|default)$")
_BEDROCK = re.compile(
    r"(?:[a-z]{2,8}(?:-gov)?\.)?((?:ai21|amazon|anthropic|cohere|deepseek|google|meta|minimax|mistral|moonshotai|nvidia"
    r"|openai|qwen|writer|zai)\.[a-z0-9.-]+?)(?:-20\d{6})?(?:-v\d+)?(?::\d+k?)*"
)
_OPEN_WEIGHTS = re.compile(
    r"gpt-oss|gemma|llama|qwen|phi-|mixtral|ministral|devstral|voxtral|pixtral|codestral|magistral-small"
    r"|mistral-(7b|nemo|small-\d|large-\d)|open-mi|deepseek-(r\d|v\d|coder)|kimi-k|glm-|minimax-m|command-(a|r)"
)
"""Names of models that anybody may serve."""


class Entry(NamedTuple):
    """A model as one provider sells it, by one of its names; ``maker`` is the provider whose row it is."""

    provider: Provider
    maker: Provider
    model: ModelInfo
    name: str


def find_entry(snapshot: DataSnapshot, model: str, provider: str | None, base_url: str | None) -> Entry | None:
    """Return the entry that a call is billed by, or None where that cannot be known.

    The server's address outweighs the client's name: an OpenAI client that talks to Groq is billed by Groq. At an
    address that is not known, and where the provider is not, only an id that a table has literally (or with a date
    or ``latest`` after it) counts: a gateway sells gpt-4o, and Claude by its own name, a local server my-gpt-4o. What
    anybody can serve is nobody's there.
    """
    named = provider_id(provider) if provider else None
    if named == "litellm" and "/" in model:
        seller, _, name = model.partition("/")
        return find_entry(snapshot, _BEDROCK_ROUTE.sub("", name), seller, base_url)
    host = provider_of_url(snapshot, base_url)
    if host is not None:  # Vertex AI's OpenAI-like address has its maker before a model's name
        return _lookup(snapshot, host, model.removeprefix("google/") if host.id == "google" else model)
    if named in NOT_IN_CATALOG:
        return None
    seller_table = _provider(snapshot, "openai" if named == COMPATIBLE else named)
    of_anybody = bool(base_url) or named == COMPATIBLE
    if seller_table is None:
        return None if of_anybody and _OPEN_WEIGHTS.search(model.lower()) else find_by_name(snapshot, model)
    entry = _lookup(snapshot, seller_table, model, literally=of_anybody)
    if entry is None and seller_table.id == "openai" and not _OPEN_WEIGHTS.search(model.lower()):
        return find_by_name(snapshot, model)
    return entry


def is_alias(snapshot: DataSnapshot, answered: str, requested: str, provider: str | None, base_url: str | None) -> bool:
    """Whether a name in an answer that no table has means the model that was asked for.

    It does where it is another snapshot of that model, or a fine-tune of the same base, and with Azure, whose answers
    may have a deployment's name. A name that another maker's table has never does.
    """
    host = provider_of_url(snapshot, base_url)
    seller = host.id if host else provider_id(provider or "")
    if seller == "azure" or (seller == "litellm" and requested.lower().startswith("azure/")):
        found, asked = find_by_name(snapshot, answered), find_by_name(snapshot, requested)
        return found is None or (asked is not None and asked.model is found.model)
    return base_name(answered) == base_name(requested)


def is_known(snapshot: DataSnapshot, model: str, provider: str | None) -> bool:
    """Whether a provider (None: any) has a model under a name that is not likely a slip of another one."""
    named = provider_id(provider) if provider else None
    tables = [table for table in snapshot.providers if named is None or flat(table.id) == flat(named)]
    found = [
        (entry.model, name)
        for table in tables
        for name in spellings(model)
        if (entry := _lookup(snapshot, table, name)) is not None
    ]
    return any(_is_literal(entry, name) for entry, name in found) or (
        bool(found) and not any(known.startswith(spellings(model)[-1]) for known in _names(tables))
    )


def sellers(snapshot: DataSnapshot, model: str) -> list[str]:
    """Return the ids of the providers that have a model under just that name, its maker first."""
    entries = [entry for table in snapshot.providers if (entry := _lookup(snapshot, table, model, literally=True))]
    return [entry.provider.id for entry in sorted(entries, key=lambda entry: entry.provider.model_match is None)]


def similar_names(snapshot: DataSnapshot, model: str, provider: str | None) -> list[str]:
    """Return up to three names of models that a name may be a slip of, of a provider or of the makers."""
    named = provider_id(provider) if provider else None
    tables = [
        table
        for table in snapshot.providers
        if (flat(table.id) == flat(named) if named else table.model_match is not None)
    ]
    return difflib.get_close_matches(model.lower(), _names(tables), n=3, cutoff=0.75)


def _names(tables: Iterable[Provider]) -> list[str]:
    return sorted(
        {name for table in tables for model in table.models for name in (model.id.lower(), *_equals(model.match))}
    )


def _equals(match: MatchLogic) -> Iterator[str]:
    match match:
        case ClauseOr(or_=parts) | ClauseAnd(and_=parts):
            for part in parts:
                yield from _equals(part)
        case ClauseEquals(text):
            yield text.lower()


def base_name(name: str) -> str:
    """Return a name without the path before it, a fine-tune's own part, and the date or number of a snapshot."""
    base, shorter = "", name.lower().rsplit("/", 1)[-1]
    tuned = shorter.startswith("ft:")
    shorter = ":".join(shorter.split(":")[:2]) if tuned else shorter
    while shorter != base:
        base, shorter = shorter, _SNAPSHOT.sub("", shorter)
    return base


def find_by_name(snapshot: DataSnapshot, model: str) -> Entry | None:
    """Return the entry of the one maker whose table has the id literally."""
    found = [
        entry
        for provider in snapshot.providers
        if provider.model_match and any(provider.model_match.is_match(name) for name in spellings(model))
        if (entry := _lookup(snapshot, provider, model, literally=True))
    ]
    return found[0] if len(found) == 1 else None


def provider_of_url(snapshot: DataSnapshot, base_url: str | None) -> Provider | None:
    """Return the provider that an address belongs to."""
    if not base_url:
        return None
    url = base_url.lower() if "//" in base_url else f"https://{base_url.lower()}"
    for provider in snapshot.providers:
        match = re.match(provider.api_pattern, url)
        if match and (match[0][-1:] in "/." or url[match.end() :][:1] in "/:?#"):
            return provider
    return _provider(snapshot, _owner_of_host(url))


def _owner_of_host(url: str) -> str | None:
    host = host_of(url) or ""
    return next((owner for owner, own in _OWN_HOSTS.items() if own.fullmatch(host)), None)


def _provider(snapshot: DataSnapshot, named: str | None) -> Provider | None:
    return next((provider for provider in snapshot.providers if named and flat(provider.id) == flat(named)), None)


def _lookup(snapshot: DataSnapshot, provider: Provider, model: str, *, literally: bool = False) -> Entry | None:
    for name in spellings(model):
        # not snapshot.find_provider_model: it remembers every name for ever
        found = provider.find_model(name, all_providers=snapshot.providers)
        if found and (not literally or _is_literal(found, name)):
            return Entry(provider, _maker(snapshot, provider, found), found, name)
        if added := corrections.added_model(provider.id, name):
            return Entry(provider, provider, added, name)
    return None


def _maker(snapshot: DataSnapshot, seller: Provider, model: ModelInfo) -> Provider:
    if any(model is own for own in seller.models):
        return seller
    makers = (provider for provider in snapshot.providers if any(model is own for own in provider.models))
    return next(makers, seller)


def spellings(model: str) -> tuple[str, ...]:
    """Return the names a model may be listed under: in lower case, and without a resource name's or an ARN's path."""
    name = model.lower()
    return (name, name.rsplit("/", 1)[-1]) if _WRAPPED.match(name) else (name,)


def _is_literal(model: ModelInfo, name: str) -> bool:
    known = {model.id.lower(), *_literals(model.match)}
    return name in known or _DATED.sub("", name) in known or _is_of_bedrock(name, known)


def is_bedrocks_name(asked: str, answered: str) -> bool:
    """Whether a name is Bedrock's id of a model that answers under its maker's own name."""
    found = _BEDROCK.fullmatch(asked.lower().rsplit("/", 1)[-1])
    return found is not None and base_name(answered) == found[1].partition(".")[2]


def _is_of_bedrock(name: str, known: Iterable[str]) -> bool:
    """Whether a name is one of Bedrock's ids, whatever its profile, date and version: nobody else has such names."""
    found = _BEDROCK.fullmatch(name)
    others = map(_BEDROCK.fullmatch, known)
    return found is not None and any(other[1] == found[1] for other in others if other is not None)


def _literals(match: MatchLogic) -> Iterator[str]:
    match match:
        case ClauseOr(or_=parts) | ClauseAnd(and_=parts):
            for part in parts:
                yield from _literals(part)
        case ClauseEquals(text) | ClauseStartsWith(text) | ClauseEndsWith(text) | ClauseContains(text):
            yield text.lower()


class Priced(NamedTuple):
    """A call's rates, and from when until when they hold (epoch seconds)."""

    sheet: RateSheet
    start: float
    end: float


def price_entry(snapshot: DataSnapshot, entry: Entry, served: Served, *, place_is_set: bool = False) -> Priced:
    """Return the rates of an entry for a call; none where the model is not sold, or has none that a Usage can count.

    ``place_is_set``: a user's multiplier names the place.
    """
    edges = [edge.timestamp() for edge in _edges(entry.model, served.at)]
    edges += [*corrections.edges(served), *adjustments.edges(), *fees.edges()]
    correction = corrections.correction_of(served.maker, served.name, served.at)
    first = None
    if correction is not None and correction.as_model is not None:
        first, entry = correction, _other_row(snapshot, entry, correction.as_model)
        served = served._replace(name=correction.as_model, model=entry.model.id)
        correction = corrections.correction_of(served.maker, served.name, served.at)
        edges += [edge.timestamp() for edge in _edges(entry.model, served.at)]
        edges += corrections.edges(served)
    sheet = _sheet(entry, served, correction, place_is_set=place_is_set)
    if sheet.rates:
        corrections.explain(sheet, first)
    at = served.at.timestamp()
    start = max((edge for edge in edges if edge <= at), default=-inf)
    return Priced(sheet, start, min((edge for edge in edges if edge > at), default=inf))


def _other_row(snapshot: DataSnapshot, entry: Entry, name: str) -> Entry:
    other = entry.maker.find_model(name, all_providers=snapshot.providers)
    return entry._replace(model=other, name=name) if other else entry


def _sheet(entry: Entry, served: Served, correction: corrections.Correction | None, *, place_is_set: bool) -> RateSheet:
    sells_itself = any(entry.model is own for own in entry.provider.models)
    context = adjustments.price_context(served) if sells_itself else {}
    prices = entry.model.get_prices(corrections.hour_of(correction, served.at), context)
    rates = {key: rate for key, rate in vars(prices).items() if rate is not None}
    if not is_countable(rates) or (correction is not None and not correction.sold):
        return RateSheet({})
    is_of_place = correction is not None and correction.is_of_place
    sheet = RateSheet(rates, place_is_set=place_is_set or is_of_place)
    if not sells_itself and corrections.is_added(served.seller, served.name):
        sheet.source = corrections.OUR_SOURCE
    corrections.correct(sheet, correction)
    corrections.doubt_long_prompts(sheet, served)
    adjustments.adjust(sheet, entry.model, served, sells_itself=sells_itself)
    price_kinds(sheet, served)
    fees.add_fees(sheet, served)
    return sheet


def _edges(model: ModelInfo, moment: datetime) -> Iterator[datetime]:
    """Yield the moments around this one at which a price may change."""
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
