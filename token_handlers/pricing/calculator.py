"""What a call costs: the prices that the user set, then genai-prices' dated table as corrected here, else unknown."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Unpack

from token_handlers.errors import WHY
from token_handlers.pricing.overrides import (
    Money,
    Multiplier,
    OwnKey,
    PriceOverride,
    Prices,
    own_key,
    own_multiplier,
    own_price,
)
from token_handlers.pricing.providers import provider_id
from token_handlers.pricing.served import Served, host_of, location_of, tier_name
from token_handlers.settings import Settings
from token_handlers.usage import EXACT, CostPart

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot

    from token_handlers.pricing.catalog import Entry
    from token_handlers.pricing.plans import Plan

logger = logging.getLogger("token_handlers")

_Context = tuple[tuple[str, str], ...]
PlanKey = tuple[str | None, str | None, str | None, str | None, str | None, _Context]
"""What a plan is found by: model, provider, base URL, service tier, requested model, and the context, sorted."""

# counts that contradict each other or are no numbers, a time out of range, a context that is no mapping
_JUNK = ValueError, OverflowError, OSError, TypeError, AttributeError
_PLANS_KEPT = 1024
_WARNINGS_KEPT = 1024


class Price(NamedTuple):
    """USD, whose price it is, and why the cost is an estimate, if it is.

    ``source`` is "user" for `set_price`, "genai-prices", or "token_handlers" where the rates are our own. ``priced``
    has what was priced by which plan: (plan, counts, the model where that is another one). ``cache_saved`` is what
    tokens that were read from the provider's prompt cache did not cost, less what those written to it cost more; None
    where there are none.
    """

    cost: Decimal
    source: str
    doubts: tuple[str, ...] = ()
    priced: "tuple[tuple[Plan, Mapping[str, int], str | None], ...]" = ()
    cache_saved: Decimal | None = None

    def __eq__(self, other: object) -> bool:
        """Whether it is the same price, whatever was priced."""
        return isinstance(other, Price) and self[:3] == other[:3]

    def __hash__(self) -> int:
        """Of what makes it equal."""
        return hash(self[:3])

    @property
    def parts(self) -> tuple[CostPart, ...]:
        """What each unit cost and by which rate; together that is the cost, but for one that a provider stated."""
        return tuple(part for plan, counts, model in self.priced for part in plan.parts(counts, model))


class _Call(NamedTuple):
    model: str | None
    provider: str | None
    base_url: str | None
    service_tier: str | None
    requested: str | None
    context: _Context = ()


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The user's prices, a snapshot of genai-prices, and the plans made of both; a change of either is a new book."""

    own: Mapping[OwnKey, PriceOverride]
    multipliers: tuple[Multiplier, ...]
    snapshot: "DataSnapshot"
    get_snapshot: Callable[[], "DataSnapshot"]
    plans: dict[PlanKey, "Plan"] = field(default_factory=dict)


