"""Rates compiled to integers: the exact cost of a call, in about a microsecond."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import combinations
from math import inf
from operator import mul
from typing import Any, NamedTuple

from genai_prices import Usage as GenaiUsage
from genai_prices.data_units import unit_data
from genai_prices.types import ModelPrice, Tier, TieredPrices

from token_handlers.usage import CostPart, Usage

Rate = Decimal | TieredPrices
Rates = Mapping[str, Rate]
_Sum = Callable[..., int | None]

_GENAI_NAMES = {"reasoning_tokens": "output_reasoning_tokens"}
_CONTEXT = Context(prec=28)  # the precision in which genai-prices adds up, whatever the thread's own context says
_ROUNDED = 10**_CONTEXT.prec
_SCALED_DIGITS = Decimal("1e-12")
_FREE = Decimal(0)
_SUMS_KEPT = 64


class Unit(NamedTuple):
    """Something that is counted and priced; one with more dimensions is a part of those with fewer."""

    key: str
    price_key: str
    per: int
    dimensions: frozenset[tuple[str, str]]

    def holds(self, other: "Unit | None") -> bool:
        """Whether the other is a part of this."""
        return other is not None and self.dimensions < other.dimensions


_OWN_UNITS: dict[str, dict[str, object]] = {  # that genai-prices does not have
    "cache_write_12h_tokens": {
        "price_key": "cache_write_12h_mtok",
        "per": 10**6,
        "dimensions": {"family": "tokens", "direction": "input", "token_type": "cache_write", "cache_ttl": "12h"},
    },
} | {
    key: {"price_key": f"{key}_kcount", "per": 1000, "dimensions": {"family": "tool_calls", "tool_type": key}}
    for key in ("container_sessions", "maps_searches", "sources")
}
_RAW_UNITS: dict[str, Any] = _OWN_UNITS | unit_data
UNITS = {
    key: Unit(key, raw["price_key"], raw["per"], frozenset(raw["dimensions"].items()))
    for key, raw in _RAW_UNITS.items()
}
_OWN_PRICE_KEYS = frozenset(str(raw["price_key"]) for key, raw in _OWN_UNITS.items() if key not in unit_data)
_BY_PRICE_KEY = {unit.price_key: unit for unit in UNITS.values()}
_BY_DIMENSIONS = {unit.dimensions: unit for unit in UNITS.values()}
_INPUT, _PER_CALL = UNITS["input_tokens"], UNITS["requests"]
_USAGE_UNITS = {name: UNITS[_GENAI_NAMES.get(name, name)] for name in Usage.model_fields}
_NAMES = {unit.key: name for name, unit in _USAGE_UNITS.items()}
PRICE_KEYS = (*(unit.price_key for unit in _USAGE_UNITS.values()), _PER_CALL.price_key)
"""The price of each count of a Usage, and of a request."""
_EVENTS = {name: unit.price_key for name, unit in _USAGE_UNITS.items() if unit.price_key.endswith("_kcount")}
_SPOKEN_OF = {
    "social_searches": "searches of social media",
    "storage_searches": "searches of files",
    "rerank_searches": "rerank searches",
    "sources": "search sources",
}


def is_countable(rates: Rates) -> bool:
    """Whether a Usage can hold anything that has a rate: false for no rates, and for hours of audio alone."""
    return not set(PRICE_KEYS).isdisjoint(rates)


def token_keys(rates: Iterable[str]) -> tuple[str, ...]:
    """Return those of the price keys that are rates of tokens."""
    return tuple(key for key in rates if key.endswith("_mtok"))


def amount_of(rate: Rate) -> Decimal:
    """Return the USD of a rate, of its lowest step where it has some."""
    return rate.base if isinstance(rate, TieredPrices) else rate


def scaled(rate: Rate, factor: Decimal) -> Rate:
    """Return a rate times a factor, every step of it, to a millionth of a millionth of a USD."""

    def times(amount: Decimal) -> Decimal:
        with localcontext(_CONTEXT):
            return (amount * factor).quantize(_SCALED_DIGITS).normalize()

    if isinstance(rate, Decimal):
        return times(rate)
    return TieredPrices(
        base=times(rate.base), tiers=[Tier(start=tier.start, price=times(tier.price)) for tier in rate.tiers]
    )


@dataclass
class RateSheet:
    """The rates that hold for a call, by price key, and what is not certain about them.

    ``doubts`` hold for every call; ``unit_doubts``, by a count of Usage, for calls in which it is not 0. ``notes`` say
    which rate a price key has. ``long_prompts`` are doubted above so many input tokens, for that reason.
    ``place_is_set``: a user's multiplier names the place, and takes the place of ours.
    """

    rates: dict[str, Rate]
    doubts: list[str] = field(default_factory=list)
    unit_doubts: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    source: str = "genai-prices"
    place_is_set: bool = False
    long_prompts: tuple[int, str] | None = None

    def doubt(self, why: str) -> None:
        """Add why every call is an estimate."""
        if why not in self.doubts:
            self.doubts.append(why)

    def note(self, key: str, text: str) -> None:
        """Add what is to know of one rate."""
        self.notes[key] = ", ".join(filter(None, (self.notes.get(key), text)))

    def note_tokens(self, text: str) -> None:
        """Add what is to know of every token's rate."""
        for key in token_keys(self.rates):
            self.note(key, text)

    def multiply(self, factor: Decimal, note: str, keys: Iterable[str]) -> None:
        """Multiply the rates of some price keys."""
        for key in keys:
            self.rates[key] = scaled(self.rates[key], factor)
            self.note(key, f"x{factor.normalize():f} for {note}")

    def set(self, key: str, rate: Rate, note: str, doubt: str = "") -> None:
        """Set one rate; a doubt holds where its unit is counted, for requests always."""
        self.rates[key] = rate
        self.notes[key] = note
        unit = _NAMES.get(_BY_PRICE_KEY[key].key)
        if unit is None:
            self.doubts.extend([doubt] if doubt else [])
        elif doubt:
            self.unit_doubts[unit] = doubt
        else:
            self.unit_doubts.pop(unit, None)

    def doubt_unrated_events(self) -> frozenset[str]:
        """Add a doubt for each event that has no rate, and return these."""
        unrated = frozenset(name for name, key in _EVENTS.items() if key not in self.rates)
        for name in unrated:
            said = _SPOKEN_OF.get(name) or name.replace("_", " ")
            self.unit_doubts[name] = f"no rate is known for {said}: the cost is without them"
        return unrated


