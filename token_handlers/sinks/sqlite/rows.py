"""A UsageRecord as a row of the ledger and back, and what is written in one transaction."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from token_handlers.sinks.sqlite.schema import COLUMNS, COUNTS, NAMELESS, roll_up
from token_handlers.usage import EXACT, Usage, UsageRecord

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
MOST_TOKENS, MOST_USD = 10**15, 10**6
"""What one call may have: a column holds the sum of thousands of such, and their totals can still be read."""

_NANO_PER_USD = _ATTO_PER_NANO = 10**9
_UNKNOWN = None, None
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_INSERT = (
    f"INSERT INTO usage_event ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608 (constants)
    "ON CONFLICT (event_id) DO NOTHING"
)
_SET_COST = """
UPDATE usage_event SET
  cost_nano = iif(outcome = 'cached', cost_nano, :nano), cost_atto = iif(outcome = 'cached', cost_atto, :atto),
  saved_nano = iif(outcome = 'cached', :nano, saved_nano), saved_atto = iif(outcome = 'cached', :atto, saved_atto),
  cost_source = 'repriced'
WHERE id = :id
"""
_ADD_NEW = roll_up("usage_measure.id > ?")
_ADD_UNSENT = f"""
INSERT INTO usage_outbox SELECT id FROM usage_event
WHERE id > ? AND event_id NOT GLOB '{NAMELESS}*' AND EXISTS (SELECT 1 FROM usage_outbox WHERE id = 0)
"""  # noqa: S608 (constants)
_CHANGED = "usage_measure.id IN (SELECT value FROM json_each(?))"
_TAKE_OFF, _ADD_AGAIN = roll_up(_CHANGED, "-"), roll_up(_CHANGED)

Row = Sequence[int | str | None]


def append(connection: sqlite3.Connection, rows: Iterable[Row]) -> int:
    """Add calls that are not yet in the ledger, to the rollups too, and return how many those were.

    The caller has begun a transaction.
    """
    (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM usage_event").fetchone()
    added = connection.executemany(_INSERT, rows).rowcount
    if added:
        for statement in (*_ADD_NEW, _ADD_UNSENT):
            connection.execute(statement, (last,))
    return added


def set_costs(connection: sqlite3.Connection, costs: Sequence[tuple[int, Decimal]]) -> None:
    """Give calls, by their id, another cost, and the rollups too; the caller has begun a transaction."""
    ids = (json.dumps([number for number, _ in costs]),)
    for statement in _TAKE_OFF:
        connection.execute(statement, ids)
    for number, cost in costs:
        nano, atto = divide_usd(cost)
        connection.execute(_SET_COST, {"id": number, "nano": nano, "atto": atto})
    for statement in _ADD_AGAIN:
        connection.execute(statement, ids)


def row_of(record: UsageRecord) -> Row:
    """Return the values of COLUMNS; the record has an event id and a time. Absurd numbers are an OverflowError."""
    counts, reported = record.usage.__dict__, record.usage.model_fields_set
    if max(record.requests, *counts.values()) > MOST_TOKENS:
        raise OverflowError(f"a call of more than {MOST_TOKENS} tokens")
    ended = record.ended_at
    return (
        _text(record.event_id),
        max(milliseconds(record.started_at or ended or datetime.now(UTC)), 0),  # SQLite divides what is below upwards
        None if ended is None else milliseconds(ended),
        _text(record.session),
        _text(record.user),
        _text(record.node),
        _tags(record),
        _text(record.model),
        _text(record.provider),
        record.operation,
        record.outcome,
        record.source,
        _text(record.method),
        record.requests,
        *(_UNKNOWN if record.cost is None else divide_usd(record.cost)),
        _text(record.cost_source),
        *(_UNKNOWN if record.saved_cost is None else divide_usd(record.saved_cost)),
        *[counts[name] if name in reported else None for name in COUNTS],
    )


def record_of(row: sqlite3.Row) -> UsageRecord:
    """Return the record of a row of usage_event."""
    started, ended = row["ts_ms"], row["ended_ms"]
    return UsageRecord(
        usage=Usage(**{name: row[name] for name in COUNTS if row[name] is not None}),
        model=row["model"],
        provider=row["provider"],
        operation=row["operation"],
        outcome=row["outcome"],
        requests=row["requests"],
        source=row["source"],
        method=row["method"],
        session=row["session"],
        user=row["user"],
        tags=json.loads(row["tags"] or "{}"),
        node=row["node"],
        cost=None if row["cost_nano"] is None else usd(row["cost_nano"], row["cost_atto"]),
        cost_source=row["cost_source"],
        saved_cost=None if row["saved_nano"] is None else usd(row["saved_nano"], row["saved_atto"]),
        event_id=row["event_id"],
        started_at=EPOCH + started * _MILLISECOND,
        ended_at=None if ended is None else EPOCH + ended * _MILLISECOND,
    )


def milliseconds(moment: datetime) -> int:
    """Return the milliseconds since 1970, rounded down; a time without a zone is local, as Python has it."""
    if moment.tzinfo is None:
        moment = moment.astimezone()
    return (moment - EPOCH) // _MILLISECOND


def divide_usd(cost: Decimal) -> tuple[int, int]:
    """Return nano-USD and the rest below in 1e-18 USD; what is finer still is rounded half to even."""
    if cost >= MOST_USD:
        raise OverflowError(f"a call for {MOST_USD} USD or more")
    return divmod(int(cost.scaleb(18, EXACT).to_integral_value(context=EXACT)), _ATTO_PER_NANO)


def usd(nano: int, atto: int) -> Decimal:
    """Return USD, exact, without trailing zeros."""
    if not atto and not nano % _NANO_PER_USD:
        return Decimal(nano // _NANO_PER_USD)
    return Decimal(nano * _ATTO_PER_NANO + atto).scaleb(-18, EXACT).normalize(EXACT)


def _tags(record: UsageRecord) -> str | None:
    if not record.tags:
        return None
    return _to_json({stored(name): stored(value) for name, value in record.tags.items()})


def stored(text: str) -> str:
    """Return a text as a UTF-8 file holds it: a label may have come in with half a surrogate pair."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _text(text: str | None) -> str | None:
    return None if text is None else stored(text)