class _PriceState:
    """All that this module remembers."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # the garbage collector may end a call, and so price one, in the middle of it
        self.own: Mapping[OwnKey, PriceOverride] = {}
        self.multipliers: tuple[Multiplier, ...] = ()
        self.book: PriceBook | None = None
        self.warned: set[tuple[str | None, ...]] = set()
        self.asked = False  # whether the settings were asked for updates


_state = _PriceState()


def price_call(
    counts: Mapping[str, int],
    model: str | None,
    provider: str | None = None,
    *,
    base_url: str | None = None,
    service_tier: str | None = None,
    at: float | None = None,
    requested: str | None = None,
    context: Mapping[str, str] | None = None,
    beside: Sequence[tuple[str | None, Mapping[str, int]]] = (),
    warns: bool = True,
) -> Price | None:
    """Return what one call cost, or None where that cannot be known; never raises, warns once per provider and model.

    ``counts`` are inclusive, under Usage's names; a whole that is absent is 0, a part above its whole leaves the price
    open. ``model`` is the name that the answer stated, ``requested`` the one that was asked for: prices that the user
    set for either come first, then the table for ``model``, then for ``requested`` where the answer's name can only
    mean that model (an Azure deployment, another snapshot). ``provider`` is any name of LangChain, LlamaIndex or
    OpenTelemetry; ``base_url`` says whose server it was: at one that is not known, only an id counts that a maker's
    table has literally. ``at`` is when the call was made (epoch seconds; None is now).

    ``service_tier`` is the tier that served, ``context`` what else was served that changes the price: ``speed``,
    ``inference_geo``, ``region``, ``latency``, ``web_search_tool``, ``search_context_size``, ``cache_retention``.
    ``beside`` are parts of the counts that another model was billed for: (model, counts), None for the same one.

    ``Price.doubts`` say why the cost is an estimate: a tier, a place or an event that no rate is known for, a rate that
    is not certain. Tokens of a kind without a rate of its own cost what the whole does. Prices load at first need.
    """
    try:
        if beside:
            one = partial(
                price_call,
                provider=provider,
                base_url=base_url,
                service_tier=service_tier,
                at=at,
                context=context,
                warns=warns,
            )
            return _price_apart(counts, beside, model, requested, one)
        served = tuple(sorted(context.items())) if context else ()
    except _JUNK as error:
        if warns:
            _warn_unpriced(model, provider, str(error))
        return None
    return price_by((model, provider, base_url, service_tier, requested, served), counts, at, warns)


def price_by(
    key: PlanKey,
    counts: Mapping[str, int],
    at: float | None,
    warns: bool = True,  # noqa: FBT001, FBT002 (a keyword would cost each call a microsecond)
) -> Price | None:
    """As `price_call`, by what it finds the plan by, in one tuple: for the calls that are recorded."""
    try:
        plan = _plan_at(key, at)
        found = None if plan is None else plan.price(counts)
    except _JUNK as error:
        if warns:
            _warn_unpriced(key[0], key[1], str(error))
        return None
    if plan is None or found is None:
        if warns and plan is not None:
            _warn_of_no_price(plan, counts, key[0], key[4], key[1])
        return None
    cost, doubts = found
    if doubts and warns:
        _warn_of_doubts(key[0] or key[4], key[1], doubts)
    saved = None
    if counts.get("cache_read_tokens") or counts.get("cache_write_tokens"):
        saved = _cache_saved(plan, counts, cost)
    return Price(cost, plan.source, doubts, ((plan, counts, None),), saved)


def was_cached(counts: Mapping[str, int]) -> bool:
    """Return whether tokens were read from the provider's prompt cache or written to it."""
    return bool(counts.get("cache_read_tokens") or counts.get("cache_write_tokens"))


def _cache_saved(plan: "Plan", counts: Mapping[str, int], cost: Decimal) -> Decimal | None:
    uncached = plan.price({name: number for name, number in counts.items() if not name.startswith("cache_")})
    return None if uncached is None else EXACT.subtract(uncached[0], cost)


def _price_apart(
    counts: Mapping[str, int],
    beside: Sequence[tuple[str | None, Mapping[str, int]]],
    model: str | None,
    requested: str | None,
    price: Callable[..., Price | None],
) -> Price | None:
    """Price a call that several models or attempts were billed for: each part by itself, then the rest."""
    rest = dict(counts)
    prices = []
    for other, part in beside:
        for name, count in part.items():
            rest[name] = rest.get(name, 0) - count
        own = price(part, other or model, requested=None if other else requested)
        if own is None:
            return None
        prices.append(own._replace(priced=tuple((plan, counted, other) for plan, counted, _ in own.priced)))
    if any(rest.values()) or not prices:
        whole = price(rest, model, requested=requested)
        if whole is None:
            return None
        prices.insert(0, whole)
    saved = [each.cache_saved for each in prices if each.cache_saved is not None]
    return Price(
        sum((each.cost for each in prices), Decimal(0)),
        prices[0].source,
        tuple(dict.fromkeys(doubt for each in prices for doubt in each.doubts)),
        tuple(part for each in prices for part in each.priced),
        sum(saved, Decimal(0)) if saved else None,
    )


def find_plan(
    model: str | None,
    provider: str | None = None,
    *,
    base_url: str | None = None,
    service_tier: str | None = None,
    at: float | None = None,
    requested: str | None = None,
    context: Mapping[str, str] | None = None,
) -> "Plan | None":
    """Return the plan by which `price_call` prices, None where there can be none; raises for a time out of range."""
    served = tuple(sorted(context.items())) if context else ()
    return _plan_at((model, provider, base_url, service_tier, requested, served), at)


def _plan_at(key: PlanKey, at: float | None) -> "Plan | None":
    book = _state.book or _current_book()
    try:
        now = time.time() if at is None else at + 0.0
        plan = book.plans.get(key)
        if plan is not None and plan.start <= now < plan.end and book.snapshot is book.get_snapshot():
            return plan
    except TypeError:  # a name that cannot be looked up, a time that is no number
        return None
    return _plan(key, now)


