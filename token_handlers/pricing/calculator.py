"""What a call costs: the prices that the user set, then genai-prices' dated table as corrected here, else unknown."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from token_handlers.pricing.price import JUNK, Context, PlanKey, Price, forget_warnings, warn_unpriced
from token_handlers.pricing.providers import provider_id
from token_handlers.pricing.served import Served, deployment_of, host_of, location_of, tier_name
from token_handlers.settings import Settings

if TYPE_CHECKING:
    from token_handlers.pricing.catalog import Entry
    from token_handlers.pricing.plans import Plan, PriceBook

logger = logging.getLogger("token_handlers")

_PLANS_KEPT = 1024


class _Call(NamedTuple):
    model: str | None
    provider: str | None
    base_url: str | None
    service_tier: str | None
    requested: str | None
    context: Context = ()


class _PriceState:
    """All that this module remembers."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # the garbage collector may end a call, and so price one, in the middle of it
        self.own: Mapping[OwnKey, PriceOverride] = {}
        self.multipliers: tuple[Multiplier, ...] = ()
        self.book: PriceBook | None = None
        self.asked = False  # whether the settings were asked for updates


price_state = _PriceState()
"""The one that there is; its ``book`` has the plans that hold now, None where nothing was priced so far."""


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
    except JUNK as error:
        if warns:
            warn_unpriced(model, provider, str(error))
        return None
    book = price_state.book or current_book()
    return book.price((model, provider, base_url, service_tier, requested, served), counts, at, warns)


def was_cached(counts: Mapping[str, int]) -> bool:
    """Return whether tokens were read from the provider's prompt cache or written to it."""
    return bool(counts.get("cache_read_tokens") or counts.get("cache_write_tokens"))


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
    book = price_state.book or current_book()
    return book.plan((model, provider, base_url, service_tier, requested, served), at)


def load_prices() -> None:
    """Import genai-prices and its table, which takes about 0.2 s, so that no call waits for it.

    Where AGENTSIGHT_TOKEN_PRICES asks for newer tables, these are looked for from now on.
    """
    if not price_state.asked:
        price_state.asked = True
        try:
            _update_if_asked(Settings().price_updates)
        except ValueError as error:
            logger.warning("no price table is fetched: %s (%s)", error, WHY)
    if price_state.book is None:
        current_book()


def update_prices() -> None:
    """Look for newer price tables from now on, from where AGENTSIGHT_TOKEN_PRICES says or genai-prices has them."""
    price_state.asked = True
    _update_if_asked(Settings().price_updates or "")


def _update_if_asked(url: str | None) -> None:
    if url is not None:
        from token_handlers.pricing.updates import start_updates

        start_updates(url or None)


def stop_updates() -> None:
    """Look for newer price tables no more, until somebody asks again."""
    price_state.asked = False
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
    with price_state.lock:
        price_state.own = {**price_state.own, own_key(model, provider, service_tier): own}
        price_state.book = None


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
    with price_state.lock:
        price_state.multipliers = (*(each for each in price_state.multipliers if each.key != own.key), own)
        price_state.book = None


def reset_prices() -> None:
    """Forget every price and multiplier that was set, and which models were warned of."""
    with price_state.lock:
        price_state.own = {}
        price_state.multipliers = ()
        price_state.book = None
        forget_warnings()


def _check_alias(alias_of: str, alias_provider: str | None) -> None:
    """Refuse an alias of a model that has no price."""
    from token_handlers.pricing.catalog import is_known, similar_names

    if any(model == alias_of.lower() for model, _, _ in price_state.own):
        return
    book = current_book()
    if is_known(book.snapshot, alias_of, alias_provider):
        return
    similar = similar_names(book.snapshot, alias_of, alias_provider)
    remedy = f"did you mean {' or '.join(map(repr, similar))}?" if similar else "set its own price first"
    seller = f" of {alias_provider!r}" if alias_provider else ""
    raise ValueError(f"alias_of={alias_of!r}{seller} is no model with a price: {remedy}")


def current_book() -> "PriceBook":
    """Return the book of the prices that hold now, made where there is none; prices load at first need."""
    from genai_prices.data_snapshot import get_snapshot

    import token_handlers.pricing.catalog  # noqa: F401
    from token_handlers.pricing.plans import PriceBook

    snapshot = get_snapshot()
    with price_state.lock:
        if price_state.book is None or price_state.book.snapshot is not snapshot:
            price_state.book = PriceBook(price_state.own, price_state.multipliers, snapshot, get_snapshot, _plan)
        return price_state.book


