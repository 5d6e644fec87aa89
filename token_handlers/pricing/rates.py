"""The rates of a call by their units, and their integers: what a sum of counts costs, exactly."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import chain, combinations
from math import gcd
from typing import Any, NamedTuple

from genai_prices.data_units import unit_data
from genai_prices.types import Tier, TieredPrices

from token_handlers.usage import Usage

Rate = Decimal | TieredPrices
Rates = Mapping[str, Rate]

GENAI_NAMES = {"reasoning_tokens": "output_reasoning_tokens"}
CONTEXT = Context(prec=28)
"""The precision in which genai-prices adds up, whatever the thread's own context says."""
ROUNDED = 10**CONTEXT.prec
"""The smallest whole number with more digits, which would be rounded."""
_SCALED_DIGITS = Decimal("1e-12")


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
OWN_PRICE_KEYS = frozenset(str(raw["price_key"]) for key, raw in _OWN_UNITS.items() if key not in unit_data)
BY_PRICE_KEY = {unit.price_key: unit for unit in UNITS.values()}
_BY_DIMENSIONS = {unit.dimensions: unit for unit in UNITS.values()}
_INPUT, PER_CALL = UNITS["input_tokens"], UNITS["requests"]
USAGE_UNITS = {name: UNITS[GENAI_NAMES.get(name, name)] for name in Usage.model_fields}
NAMES = {unit.key: name for name, unit in USAGE_UNITS.items()}
PRICE_KEYS = (*(unit.price_key for unit in USAGE_UNITS.values()), PER_CALL.price_key)
"""The price of each count of a Usage, and of a request."""
_EVENTS = {name: unit.price_key for name, unit in USAGE_UNITS.items() if unit.price_key.endswith("_kcount")}
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
        with localcontext(CONTEXT):
            return (amount * factor).quantize(_SCALED_DIGITS).normalize()

    if isinstance(rate, Decimal):
        return times(rate)
    return TieredPrices(
        base=times(rate.base), tiers=[Tier(start=tier.start, price=times(tier.price)) for tier in rate.tiers]
    )


def increased(rate: Rate, more: Decimal) -> Rate:
    """Return a rate with so many USD more, every step of it."""
    if isinstance(rate, Decimal):
        return CONTEXT.add(rate, more)
    steps = [Tier(start=tier.start, price=CONTEXT.add(tier.price, more)) for tier in rate.tiers]
    return TieredPrices(base=CONTEXT.add(rate.base, more), tiers=steps)


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
        """Add a note about one rate, which people read."""
        self.notes[key] = ", ".join(filter(None, (self.notes.get(key), text)))

    def note_tokens(self, text: str) -> None:
        """Add a note about the rate of every kind of token."""
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
        unit = NAMES.get(BY_PRICE_KEY[key].key)
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


class CompiledRates(NamedTuple):
    """Integer prices, in steps of USD, per tier; a tier holds above its start, in input tokens."""

    starts: list[int]
    rates: list[dict[Unit, int]]
    per_call: list[int]
    step: Decimal
    uneven: frozenset[str]  # priced per 3,600 or 60, which no power of ten divides


def compile_rates(prices: Rates) -> CompiledRates:
    """Return the rates as integers, by tier."""
    priced = {BY_PRICE_KEY[key]: price for key, price in prices.items() if key in BY_PRICE_KEY}
    uneven = frozenset(unit for unit in priced if not _is_power_of_ten(unit.per))
    even = {unit: price for unit, price in priced.items() if unit not in uneven}
    starts = sorted({tier.start for price in even.values() for tier in tiers_of(price)})
    scale = max((_decimals(unit, amount) for unit, price in even.items() for amount in _amounts(price)), default=0)
    rates = [
        {unit: int(Fraction(rate_at(price, tokens)) * 10**scale / unit.per) for unit, price in even.items()}
        for tokens in (0, *(start + 1 for start in starts))
    ]
    per_call = [rate.pop(PER_CALL, 0) for rate in rates]
    return CompiledRates(starts, rates, per_call, Decimal((0, (1,), -scale)), frozenset(unit.key for unit in uneven))


def _is_power_of_ten(number: int) -> bool:
    return str(number).strip("0") == "1"


def tiers_of(price: Decimal | TieredPrices) -> Sequence[Tier]:
    """Return the steps of a rate above its lowest."""
    return price.tiers if isinstance(price, TieredPrices) else ()


def _amounts(price: Decimal | TieredPrices) -> Iterator[Decimal]:
    yield price.base if isinstance(price, TieredPrices) else price
    yield from (tier.price for tier in tiers_of(price))


def _decimals(unit: Unit, amount: Decimal) -> int:
    exponent = amount.as_tuple().exponent
    return len(str(unit.per)) - 1 - min(int(exponent), 0)


def rate_at(price: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    """Return a rate's USD for a call with so many input tokens."""
    if isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if input_tokens > tier.start), price.base)


