"""What a provider's bill says, in one form for all providers: rows of a day, a model and an account."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation

from token_handlers.errors import TokenHandlersError

Counts = Mapping[str, int]

TOKENS = ("input_tokens", "output_tokens")
CACHE = ("cache_read_tokens", "cache_write_tokens")
FEES = ("web_searches", "storage_searches", "container_sessions")
COUNTED = (*TOKENS, *CACHE, *FEES)
"""What is compared, under the names of Usage; ``input_tokens`` includes what the cache read and wrote."""

UNCACHED = "uncached_tokens"
"""Input tokens that were neither read from nor written to the cache: what a bill has a line of, and no Usage."""

MOST_DIGITS = 15
"""How many digits before the point an amount or a count of a bill has at most."""

_PLACES = 12
"""Decimal places of what is worked out by rates."""

_DATED = re.compile(r"(?:[-@](?:20\d{6}|20\d\d-\d\d-\d\d))(?=$|:)")
_WORDS = re.compile(r"[\s.]+")


class UnreadableBill(TokenHandlersError):
    """What was read is no bill of this provider; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class BillRow:
    """One row of a bill: money, counts or both.

    ``kind`` is what the money is for: one of COUNTED, UNCACHED, the bill's own words, or "" for all that the counts
    name. ``account`` is the provider's project or workspace, ``rounding`` by how much the bill rounded ``cost``,
    ``call_id`` the provider's id of the call where the row is of one.
    """

    day: date
    model: str | None
    cost: Decimal = Decimal(0)
    kind: str = ""
    counts: Counts = field(default_factory=dict)
    requests: int | None = None
    account: str | None = None
    list_cost: Decimal | None = None
    rounding: Decimal = Decimal(0)
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderBill:
    """The rows of a bill, the time up to which the provider says it is complete, and what to know of it."""

    rows: list[BillRow]
    complete_until: datetime | None = None
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class BilledSum:
    """The sum of the rows of one day and model; ``calls`` are those that are of one call each."""

    cost: Decimal = Decimal(0)
    list_cost: Decimal = Decimal(0)
    rounding: Decimal = Decimal(0)
    costs: dict[str, Decimal] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    requests: int | None = None
    calls: list[BillRow] = field(default_factory=list)

    def add(self, row: BillRow) -> None:
        """Add a row."""
        self.cost += row.cost
        self.list_cost += row.cost if row.list_cost is None else row.list_cost
        self.rounding += row.rounding
        if row.cost:
            self.costs[row.kind] = self.costs.get(row.kind, Decimal(0)) + row.cost
        for name, number in row.counts.items():
            self.counts[name] = self.counts.get(name, 0) + number
        if row.requests is not None:
            self.requests = (self.requests or 0) + row.requests
        if row.call_id is not None:
            self.calls.append(row)

    def value(self, counts: Counts) -> Decimal:
        """Return what so much costs by the bill's own rates.

        A rate is a line's money by its count; where there is no such line, tokens cost what the bill's do on average.
        """
        numbers = parts_of(counts, self.counts)
        value = sum((self._rate(name) * number for name, number in numbers.items() if number), Decimal(0))
        return round(value, _PLACES)

    def _rate(self, kind: str) -> Decimal:
        number = parts_of(self.counts, self.counts).get(kind, 0)
        if number and kind in self.costs:
            return self.costs[kind] / number
        if kind in FEES:
            return Decimal(0)
        tokens = sum(self.counts.get(name, 0) for name in TOKENS)
        cost = sum((cost for kind, cost in self.costs.items() if kind in _OF_TOKENS), Decimal(0))
        return cost / tokens if tokens else Decimal(0)


_OF_TOKENS = frozenset(("", UNCACHED, *TOKENS, *CACHE))


def parts_of(counts: Counts, stated: Counts) -> dict[str, int]:
    """Return counts that share nothing: without ``input_tokens`` where the bill states what the cache had of them."""
    parts = {name: counts.get(name, 0) for name in COUNTED}
    if any(name in stated for name in CACHE):
        parts[UNCACHED] = parts.pop("input_tokens") - sum(parts[name] for name in CACHE)
    else:
        for name in CACHE:
            del parts[name]
    return parts


def summed(rows: Iterable[BillRow]) -> BilledSum:
    """Return the sum of rows."""
    total = BilledSum()
    for row in rows:
        total.add(row)
    return total


def plain_model(name: str) -> str:
    """Return a model's name as both sides have it: in lower case, without the date of its snapshot.

    Anthropic's exports have "Claude Sonnet 4.5" for claude-sonnet-4-5-20250929.
    """
    plain = name.strip().lower()
    if plain.startswith("claude "):
        plain = _WORDS.sub("-", plain)
    return _DATED.sub("", plain)


def amount(value: object, name: str) -> Decimal:
    """Return money exactly: floats as they are written, texts, and 0 for what is absent."""
    if value is None or value == "":
        return Decimal(0)
    try:
        found = Decimal(str(value).strip().lstrip("$").replace(",", ""))
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or found.adjusted() >= MOST_DIGITS or isinstance(value, bool):
        raise UnreadableBill(f"{name} is no amount of money: {str(value)[:40]!r}")
    return found


def number(value: object, name: str) -> int:
    """Return a count; 0 for what is absent."""
    found = amount(value, name)
    if found < 0 or found != found.to_integral_value():
        raise UnreadableBill(f"{name} is no count: {str(value)[:40]!r}")
    return int(found)


def check_currency(value: object) -> None:
    """Refuse what is not in USD: a ledger has no other money."""
    if value and str(value).lower() != "usd":
        raise UnreadableBill(f"the bill is in {str(value)[:10].upper()}, and a ledger is in USD: compare it by hand")


def day_of(value: object, name: str) -> date:
    """Return the day in UTC of a number of seconds since 1970, or of an ISO date or time."""
    text = str(value or "").strip()
    try:
        if re.fullmatch(r"\d{9,11}(?:\.0*)?", text):
            return datetime.fromtimestamp(int(text.partition(".")[0]), UTC).date()
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise UnreadableBill(f"{name} is no day: {text[:40]!r}") from None
    return (moment if moment.tzinfo is None else moment.astimezone(UTC)).date()


def fields_of(value: object, name: str) -> Mapping[str, object]:
    """Return the fields of a JSON object."""
    if not isinstance(value, Mapping):
        raise UnreadableBill(f"{name} is no JSON object: {str(value)[:40]!r}")
    return value


def listed(value: object, name: str) -> list[Mapping[str, object]]:
    """Return the objects in a JSON array."""
    if not isinstance(value, list):
        raise UnreadableBill(f"{name} is no list: {str(value)[:40]!r}")
    return [fields_of(each, name) for each in value]


def text_or_none(value: object) -> str | None:
    """Return a text that is not empty, else None."""
    return value if isinstance(value, str) and value else None
