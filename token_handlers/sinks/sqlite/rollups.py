"""What is written in one transaction: calls, and the rollups that sum them.

A call is not in the rollups at once: that would cost each commit of a few calls more than the calls. When so many have
come, they are summed together; until then whoever asks sums them too.
"""

import functools
import itertools
import json
import sqlite3
from collections.abc import Iterable, Sequence
from decimal import Decimal

from token_handlers.sinks.sql.rows import Row, divide_usd
from token_handlers.sinks.sql.schema import LABELS, LEVELS, SUMS
from token_handlers.sinks.sqlite.schema import NAMELESS

ROLL_UP_AT = 2_048
"""How many calls may wait to be summed in the rollups: as many as a question sums in a few milliseconds."""

AT_ONCE = 16_384
"""How many are summed in one transaction, so that a ledger whose rollups are made again delays nobody for long."""

_SET_COST = """
UPDATE usage_event SET
  cost_nano = iif(outcome = 'cached', cost_nano, :nano), cost_atto = iif(outcome = 'cached', cost_atto, :atto),
  saved_nano = iif(outcome = 'cached', :nano, saved_nano), saved_atto = iif(outcome = 'cached', :atto, saved_atto),
  cost_source = 'repriced'
WHERE id = :id
"""
_ADD_UNSENT = f"""
INSERT INTO usage_outbox SELECT id FROM usage_event
WHERE id > ? AND event_id NOT GLOB '{NAMELESS}*' AND EXISTS (SELECT 1 FROM usage_outbox WHERE id = 0)
"""  # noqa: S608 (constants)
_STATE = "SELECT rolled, (SELECT coalesce(max(id), 0) FROM usage_event) FROM rollup_state"

# Each label's name and value in the rollups, and the rows in which they are found.
_SOURCES = {
    "": ("''", "''", "fresh"),
    "session": ("'session'", "session", "fresh"),
    "user": ("'user'", "user", "fresh"),
    "langgraph_node": ("'langgraph_node'", "node", "fresh"),
    "tag": ("'tag:' || tag.key", "tag.value", "fresh, json_each(tags) AS tag"),
}


def append(connection: sqlite3.Connection, rows: Iterable[Row]) -> int:
    """Add calls that are not yet in the ledger, and return how many those were; the caller has begun a transaction."""
    (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM usage_event").fetchone()
    added = 0
    for columns, alike in itertools.groupby(rows, key=tuple):  # a null would cost as much as a value
        added += connection.executemany(_insert(columns), [tuple(row.values()) for row in alike]).rowcount
    if added:
        connection.execute(_ADD_UNSENT, (last,))
    return added


def roll_up(connection: sqlite3.Connection) -> bool:
    """Sum calls in the rollups, if enough wait for it; return whether still enough do."""
    rolled, last = connection.execute(_STATE).fetchone()
    if last - rolled < ROLL_UP_AT:
        return False
    end = min(last, rolled + AT_ONCE)
    _add(connection, f"id > {rolled} AND id <= {end}", "+")
    connection.execute("UPDATE rollup_state SET rolled = ?", (end,))
    return bool(last - end >= ROLL_UP_AT)


def set_costs(connection: sqlite3.Connection, costs: Sequence[tuple[int, Decimal]]) -> None:
    """Give calls, by their id, another cost, and the rollups too; the caller has begun a transaction."""
    ids = ", ".join(str(int(number)) for number, _ in costs)
    chosen = f"id IN ({ids}) AND id <= (SELECT rolled FROM rollup_state)"  # noqa: S608 (numbers)
    _add(connection, chosen, "-")
    for number, cost in costs:
        nano, atto = divide_usd(cost)
        connection.execute(_SET_COST, {"id": number, "nano": nano, "atto": atto})
    _add(connection, chosen, "+")


def _add(connection: sqlite3.Connection, chosen: str, sign: str) -> None:
    """Add the calls that a condition chooses to the rollups, or subtract them."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS fresh AS SELECT * FROM usage_measure WHERE false")
    connection.execute(f"INSERT INTO fresh SELECT * FROM usage_measure WHERE {chosen}")  # noqa: S608 (constants, numbers)
    sums = connection.execute(f"SELECT {', '.join(f'sum({name})' for name in SUMS)} FROM fresh").fetchone()  # noqa: S608
    used = tuple(name for name, number in zip(SUMS, sums, strict=True) if number)
    for statement in _statements(used, sign):
        connection.execute(statement)
    connection.execute("DELETE FROM fresh")
    (before,) = connection.execute("SELECT used FROM rollup_state").fetchone()
    names = sorted({*json.loads(before), *used})
    connection.execute("UPDATE rollup_state SET used = ?", (json.dumps(names),))


@functools.lru_cache(1024)
def _insert(columns: tuple[str, ...]) -> str:
    """Return the statement that adds a call of which these columns are not null."""
    names, values = ", ".join(columns), ", ".join("?" * len(columns))
    return f"INSERT INTO usage_event ({names}) VALUES ({values}) ON CONFLICT (event_id) DO NOTHING"  # noqa: S608 (constants)


@functools.lru_cache(64)
def _statements(used: tuple[str, ...], sign: str) -> tuple[str, ...]:
    """Return the statements that add what is fresh to all rollups; ``used`` are the sums that are not 0 in it."""
    return tuple(
        _statement(label, level, apart, used, sign)
        for label, (together, models_apart) in LABELS.items()
        for apart, levels in enumerate((together, models_apart))
        for level in levels
    )


def _statement(label: str, level: str, apart: int, used: Sequence[str], sign: str) -> str:
    name, value, rows = _SOURCES[label]
    key = f"{apart}, {name}, ts_ms / {LEVELS[level]}, {value}, " + (
        "model, provider, operation" if apart else "'', '', ''"
    )
    groups = ", ".join(str(number) for number in range(2, 8 if apart else 5))
    columns = ", ".join(("apart, label, bucket, value, model, provider, operation", *used))
    sums = "".join(f", {sign}sum({measure})" for measure in used)
    adding = ", ".join(f"{measure} = {measure} + excluded.{measure}" for measure in used)
    return (
        f"INSERT INTO {level} ({columns}) SELECT {key}{sums} FROM {rows} WHERE {value} IS NOT NULL GROUP BY {groups} "  # noqa: S608 (constants)
        "ON CONFLICT (apart, label, bucket, value, model, provider, operation) "
        + (f"DO UPDATE SET {adding}" if adding else "DO NOTHING")
    )