def _plan(key: PlanKey, now: float) -> "Plan":
    book = current_book()
    model, provider, base_url, service_tier, requested = (None if name is None else str(name) for name in key[:5])
    call = _Call(model, provider, base_url, service_tier, requested, key[5])
    plan = _find_plan(book, call, now)
    if len(book.plans) >= _PLANS_KEPT:
        book.plans.clear()
    book.plans[key] = plan
    return plan


def _find_plan(book: "PriceBook", call: _Call, now: float) -> "Plan":
    from token_handlers.pricing.catalog import is_alias, is_bedrocks_name
    from token_handlers.pricing.plans import UNPRICED

    names = list(dict.fromkeys(name for name in (call.model, call.requested) if name))
    if len(names) > 1 and is_bedrocks_name(names[1], names[0]):
        names.reverse()  # the id that was asked for has the profile, by which it is billed
    unpriced = UNPRICED
    deployment = _deployment(call)
    for name in (*names, deployment) if deployment else names:
        plan = _own_plan(book, call._replace(model=name), now)
        if plan and plan.priced:
            return plan
        unpriced = plan or unpriced
    if len(names) > 1 and not is_alias(book.snapshot, names[0], names[1], call.provider, call.base_url):
        names.pop()
    fees = _own_fees(book, call, (call.model, call.requested, deployment))
    for name in names:
        plan = _table_plan(book, call._replace(model=name), now, fees)
        if plan and plan.priced:
            return plan
        unpriced = plan or unpriced
    return unpriced


def _own_plan(book: "PriceBook", call: _Call, now: float, seen: frozenset[OwnKey] = frozenset()) -> "Plan | None":
    from token_handlers.pricing.plans import own_plan

    keys = (key for key in _own_keys(book, call) if key in book.own and key not in seen)
    key = next((key for key in keys if not book.own[key].adds_fees), None)
    if key is None:
        return None
    own = book.own[key]
    if own.alias_of is None:
        return own_plan(*own.of_call(dict(call.context)))
    fees = _own_fees(book, call, (call.model, own.alias_of))
    alias = call._replace(model=own.alias_of, requested=call.requested or call.model)
    if own.alias_provider:
        alias = alias._replace(provider=own.alias_provider, base_url=None)
    plan = _own_plan(book, alias, now, seen | {key})
    for place in (alias, alias._replace(provider=None, base_url=None)):
        if plan is None or not plan.priced:
            plan = _table_plan(book, place, now, fees)
    return plan


def _own_fees(book: "PriceBook", call: _Call, names: Sequence[str | None]) -> dict[str, tuple[Decimal, str]]:
    """Return the fees that the user added to the table's, by price key, and their doubts, for any of a call's names."""
    fees: dict[str, tuple[Decimal, str]] = {}
    for name in names:
        for key in _own_keys(book, call._replace(model=name)):
            own = book.own.get(key)
            if own is not None and own.adds_fees:
                prices, doubts = own.of_call(dict(call.context))
                fees = {key: (usd, doubts.get(key, "")) for key, usd in prices.items()} | fees
    return fees


def _own_keys(book: "PriceBook", call: _Call) -> Iterator[OwnKey]:
    """Yield the keys of the prices that a user may have set for a call, the most particular first."""
    from token_handlers.pricing.catalog import provider_of_url, spellings

    host = provider_of_url(book.snapshot, call.base_url)
    providers = [provider_id(provider) for provider in (call.provider, host and host.id) if provider]
    tiers = tuple(dict.fromkeys((tier_name(call.service_tier), "")))
    for name in spellings(call.model or ""):
        for provider in (*providers, None):
            for tier in tiers:
                yield name, provider, tier


def _table_plan(book: "PriceBook", call: _Call, now: float, fees: Mapping[str, tuple[Decimal, str]]) -> "Plan | None":
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
        keys = [key for key in sheet.rates if key.endswith("_mtok") or (each.fees and key not in fees)]
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
        requested=(call.requested or "").lower(),
        deployment=_deployment(call),
    )


def _deployment(call: _Call) -> str:
    """Return Azure's name of the deployment that was asked, which its address or the client says; "" for none."""
    return dict(call.context).get("deployment", "").lower() or deployment_of(call.base_url)


def _is_about(multiplier: Multiplier, served: Served) -> bool:
    return (
        multiplier.provider in (None, served.seller, provider_id(served.provider or ""))
        and multiplier.host in (None, served.host)
        and multiplier.region in (None, served.place)
        and multiplier.model in (None, served.name, served.model, served.requested, served.deployment)
        and (multiplier.since is None or served.at.timestamp() >= multiplier.since)
    )
