"""Sums and rows out of the ledger: what rollups have of whole hours, days and months, the rest from the calls."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from token_handlers.sinks.sql.questions import Dimension, Span, Window, is_apart, label_of, spans_of
from token_handlers.sinks.sql.rows import totals_of
from token_handlers.sinks.sql.schema import LEVELS, SUMS
from token_handlers.usage import UsageTotals

PAGE = 1000
"""How many rows a read takes at once."""

_STATE = "SELECT rolled, used, (SELECT coalesce(max(id), 0) FROM usage_event) > rolled FROM rollup_state"
_NEW = f"SELECT {', '.join(f'sum({name})' for name in SUMS)} FROM usage_measure WHERE id > ?"  # noqa: S608 (constants)
_NEW_TAGS = "SELECT DISTINCT 'tag:' || key FROM usage_event, json_each(tags) WHERE usage_event.id > ?"

# Each label's name and value, and the rows in which they are found.
_SOURCES = {
    "": ("''", "''", "usage_measure"),
    "session": ("'session'", "session", "usage_measure"),
    "user": ("'user'", "user", "usage_measure"),
    "langgraph_node": ("'langgraph_node'", "node", "usage_measure"),
    "tag": ("'tag:' || tag.key", "tag.value", "usage_measure, json_each(tags) AS tag"),
}


class RollupQuery(NamedTuple):
    """What SQLite is asked: what sums each of SUMS, the parts with their keys and rows, values for the parameters."""

    sums: Mapping[str, str]
    parts: list[tuple[list[str], str]]
    given: Mapping[str, object]


class _RolledUp(NamedTuple):
    """Up to which id the calls are in the rollups, which sums are not 0, and whether there are later calls."""

    rolled: int
    used: frozenset[str]
    has_later: bool


def sums_by(
    connection: sqlite3.Connection, dimension: Dimension, window: Window
) -> dict[tuple[str | int, ...], UsageTotals]:
    """Return the totals of the calls of a window by the keys of a dimension."""
    found: dict[tuple[str | int, ...], Sequence[int]] = {}
    query = query_for(connection, dimension, window)
    count = len(dimension.keys)
    grouped = f" GROUP BY {', '.join(map(str, range(1, count + 1)))}" if count else ""
    for keys, rows in query.parts:
        selected = ", ".join((*keys, *query.sums.values()))
        for row in connection.execute(f"SELECT {selected} FROM {rows}{grouped}", query.given):  # noqa: S608 (constants)
            key, sums = row[:count], row[count:]
            if None in sums:  # the sums of no call, where there are no keys
                continue
            before = found.get(key)
            found[key] = sums if before is None else [a + b for a, b in zip(before, sums, strict=True)]
    return {key: totals_of(sums) for key, sums in sorted(found.items())}


def query_for(connection: sqlite3.Connection, dimension: Dimension, window: Window) -> RollupQuery:
    """Return what is asked for the sums of a window's calls."""
    window = _narrowed(connection, window)
    state = _state(connection)
    labels = [label_of(dimension, window)]
    if labels == ["tag"]:
        labels = [f"tag:{dimension.tag}"] if dimension.tag is not None else _tags(connection, state)
    given = {**window._asdict(), "apart": is_apart(dimension, window), "labels": json.dumps(labels)}
    sums = {name: f"sum({name})" if name in state.used else "0" for name in SUMS}
    spans = spans_of(dimension, window) if state.rolled >= 0 else [Span(None, window.since, window.until)]
    if any(span.rollup for span in spans):
        parts = [_part(dimension, window, span, f"+usage_measure.id <= {state.rolled}") for span in spans]
        if state.has_later:
            parts.append(
                _part(dimension, window, Span(None, window.since, window.until), f"usage_measure.id > {state.rolled}")
            )
    else:
        parts = [_part(dimension, window, span) for span in spans]
    return RollupQuery(sums, parts, given)