class _Tiers(NamedTuple):
    """Integer prices, in steps of USD, per tier; a tier holds above its start, in input tokens."""

    starts: list[int]
    rates: list[dict[Unit, int]]
    per_call: list[int]
    step: Decimal
    uneven: frozenset[str]  # priced per 3,600 or 60, which no power of ten divides


class RateRow(NamedTuple):
    """USD for so many of a unit, of calls with more than so many input tokens, and which rate that is."""

    unit: str
    rate: Decimal
    per: int
    above_input_tokens: int = 0
    note: str = ""
    doubt: str = ""


class _Compiled(NamedTuple):
    """What calls whose counts have the same names have in common."""

    sum: _Sum
    doubtful: tuple[str, ...]


class Plan:
    """What calls cost from ``start`` until ``end`` (epoch seconds), by one sheet of rates.

    Each count has one integer weight per tier: its price less that of the whole it is a part of. What a sum
    cannot express (hours, contradictions, more than 28 digits) is left to genai-prices. Without rates, no price.
    """

    __slots__ = (
        "_compiled",
        "_left_out",
        "_model_price",
        "_sheet",
        "_tiers",
        "_unrated",
        "_weights",
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
            ours = {key: rate for key, rate in sheet.rates.items() if key not in _OWN_PRICE_KEYS}
            self._model_price = ModelPrice(**ours)
        self._tiers = _compile(sheet.rates)
        self._left_out = left_out | self._tiers.uneven
        self._compiled: dict[tuple[str, ...], _Compiled] = {}
        self._weights: dict[tuple[str, ...], tuple[tuple[Unit, list[int]], ...]] = {}

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
        for name, unit in (*_USAGE_UNITS.items(), (_PER_CALL.key, _PER_CALL)):
            rate = self._sheet.rates.get(unit.price_key)
            if rate is None:
                continue
            note, doubt = self._sheet.notes.get(unit.price_key, ""), self._sheet.unit_doubts.get(name, "")
            row = RateRow(name, amount_of(rate), unit.per, note=note, doubt=doubt)
            yield row
            yield from (row._replace(rate=tier.price, above_input_tokens=tier.start) for tier in _tiers(rate))

    def price(self, counts: Mapping[str, int]) -> tuple[Decimal, tuple[str, ...]] | None:
        """Return USD and why they are an estimate, or None without counts, or where only events without a rate cost.

        Raises ValueError where the counts contradict each other or leave the price open.
        """
        if not counts or self._model_price is None:
            return None
        names = tuple(counts)
        try:
            total, doubtful = self._compiled.get(names) or self._compile(names)
            steps = total(*counts.values())
        except TypeError:  # a count that is no number
            steps, doubtful = None, ()
        if type(steps) is not int or steps >= _ROUNDED:
            cost = self._exact(counts)
        else:
            cost = _CONTEXT.multiply(steps, self._tiers.step) if steps else _FREE
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
        """Return what each counted unit cost and by which rate; together that is the cost."""
        names = tuple(counts)
        weighted = self._weights.get(names)
        if weighted is None:
            weighted = self._weigh(names)
        tokens = counts.get("input_tokens", 0)
        numbers = ((unit, sum(map(mul, weights, counts.values()))) for unit, weights in weighted)
        found = [self._part(unit, number, tokens, model) for unit, number in numbers if number]
        if _PER_CALL.price_key in self._sheet.rates:
            found.append(self._part(_PER_CALL, 1, tokens, model))
        return tuple(found)

    def _weigh(self, names: tuple[str, ...]) -> tuple[tuple[Unit, list[int]], ...]:
        """Return the rated units in the order of Usage's fields, each as so many times each of the counts."""
        if len(self._weights) >= _SUMS_KEPT:
            self._weights.clear()
        units = [UNITS.get(_GENAI_NAMES.get(name, name)) for name in names]
        order = [*_USAGE_UNITS.values()]
        rests = _rests(self._sheet_units(), units).items()
        made = self._weights[names] = tuple(sorted(rests, key=lambda rest: order.index(rest[0])))
        return made

    def _part(self, unit: Unit, number: int, tokens: int, model: str | None) -> CostPart:
        rate = _price_at(self._sheet.rates[unit.price_key], tokens)
        cost = _CONTEXT.divide(_CONTEXT.multiply(number, rate), unit.per)
        note = self._sheet.notes.get(unit.price_key, "")
        return CostPart(_NAMES.get(unit.key, unit.key), number, rate, unit.per, cost, note, model)

    def _sheet_units(self) -> list[Unit]:
        units = [_BY_PRICE_KEY[key] for key in self._sheet.rates if key in _BY_PRICE_KEY]
        return [unit for unit in units if unit is not _PER_CALL and (unit.key in _NAMES)]

    def _compile(self, names: tuple[str, ...]) -> _Compiled:
        if len(self._compiled) >= _SUMS_KEPT:
            self._compiled.clear()
        doubtful = tuple(name for name in names if name in self._sheet.unit_doubts)
        made = self._compiled[names] = _Compiled(_sum(self._tiers, self._left_out, names), doubtful)
        return made

    def _exact(self, counts: Mapping[str, int]) -> Decimal:
        """Return the cost as genai-prices works it out, with what it has no units for; raises ValueError as it does."""
        if self._model_price is None:
            raise ValueError("there are no rates")
        for name in self._left_out & _USAGE_UNITS.keys() & counts.keys():
            if counts[name]:
                key = _USAGE_UNITS[name].price_key
                raise ValueError(f"there are {counts[name]} {name}, and no {key}: set it with set_price")
        with localcontext(_CONTEXT):
            own = sum(
                (self._own_cost(unit, counts) for unit in map(UNITS.get, counts) if unit is not None), start=_FREE
            )
            return self._model_price.calc_price(_genai_usage(counts))["total_price"] + own

    def _own_cost(self, unit: Unit, counts: Mapping[str, int]) -> Decimal:
        if unit.price_key not in _OWN_PRICE_KEYS or unit.price_key not in self._sheet.rates:
            return _FREE
        tokens = counts.get("input_tokens", 0)
        rate = _price_at(self._sheet.rates[unit.price_key], tokens)
        whole = next(
            (other for other in self._sheet_units() if other.key == "cache_write_tokens" and other.holds(unit)), None
        )
        included = _price_at(self._sheet.rates[whole.price_key], tokens) if whole else _FREE
        if whole and counts[unit.key] > counts.get(whole.key, 0):
            raise ValueError(f"{unit.key} ({counts[unit.key]}) exceeds {whole.key} ({counts.get(whole.key, 0)})")
        return counts[unit.key] * (rate - included) / unit.per


def _genai_usage(counts: Mapping[str, int]) -> GenaiUsage:
    named = {_GENAI_NAMES.get(name, name): count for name, count in counts.items()}
    if None in named.values():  # which genai-prices takes for 0
        raise ValueError("a count is None")
    return GenaiUsage(**{name: count for name, count in named.items() if name in unit_data and name != _PER_CALL.key})


def _compile(prices: Rates) -> _Tiers:
    priced = {_BY_PRICE_KEY[key]: price for key, price in prices.items() if key in _BY_PRICE_KEY}
    uneven = frozenset(unit for unit in priced if not _is_power_of_ten(unit.per))
    even = {unit: price for unit, price in priced.items() if unit not in uneven}
    starts = sorted({tier.start for price in even.values() for tier in _tiers(price)})
    scale = max((_decimals(unit, amount) for unit, price in even.items() for amount in _amounts(price)), default=0)
    rates = [
        {unit: int(Fraction(_price_at(price, tokens)) * 10**scale / unit.per) for unit, price in even.items()}
        for tokens in (0, *(start + 1 for start in starts))
    ]
    per_call = [rate.pop(_PER_CALL, 0) for rate in rates]
    return _Tiers(starts, rates, per_call, Decimal((0, (1,), -scale)), frozenset(unit.key for unit in uneven))


def _is_power_of_ten(number: int) -> bool:
    return str(number).strip("0") == "1"


def _tiers(price: Decimal | TieredPrices) -> Sequence[Tier]:
    return price.tiers if isinstance(price, TieredPrices) else ()


def _amounts(price: Decimal | TieredPrices) -> Iterator[Decimal]:
    yield price.base if isinstance(price, TieredPrices) else price
    yield from (tier.price for tier in _tiers(price))


def _decimals(unit: Unit, amount: Decimal) -> int:
    exponent = amount.as_tuple().exponent
    return len(str(unit.per)) - 1 - min(int(exponent), 0)


def _price_at(price: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if input_tokens > tier.start), price.base)