def load_prices() -> None:
    """Import genai-prices and its table, which takes about 0.2 s, so that no call waits for it.

    Where AGENTSIGHT_TOKEN_PRICES asks for newer tables, these are looked for from now on.
    """
    if not _state.asked:
        _state.asked = True
        try:
            _update_if_asked(Settings().price_updates)
        except ValueError as error:
            logger.warning("no price table is fetched: %s (%s)", error, WHY)
    if _state.book is None:
        _current_book()


def update_prices() -> None:
    """Look for newer price tables from now on, from where AGENTSIGHT_TOKEN_PRICES says or genai-prices has them."""
    _state.asked = True
    _update_if_asked(Settings().price_updates or "")


def _update_if_asked(url: str | None) -> None:
    if url is not None:
        from token_handlers.pricing.updates import start_updates

        start_updates(url or None)


def stop_updates() -> None:
    """Look for newer price tables no more, until somebody asks again."""
    _state.asked = False
    updates = sys.modules.get("token_handlers.pricing.updates")
    if updates is not None:
        updates.stop_updates()


def set_price(
    model: str,
    provider: str | None = None,
    *,
    service_tier: str | None = None,
    alias_of: str | None = None,
    alias_provider: str | None = None,
    **prices: Unpack[Prices],
) -> None:
    """Set what a model costs, in USD per million tokens (``_mtok``) or thousand events (``_kcount``).

    It replaces every other price of the model (None as provider: at any provider), for calls from now on::

        set_price("my-llama", input_mtok=0, output_mtok=0)
        set_price("gpt-4o", "azure", input_mtok="2.20", output_mtok="8.80", cache_read_mtok="1.10")
        set_price("gpt-4o", service_tier="scale", input_mtok="2", output_mtok="8")
        set_price("gpt-4o-search-preview", requests_kcount="25")
        set_price("sonar", requests_kcount={"low": 5, "medium": 8, "high": 12})
        set_price("my-deployment", alias_of="gpt-4o-mini")

    ``service_tier`` sets the price of one tier alone. Without a tier, a price holds on every tier.

    ``input_mtok`` is required, and ``output_mtok`` wherever there are output tokens; cached, audio, image and reasoning
    tokens without a price of their own cost as much as others of their direction. An event that is counted and has no
    price makes the cost an estimate without it: 0 says that it is free. Fees alone, without ``input_mtok``, are added
    to the rates of the table, or take the place of its fees. A fee may depend on the size of the search's context
    (low, medium, high) or on the tool (web_search, web_search_preview): where the call does not say which, the first
    given is assumed, and the cost is an estimate.

    ``alias_of`` bills a deployment or a fine-tune as another model, tiers and dates included: at the same provider
    where it sells that model, else at its maker, or at ``alias_provider``; its price keeps that model's source. A name
    that has no price raises ValueError. `set_multiplier` is for discounts and surcharges; `reset_prices` forgets all.
    """
    names = {
        "provider": provider,
        "service_tier": service_tier,
        "alias_of": alias_of,
        "alias_provider": alias_provider,
    }
    own = own_price(model, names, prices)
    if alias_of is not None:
        _check_alias(alias_of, alias_provider)
    with _state.lock:
        _state.own = {**_state.own, own_key(model, provider, service_tier): own}
        _state.book = None


def set_multiplier(
    factor: Money,
    *,
    provider: str | None = None,
    host: str | None = None,
    region: str | None = None,
    model: str | None = None,
    since: date | None = None,
    fees: bool = False,
) -> None:
    """Multiply the table's rates: a discount of your contract, a surcharge of a place.

    It is about the calls that are of the ``provider``, were answered by the ``host``, were served in the ``region``,
    and of the ``model``, as far as these are given; ``since`` a day or a moment, for calls made from then on::

        set_multiplier("0.9", provider="anthropic")
        set_multiplier("1.1", provider="openai", host="eu.api.openai.com", since=date(2026, 3, 5))

    It multiplies tokens, and with ``fees=True`` searches and other events too. Several that are about a call multiply
    each other. One that names a host or a region takes the place of the factor that is known for the place here. What
    `set_price` says is multiplied by none, but an alias is. The same call with another factor replaces the first;
    `reset_prices` forgets it.
    """
    names = {"provider": provider, "host": host, "region": region, "model": model}
    own = own_multiplier(factor, names, since, fees=fees)
    with _state.lock:
        _state.multipliers = (*(each for each in _state.multipliers if each.key != own.key), own)
        _state.book = None


