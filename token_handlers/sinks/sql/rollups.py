"""The statements that sum calls in the rollups, and those that give calls another cost.

A call is not in the rollups at once: that would cost each commit of a few calls more than the calls. When so many have
come, they are summed together; until then whoever asks sums them too.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence

from token_handlers.sinks.sql.rows import NewCost, Value
from token_handlers.sinks.sql.schema import LABELS, LEVELS, ROLLUP_KEY, SOURCES

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


@functools.lru_cache(64)
def statements(used: tuple[str, ...], sign: str, tags: str) -> tuple[str, ...]:
    """Return the statements that add the calls of the table fresh to all rollups, or subtract them.

    ``used`` are the sums that are not 0 in it, ``tags`` is the dialect's.
    """
    return tuple(
        _statement(label, level, apart, used, sign, tags)
        for label, (together, models_apart) in LABELS.items()
        for apart, levels in enumerate((together, models_apart))
        for level in levels
    )


def _statement(label: str, level: str, apart: int, used: Sequence[str], sign: str, tags: str) -> str:
    source = SOURCES[label]
    key = f"{apart}, {source.name}, ts_ms / {LEVELS[level]}, {source.value}, " + (
        "model, provider, operation" if apart else "'', '', ''"
    )
    groups = ", ".join(str(number) for number in range(2, 8 if apart else 5))
    sums = "".join(f", {sign}sum({measure})" for measure in used)
    adding = ", ".join(f"{measure} = coalesce({level}.{measure}, 0) + excluded.{measure}" for measure in used)
    return (
        f"INSERT INTO {level} ({', '.join((*ROLLUP_KEY, *used))}) SELECT {key}{sums} "  # noqa: S608 (constants)
        f"FROM {source.rows('fresh', tags)} WHERE {source.value} IS NOT NULL GROUP BY {groups} "
        f"ON CONFLICT ({', '.join(ROLLUP_KEY)}) " + (f"DO UPDATE SET {adding}" if adding else "DO NOTHING")
    )
