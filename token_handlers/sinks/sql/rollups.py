"""The statements that sum calls in the rollups, and those that change the cost of calls.

A call is not summed at once, as that would cost a commit of a few calls more than the calls themselves. Many calls are
summed together; until then each question sums them by itself.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from token_handlers.sinks.sql.rows import NewCost, Value
from token_handlers.sinks.sql.schema import ALL, LABELS, LEVELS, ROLLUP_KEY, SOURCES, SUMS

ROLL_UP_AT = 2_048
"""How many calls may wait to be summed in the rollups: as many as a question sums in a few milliseconds."""

AT_ONCE = 16_384
"""How many are summed in one transaction, so that a ledger whose rollups are made again delays nobody for long."""


def new_costs(costs: Iterable[NewCost]) -> Iterator[tuple[str, list[dict[str, Value]]]]:
    """Yield the statements that give calls other values, each with the parameters of its calls."""
    for names, alike in itertools.groupby(sorted(costs, key=_columns), key=_columns):
        values = ", ".join(f"{name} = :{name}" for name in names)
        statement = f"UPDATE usage_event SET {values} WHERE ts_ms = :ts_ms AND id = :id"  # noqa: S608 (constants)
        yield statement, [{"id": cost.id, "ts_ms": cost.ts_ms, **cost.columns} for cost in alike]


def _columns(cost: NewCost) -> tuple[str, ...]:
    return tuple(cost.columns)


class Sums(NamedTuple):
    """Some of SUMS in SQL: names, what calls add to them, with their sign and without, their sums, how a level adds."""

    names: str
    added: str
    kept: str
    summed: str
    adding: Callable[[str], str]


def sums_of(used: Sequence[str], sign: str = "") -> Sums:
    """Return the sums to which calls are added, or with the sign "-" from which they are subtracted."""

    def listed(template: str) -> str:
        return ", ".join(template.format(name=name) for name in used)

    return Sums(
        listed("{name}"),
        listed(f"CAST({sign}sum({{name}}) AS bigint) AS {{name}}"),
        listed("CAST(sum({name}) AS bigint) AS {name}"),
        listed("sum({name})"),
        lambda level: listed(f"{{name}} = coalesce({level}.{{name}}, 0) + excluded.{{name}}"),
    )


class RollupStep(NamedTuple):
    """A table of calls summed by a label, as finely as rollups need them: its name and query, and what adds it."""

    name: str
    query: str
    statements: tuple[str, ...]


def steps(sums: Sums, tags: str) -> tuple[RollupStep, ...]:
    """Return the steps that add the calls of the table ``fresh`` to all rollups; ``tags`` is the dialect's."""
    return tuple(_step(f"fresh_{number}", label, sums, tags) for number, label in enumerate(LABELS))


def _step(name: str, label: str, sums: Sums, tags: str) -> RollupStep:
    source, (together, apart) = SOURCES[label], LABELS[label]
    unit = min(LEVELS[level] for level in (*together, *apart))
    calls = "fresh"
    if source.has_tags:  # there are fewer sets of tags than calls, and each is read once
        calls = (
            f"(SELECT ts_ms / {unit} * {unit} AS ts_ms, tags, model, provider, operation, {sums.kept} FROM fresh "  # noqa: S608 (constants)
            "WHERE tags IS NOT NULL GROUP BY 1, 2, 3, 4, 5) AS fresh"
        )
    query = (
        f"SELECT {source.name} AS label, ts_ms / {unit} AS bucket, {source.value} AS value, "  # noqa: S608 (constants)
        f"model, provider, operation, {sums.added} FROM {source.rows(calls, tags)} "
        f"WHERE {source.value} IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6"
    )
    statements = [_add_whole(label, name, sums)] if "rollup_ever" in together else []
    key = f"label, bucket * {unit} / {{}}, value"
    statements += [_add(level, f"0, {key}, '', '', ''".format(LEVELS[level]), name, sums) for level in together]
    statements += [
        _add(level, f"1, {key}, model, provider, operation".format(LEVELS[level]), name, sums) for level in apart
    ]
    return RollupStep(name, query, tuple(statements))


def _add(level: str, key: str, rows: str, sums: Sums) -> str:
    return (
        f"INSERT INTO {level} ({', '.join(ROLLUP_KEY)}, {sums.names}) SELECT {key}, {sums.summed} FROM {rows} AS came "  # noqa: S608 (constants)
        f"GROUP BY 1, 2, 3, 4, 5, 6, 7 ON CONFLICT ({', '.join(ROLLUP_KEY)}) DO UPDATE SET {sums.adding(level)}"
    )


def _add_whole(label: str, rows: str, sums: Sums) -> str:
    """Return the statement that adds calls to the sum of all values of a label, and new values to their number.

    It runs before the values themselves are added.
    """
    values = f"(SELECT DISTINCT value FROM {rows} AS came) AS came"  # noqa: S608 (constants)
    number = f"(SELECT count(*) FROM {values} WHERE {is_unknown(label, 'came.value')})"  # noqa: S608 (constants)
    return (
        f"INSERT INTO rollup_ever ({', '.join(ROLLUP_KEY)}, number, {sums.names}) "  # noqa: S608 (constants)
        f"SELECT 0, '{ALL}{label}', 0, '', '', '', '', {number}, {sums.summed} FROM {rows} AS came "
        f"GROUP BY 1, 2, 3, 4, 5, 6, 7 ON CONFLICT ({', '.join(ROLLUP_KEY)}) "
        f"DO UPDATE SET number = rollup_ever.number + excluded.number, {sums.adding('rollup_ever')}"
    )


def ever(table: str, label: str) -> str:
    """Return the condition for the sums of all time by a label."""
    return f"{table}.apart = 0 AND {table}.label = '{label}' AND {table}.bucket = 0"


def is_unknown(label: str, value: str) -> str:
    """Return the condition that rollup_ever has no sums of a label's value.

    Not by EXISTS, of which PostgreSQL makes a join that may read all values of the label, for each value once more.
    """
    known = f"{ever('known', label)} AND known.value = {value}"
    return f"(SELECT 1 FROM rollup_ever AS known WHERE {known} LIMIT 1) IS NULL"  # noqa: S608 (constants)


def sums_ever() -> Iterator[str]:
    """Yield the statements that fill an empty rollup_ever from the days: for a ledger that is older than this table."""
    sums = sums_of(SUMS)
    for label in (label for label, (together, _) in LABELS.items() if "rollup_ever" in together):
        days = f"(SELECT * FROM rollup_day WHERE apart = 0 AND label = '{label}')"  # noqa: S608 (constants)
        yield _add_whole(label, days, sums)
        yield _add("rollup_ever", "0, label, 0, value, '', '', ''", days, sums)
