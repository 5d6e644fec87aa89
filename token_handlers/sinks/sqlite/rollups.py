"""What is written in one transaction: calls, and the rollups that sum them."""

import functools
import itertools
import json
import sqlite3
from collections.abc import Iterable, Sequence

from token_handlers.sinks.sql import rollups
from token_handlers.sinks.sql.dialect import Dialect
from token_handlers.sinks.sql.queries import Reader, reader_of
from token_handlers.sinks.sql.rows import NAMELESS, NewCost, Row
from token_handlers.sinks.sql.schema import LABELLED, SUMS

DIALECT = Dialect(
    tags="json_each(tags) AS tag",
    total="sum({name})",
    text="{expression}",
    unindexed="+{column}",
    among="{} IN (SELECT value FROM json_each({}))".format,
    texts=json.dumps,
    between=lambda column, first, end: f"{column} IN (SELECT value FROM json_each('{list(range(first, end))}'))",  # noqa: S608 (numbers)
)

_BEFORE = "SELECT coalesce(max(id), 0), EXISTS (SELECT 1 FROM usage_outbox WHERE id = 0) FROM usage_event"
_ADD_UNSENT = f"INSERT INTO usage_outbox SELECT id FROM usage_event WHERE id > ? AND event_id NOT GLOB '{NAMELESS}*'"  # noqa: S608 (constants)
_STATE = "SELECT rolled, used, (SELECT coalesce(max(id), 0) FROM usage_event) FROM rollup_state"


def append(connection: sqlite3.Connection, rows: Iterable[Row]) -> int:
    """Add calls that are not yet in the ledger, and return how many those were; the caller has begun a transaction."""
    last, is_backlog = connection.execute(_BEFORE).fetchone()
    added = 0
    for columns, alike in itertools.groupby(rows, key=tuple):  # a null would cost as much as a value
        added += connection.executemany(_insert(columns), [tuple(row.values()) for row in alike]).rowcount
    if added and is_backlog:
        connection.execute(_ADD_UNSENT, (last,))
    return added


def roll_up(connection: sqlite3.Connection) -> bool:
    """Sum calls in the rollups, if enough wait for it; return whether still enough do."""
    rolled, _, last = connection.execute(_STATE).fetchone()
    if last - rolled < rollups.ROLL_UP_AT:
        return False
    end = min(last, rolled + rollups.AT_ONCE)
    _add(connection, f"id > {rolled} AND id <= {end}")
    connection.execute("UPDATE rollup_state SET rolled = ?", (end,))
    return bool(last - end >= rollups.ROLL_UP_AT)


def reader(connection: sqlite3.Connection) -> Reader:
    """Return a reader that knows up to which id calls are in the rollups; none of an older ledger that is read are."""
    rolled, used, last = connection.execute(_STATE).fetchone()
    before = f"+usage_measure.id <= {rolled}" if rolled >= 0 else None
    return reader_of(
        connection, DIALECT, json.loads(used), before, f"usage_measure.id > {rolled}" if last > rolled else None
    )


def set_costs(connection: sqlite3.Connection, costs: Sequence[NewCost]) -> None:
    """Give calls another cost, and the rollups too; the caller has begun a transaction."""
    ids = ", ".join(str(cost.id) for cost in costs)
    chosen = f"id IN ({ids}) AND id <= (SELECT rolled FROM rollup_state)"  # noqa: S608 (numbers)
    _add(connection, chosen, "-")
    for statement, values in rollups.new_costs(costs):
        connection.executemany(statement, values)
    _add(connection, chosen)


def _add(connection: sqlite3.Connection, chosen: str, sign: str = "") -> None:
    """Add the calls that a condition chooses to the rollups, or subtract them."""
    calls = f"FROM usage_measure WHERE {chosen}"
    sums = connection.execute(f"SELECT {', '.join(f'sum({name})' for name in SUMS)} {calls}").fetchone()
    used = tuple(name for name, number in zip(SUMS, sums, strict=True) if number or name == "successful_requests")
    connection.execute(f"CREATE TEMP TABLE fresh AS SELECT {LABELLED}, {', '.join(used)} {calls}")
    for name, query, statements in _steps(used, sign):
        connection.execute(f"CREATE TEMP TABLE {name} AS {query}")
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"DROP TABLE {name}")
    connection.execute("DROP TABLE fresh")
    (before,) = connection.execute("SELECT used FROM rollup_state").fetchone()
    names = sorted({*json.loads(before), *used})
    connection.execute("UPDATE rollup_state SET used = ?", (json.dumps(names),))


@functools.lru_cache(64)
def _steps(used: tuple[str, ...], sign: str) -> tuple[rollups.RollupStep, ...]:
    return rollups.steps(rollups.sums_of(used, sign), DIALECT.tags)


@functools.lru_cache(1024)
def _insert(columns: tuple[str, ...]) -> str:
    """Return the statement that adds a call of which these columns are not null."""
    names, values = ", ".join(f'"{column}"' for column in columns), ", ".join("?" * len(columns))
    return f"INSERT INTO usage_event ({names}) VALUES ({values}) ON CONFLICT (event_id) DO NOTHING"  # noqa: S608 (constants)
