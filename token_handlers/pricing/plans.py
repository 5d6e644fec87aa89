"""Prices compiled to integers: the exact cost of a call, in about a microsecond."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import combinations
from math import inf
from typing import NamedTuple

from genai_prices import Usage as GenaiUsage
from genai_prices.data_units import unit_data
from genai_prices.types import ModelPrice, Tier, TieredPrices

from token_handlers.usage import Usage

Rates = Mapping[str, Decimal | TieredPrices]
Exact = Callable[[GenaiUsage], Decimal]
_Sum = Callable[..., int | None]

_GENAI_NAMES = {"reasoning_tokens": "output_reasoning_tokens"}
_CONTEXT = Context(prec=28)  # the precision in which genai-prices adds up, whatever the thread's own context says
_ROUNDED = 10**_CONTEXT.prec
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


UNITS = {
    key: Unit(key, raw["price_key"], raw["per"], frozenset(raw["dimensions"].items())) for key, raw in unit_data.items()
}
_BY_PRICE_KEY = {unit.price_key: unit for unit in UNITS.values()}
_BY_DIMENSIONS = {unit.dimensions: unit for unit in UNITS.values()}
_INPUT, _PER_CALL = UNITS["input_tokens"], UNITS["requests"]
_COUNTABLE = {
    UNITS[_GENAI_NAMES.get(name, name)].price_key
    for name in Usage.model_fields
    if _GENAI_NAMES.get(name, name) in UNITS
} | {_PER_CALL.price_key}


def is_countable(prices: Rates) -> bool:
    """Whether a Usage can hold anything that has a price: false for no prices, and for hours of audio alone."""
    return not _COUNTABLE.isdisjoint(prices)


class _Tiers(NamedTuple):
    """Integer prices, in steps of USD, per tier; a tier holds above its start, in input tokens."""

    starts: list[int]
    rates: list[dict[Unit, int]]
    per_call: list[int]
    step: Decimal
    uneven: frozenset[str]  # priced per 3,600 or 60, which no power of ten divides


class Plan:
    """What calls cost from ``start`` until ``end`` (epoch seconds).

    Each count has one integer weight per tier: its price less that of the whole it is a part of. What a sum of products
    cannot express (hours, contradictions, more than 28 digits) is left to ``exact``; without it there is no price.
    """

    __slots__ = ("_exact", "_left_out", "_sums", "_tiers", "end", "source", "start")

    def __init__(
        self,
        prices: Rates,
        exact: Exact | None,
        *,
        source: str,
        start: float = -inf,
        end: float = inf,
        left_out: frozenset[str] = frozenset(),
    ) -> None:
        self.source, self.start, self.end, self._exact = source, start, end, exact
        self._tiers = _compile(prices)
        self._left_out = left_out | self._tiers.uneven
        self._sums: dict[tuple[str, ...], _Sum] = {}

    @property
    def priced(self) -> bool:
        """False where there is no price, which is not a price of 0."""
        return self._exact is not None

    def cost(self, counts: Mapping[str, int]) -> Decimal | None:
        """USD, or None without counts; raises ValueError where they contradict each other or leave the price open."""
        if not counts or self._exact is None:
            return None
        steps = self.steps(counts)
        if steps is None:
            with localcontext(_CONTEXT):
                return self._exact(_genai_usage(counts))
        return self.usd(steps)

    def steps(self, counts: Mapping[str, int]) -> int | None:
        """The cost as a number of equal steps, which can be added up; None where they don't express it."""
        names = tuple(counts)
        try:
            steps = (self._sums.get(names) or self._add_sum(names))(*counts.values())
        except TypeError:  # a count that is no number
            return None
        return steps if type(steps) is int and steps < _ROUNDED else None

    def all_steps(self, names: tuple[str, ...], columns: Sequence[tuple[int, ...]]) -> int | None:
        """The steps of several calls together, whose counts have the same names; None where they don't express one."""
        try:
            each = list(map(self._sums.get(names) or self._add_sum(names), *columns))
            steps = sum(each)  # type: ignore[arg-type]  # a None is what the except clause is for
        except TypeError:
            return None
        return steps if type(steps) is int and max(each) < _ROUNDED else None  # type: ignore[type-var]

    def usd(self, steps: int) -> Decimal:
        """What so many steps are."""
        return _CONTEXT.multiply(steps, self._tiers.step) if steps else _FREE

    def _add_sum(self, names: tuple[str, ...]) -> _Sum:
        if len(self._sums) >= _SUMS_KEPT:
            self._sums.clear()
        made = self._sums[names] = _sum(self._tiers, self._left_out, names)
        return made


def _genai_usage(counts: Mapping[str, int]) -> GenaiUsage:
    named = {_GENAI_NAMES.get(name, name): count for name, count in counts.items()}
    if None in named.values():  # which genai-prices takes for 0
        raise ValueError("a count is None")
    return GenaiUsage(**{name: count for name, count in named.items() if name in UNITS and name != _PER_CALL.key})


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
    rests: dict[Unit, list[int]] = {}  # a unit without its priced parts, as so many times each count
    for unit in sorted(tiers.rates[0], key=lambda unit: -len(unit.dimensions)):
        rest = [int(other is unit) for other in units]
        for part in filter(unit.holds, rests):
            rest = [count - inner for count, inner in zip(rest, rests[part], strict=True)]
        rests[unit] = rest
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


UNPRICED = Plan({}, None, source="")


def own_plan(prices: Mapping[str, Decimal]) -> Plan:
    """The plan of prices that a user set; output tokens leave the price open where no output price was set."""
    full = ModelPrice(**_with_wholes_and_overlaps(prices))

    def exact(usage: GenaiUsage) -> Decimal:
        if "output_mtok" not in prices and usage.output_tokens:
            raise ValueError(f"set_price got no output_mtok, and there are output_tokens ({usage.output_tokens})")
        return full.calc_price(usage)["total_price"]

    left_out = frozenset(() if "output_mtok" in prices else ("output_tokens",))
    return Plan(vars(full), exact, source="user", left_out=left_out)


def _with_wholes_and_overlaps(prices: Mapping[str, Decimal]) -> dict[str, Decimal]:
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
