"""Records as what they add to the server's hashes, and the hashes as totals."""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from token_handlers.counter.counter import TokenCounter
from token_handlers.counter.totals import UNKNOWN_MODEL, Increment, increment_of
from token_handlers.usage import EXACT, MEASURES, UsageRecord, UsageTotals

LABELS = ("day", "model", "session", "user")
"""What totals are kept by."""

MAX_BATCH = 512
MAX_AMOUNT = 2**53 // MAX_BATCH
"""No record adds more of anything (17,592 USD): the server's Lua merges a batch exactly up to 2**53."""

MAX_USD = Decimal(MAX_AMOUNT).scaleb(-9)
IMMEASURABLE = "its tokens, its cost or its date are beyond all measure"

_UNITS = tuple(measure.unit for measure in MEASURES)
"""The fields of a hash, beside cost, saved and cache_saved."""

_NANO = Decimal(10**9)

NEAREST, UP, DOWN = ROUND_HALF_EVEN, ROUND_CEILING, ROUND_FLOOR


class Increments(NamedTuple):
    """What a record adds: amounts by field, in each of its scopes. A scope is the parts of its hash's key."""

    event_id: str
    scopes: tuple[tuple[str, ...], ...]
    amounts: dict[str, int]


class Keys:
    """The keys of a namespace, which share one hash tag: in a cluster they are in one slot, on one node."""

    __slots__ = ("_prefix",)

    def __init__(self, namespace: str) -> None:
        if not isinstance(namespace, str) or not namespace or set(namespace) & set("{}"):
            raise ValueError(f"namespace must be a non-empty string without braces, not {namespace!r}")
        self._prefix = f"{{{namespace}}}:"

    def key(self, *parts: str) -> bytes:
        """Return a key."""
        return encoded(self._prefix + ":".join(parts))

    def budget(self, scope: str, reservation: str) -> list[bytes]:
        """Return the keys of a budget: its sums, its open reservations by expiry, what they hold, what is settled."""
        if not isinstance(scope, str) or not scope:
            raise ValueError(f"a budget's scope must be a non-empty string, not {scope!r}")
        # With its length, a scope that has a colon in it can't be taken for another scope and reservation.
        settled = self.key("settled", str(len(scope)), scope, reservation)
        return [*(self.key(part, scope) for part in ("budget", "expiries", "open")), settled]


def encoded(text: str) -> bytes:
    """Return a label as bytes, lone surrogates included."""
    return text.encode("utf-8", "surrogatepass")


def nano(usd: Decimal, rounding: str = NEAREST) -> int:
    """Return USD as integer nano-USD."""
    return int(EXACT.multiply(usd, _NANO).to_integral_value(rounding))


def usd(nano_usd: int) -> Decimal:
    """Return nano-USD as USD."""
    return EXACT.divide(Decimal(nano_usd), _NANO)


def increments_of(record: UsageRecord) -> Increments:
    """Return what a record adds; an amount or a date that no server adds up is an OverflowError."""
    increment = increment_of(record)
    amounts = {unit: increment.numbers[unit] for unit in _UNITS if increment.numbers.get(unit)}
    if any(
        money is not None and abs(money) > MAX_USD for money in (increment.cost, increment.saved, increment.cache_saved)
    ):
        raise OverflowError(IMMEASURABLE)
    if increment.cost is not None:
        amounts["cost"] = nano(increment.cost)  # a 0 too: the field says that something was priced
    if increment.saved:
        amounts["saved"] = nano(increment.saved)
    if increment.cache_saved:
        amounts["cache_saved"] = nano(increment.cache_saved)
    if any(amount > MAX_AMOUNT for amount in amounts.values()):
        raise OverflowError(IMMEASURABLE)
    labels = (("model", record.model or UNKNOWN_MODEL), ("session", record.session), ("user", record.user))
    try:
        day = (record.started_at or record.ended_at or datetime.now(UTC)).astimezone(UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):  # a time that no calendar has in UTC
        raise OverflowError(IMMEASURABLE) from None
    named = [(label, value) for label, value in labels if value is not None]
    scopes = (("total",), ("day", day), ("day", day, *named[0]), *named)
    return Increments(record.event_id or uuid.uuid4().hex, scopes, amounts)


def script_input(
    keys: Keys, increments: Sequence[Increments], remember_ms: int, keep_days: int
) -> tuple[list[bytes], list[bytes | str | int]]:
    """Return the keys and the arguments with which RECORD adds these increments."""
    numbers = {
        scope: number for number, scope in enumerate(dict.fromkeys(s for each in increments for s in each.scopes), 1)
    }
    first_index = len(increments) + len(numbers) + 1
    indexes = [_index(scope, first_index) for scope in numbers]
    events = [[[numbers[scope] for scope in each.scopes], each.amounts] for each in increments]
    named = [
        *(keys.key("event", each.event_id) for each in increments),
        *(keys.key(*scope) for scope in numbers),
        *(keys.key("index", label) for label in LABELS),
    ]
    names = [encoded(scope[-1]) for scope in numbers]
    return named, [json.dumps([events, indexes]), remember_ms, keep_days * 86_400, *names]


def _index(scope: tuple[str, ...], first: int) -> int:
    if len(scope) == 2:
        return first + LABELS.index(scope[0])
    return 0 if len(scope) == 4 else -1


def totals_of(hashes: Sequence[Mapping[bytes, bytes]]) -> UsageTotals:
    """Return the sum of hashes, by the rules of a TokenCounter."""
    counter = TokenCounter()
    for fields in hashes:
        amounts = {name.decode(): int(amount) for name, amount in fields.items()}
        money = {name: usd(amounts.pop(name)) for name in ("cost", "saved", "cache_saved") if name in amounts}
        cost, saved, cache_saved = (money.get(name) for name in ("cost", "saved", "cache_saved"))
        counter.apply(Increment(amounts, cost, saved, None, cache_saved, cost is not None))
    return counter.snapshot()
