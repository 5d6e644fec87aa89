"""The statements that sum calls in the rollups, and the one that gives a call another cost.

A call is not in the rollups at once: that would cost each commit of a few calls more than the calls. When so many have
come, they are summed together; until then whoever asks sums them too.
"""

import functools
from collections.abc import Sequence

from token_handlers.sinks.sql.schema import LABELS, LEVELS, ROLLUP_KEY, SOURCES

ROLL_UP_AT = 2_048
"""How many calls may wait to be summed in the rollups: as many as a question sums in a few milliseconds."""

AT_ONCE = 16_384
"""How many are summed in one transaction, so that a ledger whose rollups are made again delays nobody for long."""

SET_COST = """
UPDATE usage_event SET
  cost_nano = CASE WHEN outcome = 'cached' THEN cost_nano ELSE :nano END,
  cost_atto = CASE WHEN outcome = 'cached' THEN cost_atto ELSE :atto END,
  saved_nano = CASE WHEN outcome = 'cached' THEN :nano ELSE saved_nano END,
  saved_atto = CASE WHEN outcome = 'cached' THEN :atto ELSE saved_atto END,
  cost_source = 'repriced', cost_breakdown = NULL
WHERE ts_ms = :ts_ms AND id = :id
"""


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