def reset_prices() -> None:
    """Forget every price and multiplier that was set, and which models were warned of."""
    with _state.lock:
        _state.own = {}
        _state.multipliers = ()
        _state.book = None
        _state.warned.clear()


def _check_alias(alias_of: str, alias_provider: str | None) -> None:
    """Refuse an alias of a model that has no price."""
    from token_handlers.pricing.catalog import is_known, similar_names

    if any(model == alias_of.lower() for model, _, _ in _state.own):
        return
    book = _current_book()
    if is_known(book.snapshot, alias_of, alias_provider):
        return
    similar = similar_names(book.snapshot, alias_of, alias_provider)
    remedy = f"did you mean {' or '.join(map(repr, similar))}?" if similar else "set its own price first"
    seller = f" of {alias_provider!r}" if alias_provider else ""
    raise ValueError(f"alias_of={alias_of!r}{seller} is no model with a price: {remedy}")


def _current_book() -> PriceBook:
    from genai_prices.data_snapshot import get_snapshot

    import token_handlers.pricing.catalog  # noqa: F401

    snapshot = get_snapshot()
    with _state.lock:
        if _state.book is None or _state.book.snapshot is not snapshot:
            _state.book = PriceBook(_state.own, _state.multipliers, snapshot, get_snapshot)
        return _state.book


def _plan(key: PlanKey, now: float) -> "Plan":
    book = _current_book()
    model, provider, base_url, service_tier, requested = (None if name is None else str(name) for name in key[:5])
    call = _Call(model, provider, base_url, service_tier, requested, key[5])
    plan = _find_plan(book, call, now)
    if len(book.plans) >= _PLANS_KEPT:
        book.plans.clear()
    book.plans[key] = plan
    return plan


def _find_plan(book: PriceBook, call: _Call, now: float) -> "Plan":
    from token_handlers.pricing.catalog import is_alias, is_bedrocks_name
    from token_handlers.pricing.plans import UNPRICED

    names = list(dict.fromkeys(name for name in (call.model, call.requested) if name))
    if len(names) > 1 and is_bedrocks_name(names[1], names[0]):
        names.reverse()  # the id that was asked for has the profile, by which it is billed
    unpriced = UNPRICED
    for name in names:
        plan = _own_plan(book, call._replace(model=name), now)
        if plan and plan.priced:
            return plan
        unpriced = plan or unpriced
    if len(names) > 1 and not is_alias(book.snapshot, names[0], names[1], call.provider, call.base_url):
        names.pop()
    fees = _own_fees(book, call, (call.model, call.requested))
    for name in names:
        plan = _table_plan(book, call._replace(model=name), now, fees)
        if plan and plan.priced:
            return plan
        unpriced = plan or unpriced
    return unpriced


def _own_plan(book: PriceBook, call: _Call, now: float, seen: frozenset[OwnKey] = frozenset()) -> "Plan | None":
    from token_handlers.pricing.plans import own_plan

    keys = (key for key in _own_keys(book, call) if key in book.own and key not in seen)
    key = next((key for key in keys if not book.own[key].adds_fees), None)
    if key is None:
        return None
    own = book.own[key]
    if own.alias_of is None:
        return own_plan(*own.of_call(dict(call.context)))
    fees = _own_fees(book, call, (call.model, own.alias_of))
    alias = call._replace(model=own.alias_of)
    if own.alias_provider:
        alias = alias._replace(provider=own.alias_provider, base_url=None)
    plan = _own_plan(book, alias, now, seen | {key})
    for place in (alias, alias._replace(provider=None, base_url=None)):
        if plan is None or not plan.priced:
            plan = _table_plan(book, place, now, fees)
    return plan


def _own_fees(book: PriceBook, call: _Call, names: Sequence[str | None]) -> dict[str, tuple[Decimal, str]]:
    """Return the fees that the user added to the table's, by price key, and their doubts, for any of a call's names."""
    fees: dict[str, tuple[Decimal, str]] = {}
    for name in names:
        for key in _own_keys(book, call._replace(model=name)):
            own = book.own.get(key)
            if own is not None and own.adds_fees:
                prices, doubts = own.of_call(dict(call.context))
                fees = {key: (usd, doubts.get(key, "")) for key, usd in prices.items()} | fees
    return fees


