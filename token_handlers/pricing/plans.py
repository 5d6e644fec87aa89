"""Plans, which price calls by one sheet of rates in about a microsecond, and the book of the plans that hold now."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from itertools import compress
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from genai_prices import Usage as GenaiUsage
from genai_prices.data_units import unit_data
from genai_prices.types import ModelPrice

from token_handlers.pricing.overrides import Multiplier, OwnKey, PriceOverride
from token_handlers.pricing.price import (
    JUNK,
    PlanKey,
    Price,
    warn_no_price,
    warn_of_doubts,
    warn_unpriced,
)
from token_handlers.pricing.rates import (
    BY_PRICE_KEY,
    CONTEXT,
    GENAI_NAMES,
    NAMES,
    OWN_PRICE_KEYS,
    PER_CALL,
    UNITS,
    USAGE_UNITS,
    Rate,
    Rates,
    RateSheet,
    Unit,
    amount_of,
    compile_rates,
    compiled,
    cost_formula,
    is_countable,
    rate_at,
    rests_of,
    tiers_of,
    units_of,
    with_wholes_and_overlaps,
)
from token_handlers.usage import EXACT, CostPart, new_tuple

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot

_FREE = Decimal(0)
_CACHED = "cache_read_tokens", "cache_write_tokens"
_SUMS_KEPT = 64
_QUOTES_KEPT = 1024

_BOTH = "input_tokens", "output_tokens"

SoldAs = tuple[str | None, str | None, str | None]
"""Model, provider and base URL, by which a call that has not been sent is priced."""

Quote = Callable[..., Price | None]
"""``quote(at, counts, *counts.values())`` prices the calls of one plan whose counts have the same names.

