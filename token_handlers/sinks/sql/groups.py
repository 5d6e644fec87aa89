"""Sums by the values of one label: of all of them, or of the most expensive and of the others together."""

from collections.abc import Callable, Mapping

from token_handlers.counter.totals import OTHER
from token_handlers.sinks.escapes import unescaped
from token_handlers.sinks.sql.queries import Reader, query_for, sums_by
from token_handlers.sinks.sql.questions import Dimension, Window, dimension_of
from token_handlers.sinks.sql.rows import day_of, hour_of, totals_of
from token_handlers.sinks.sql.schema import SUMS
from token_handlers.usage import UsageTotals

_TIMES: dict[str, Callable[[int], str]] = {"day": day_of, "hour": hour_of}
_MOST_EXPENSIVE = (
    "cost_nano + cost_atto / 1000000000 DESC, cost_atto % 1000000000 DESC, prompt_tokens + completion_tokens DESC"
)


class Groups(dict[str, UsageTotals]):
    """Totals by the values of a label; those of ``others`` more values are summed under "(other)"."""

    def __init__(self, totals: Mapping[str, UsageTotals], others: int = 0) -> None:
        super().__init__(totals)
        self.others = others


def groups_by(reader: Reader, label: str, window: Window, top: int | None) -> Groups:
    """Return the totals of a window's calls by a label; with ``top`` of so many values, the most expensive first."""
    if top is None:
        sums = sums_by(reader, dimension_of(label), window)
        return Groups({_name_of(label, key): totals for (key,), totals in sums.items()})
    found, others, rest = _most_expensive(reader, dimension_of(label), window, top)
    groups = {_name_of(label, key): totals for key, totals in found.items()}
    return Groups({**groups, OTHER: rest} if others else groups, others)


def _name_of(label: str, key: str | int) -> str:
    return _TIMES[label](int(key)) if label in _TIMES else unescaped(str(key))


def _most_expensive(
    reader: Reader, dimension: Dimension, window: Window, number: int
) -> tuple[dict[str | int, UsageTotals], int, UsageTotals]:
    """Return the totals by a dimension's one key: the most expensive, how many there are besides, and their sum."""
    query = query_for(reader, dimension, window)
    used = [measure for measure in SUMS if query.sums[measure] != "0"]
    parts = [f"SELECT {', '.join((f'{key} AS key', *used))} FROM {rows}" for (key,), rows in query.parts]  # noqa: S608 (constants)
    if not parts:
        return {}, 0, UsageTotals()
    sums = ", ".join(f"{expression} AS {name}" for name, expression in query.sums.items())
    summed = f"SELECT key, {sums} FROM ({' UNION ALL '.join(parts)}) AS calls GROUP BY key"  # noqa: S608 (constants)
    most = f"SELECT 0 AS count, * FROM summed ORDER BY {_MOST_EXPENSIVE}, key LIMIT {number}"  # noqa: S608 (constants)
    whole = ", ".join(reader.dialect.total.format(name=name) for name in SUMS)
    *rows, (count, _, *rest) = reader.rows(
        f"WITH summed AS MATERIALIZED ({summed}) "  # noqa: S608 (constants)
        f"SELECT * FROM ({most}) AS most UNION ALL SELECT count(*), NULL, {whole} FROM summed",
        query.given,
    )
    found: dict[str | int, list[int]] = {key: each for _, key, *each in rows}
    if count > len(found):
        found.pop(OTHER, None)  # a value of that name is one of the others
        for each in found.values():
            rest = [a - b for a, b in zip(rest, each, strict=True)]
    others = totals_of(rest) if count > len(found) else UsageTotals()
    return {key: totals_of(each) for key, each in found.items()}, count - len(found), others