def _sum(tiers: _Tiers, left_out: frozenset[str], names: tuple[str, ...]) -> _Sum:
    """A function of the counts, in the order of their names: their cost in steps, or None for genai-prices to judge."""
    units = [UNITS.get(_GENAI_NAMES.get(name, name)) for name in names]
    doubts = {f"n{at} < 0" for at in range(len(units))}
    doubts |= {f"n{at}" for at, unit in enumerate(units) if unit and unit.key in left_out}
    rests = _rests(tiers.rates[0], units)
    for unit, rest in rests.items():
        if min(rest) < 0:
            doubts.add(f"{_terms(rest)} < 0")
        if unit not in units:
            doubts |= {f"n{at}" for at, other in enumerate(units) if unit.holds(other)}
            doubts |= {f"n{left} and n{right}" for left, right in _overlaps(unit, units)}
    totals = [
        f"{_terms([sum(rates[unit] * rests[unit][at] for unit in rates) for at in range(len(units))])} + {per_call}"
        for rates, per_call in zip(tiers.rates, tiers.per_call, strict=True)
    ]
    return _function(len(units), doubts, _by_tier(tiers.starts, totals, units))


def _rests(rated: Iterable[Unit], counted: Sequence[Unit | None]) -> dict[Unit, list[int]]:
    """Return each rated unit without its rated parts, as so many times each of the counted units."""
    rests: dict[Unit, list[int]] = {}
    for unit in sorted(rated, key=lambda unit: -len(unit.dimensions)):
        rest = [int(other is unit) for other in counted]
        for part in filter(unit.holds, rests):
            rest = [count - inner for count, inner in zip(rest, rests[part], strict=True)]
        rests[unit] = rest
    return rests