None leaves a call to `Plan.price`: its time is not the plan's, the price table has changed, its prompt is long, or its
counts contradict each other or are in doubt.
"""
CostQuote = Callable[[float, int, int], Decimal | None]
"""``cost_quote(at, input_tokens, output_tokens)`` is the USD of calls with no other counts; None as of a Quote."""


class RateRow(NamedTuple):
    """``rate`` USD for ``per`` of a unit, above so many input tokens per call; ``note`` says whose rate it is."""

    unit: str
    rate: Decimal
    per: int
    above_input_tokens: int = 0
    note: str = ""
    doubt: str = ""


class _RatedUnit(NamedTuple):
    """A unit that calls pay for: its name, ``rate`` USD for ``per`` of it, and a note on the rate.

    A call has ``number`` of it, plus each of the counts, by name, times its weight.
    """

    name: str
    rate: Rate
    per: int
    note: str
    number: int
    weights: tuple[tuple[str, int], ...]


class _Compiled(NamedTuple):
    """How calls whose counts have the same names are priced: their cost in steps of USD, and the counts in doubt."""

    steps: Callable[..., int | None]
    doubtful: tuple[str, ...]


class Plan:
    """Prices calls from ``start`` until ``end`` (epoch seconds) by one sheet of rates; without rates there is no price.

    A cost is a weighted sum of the counts. A count has one integer weight per tier: its price less that of the whole
    that it is a part of. genai-prices does what a sum cannot express: hours, contradictions, more than 28 digits.
    """

    __slots__ = (
        "_compiled",
        "_cost_quote",
        "_left_out",
        "_model_price",
        "_quotes",
        "_rated",
        "_sheet",
        "_tiers",
        "_unrated",
        "end",
        "source",
        "start",
    )

    def __init__(
        self, sheet: RateSheet, *, start: float = -inf, end: float = inf, left_out: frozenset[str] = frozenset()
    ) -> None:
        self.start, self.end = start, end
        self.source = sheet.source  # whose rates they are
        self._sheet = sheet
        self._unrated = sheet.doubt_unrated_events()
        self._model_price: ModelPrice | None = None
        if is_countable(sheet.rates):
            ours = {key: rate for key, rate in sheet.rates.items() if key not in OWN_PRICE_KEYS}
            self._model_price = ModelPrice(**ours)
        self._tiers = compile_rates(sheet.rates)
        self._left_out = left_out | self._tiers.uneven
        self._compiled: dict[tuple[str, ...], _Compiled] = {}
        self._quotes: dict[tuple[str, ...], Quote] = {}
        self._cost_quote: CostQuote | None = None
        self._rated: dict[tuple[str, ...], tuple[_RatedUnit, ...]] = {}

    @property
    def priced(self) -> bool:
        """False where there is no price, which is not a price of 0."""
        return self._model_price is not None

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why every call is an estimate."""
        return tuple(self._sheet.doubts)

    @property
    def rates(self) -> Rates:
        """The rates by price key, every factor included."""
        return self._sheet.rates

    def rows(self) -> Iterator[RateRow]:
        """Yield the rates of a Usage's counts and of a request, each step of them."""
        for name, unit in (*USAGE_UNITS.items(), (PER_CALL.key, PER_CALL)):
            rate = self._sheet.rates.get(unit.price_key)
            if rate is None:
                continue
            note, doubt = self._sheet.notes.get(unit.price_key, ""), self._sheet.unit_doubts.get(name, "")
            row = RateRow(name, amount_of(rate), unit.per, note=note, doubt=doubt)
            yield row
            yield from (row._replace(rate=tier.price, above_input_tokens=tier.start) for tier in tiers_of(rate))

    def price(self, counts: Mapping[str, int]) -> tuple[Decimal, tuple[str, ...]] | None:
        """Return the USD and why they are an estimate; None without counts, or where only events without a rate cost.

        Raises ValueError where the counts contradict each other or leave the price open.
        """
        if not counts or self._model_price is None:
            return None
        names = tuple(counts)
        total, doubtful = self._compiled.get(names) or self._compile(names)
        try:
            steps = total(*counts.values())
        except TypeError:  # a count that is no whole number
            steps = None
        if type(steps) is not int:
            cost = self._exact(counts)
        else:
            cost = CONTEXT.multiply(steps, self._tiers.step) if steps else _FREE
        doubts = self._sheet.doubts
        if doubtful and any(map(counts.get, doubtful)):
            counted = [name for name in doubtful if counts[name]]
            if not cost and not self._unrated.isdisjoint(counted):
                return None
            doubts = doubts + [self._sheet.unit_doubts[name] for name in counted]
        if self._sheet.long_prompts is not None:
            above, why = self._sheet.long_prompts
            doubts = [*doubts, why] if counts.get("input_tokens", 0) > above else doubts
        return cost, tuple(doubts) if doubts else ()

    def parts(self, counts: Mapping[str, int], model: str | None = None) -> tuple[CostPart, ...]:
        """Return what each unit cost and by which rate; the sum is the cost."""
        names = tuple(compress(counts, counts.values()))  # what is 0 costs nothing
        found = []
        for name, rate, per, note, number, weights in self._rated.get(names) or self._rate(names):
            for counted, weight in weights:
                number += weight * counts[counted]  # noqa: PLW2901 (what it begins with)
            if number:
                usd = rate if type(rate) is Decimal else rate_at(rate, counts.get("input_tokens", 0))
                cost = CONTEXT.divide(CONTEXT.multiply(number, usd), per)
                found.append(CostPart(name, number, usd, per, cost, note, model))
        return tuple(found)

    def _rate(self, names: tuple[str, ...]) -> tuple[_RatedUnit, ...]:
        """Return the units that calls with these counts pay, in the order of Usage's fields, and a fee per call."""
        if len(self._rated) >= _SUMS_KEPT:
            self._rated.clear()
        order = [*USAGE_UNITS.values()]
        rests = rests_of(self._sheet_units(), units_of(names)).items()
        units = [(unit, 0, weights) for unit, weights in sorted(rests, key=lambda rest: order.index(rest[0]))]
        if PER_CALL.price_key in self._sheet.rates:
            units.append((PER_CALL, 1, []))
        made = self._rated[names] = tuple(
            _RatedUnit(
                NAMES.get(unit.key, unit.key),
                self._sheet.rates[unit.price_key],
                unit.per,
                self._sheet.notes.get(unit.price_key, ""),
                number,
                tuple((name, weight) for name, weight in zip(names, weights, strict=False) if weight),
            )
            for unit, number, weights in units
            if number or any(weights)
        )
        return made

    def _sheet_units(self) -> list[Unit]:
        units = [BY_PRICE_KEY[key] for key in self._sheet.rates if key in BY_PRICE_KEY]
        return [unit for unit in units if unit is not PER_CALL and (unit.key in NAMES)]

    def _compile(self, names: tuple[str, ...]) -> _Compiled:
        if len(self._compiled) >= _SUMS_KEPT:
            self._compiled.clear()
        formula = cost_formula(self._tiers, self._left_out, units_of(names))
        source = f"None if {formula.leaves_open()} else {formula.steps()}"
        made = self._compiled[names] = _Compiled(compiled(_parameters(names), source), self._doubtful(names))
        return made

    def _doubtful(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self._sheet.unit_doubts)

    def quote(self, names: tuple[str, ...], book: "PriceBook") -> Quote:
        """Return the quote of calls whose counts have these names; it is compiled once."""
        kept = self._quotes.get(names)
        if kept is not None:
            return kept
        if len(self._quotes) >= _SUMS_KEPT:
            self._quotes.clear()
        saved = "None"
        if cached := " or ".join(f"n{names.index(name)}" for name in _CACHED if name in names):
            saved = f"multiply({{saved}}, step) if {cached} else None"
        price = f"new(Price, (multiply({{cost}}, step) or free, source, doubts, ((plan, counts, None),), {saved}))"
        made = self._quotes[names] = self._quote("at, counts", names, price, book)
        return made

    def cost_quote(self, book: "PriceBook") -> CostQuote:
        """Return the quote of calls with input and output tokens alone; it is compiled once."""
        if self._cost_quote is None:
            self._cost_quote = self._quote("at", _BOTH, "multiply({cost}, step) or free", book)
        return self._cost_quote

    def _quote(self, first: str, names: tuple[str, ...], price: str, book: "PriceBook") -> Callable[..., Any]:
        doubtful = (unit.key for unit in units_of(self._doubtful(names)) if unit)
        formula = cost_formula(self._tiers, self._left_out.union(doubtful), units_of(names))
        unusual = f"snapshot is not get_snapshot() or not start <= at < end or {formula.leaves_open()}"
        long = formula.starts + ([self._sheet.long_prompts[0]] if self._sheet.long_prompts else [])
        if long and formula.input_at is not None:
            unusual += f" or n{formula.input_at} > {min(long)}"
        formula = formula.lowest()
        unit, saved = formula.common_unit(), formula.saved([at for at, name in enumerate(names) if _is_of_cache(name)])
        return compiled(
            (first, *_parameters(names)),
            f"None if {unusual} else {price.format(cost=formula.steps(unit), saved=saved.steps(unit))}",
            {
                "snapshot": book.snapshot,
                "get_snapshot": book.get_snapshot,
                "start": self.start,
                "end": self.end,
                "new": new_tuple,
                "Price": Price,
                "multiply": CONTEXT.multiply,
                "step": CONTEXT.multiply(unit, self._tiers.step),
                "free": _FREE,
                "source": self.source,
                "doubts": self.doubts,
                "plan": self,
            },
        )

    def _exact(self, counts: Mapping[str, int]) -> Decimal:
        """Return the cost as genai-prices calculates it, plus our own units; raises ValueError as it does."""
        if self._model_price is None:
            raise ValueError("there are no rates")
        for name in self._left_out & USAGE_UNITS.keys() & counts.keys():
            if counts[name]:
                key = USAGE_UNITS[name].price_key
                raise ValueError(f"there are {counts[name]} {name}, and no {key}: set it with set_price")
        with localcontext(CONTEXT):
            own = sum(
                (self._own_cost(unit, counts) for unit in map(UNITS.get, counts) if unit is not None), start=_FREE
            )
            return self._model_price.calc_price(_genai_usage(counts))["total_price"] + own

    def _own_cost(self, unit: Unit, counts: Mapping[str, int]) -> Decimal:
        if unit.price_key not in OWN_PRICE_KEYS or unit.price_key not in self._sheet.rates:
            return _FREE
        tokens = counts.get("input_tokens", 0)
        rate = rate_at(self._sheet.rates[unit.price_key], tokens)
        whole = next(
            (other for other in self._sheet_units() if other.key == "cache_write_tokens" and other.holds(unit)), None
        )
        included = rate_at(self._sheet.rates[whole.price_key], tokens) if whole else _FREE
        if whole and counts[unit.key] > counts.get(whole.key, 0):
            raise ValueError(f"{unit.key} ({counts[unit.key]}) exceeds {whole.key} ({counts.get(whole.key, 0)})")
        return counts[unit.key] * (rate - included) / unit.per


