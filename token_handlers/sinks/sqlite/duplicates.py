"""Sums by the values of one label: of all of them, or of the dearest and of the others together."""

import sqlite3
from collections.abc import Callable, Mapping
from datetime import timedelta

from token_handlers.counter.counter import OTHER
from token_handlers.sinks.sqlite.queries import Dimension, Window, ask, dimension_of, sums_by, totals_of
from token_handlers.sinks.sqlite.rows import EPOCH
from token_handlers.sinks.sqlite.schema import MEASURES
from token_handlers.usage import UsageTotals

_NAMES: dict[str, Callable[[str | int], str]] = {
    "day": lambda number: (EPOCH + timedelta(days=int(number))).date().isoformat(),
    "hour": lambda number: f"{(EPOCH + timedelta(hours=int(number))).isoformat()[:16]}Z",
}
_DEAREST = (
    "{cost_nano} + {cost_atto} / 1000000000 DESC, {cost_atto} % 1000000000 DESC, "
    "{prompt_tokens} + {completion_tokens} DESC"
)


class Groups(dict[str, UsageTotals]):
    """Totals by the values of a label; those of ``others`` more values are summed under "(other)"."""

    def __init__(self, totals: Mapping[str, UsageTotals], others: int = 0) -> None:
        super().__init__(totals)
        self.others = others


def groups_by(connection: sqlite3.Connection, label: str, window: Window, top: int | None) -> Groups:
    """Return the totals of the calls of a window by a label; with ``top`` of so many values, the dearest first."""
    name = _NAMES.get(label, str)
    if top is None:
        return Groups({name(key): each for (key,), each in sums_by(connection, dimension_of(label), window).items()})
    found, others, rest = _dearest(connection, dimension_of(label), window, top)
    groups = {name(key): totals for key, totals in found.items()}
    return Groups({**groups, OTHER: rest} if others else groups, others)


def _dearest(
    connection: sqlite3.Connection, dimension: Dimension, window: Window, number: int
) -> tuple[dict[str | int, UsageTotals], int, UsageTotals]:
    """Return the totals by the one key of a dimension: the dearest, how many there are besides, and their sum."""
    question = ask(connection, dimension, window)
    used = [measure for measure in MEASURES if question.sums[measure] != "0"]
    parts = [f"SELECT {', '.join((f'{key} AS key', *used))} FROM {rows}" for (key,), rows in question.parts]  # noqa: S608 (constants)
    if not parts:
        return {}, 0, UsageTotals()
    calls, sums, order = " UNION ALL ".join(parts), ", ".join(question.sums.values()), _DEAREST.format(**question.sums)
    dear = f"SELECT key, {sums} FROM ({calls}) GROUP BY key ORDER BY {order}, key LIMIT {number}"  # noqa: S608 (constants)
    found = {key: each for key, *each in connection.execute(dear, question.given)}
    if len(found) < number:
        return {key: totals_of(each) for key, each in found.items()}, 0, UsageTotals()
    whole = f"SELECT count(DISTINCT key), {sums} FROM ({calls})"  # noqa: S608 (constants)
    count, *rest = connection.execute(whole, question.given).fetchone()
    found.pop(OTHER, None)  # a value of that name is one of the others
    for each in found.values():
        rest = [a - b for a, b in zip(rest, each, strict=True)]
    return {key: totals_of(each) for key, each in found.items()}, count - len(found), totals_of(rest)