def _terms(factors: Sequence[int]) -> str:
    return " + ".join(f"{factor} * n{at}" for at, factor in enumerate(factors) if factor) or "0"


def _by_tier(starts: Sequence[int], totals: Sequence[str], units: Sequence[Unit | None]) -> str:
    if _INPUT not in units:
        return totals[0]
    below = (
        f"{total} if n{units.index(_INPUT)} <= {start} else " for start, total in zip(starts, totals, strict=False)
    )
    return "".join(below) + totals[-1]


def _function(parameters: int, doubts: Iterable[str], total: str) -> _Sum:
    # source that is made of integers alone: three times as fast as loops over them
    source = (
        f"lambda {', '.join(f'n{at}' for at in range(parameters))}: None if {' or '.join(sorted(doubts))} else {total}"
    )
    function: _Sum = eval(source, {"__builtins__": {}})  # noqa: S307
    return function


def _overlaps(unit: Unit, reported: Sequence[Unit | None]) -> Iterator[tuple[int, int]]:
    """The positions of two reported counts that overlap in just this unit."""
    for (left_at, left), (right_at, right) in combinations(enumerate(reported), 2):
        if (
            left
            and right
            and left.dimensions | right.dimensions == unit.dimensions
            and not (left.holds(right) or right.holds(left))
        ):
            yield left_at, right_at


