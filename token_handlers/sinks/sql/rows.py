"""A UsageRecord as the values of a row, and back."""

import functools
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from operator import itemgetter
from typing import Any, Literal, NamedTuple, Protocol, cast

from pydantic import ValidationError

from token_handlers.counter.listeners import MakeRecord, made
from token_handlers.counter.totals import known_saving
from token_handlers.pricing.price import Price
from token_handlers.sinks.escapes import escaped, unescaped
from token_handlers.sinks.sql.schema import COUNTS, SUMS, TEXTS
from token_handlers.tracking.recorder import EndedCall
from token_handlers.usage import EXACT, CostPart, RecordFields, Usage, UsageRecord, UsageTotals, checked_counts

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
LATEST_MS = (datetime.max.replace(tzinfo=UTC) - EPOCH) // _MILLISECOND
"""The last millisecond that a datetime in UTC can have."""

NAMELESS = "ledger:"
"""How the event ids begin that a ledger gives to records without one: no other store would know them again."""

MOST_TOKENS, MOST_USD = 10**12, 10**6
"""What one call may have: a column holds the sum of millions of such."""

_TOO_MUCH = f"a call of more than {MOST_TOKENS} tokens"

_NANO_PER_USD = _ATTO_PER_NANO = 10**9
_MONEY: tuple[tuple[Literal["cost", "saved_cost", "cache_saved_cost"], str, str], ...] = (
    ("cost", "cost_nano", "cost_atto"),
    ("saved_cost", "saved_nano", "saved_atto"),
    ("cache_saved_cost", "cache_saved_nano", "cache_saved_atto"),
)
_OPTIONAL_TEXT, _TEXT = frozenset((str, type(None))), frozenset((str,))
_OWN_TEXTS: tuple[Literal["session", "user", "request_id"], ...] = ("session", "user", "request_id")
"""The texts that may differ from call to call."""
_COMMON = ("requests", "operation", "outcome", "source", *(name for name in TEXTS if name not in _OWN_TEXTS))
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Value = int | str | None
Row = Mapping[str, Value]

_texts: Callable[[RecordFields], tuple[str | None, ...]] = itemgetter(*TEXTS)
_kind: Callable[[RecordFields], tuple[Any, ...]] = itemgetter(*_COMMON)


class NewCost(NamedTuple):
    """Other values of those columns of a call that say what it cost."""

    id: int
    ts_ms: int
    columns: "Row"


class StoredRow(Protocol):
    """A row as a store returns it, by its columns' names."""

    def __getitem__(self, name: str, /) -> object:
        """Return a value."""

    def keys(self) -> Iterable[str]:
        """Return the names of its columns."""


def identified(record: UsageRecord) -> UsageRecord:
    """Return a record that has an event id and a time."""
    if record.event_id and (record.started_at or record.ended_at):
        return record
    event_id = record.event_id or f"{NAMELESS}{uuid.uuid4().hex}"
    started = record.started_at or record.ended_at or datetime.now(UTC)
    return record.model_copy(update={"event_id": event_id, "started_at": started})


def row_of(call: UsageRecord | MakeRecord) -> Row:
    """Return the values of a call that are not null; those of a record without an event id or a time get one.

    Of a call that just ended no record is made if it would have the same values. Raises OverflowError for what no store
    can hold or give back, such as a time after the year 9999, and ValueError for what no record can have.
    """
    if isinstance(call, EndedCall) and "record" not in call.made:
        fields = call.fields()
        if _is_plain(fields):
            return _row(fields, checked_counts(call.result.usage.counts))
    record = identified(made(call))
    counted, reported = record.usage.__dict__, record.usage.model_fields_set
    counts = {name: counted[name] for name in COUNTS if name in reported}
    return _row(cast("RecordFields", record.__dict__), counts)


def _is_plain(fields: RecordFields) -> bool:
    """Return whether a record would have these fields as they are, so that it need not be made."""
    cost = fields["saved_cost"] if fields["cost"] is None else fields["cost"]
    texts = chain(fields["doubts"], *fields["tags"].items(), *fields["served"].items())
    return (
        not (fields["billed"] or fields["beside"])
        and _OPTIONAL_TEXT.issuperset(map(type, _texts(fields)))
        and _TEXT.issuperset(map(type, texts))
        and (cost is None or cost >= 0)
    )


def _row(fields: RecordFields, counts: Mapping[str, int]) -> Row:
    if counts and max(counts.values()) > MOST_TOKENS:
        raise OverflowError(_TOO_MUCH)
    started, ended = fields["started_at"], fields["ended_at"]
    row: dict[str, Value] = {
        "event_id": escaped(fields["event_id"]),
        "ts_ms": _time("started_at", started or ended or datetime.now(UTC)),
        **_common(*_kind(fields)),
        **counts,
    }
    if ended is not None:
        row["ended_ms"] = _time("ended_at", ended)
    for name in _OWN_TEXTS:
        if (text := fields[name]) is not None:
            row[name] = escaped(text)
    for kind, nano, atto in _MONEY:
        if (money := fields[kind]) is not None:
            row[nano], row[atto] = divide_usd(money)
    if fields["cost_breakdown"]:
        row["cost_breakdown"] = _breakdown(fields["cost_breakdown"])
    _add_lists(row, fields)
    return row