def _parameters(names: Sequence[str]) -> Iterator[str]:
    """Yield the names that the counts have in a formula's source."""
    return (f"n{at}" for at in range(len(names)))


def _is_of_cache(name: str) -> bool:
    return name.startswith("cache_")


def _genai_usage(counts: Mapping[str, int]) -> GenaiUsage:
    named = {GENAI_NAMES.get(name, name): count for name, count in counts.items()}
    if None in named.values():  # which genai-prices takes for 0
        raise ValueError("a count is None")
    return GenaiUsage(**{name: count for name, count in named.items() if name in unit_data and name != PER_CALL.key})


UNPRICED = Plan(RateSheet({}, source=""))


def own_plan(prices: Mapping[str, Decimal], doubts: Mapping[str, str]) -> Plan:
    """Return the plan of prices that a user set, with doubts by price key.

    Output tokens leave the price open where no output price was set.
    """
    left_out = frozenset(() if "output_mtok" in prices else ("output_tokens",))
    sheet = RateSheet(with_wholes_and_overlaps(prices), notes=dict.fromkeys(prices, "set_price"), source="user")
    for key, doubt in doubts.items():
        sheet.set(key, prices[key], "set_price", doubt)
    return Plan(sheet, left_out=left_out)


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The user's prices, a snapshot of genai-prices, and the plans made of both; a change of either is a new book.

    ``find`` makes the plan of a call at a moment (epoch seconds), and keeps it in the current book.
    """

    own: Mapping[OwnKey, PriceOverride]
    multipliers: tuple[Multiplier, ...]
    snapshot: "DataSnapshot"
    get_snapshot: "Callable[[], DataSnapshot]"
    find: Callable[[PlanKey, float], Plan]
    plans: dict[PlanKey, Plan] = field(default_factory=dict)
    quotes: dict[tuple[PlanKey | str, ...], Quote] = field(default_factory=dict)
    cost_quotes: dict[SoldAs, CostQuote] = field(default_factory=dict)

    def plan(self, key: PlanKey, at: float | None) -> Plan | None:
        """Return the plan by which a call is priced, None where there can be none; raises for a time out of range."""
        try:
            now = time.time() if at is None else at + 0.0
            plan = self.plans.get(key)
            if plan is not None and plan.start <= now < plan.end and self.snapshot is self.get_snapshot():
                return plan
        except TypeError:  # a name that cannot be looked up, a time that is no number
            return None
        return self.find(key, now)

    def price(
        self,
        key: PlanKey,
        counts: Mapping[str, int],
        at: float | None,
        warns: bool = True,  # noqa: FBT001, FBT002 (a keyword would cost each call a microsecond)
    ) -> Price | None:
        """As `price_call`, with the key of the plan as one tuple: for calls that are recorded."""
        if at is None:
            at = time.time()
        try:
            price = self.quotes[(key, *counts)](at, counts, *counts.values())
        except (KeyError, TypeError):  # a name that cannot be looked up, a time or a count that is no number
            price = None
        return self._price(key, counts, at, warns=warns) if price is None else price

    def cost(self, sold: SoldAs, input_tokens: int, output_tokens: int, at: float) -> Decimal | None:
        """Return the USD of a call that has not been sent, as `price` does; None where it has no price."""
        try:
            cost = self.cost_quotes[sold](at, input_tokens, output_tokens)
        except (KeyError, TypeError):
            cost = None
        return self._cost(sold, input_tokens, output_tokens, at) if cost is None else cost

    def _cost(self, sold: SoldAs, input_tokens: int, output_tokens: int, at: float) -> Decimal | None:
        key: PlanKey = (*sold, None, None, ())
        price = self.price(key, dict(zip(_BOTH, (input_tokens, output_tokens), strict=True)), at)
        if price is None:
            return None
        plan = self.plans.get(key)
        if plan is not None and (key, *_BOTH) in self.quotes:  # so that its doubts have been logged
            self.cost_quotes[sold] = plan.cost_quote(self)
        return price.cost

    def _price(self, key: PlanKey, counts: Mapping[str, int], at: float, *, warns: bool) -> Price | None:
        """Price a call by its plan, log its doubts, and keep a quote for calls like it."""
        try:
            plan = self.plan(key, at)
            found = None if plan is None else plan.price(counts)
        except JUNK as error:
            if warns:
                warn_unpriced(key[0], key[1], str(error))
            return None
        if plan is None or found is None:
            if warns and plan is not None:
                _warn_of_no_price(plan, counts, key)
            return None
        cost, doubts = found
        if doubts and warns:
            warn_of_doubts(key[0] or key[4], key[1], doubts)
        if warns or not plan.doubts:  # a quote logs no doubts: they must have been logged before
            self._keep_quote(plan, key, counts)
        saved = _cache_saved(plan, counts, cost) if any(map(counts.get, _CACHED)) else None
        return Price(cost, plan.source, doubts, ((plan, counts, None),), saved)

    def _keep_quote(self, plan: Plan, key: PlanKey, counts: Mapping[str, int]) -> None:
        if self.plans.get(key) is plan:  # else it belongs to a newer book
            if len(self.quotes) >= _QUOTES_KEPT:
                self.quotes.clear()
                self.cost_quotes.clear()
            self.quotes[(key, *counts)] = plan.quote(tuple(counts), self)


def _cache_saved(plan: Plan, counts: Mapping[str, int], cost: Decimal) -> Decimal | None:
    uncached = plan.price({name: number for name, number in counts.items() if not _is_of_cache(name)})
    return None if uncached is None else EXACT.subtract(uncached[0], cost)


def _warn_of_no_price(plan: Plan, counts: Mapping[str, int], key: PlanKey) -> None:
    if not plan.priced:
        warn_no_price(key[0], key[4], key[1])
    elif counts:
        warn_unpriced(key[0], key[1], "no rate is known for what it used")