class CostFormula(NamedTuple):
    """The cost of calls whose counts have the same names, by tier: the steps of USD per count, and per call.

    Counts are given by their positions. They leave the cost open, for genai-prices to judge, where one in ``empty`` is
    not 0, where both of an overlap are not 0, or where a count is negative or one of the ``rests``, which are weighted
    sums of the counts.
    """

    starts: list[int]
    weights: list[list[int]]
    per_call: list[int]
    empty: frozenset[int]
    overlaps: frozenset[tuple[int, int]]
    rests: frozenset[tuple[int, ...]]
    input_at: int | None

    def lowest(self) -> "CostFormula":
        """Return the formula of the lowest tier."""
        return self._replace(starts=[], weights=self.weights[:1], per_call=self.per_call[:1])

    def saved(self, places: Container[int]) -> "CostFormula":
        """Return how much more calls would cost if the counts at some positions were 0.

        That is what these weigh, negated, as the weight of a part is its price less that of its whole.
        """
        weights = [[-weight if at in places else 0 for at, weight in enumerate(weights)] for weights in self.weights]
        return self._replace(weights=weights, per_call=[0] * len(weights))

    def common_unit(self) -> int:
        """Return the largest number of steps of which every weight is a multiple."""
        return gcd(*self.per_call, *chain(*self.weights)) or 1

    def steps(self, unit: int = 1) -> str:
        """Return the source of the cost, in units of so many steps, of which every weight is a multiple."""
        totals = [
            _terms([weight // unit for weight in weights], per_call // unit)
            for weights, per_call in zip(self.weights, self.per_call, strict=True)
        ]
        if self.input_at is None:
            return totals[0]
        below = (
            f"{total} if n{self.input_at} <= {start} else " for start, total in zip(self.starts, totals, strict=False)
        )
        return "".join(below) + totals[-1]

    def leaves_open(self) -> str:
        """Return the source of a test: the counts leave the cost open, or it has more than 28 digits.

        It is false only for whole numbers: with any other count it raises TypeError, or the cost is no int.
        """
        counts = range(len(self.weights[0]))
        most = max(
            sum(map(abs, weights)) + per_call for weights, per_call in zip(self.weights, self.per_call, strict=True)
        )
        bits = max(ROUNDED // max(most, 1), 1).bit_length() - 1
        # a shift leaves bits of large counts and of negative ones; counts that must be 0 are not shifted
        within = " | ".join(f"n{at}" for at in counts if at not in self.empty)
        found = [f"({within}) >> {bits}"] if within else []
        reasons = [" | ".join(found + [f"n{at}" for at in sorted(self.empty)])]
        reasons += (f"n{left} and n{right}" for left, right in sorted(self.overlaps))
        for rest in sorted(self.rests):
            parts = [-min(weight, 0) for weight in rest]
            reasons.append(f"{_terms([max(weight, 0) for weight in rest])} < {_terms(parts)}")
        return " or ".join(reasons)


def cost_formula(tiers: CompiledRates, left_out: frozenset[str], units: Sequence[Unit | None]) -> CostFormula:
    """Return the formula of counts by their units (None: nobody prices it); those ``left_out`` leave the cost open."""
    empty = {at for at, unit in enumerate(units) if unit and unit.key in left_out}
    overlaps: set[tuple[int, int]] = set()
    rests = rests_of(tiers.rates[0], units)
    for unit in rests:
        if unit not in units:
            empty |= {at for at, other in enumerate(units) if unit.holds(other)}
            overlaps |= set(_overlaps(unit, units))
    return CostFormula(
        tiers.starts,
        [[sum(rates[unit] * rests[unit][at] for unit in rates) for at in range(len(units))] for rates in tiers.rates],
        tiers.per_call,
        frozenset(empty),
        frozenset(overlaps),
        frozenset(tuple(rest) for rest in rests.values() if min(rest, default=0) < 0),
        units.index(_INPUT) if _INPUT in units else None,
    )


def units_of(names: Iterable[str]) -> list[Unit | None]:
    """Return the unit of each count, None for one that nobody prices."""
    return [UNITS.get(GENAI_NAMES.get(name, name)) for name in names]


def compiled(parameters: Iterable[str], source: str, names: Mapping[str, object] = {}) -> Callable[..., Any]:
    """Return an expression as a function, which is three times as fast as a loop over its numbers."""
    function: Callable[..., Any] = eval(  # noqa: S307 (of our own formulas alone)
        f"lambda {', '.join(parameters)}: {source}", {"__builtins__": {}, **names}
    )
    return function


def rests_of(rated: Iterable[Unit], counted: Sequence[Unit | None]) -> dict[Unit, list[int]]:
    """Return each rated unit without its rated parts, as so many times each of the counted units."""
    rests: dict[Unit, list[int]] = {}
    for unit in sorted(rated, key=lambda unit: -len(unit.dimensions)):
        rest = [int(other is unit) for other in counted]
        for part in filter(unit.holds, rests):
            rest = [count - inner for count, inner in zip(rest, rests[part], strict=True)]
        rests[unit] = rest
    return rests


def _terms(factors: Sequence[int], more: int = 0) -> str:
    """Return the source of the weighted sum of the counts n0, n1, ... plus ``more``."""
    terms = [
        (factor < 0, f"n{at}" if abs(factor) == 1 else f"{abs(factor)} * n{at}")
        for at, factor in enumerate(factors)
        if factor
    ]
    if more or not terms:
        terms.append((more < 0, str(abs(more))))
    first = "-" if terms[0][0] else ""
    return first + terms[0][1] + "".join(f" {'-' if is_less else '+'} {term}" for is_less, term in terms[1:])


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


def with_wholes_and_overlaps(prices: Mapping[str, Decimal]) -> dict[str, Rate]:
    """Add what genai-prices wants priced too, without a discount that nobody stated.

    The whole of a part costs what input (or output) costs, an overlap, such as cached audio, what its modality costs.
    """
    full = {BY_PRICE_KEY[key]: amount for key, amount in prices.items()}
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