def _own_keys(book: PriceBook, call: _Call) -> Iterator[OwnKey]:
    """Yield the keys of the prices that a user may have set for a call, the most particular first."""
    from token_handlers.pricing.catalog import provider_of_url, spellings

    host = provider_of_url(book.snapshot, call.base_url)
    providers = [provider_id(provider) for provider in (call.provider, host and host.id) if provider]
    tiers = tuple(dict.fromkeys((tier_name(call.service_tier), "")))
    for name in spellings(call.model or ""):
        for provider in (*providers, None):
            for tier in tiers:
                yield name, provider, tier


def _table_plan(book: PriceBook, call: _Call, now: float, fees: Mapping[str, tuple[Decimal, str]]) -> "Plan | None":
    from token_handlers.pricing.catalog import find_entry, price_entry
    from token_handlers.pricing.plans import Plan

    entry = find_entry(book.snapshot, call.model or "", call.provider, call.base_url)
    if entry is None:
        return None
    served = _served(entry, call, now)
    factors = [each for each in book.multipliers if _is_about(each, served)]
    priced = price_entry(book.snapshot, entry, served, place_is_set=any(each.names_place for each in factors))
    sheet, start, end = priced
    for key, (usd, doubt) in fees.items() if sheet.rates else ():
        sheet.set(key, usd, "set_price", doubt)
    for each in factors:
        keys = [key for key in sheet.rates if each.fees or key.endswith("_mtok")]
        sheet.multiply(each.factor, each.says, keys)
    moments = [each.since for each in book.multipliers if each.since is not None]
    start = max([start, *(moment for moment in moments if moment <= now)])
    return Plan(sheet, start=start, end=min([end, *(moment for moment in moments if moment > now)]))


def _served(entry: "Entry", call: _Call, now: float) -> Served:
    return Served(
        seller=entry.provider.id,
        maker=entry.maker.id,
        name=entry.name,
        model=entry.model.id,
        at=datetime.fromtimestamp(now, UTC),
        provider=call.provider,
        host=host_of(call.base_url),
        location=location_of(call.base_url),
        service_tier=call.service_tier,
        context=dict(call.context),
    )


def _is_about(multiplier: Multiplier, served: Served) -> bool:
    return (
        multiplier.provider in (None, served.seller, provider_id(served.provider or ""))
        and multiplier.host in (None, served.host)
        and multiplier.region in (None, served.place)
        and multiplier.model in (None, served.name, served.model)
        and (multiplier.since is None or served.at.timestamp() >= multiplier.since)
    )


def _warn_of_no_price(
    plan: "Plan", counts: Mapping[str, int], model: str | None, requested: str | None, provider: str | None
) -> None:
    if not plan.priced:
        _warn_no_price(model, requested, provider)
    elif counts:
        _warn_unpriced(model, provider, "no rate is known for what it used")


def _warn_unpriced(model: str | None, provider: str | None, why: str) -> None:
    _warn_once(("counts", provider, model), "a call of %r (provider %r) is unpriced: %s", model, provider, why)


def _warn_of_doubts(model: str | None, provider: str | None, doubts: Sequence[str]) -> None:
    for doubt in doubts:
        _warn_once(
            ("doubt", provider, model, doubt), "the cost of %r (provider %r) is an estimate: %s", model, provider, doubt
        )


def _warn_no_price(model: str | None, requested: str | None, provider: str | None) -> None:
    names = list(dict.fromkeys(name for name in (model, requested) if name))
    if not names:
        _warn_once(("name", provider), "calls through %r state no model, and count as unpriced", provider)
        return
    _warn_once(
        ("price", provider, names[0]),
        "no price for %s (provider %r), its calls count as unpriced: set one with "
        "token_handlers.set_price(%r, input_mtok=..., output_mtok=...), 0 where it costs nothing, "
        "or with alias_of=... where it is another name, a deployment or a fine-tune of a model with a price",
        " or ".join(map(repr, names)),
        provider,
        names[-1],
    )


def _warn_once(key: tuple[str | None, ...], message: str, *args: object) -> None:
    if key in _state.warned:
        return
    with _state.lock:
        if key in _state.warned or len(_state.warned) >= _WARNINGS_KEPT:
            return
        _state.warned.add(key)
        last = len(_state.warned) == _WARNINGS_KEPT
    logger.warning("%s (%s)", message % args, WHY)
    if last:
        logger.warning("this was warning %d about prices: further models are not named", _WARNINGS_KEPT)
