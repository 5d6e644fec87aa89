"""The tables and functions of a ledger in a PostgreSQL schema of its own, and how an older version becomes today's.

``usage_event`` has the calls, in a partition for each month; ``usage_key`` their event ids, so that none is added
twice, in whatever month. What one transaction added is a batch: ``usage_batch`` has the batches that are not in the
rollups yet, and summing a batch takes it out, in one transaction. So it does not matter in which order transactions
end. ``usage_measure`` and the rollups are those of the SQLite ledger, ``rollup_state`` says which sums are more than 0.

Whoever only writes calls two functions, ``write_calls`` and ``roll_up``, which do it as the schema's owner.
"""

from collections.abc import Iterator, Sequence

from token_handlers.sinks.postgres.call_text import SEPARATOR
from token_handlers.sinks.sql import rollups
from token_handlers.sinks.sql.dialect import Dialect
from token_handlers.sinks.sql.schema import COLUMNS, COST_INDEX, EXTRA, LABELLED, LEVELS, MEASURED, ROLLUP_KEY, SUMS

FORMAT = 3
"""What the tables, the functions, the rules of sums and the choice of rollups are; each change is another number."""

BEFORE_EVER, BEFORE_LINES = 1, 2
"""The formats without rollup_ever, and with add_calls in place of write_calls; what they sum is the same."""

VERSION = 1_000 * FORMAT + len(COLUMNS) + len(SUMS)
"""The version of a ledger; also a column or a sum more makes it another one."""

DIALECT = Dialect(
    tags="json_each_text(tags::json) AS tag",
    total="coalesce(sum({name}), 0)::bigint",
    text='({expression})::text COLLATE "C"',
    unindexed="{column}",
    among="{} = ANY({})".format,
    texts=list,
    between=lambda column, first, end: f"{column} = ANY(ARRAY(SELECT generate_series({first}, {end - 1})))",
)

MONTHS = "usage_event_"
FIRST_YEAR, END_YEAR = 2020, 2100
"""From and until when there is a partition for each month; all calls before and after are in one partition each."""

MOST_BATCHES = 2 * rollups.ROLL_UP_AT
"""How many of the batches that wait are looked at."""

_TYPES = {"INTEGER": "bigint", "TEXT": 'text COLLATE "C"'}
_MADE_LOCK, _ROLLUP_LOCK = 0x544F4B4C, 0x544F4B4D
"""The first half of the keys of advisory locks: while tables are made, and while calls are summed."""

_IDS_AT_ONCE = 100
"""How many ids of calls a connection takes at once: one by one they would wait for each other."""

_ADDED_AT = "added_at timestamptz NOT NULL DEFAULT now()"
_TEXT = 'text COLLATE "C" NOT NULL'
_LISTED = "SELECT string_agg(format('{}', name), ', ') FROM unnest(names) AS name"
_WAITING = (
    f"SELECT coalesce(sum(b.calls), 0) FROM (SELECT usage_batch.calls FROM usage_batch LIMIT {MOST_BATCHES}) AS b"  # noqa: S608 (constants)
)


def made_lock(schema: str) -> str:
    """Return the statement that lets one transaction at a time make tables."""
    return f"SELECT pg_advisory_xact_lock({_MADE_LOCK}, hashtext('{schema}'))"


def rollup_lock(schema: str) -> str:
    """Return the statement that lets one transaction at a time change rollups."""
    return f"SELECT pg_advisory_xact_lock({_ROLLUP_LOCK}, hashtext('{schema}'))"


