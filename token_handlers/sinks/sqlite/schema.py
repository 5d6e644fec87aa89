"""The ledger's tables: a row for each call, and sums of calls by label and time.

``usage_event`` has the calls. ``usage_measure`` says what each adds to a sum. The rollups sum that by label ('' for all
calls, 'session', 'user', 'langgraph_node', 'tag:NAME') and time, and where ``apart`` is 1 by model, provider and
operation; ``bucket`` is a time divided by the unit of its rollup. ``rollup_state`` says up to which id the calls are in
the rollups, and which sums are more than 0 there: what came later is summed when it is asked for. ``usage_outbox`` has
the ids of calls that a fleet's server is not known to have, and the id 0 where the ledger is a fleet's backlog: without
it nothing is put there. ``agentsight_batch`` has what is on its way to AgentSight: who sends it, and what.
"""

import sqlite3
from collections.abc import Iterator

from token_handlers.sinks.sql.rollups import sums_ever
from token_handlers.sinks.sql.schema import COLUMNS, COST_INDEX, EXTRA, LEVELS, MEASURED, ROLLUP_KEY, SUMS

APPLICATION_ID = 0x544F4B4C
"""'TOKL' in the file's header: what tells a ledger from other SQLite files."""

FORMAT = 4
"""What the tables, the rules of sums and the choice of rollups are; each change of these is another number."""

BEFORE_EVER = 3
"""The format without rollup_ever."""

VERSION = 1_000 * FORMAT + len(COLUMNS) + len(SUMS)
"""The version of a ledger, its user_version: also a column or a sum more makes it another one. Once it was 1 or 2."""

_INDEXES = (
    "CREATE INDEX usage_event_time ON usage_event (ts_ms)",
    "CREATE INDEX usage_event_session ON usage_event (session, ts_ms) WHERE session IS NOT NULL",
    "CREATE INDEX usage_event_user ON usage_event (user, ts_ms) WHERE user IS NOT NULL",
)
MEASURE_VIEW = f"CREATE {{temporary}} VIEW usage_measure AS SELECT id, {MEASURED} FROM usage_event"  # noqa: S608 (constants)


def statements_since(version: int, connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the statements that bring a ledger of a version, 0 for an empty file, up to today's."""
    if version == 0:
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        yield f"CREATE TABLE usage_event (id INTEGER PRIMARY KEY, {columns}) STRICT"
        yield from _INDEXES
    yield "CREATE TABLE IF NOT EXISTS usage_outbox (id INTEGER PRIMARY KEY) STRICT"
    yield "CREATE TABLE IF NOT EXISTS agentsight_batch (event_id TEXT PRIMARY KEY, owner TEXT, body TEXT) STRICT"
    there = columns_of(connection, "usage_event")
    for name, kind in COLUMNS.items():
        if there and name not in there:
            yield f"ALTER TABLE usage_event ADD COLUMN {name} {kind}"
    yield "DROP VIEW IF EXISTS usage_measure"
    yield MEASURE_VIEW.format(temporary="")
    has_all_sums = set(SUMS) <= columns_of(connection, "rollup_day")
    if version // 1_000 == FORMAT and has_all_sums:
        return
    if version // 1_000 == BEFORE_EVER and has_all_sums:
        yield _rollup("rollup_ever")
        yield from (*sums_ever(), COST_INDEX)
        return
    for rollup in LEVELS:
        yield f"DROP TABLE IF EXISTS {rollup}"
        yield _rollup(rollup)
    yield COST_INDEX
    yield "DROP TABLE IF EXISTS rollup_state"
    yield "CREATE TABLE rollup_state (rolled INTEGER NOT NULL, used TEXT NOT NULL) STRICT"
    yield "INSERT INTO rollup_state VALUES (0, '[]')"


def statements_to_read(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the statements by which one connection sees a ledger of an older version as one of today's."""
    there = columns_of(connection, "usage_event")
    missing = "".join(f", NULL AS {name}" for name in COLUMNS if name not in there)
    yield f"CREATE TEMP VIEW usage_event AS SELECT *{missing} FROM main.usage_event"  # noqa: S608 (constants)
    yield MEASURE_VIEW.format(temporary="TEMP")
    yield "CREATE TEMP TABLE rollup_state AS SELECT -1 AS rolled, '[]' AS used"
    yield from (_rollup(rollup, temporary="TEMP") for rollup in LEVELS)


def columns_of(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of a table's columns; none where there is no such table."""
    return {row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")}


def _rollup(name: str, temporary: str = "") -> str:
    extra = [f"{column} INTEGER" for column in EXTRA.get(name, ())]
    sums = ", ".join((*extra, *(f"{measure} INTEGER NOT NULL DEFAULT 0" for measure in SUMS)))
    return (
        f"CREATE {temporary} TABLE {name} (apart INTEGER NOT NULL, label TEXT NOT NULL, bucket INTEGER NOT NULL, "
        f"value TEXT NOT NULL, model TEXT NOT NULL, provider TEXT NOT NULL, operation TEXT NOT NULL, {sums}, "
        f"PRIMARY KEY ({', '.join(ROLLUP_KEY)})) STRICT, WITHOUT ROWID"
    )
