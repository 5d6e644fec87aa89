"""Sums by the values of one label: of all of them, or of the most expensive and of the others together."""

from collections.abc import Callable, Mapping

from token_handlers.counter.counter import OTHER
from token_handlers.sinks.escapes import unescaped
from token_handlers.sinks.sql.queries import Reader, query_for, sums_by
from token_handlers.sinks.sql.questions import Dimension, Window, dimension_of
from token_handlers.sinks.sql.rows import day_of, hour_of, totals_of
from token_handlers.sinks.sql.schema import SUMS
from token_handlers.usage import UsageTotals

_TIMES: dict[str, Callable[[int], str]] = {"day": day_of, "hour": hour_of}
_MOST_EXPENSIVE = (
    "{cost_nano} + {cost_atto} / 1000000000 DESC, {cost_atto} % 1000000000 DESC, "
    "{prompt_tokens} + {completion_tokens} DESC"
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
    calls, sums, order = " UNION ALL ".join(parts), ", ".join(query.sums.values()), _MOST_EXPENSIVE.format(**query.sums)
    most = f"SELECT key, {sums} FROM ({calls}) AS calls GROUP BY key ORDER BY {order}, key LIMIT {number}"  # noqa: S608 (constants)
    found = {key: each for key, *each in reader.rows(most, query.given)}
    if len(found) < number:
        return {key: totals_of(each) for key, each in found.items()}, 0, UsageTotals()
    whole = f"SELECT count(DISTINCT key), {sums} FROM ({calls}) AS calls"  # noqa: S608 (constants)
    count, *rest = reader.rows(whole, query.given)[0]
    found.pop(OTHER, None)  # a value of that name is one of the others
    for each in found.values():
        rest = [a - b for a, b in zip(rest, each, strict=True)]
    return {key: totals_of(each) for key, each in found.items()}, count - len(found), totals_of(rest)