UNPRICED = Plan(RateSheet({}, source=""))


def own_plan(prices: Mapping[str, Decimal], doubts: Mapping[str, str]) -> Plan:
    """Return the plan of prices that a user set, with doubts by price key.

    Output tokens leave the price open where no output price was set.
    """
    left_out = frozenset(() if "output_mtok" in prices else ("output_tokens",))
    sheet = RateSheet(_with_wholes_and_overlaps(prices), notes=dict.fromkeys(prices, "set_price"), source="user")
    for key, doubt in doubts.items():
        sheet.set(key, prices[key], "set_price", doubt)
    return Plan(sheet, left_out=left_out)


def _with_wholes_and_overlaps(prices: Mapping[str, Decimal]) -> dict[str, Rate]:
    """Add what genai-prices wants priced too, without a discount that nobody stated.

    The whole of a part costs what input (or output) costs, an overlap, such as cached audio, what its modality costs.
    """
    full = {_BY_PRICE_KEY[key]: amount for key, amount in prices.items()}
    for part in tuple(full):
        direction = prices.get(f"{dict(part.dimensions).get('direction')}_mtok")
        if direction is not None:
            full = {unit: direction for unit in UNITS.values() if unit.holds(part)} | full
    for left, right in combinations(tuple(full), 2):
        overlap = _BY_DIMENSIONS.get(left.dimensions | right.dimensions)
        modal = left if "modality" in dict(left.dimensions) else right
        if overlap is not None:
            full.setdefault(overlap, full[modal])
    return {unit.price_key: amount for unit, amount in full.items()}