@functools.lru_cache(1024)
def _common(requests: int, *values: str | None) -> Mapping[str, Value]:
    """Return the columns whose values many calls share."""
    if requests > MOST_TOKENS:
        raise OverflowError(_TOO_MUCH)
    texts = zip(_COMMON[1:], values, strict=True)
    return {"requests": requests, **{name: escaped(text) for name, text in texts if text is not None}}


def _add_lists(row: dict[str, Value], fields: RecordFields) -> None:
    """Add the columns of JSON, which most calls do not have."""
    if fields["tags"]:
        row["tags"] = _tags(tuple(fields["tags"].items()))
    if fields["doubts"]:
        row["doubts"] = _to_json([escaped(doubt) for doubt in fields["doubts"]])
    if fields["served"]:
        row["served"] = _to_json({name: escaped(value) for name, value in fields["served"].items()})
    if fields["billed"] is not None:
        row["billed"] = _to_json(dict(fields["billed"]))
    if fields["beside"]:
        row["beside"] = _to_json([[model and escaped(model), dict(counts)] for model, counts in fields["beside"]])


def record_of(row: StoredRow) -> UsageRecord:
    """Return the record of a row, whatever an earlier version let into the store."""
    found: dict[str, Value] = {name: row[name] for name in row.keys()}  # type: ignore[misc]  # noqa: SIM118 (no mapping)
    counts = {name: found[name] for name in COUNTS if found.get(name) is not None}
    given: dict[str, object] = {name: _original(found.get(name)) for name in ("event_id", *TEXTS)}
    given |= {name: found[name] for name in ("operation", "outcome", "source", "requests")}
    given["tags"] = {
        unescaped(name): unescaped(value) for name, value in json.loads(str(found["tags"] or "{}")).items()
    }
    given["cost"] = _money(found["cost_nano"], found["cost_atto"])
    given["saved_cost"] = _money(found["saved_nano"], found["saved_atto"])
    given["doubts"] = tuple(unescaped(doubt) for doubt in json.loads(str(found.get("doubts") or "[]")))
    given["cost_breakdown"] = _parts(found.get("cost_breakdown"))
    given |= _billing(found)
    given["started_at"], given["ended_at"] = _moment(found["ts_ms"]), _moment(found["ended_ms"])
    try:
        return UsageRecord(usage=Usage(**counts), **given)  # type: ignore[arg-type]
    except ValidationError:  # an earlier version let in what is refused today
        return UsageRecord.model_construct(usage=Usage.model_construct(set(counts), **counts), **given)  # type: ignore[arg-type]


def repriced(record: UsageRecord, price: Price | Decimal | None) -> Row:
    """Return the columns of a call that a new price changes; none without a price, or where it is the same.

    A cost that the provider reported stays. A Price also says what the prompt cache saved, and why it is an estimate,
    beside the doubts that the call has.
    """
    if price is None or record.outcome == "failed":
        return {}
    price = price if isinstance(price, Price) else Price(price, "user", cache_saved=record.cache_saved_cost)
    row: dict[str, Value] = {}
    if record.cost_source != "reported" and price.cost < MOST_USD:  # no ledger holds more: an earlier version let it in
        name, before = ("saved", record.saved_cost) if record.outcome == "cached" else ("cost", record.cost)
        _change(row, name, before, price.cost)
        if doubts := [doubt for doubt in price.doubts if doubt not in record.doubts]:
            row["doubts"] = _to_json([escaped(doubt) for doubt in (*record.doubts, *doubts)])
        if row:
            row["cost_source"] = "repriced"
            row["cost_breakdown"] = _breakdown(price.parts) if price.parts and record.outcome == "success" else None
    if record.outcome == "success" and price.cache_saved is not None and abs(price.cache_saved) < MOST_USD:
        _change(row, "cache_saved", record.cache_saved_cost, price.cache_saved)
    return row


def _change(row: dict[str, Value], name: str, before: Decimal | None, after: Decimal) -> None:
    nano, atto = divide_usd(after)
    if before != usd(nano, atto):
        row[f"{name}_nano"], row[f"{name}_atto"] = nano, atto


def _billing(found: Mapping[str, Value]) -> dict[str, object]:
    """Return what the price of a call depends on beside its counts, tier and place."""
    served, billed, beside = (json.loads(str(found.get(name) or "null")) for name in ("served", "billed", "beside"))
    return {
        "cache_saved_cost": _money(found.get("cache_saved_nano"), found.get("cache_saved_atto")),
        "served": {name: unescaped(value) for name, value in (served or {}).items()},
        "billed": billed,
        "beside": tuple((model and unescaped(model), counts) for model, counts in beside or ()),
    }