def page(connection: sqlite3.Connection, window: Window, after: tuple[int, int]) -> list[sqlite3.Row]:
    """Return the next rows of usage_event in the order of time, after one of which the time and id are given."""
    conditions = ["ts_ms >= :since AND ts_ms < :until AND (ts_ms, id) > (:ts_ms, :id)"]
    conditions += [f"{name} = :{name}" for name in window.values()]
    if window.model is not None:
        conditions.append("coalesce(nullif(model, ''), '(unknown)') = :model")
    query = f"SELECT * FROM usage_event WHERE {' AND '.join(conditions)} ORDER BY ts_ms, id LIMIT {PAGE}"  # noqa: S608 (constants)
    given = {**window._asdict(), "since": max(window.since, after[0]), "ts_ms": after[0], "id": after[1]}
    cursor = connection.cursor()
    cursor.row_factory = sqlite3.Row
    return cursor.execute(query, given).fetchall()


def _narrowed(connection: sqlite3.Connection, window: Window) -> Window:
    """Shrink the window to the first and last call of the session or user that is asked for."""
    for label, value in window.values().items():
        ends = (f"SELECT {end}(ts_ms) FROM usage_event WHERE {label} = ?" for end in ("min", "max"))  # noqa: S608 (constants)
        first, last = (connection.execute(query, (value,)).fetchone()[0] for query in ends)
        if first is None:
            return window._replace(until=window.since)
        window = window._replace(since=max(window.since, first), until=min(window.until, last + 1))
    return window


def _state(connection: sqlite3.Connection) -> _RolledUp:
    rolled, used, has_later = connection.execute(_STATE).fetchone()
    names = set(json.loads(used))
    if has_later:
        later = connection.execute(_NEW, (rolled,)).fetchone()
        names |= {name for name, number in zip(SUMS, later, strict=True) if number}
    return _RolledUp(rolled, frozenset(names), bool(has_later))


def _tags(connection: sqlite3.Connection, state: _RolledUp) -> list[str]:
    """Return the labels of all tags, by a search for each rather than by reading the rollup."""
    query = "SELECT min(label) FROM rollup_32days WHERE apart = 0 AND label > ? AND label < 'tag;'"
    found: list[str] = []
    while (label := connection.execute(query, (found[-1] if found else "tag",)).fetchone()[0]) is not None:
        found.append(label)
    later = connection.execute(_NEW_TAGS, (state.rolled,)) if state.has_later else ()
    return sorted({*found, *(label for (label,) in later)})


def _part(dimension: Dimension, window: Window, span: Span, also: str = "true") -> tuple[list[str], str]:
    """Return the keys, and the rows that they are of; ``also`` is a condition on the calls that are read one by one."""
    label = label_of(dimension, window)
    conditions = [f"bucket >= {span.first} AND bucket < {span.end}", "label IN (SELECT value FROM json_each(:labels))"]
    if span.rollup:
        conditions.append("apart = :apart")
    if label in window.values():
        conditions.append(f"value = :{label}")
        if span.rollup:  # it is in the order of its buckets: look the value up in each, rather than read them all
            buckets = json.dumps(list(range(span.first, span.end)))
            conditions.append(f"bucket IN (SELECT value FROM json_each('{buckets}'))")  # noqa: S608 (numbers)
    conditions += [f"{name} = :{name}" for name in window.values() if name != label]
    if window.model is not None:
        conditions.append("model = :model")
    conditions.append(dimension.condition)
    unit = LEVELS[span.rollup] if span.rollup else 1
    keys = [key.format(unit=unit) for key in dimension.keys]
    return keys, f"{span.rollup or _calls(label, also)} WHERE {' AND '.join(conditions)}"


def _calls(label: str, also: str) -> str:
    """Return the calls under a label as if they were a rollup, with a bucket for each millisecond."""
    name, value, rows = _SOURCES[label]
    # Later calls are few, and found by their id: "+" keeps SQLite from reading an index of all calls instead.
    plus = "+" if also.startswith("usage_measure.id") else ""
    return (
        f"(SELECT {name} AS label, {plus}ts_ms AS bucket, {plus}{value} AS value, model, provider, operation, "  # noqa: S608 (constants)
        f"{plus}session AS session, {plus}user AS user, {', '.join(SUMS)} FROM {rows} "
        f"WHERE {also} AND {plus}{value} IS NOT NULL)"
    )
