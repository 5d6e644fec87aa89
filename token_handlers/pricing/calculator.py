"""What a call costs: the prices that the user set, then genai-prices' dated table, else unknown."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple, Unpack

from token_handlers.guide import WHY
from token_handlers.pricing.overrides import PriceOverride, Prices, own_price
from token_handlers.pricing.providers import provider_id
from token_handlers.usage import CostPart

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot

    from token_handlers.pricing.plans import Plan

logger = logging.getLogger("token_handlers")

_Key = tuple[str | None, str | None, str | None, str | None, str | None]
_OwnKey = tuple[str, str | None]

_PLANS_KEPT = 1024
_WARNINGS_KEPT = 1024


class Price(NamedTuple):
    """USD, whose price it is ("user" for `set_price`, or "genai-prices"), and why the cost is an estimate, if it is.

    ``parts`` is what each unit cost, where `price_call` was asked to explain.
    """

    cost: Decimal
    source: str
    doubts: tuple[str, ...] = ()
    parts: tuple[CostPart, ...] = ()


class _Call(NamedTuple):
    model: str | None
    provider: str | None
    base_url: str | None
    service_tier: str | None
    requested: str | None


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The user's prices, a snapshot of genai-prices, and the plans made of both; a change of either is a new book."""

    own: Mapping[_OwnKey, PriceOverride]
    snapshot: "DataSnapshot"
    get_snapshot: Callable[[], "DataSnapshot"]
    plans: dict[_Key, "Plan"] = field(default_factory=dict)