def statements_since(version: int, columns: Sequence[str], sums: Sequence[str], schema: str) -> Iterator[str]:
    """Yield the statements that bring a ledger of a version, 0 for an empty schema, up to today's.

    ``columns`` and ``sums`` are the columns that usage_event and the rollups have.
    """
    if version == 0:
        yield from _tables()
    else:
        yield from (
            f'ALTER TABLE usage_event ADD COLUMN "{name}" {_column(name)}' for name in COLUMNS if name not in columns
        )
        there = [level for level in LEVELS if version // 1_000 != BEFORE_EVER or level != "rollup_ever"]
        missing = [name for name in SUMS if name not in sums]
        yield from (f"ALTER TABLE {level} ADD COLUMN {name} bigint" for level in there for name in missing)
        if version // 1_000 == BEFORE_EVER:
            yield from (_rollup("rollup_ever"), COST_INDEX, *rollups.sums_ever())
        if version // 1_000 in (BEFORE_EVER, BEFORE_LINES):
            yield f"ALTER TABLE usage_batch ADD COLUMN {_ADDED_AT}"
        if missing or version // 1_000 not in (BEFORE_EVER, BEFORE_LINES, FORMAT):
            yield f"TRUNCATE {', '.join(LEVELS)}, usage_batch"
            yield "UPDATE rollup_state SET used = '{}'"
            yield "INSERT INTO usage_batch SELECT batch, count(*) FROM usage_event GROUP BY batch"
    yield f"ALTER SEQUENCE usage_event_id CACHE {_IDS_AT_ONCE}"
    yield from _view()
    yield "DROP TYPE IF EXISTS usage_call"
    yield f"CREATE TYPE usage_call AS ({', '.join(f'{chr(34)}{name}{chr(34)} {_type(name)}' for name in COLUMNS)})"
    yield from (statement.replace("{schema}", schema) for statement in (_make_month(), _write_calls(), _roll_up()))
    for function in ("make_month(text)", "write_calls(text, text[])", "roll_up(integer)"):
        yield f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC"
    yield f"UPDATE ledger_version SET version = {VERSION}"  # noqa: S608 (a constant)


def add_used(names: str) -> str:
    """Return the statement that notes sums that are more than 0 in the rollups; ``names`` is an array of text."""
    return f"UPDATE rollup_state SET used = used || {names} WHERE NOT used @> {names}"  # noqa: S608 (constants)


def summed(chosen: str, sums: rollups.Sums) -> str:
    """Return the statement that adds the calls which a condition chooses to the rollups, or subtracts them."""
    measured = f"{LABELLED}, {sums.names}"
    parts = [f"fresh AS MATERIALIZED (SELECT {measured} FROM usage_measure WHERE {chosen})"]  # noqa: S608 (constants)
    for name, query, statements in rollups.steps(sums, DIALECT.tags):
        parts.append(f"{name} AS MATERIALIZED ({query})")
        parts += [f"{name}_{number} AS ({statement})" for number, statement in enumerate(statements)]
    return f"WITH {', '.join(parts)} SELECT count(*) FROM fresh"  # noqa: S608 (constants)


def _column(name: str) -> str:
    kind, _, rest = COLUMNS[name].partition(" ")
    return f"{_TYPES[kind]} {rest.removesuffix('UNIQUE')}".strip()


def _type(name: str) -> str:
    return _TYPES[COLUMNS[name].partition(" ")[0]].partition(" ")[0]


def _tables() -> Iterator[str]:
    yield "CREATE TABLE ledger_version (version integer NOT NULL)"
    yield "INSERT INTO ledger_version VALUES (0)"
    yield "CREATE TABLE rollup_state (used text[] NOT NULL)"
    yield "INSERT INTO rollup_state VALUES ('{}')"
    yield "CREATE SEQUENCE usage_event_id"
    yield "CREATE SEQUENCE usage_batch_number"
    yield f"CREATE TABLE usage_batch (batch bigint PRIMARY KEY, calls integer NOT NULL, {_ADDED_AT})"
    yield f"CREATE TABLE usage_key (event_id {_TEXT} PRIMARY KEY)"
    columns = ", ".join(f'"{name}" {_column(name)}' for name in COLUMNS)
    yield (
        "CREATE TABLE usage_event (id bigint NOT NULL DEFAULT nextval('usage_event_id'), batch bigint NOT NULL, "
        f"{columns}, PRIMARY KEY (ts_ms, id)) PARTITION BY RANGE (ts_ms)"
    )
    yield "CREATE INDEX usage_event_session ON usage_event (session, ts_ms) WHERE session IS NOT NULL"
    yield 'CREATE INDEX usage_event_user ON usage_event ("user", ts_ms) WHERE "user" IS NOT NULL'
    yield "CREATE INDEX usage_event_batch ON usage_event (batch)"
    for level in LEVELS:
        yield _rollup(level)
    yield COST_INDEX


def _rollup(level: str) -> str:
    sums = ", ".join(f"{name} bigint" for name in (*EXTRA.get(level, ()), *SUMS))
    return (
        f"CREATE TABLE {level} (apart smallint NOT NULL, label {_TEXT}, bucket bigint NOT NULL, value {_TEXT}, "
        f"model {_TEXT}, provider {_TEXT}, operation {_TEXT}, {sums}, PRIMARY KEY ({', '.join(ROLLUP_KEY)})) "
        "WITH (fillfactor = 80)"
    )


def _view() -> Iterator[str]:
    """Make the view again, as a column can't be put into one; `migrations` lets its readers read it again."""
    yield "DROP VIEW IF EXISTS usage_measure"
    yield f"CREATE VIEW usage_measure AS SELECT id, batch, {MEASURED} FROM usage_event"  # noqa: S608 (constants)


def _make_month() -> str:
    return f"""
CREATE OR REPLACE FUNCTION make_month(month text) RETURNS void
LANGUAGE plpgsql SET search_path = {{schema}}, pg_temp AS $$
DECLARE
  first bigint;
  last bigint;
BEGIN
  IF month = 'before_{FIRST_YEAR}' THEN
    last := extract(epoch FROM timestamp '{FIRST_YEAR}-01-01') * 1000;
  ELSIF month = 'from_{END_YEAR}' THEN
    first := extract(epoch FROM timestamp '{END_YEAR}-01-01') * 1000;
  ELSIF month ~ '^20[2-9]\\d_(0[1-9]|1[0-2])$' THEN
    first := extract(epoch FROM to_date(month, 'YYYY_MM')::timestamp) * 1000;
    last := extract(epoch FROM to_date(month, 'YYYY_MM')::timestamp + interval '1 month') * 1000;
  ELSE
    RAISE EXCEPTION 'no month: %', month;
  END IF;
  {made_lock("{schema}").replace("SELECT", "PERFORM")};
  -- to_regclass may not know yet what another transaction made while this one waited
  IF EXISTS (
    SELECT FROM pg_class WHERE relname = '{MONTHS}' || month AND relnamespace = '{{schema}}'::regnamespace
  ) THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE usage_event INCLUDING ALL)', '{MONTHS}' || month);
  EXECUTE format('ALTER TABLE usage_event ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
    '{MONTHS}' || month, coalesce(first::text, 'MINVALUE'), coalesce(last::text, 'MAXVALUE'));
END
$$"""  # noqa: S608 (constants)


def _write_calls() -> str:
    """Return the function that adds calls; each is the text of a usage_call, and SEPARATOR is between two."""
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    return f"""
CREATE OR REPLACE FUNCTION write_calls(
  calls text, months text[], OUT added bigint, OUT waiting bigint, OUT batches bigint, OUT seconds double precision
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {{schema}}, pg_temp AS $$
DECLARE
  month text;
  number bigint := nextval('usage_batch_number');
BEGIN
  FOREACH month IN ARRAY months LOOP
    IF to_regclass('{MONTHS}' || month) IS NULL THEN
      PERFORM make_month(month);
    END IF;
  END LOOP;
  WITH given AS MATERIALIZED (
    SELECT given.* FROM unnest(ARRAY(
      SELECT call::usage_call FROM string_to_table(calls, '{SEPARATOR}') AS call
    )) AS given
  ),
  fresh AS (INSERT INTO usage_key SELECT event_id FROM given ON CONFLICT DO NOTHING RETURNING event_id)
  INSERT INTO usage_event (batch, {names}) SELECT number, {names} FROM given JOIN fresh USING (event_id);
  GET DIAGNOSTICS added = ROW_COUNT;
  IF added > 0 THEN
    INSERT INTO usage_batch VALUES (number, added);
  END IF;
  SELECT coalesce(sum(b.calls), 0), count(*), coalesce(extract(epoch FROM now() - min(b.added_at)), 0)
  INTO waiting, batches, seconds FROM (SELECT usage_batch.* FROM usage_batch LIMIT {MOST_BATCHES}) AS b;
END
$$"""  # noqa: S608 (constants)


def _roll_up() -> str:
    """Return the function that sums batches; sums that are 0 for all calls of them, which most are, are left alone."""
    chosen = "batch BETWEEN first_batch AND last_batch AND batch = ANY(chosen)"
    gaps, each = rollups.Sums("<names>", "<added>", "<kept>", "<summed>", "<{}>".format), rollups.sums_of(("%1$s",))
    text = summed("batch BETWEEN $1 AND $2 AND batch = ANY($3)", gaps)
    templates = dict(zip(gaps[:4], each[:4], strict=True)) | {
        gaps.adding(level): each.adding(level) for level in LEVELS
    }
    filling = "".join(
        f"  statement := replace(statement, '{gap}', ({_LISTED.format(template)}));\n"
        for gap, template in templates.items()
    )
    sums = ", ".join(f"sum({name}) AS {name}" for name in SUMS)
    return f"""
CREATE OR REPLACE FUNCTION roll_up(most integer, OUT waiting bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {{schema}}, pg_temp SET jit = off AS $$
DECLARE
  chosen bigint[];
  first_batch bigint;
  last_batch bigint;
  names text[];
  statement text := $text${text}$text$;
BEGIN
  waiting := 0;
  IF NOT pg_try_advisory_xact_lock({_ROLLUP_LOCK}, hashtext('{{schema}}')) THEN
    RETURN;
  END IF;
  SELECT array_agg(batch), min(batch), max(batch) INTO chosen, first_batch, last_batch FROM (
    SELECT batch, sum(calls) OVER (ORDER BY batch) - calls AS calls_before
    FROM (SELECT * FROM usage_batch ORDER BY batch LIMIT {MOST_BATCHES}) AS oldest
  ) AS counted WHERE calls_before < most;
  SELECT array_agg(key) INTO names FROM (SELECT {sums} FROM usage_measure WHERE {chosen}) AS sums,
    json_each_text(row_to_json(sums)) WHERE value <> '0' OR key = 'successful_requests';
{filling}
  DELETE FROM usage_batch WHERE batch = ANY(chosen);
  EXECUTE statement USING first_batch, last_batch, chosen;
  {add_used("names")};
  waiting := ({_WAITING});
END
$$"""  # noqa: S608 (constants)