def milliseconds(moment: datetime) -> int:
    """Return the milliseconds since 1970, rounded down; a time without a zone is local, as Python has it."""
    if moment.tzinfo is None:
        moment = moment.astimezone()
    return (moment - EPOCH) // _MILLISECOND


def divide_usd(cost: Decimal) -> tuple[int, int]:
    """Return nano-USD and the rest below in 1e-18 USD; what is finer still is rounded half to even."""
    if abs(cost) >= MOST_USD:
        raise OverflowError(f"a call for {MOST_USD} USD or more")
    exact = cost.scaleb(18, EXACT)
    number = int(exact)
    if number != exact:
        number = int(exact.to_integral_value(context=EXACT))
    return divmod(number, _ATTO_PER_NANO)


def usd(nano: int, atto: int) -> Decimal:
    """Return USD, exact, without trailing zeros."""
    if not atto and not nano % _NANO_PER_USD:
        return Decimal(nano // _NANO_PER_USD)
    return Decimal(nano * _ATTO_PER_NANO + atto).scaleb(-18, EXACT).normalize(EXACT)


def totals_of(sums: Sequence[int]) -> UsageTotals:
    """Return totals of the sums of SUMS."""
    *numbers, priced, nano, atto, cache_nano, cache_atto, saved_nano, saved_atto = sums
    named: dict[str, int] = dict(zip(SUMS, numbers, strict=False))
    cost = usd(nano, atto) if priced or not named["unpriced_requests"] else None
    cached = named["prompt_tokens_cached"] + named["cache_write_tokens"]
    cache_saved = known_saving(usd(cache_nano, cache_atto), named["unpriced_cache_tokens"], cached)
    counted = {name: number for name, number in named.items() if number}  # each that is given costs a check
    return UsageTotals(**counted, cost=cost, saved_cost=usd(saved_nano, saved_atto), cache_saved_cost=cache_saved)


def day_of(number: int) -> str:
    """Return a day by its number since 1970, in ISO's form; one that no calendar of Python's has by its number."""
    return _named(number, "day", lambda: (EPOCH + timedelta(days=number)).date().isoformat())


def hour_of(number: int) -> str:
    """Return an hour in UTC by its number since 1970, in ISO's form."""
    return _named(number, "hour", lambda: f"{(EPOCH + timedelta(hours=number)).isoformat()[:16]}Z")


def _named(number: int, unit: str, name: Callable[[], str]) -> str:
    try:
        return name()
    except OverflowError:
        return f"{unit} {number} after 1970"


def _time(name: str, moment: datetime) -> int:
    try:
        number = milliseconds(moment)
    except (OverflowError, OSError, ValueError):  # astimezone's, of a local time that no system knows
        number = -1
    if not 0 <= number <= LATEST_MS:
        raise OverflowError(f"{name} ({moment.isoformat()}) is before 1970 or after the year 9999 in UTC")
    return number


def _moment(number: Value) -> datetime | None:
    return None if number is None else EPOCH + min(max(int(number), 0), LATEST_MS) * _MILLISECOND


def _original(text: Value) -> str | None:
    return None if text is None else unescaped(str(text))


def _money(nano: Value, atto: Value) -> Decimal | None:
    return None if nano is None else usd(int(nano), int(atto or 0))


@functools.lru_cache(256)
def _tags(tags: tuple[tuple[str, str], ...]) -> str:
    """Return tags as JSON; a call often has those of the one before."""
    return _to_json({escaped(name): escaped(value) for name, value in tags})


def _breakdown(parts: Sequence[CostPart]) -> str:
    """Return the parts as a JSON list of lists, with the rate and the cost as texts."""
    made = []
    for unit, number, rate, per, cost, note, model in parts:
        start, middle, end = _around(unit, str(rate), per, note, model)
        made.append(f"{start}{number}{middle}{cost}{end}")
    return f"[{','.join(made)}]"


@functools.lru_cache(256)
def _around(unit: str, rate: str, per: int, note: str, model: str | None) -> tuple[str, str, str]:
    """Return the JSON of a part before its number, between this and its cost, and after that."""
    rest = _to_json([escaped(note), model and escaped(model)])
    return f"[{_to_json(escaped(unit))},", f',"{rate}",{per},"', f'",{rest[1:]}'


def _parts(text: Value) -> tuple[CostPart, ...]:
    return tuple(
        CostPart(
            unescaped(unit), number, Decimal(rate), per, Decimal(cost), unescaped(note), model and unescaped(model)
        )
        for unit, number, rate, per, cost, note, model in json.loads(str(text or "[]"))
    )
