"""The statements that sum calls in the rollups, and those that give calls another cost.

A call is not in the rollups at once: that would cost each commit of a few calls more than the calls. When so many have
come, they are summed together; until then whoever asks sums them too.
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
    """Some of SUMS in SQL: their names, what calls add to them, what these add up to, and how a level adds that."""

    names: str
    added: str
    summed: str
    adding: Callable[[str], str]


def sums_of(used: Sequence[str], sign: str = "") -> Sums:
    """Return the sums that calls are to be added to, or with the sign "-" subtracted from."""

    def listed(template: str) -> str:
        return ", ".join(template.format(name=name) for name in used)

    return Sums(
        listed("{name}"),
        listed(f"CAST({sign}sum({{name}}) AS bigint) AS {{name}}"),
        listed("sum({name})"),
        lambda level: listed(f"{{name}} = coalesce({level}.{{name}}, 0) + excluded.{{name}}"),
    )


class RollupStep(NamedTuple):
    """A table of calls summed by a label, as finely as rollups need them: its name and query, and what adds it."""

    name: str
    query: str
    statements: tuple[str, ...]


def steps(sums: Sums, tags: str) -> tuple[RollupStep, ...]:
    """Return what adds the calls of the table fresh to all rollups; ``tags`` is the dialect's."""
    return tuple(_step(f"fresh_{number}", label, sums, tags) for number, label in enumerate(LABELS))


def _step(name: str, label: str, sums: Sums, tags: str) -> RollupStep:
    source, (together, apart) = SOURCES[label], LABELS[label]
    unit = min(LEVELS[level] for level in (*together, *apart))
    query = (
        f"SELECT {source.name} AS label, ts_ms / {unit} AS bucket, {source.value} AS value, "  # noqa: S608 (constants)
        f"model, provider, operation, {sums.added} FROM {source.rows('fresh', tags)} "
        f"WHERE {source.value} IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6"
    )
    keys = [
        *((level, f"0, label, bucket * {unit} / {LEVELS[level]}, value, '', '', ''") for level in together),
        *(
            (level, f"1, label, bucket * {unit} / {LEVELS[level]}, value, model, provider, operation")
            for level in apart
        ),
        *(("rollup_ever", _whole(label)) for level in together if level == "rollup_ever"),
    ]
    return RollupStep(name, query, tuple(_add(level, key, name, sums) for level, key in keys))


def _whole(label: str) -> str:
    """Return the key of what all values of a label add up to."""
    return f"0, '{ALL}{label}', 0, '', '', '', ''"


def _add(level: str, key: str, name: str, sums: Sums) -> str:
    return (
        f"INSERT INTO {level} ({', '.join(ROLLUP_KEY)}, {sums.names}) SELECT {key}, {sums.summed} FROM {name} "  # noqa: S608 (constants)
        f"GROUP BY 1, 2, 3, 4, 5, 6, 7 ON CONFLICT ({', '.join(ROLLUP_KEY)}) DO UPDATE SET {sums.adding(level)}"
    )


def sums_ever() -> Iterator[str]:
    """Yield the statements that fill rollup_ever, which is empty, from the days: for a ledger from before it."""
    labels = [label for label, (together, _) in LABELS.items() if "rollup_ever" in together]
    for label in labels:
        query = f"SELECT * FROM rollup_day WHERE apart = 0 AND label = '{label}'"  # noqa: S608 (constants)
        yield from (
            _add("rollup_ever", key, f"({query}) AS days", sums_of(SUMS))
            for key in ("0, label, 0, value, '', '', ''", _whole(label))
        )