class _State:
    """All that this module remembers."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # the garbage collector may end a call, and so price one, in the middle of it
        self.own: Mapping[_OwnKey, PriceOverride] = {}
        self.book: PriceBook | None = None
        self.warned: set[tuple[str | None, ...]] = set()


_state = _State()


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
    explain: bool = False,
) -> Price | None:
    """What one call cost, or None where that cannot be known; never raises, warns once per provider and model.

    ``counts`` are inclusive, under Usage's names; a whole that is absent is 0, a part above its whole leaves the price
    open. ``model`` is the name that the answer stated, ``requested`` the one that was asked for: prices that the user
    set for either come first, then the table for ``model``, then for ``requested``. ``provider`` is any name of
    LangChain, LlamaIndex or OpenTelemetry; ``base_url`` says whose server it was: at one that is not known, only an id
    counts that the provider's table has literally. ``at`` is when the call was made (epoch seconds; None is now).

    A ``service_tier`` that the table has no rates for is billed at the standard rate, with a warning, once. Tokens of a
    kind that has no price of its own (cached, audio, reasoning) cost what the whole does. Prices load at first need.
    """
    try:
        plan = find_plan(model, provider, base_url=base_url, service_tier=service_tier, at=at, requested=requested)
        cost = plan.cost(counts) if plan is not None else None
    except (ValueError, OverflowError, OSError) as error:  # counts that contradict each other, a time out of range
        _warn_once(("counts", provider, model), "a call of %r (provider %r) is unpriced: %s", model, provider, error)
        return None
    return None if cost is None or plan is None else Price(cost, plan.source)


def find_plan(
    model: str | None,
    provider: str | None = None,
    *,
    base_url: str | None = None,
    service_tier: str | None = None,
    at: float | None = None,
    requested: str | None = None,
) -> "Plan | None":
    """Return the plan by which `price_call` prices, None where there can be none; raises for a time out of range."""
    call = (model, provider, base_url, service_tier, requested)
    book = _state.book or _current_book()
    try:
        now = time.time() if at is None else at + 0.0
        plan = book.plans.get(call)
        if plan is not None and plan.start <= now < plan.end and book.snapshot is book.get_snapshot():
            return plan
    except TypeError:  # a name that cannot be looked up, a time that is no number
        return None
    return _plan(call, now)


def load_prices() -> None:
    """Import genai-prices and its table, which takes about 0.2 s, so that no call waits for it."""
    if _state.book is None:
        _current_book()


def set_price(
    model: str,
    provider: str | None = None,
    *,
    alias_of: str | None = None,
    alias_provider: str | None = None,
    **prices: Unpack[Prices],
) -> None:
    """Set what a model costs, in USD per million tokens (``_mtok``) or thousand events (``_kcount``).

    It replaces every other price of the model (None as provider: at any provider), for calls from now on::

        set_price("my-llama", input_mtok=0, output_mtok=0)
        set_price("gpt-4o", "azure", input_mtok="2.20", output_mtok="8.80", cache_read_mtok="1.10")
        set_price("my-deployment", alias_of="gpt-4o-mini")

    ``input_mtok`` is required, and ``output_mtok`` wherever there are output tokens; cached, audio, image and reasoning
    tokens without a price of their own cost as much as others of their direction, events without one nothing.
    ``alias_of`` bills a deployment or a fine-tune as another model, tiers and dates included: at the same provider
    where it sells that model, else at its maker, or at ``alias_provider``; its price keeps that model's source.
    `reset_prices` forgets it all.
    """
    own = own_price(model, provider, alias_of, alias_provider, prices)
    key = model.lower(), provider_id(provider) if provider else None
    with _state.lock:
        _state.own = {**_state.own, key: own}
        _state.book = None


def reset_prices() -> None:
    """Forget every price that was set with `set_price`, and which models were warned of."""
    with _state.lock:
        _state.own = {}
        _state.book = None
        _state.warned.clear()


def _current_book() -> PriceBook:
    from genai_prices.data_snapshot import get_snapshot

    import token_handlers.pricing.catalog  # noqa: F401

    snapshot = get_snapshot()
    with _state.lock:
        if _state.book is None or _state.book.snapshot is not snapshot:
            _state.book = PriceBook(_state.own, snapshot, get_snapshot)
        return _state.book


def _plan(key: _Key, now: float) -> "Plan":
    book = _current_book()
    call = _Call(*(None if name is None else str(name) for name in key))
    plan = _find_plan(book, call, now)
    if len(book.plans) >= _PLANS_KEPT:
        book.plans.clear()
    book.plans[key] = plan
    return plan


def _find_plan(book: PriceBook, call: _Call, now: float) -> "Plan":
    from token_handlers.pricing.plans import UNPRICED

    names = list(dict.fromkeys(name for name in (call.model, call.requested) if name))
    unpriced = UNPRICED
    for find in (_own_plan, _table_plan):
        for name in names:
            plan = find(book, call._replace(model=name), now)
            if plan and plan.priced:
                return plan
            unpriced = plan or unpriced
    _warn_unpriced(call, names)
    return unpriced


def _own_plan(book: PriceBook, call: _Call, now: float, seen: frozenset[_OwnKey] = frozenset()) -> "Plan | None":
    from token_handlers.pricing.plans import own_plan

    key = next((key for key in _own_keys(book, call) if key in book.own and key not in seen), None)
    if key is None:
        return None
    own = book.own[key]
    if own.alias_of is None:
        return own_plan(own.prices)
    elsewhere = {"provider": own.alias_provider, "base_url": None} if own.alias_provider else {}
    alias = call._replace(model=own.alias_of, **elsewhere)
    plan = _own_plan(book, alias, now, seen | {key})
    for place in (alias, alias._replace(provider=None, base_url=None)):
        if plan is None or not plan.priced:
            plan = _table_plan(book, place, now)
    return plan


def _own_keys(book: PriceBook, call: _Call) -> Iterator[_OwnKey]:
    """The keys of the prices that a user may have set for a call, the most particular first."""
    from token_handlers.pricing.catalog import provider_of_url, spellings

    host = provider_of_url(book.snapshot, call.base_url)
    for name in spellings(call.model or ""):
        yield from ((name, provider_id(provider)) for provider in (call.provider, host and host.id) if provider)
        yield name, None


def _table_plan(book: PriceBook, call: _Call, now: float) -> "Plan | None":
    from token_handlers.pricing.catalog import find_entry, knows_tier, table_plan

    entry = find_entry(book.snapshot, call.model or "", call.provider, call.base_url)
    if entry is None:
        return None
    plan = table_plan(entry, call.service_tier, now)
    if plan.priced and not knows_tier(entry, call.service_tier, now):
        _warn_once(
            ("tier", call.provider, call.model, call.service_tier),
            "no rates of %r (provider %r) for the service tier %r: its calls are priced at the standard rate",
            call.model,
            call.provider,
            call.service_tier,
        )
    return plan


def _warn_unpriced(call: _Call, names: list[str]) -> None:
    if not names:
        _warn_once(("name", call.provider), "calls through %r state no model, and count as unpriced", call.provider)
        return
    _warn_once(
        ("price", call.provider, names[0]),
        "no price for %s (provider %r), its calls count as unpriced: set one with "
        "token_handlers.set_price(%r, input_mtok=..., output_mtok=...), 0 where it costs nothing, "
        "or with alias_of=... where it is another name, a deployment or a fine-tune of a model with a price",
        " or ".join(map(repr, names)),
        call.provider,
        names[-1],
    )


def _warn_once(key: tuple[str | None, ...], message: str, *args: object) -> None:
    with _state.lock:
        if key in _state.warned or len(_state.warned) >= _WARNINGS_KEPT:
            return
        _state.warned.add(key)
        last = len(_state.warned) == _WARNINGS_KEPT
    logger.warning("%s (%s)", message % args, WHY)
    if last:
        logger.warning("this was warning %d about prices: further models are not named", _WARNINGS_KEPT)
