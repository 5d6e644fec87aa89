"""Sums and rows out of a ledger: what rollups have of whole hours, days and months, the rest from the calls."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from token_handlers.sinks.sql.dialect import Connection, Dialect, RolledUp
from token_handlers.sinks.sql.questions import ALL_TIME, Dimension, Span, Window, is_apart, label_of, spans_of
from token_handlers.sinks.sql.rows import totals_of
from token_handlers.sinks.sql.schema import LEVELS, SOURCES, SUMS
from token_handlers.usage import UsageTotals

PAGE = 1000
"""How many rows a read takes at once."""

_NEW = f"SELECT {', '.join(f'sum({name})' for name in SUMS)} FROM usage_measure"  # noqa: S608 (constants)


class RollupQuery(NamedTuple):
    """What a store is asked: what sums each of SUMS, the parts with their keys and rows, values for the parameters."""

    sums: Mapping[str, str]
    parts: list[tuple[list[str], str]]
    given: Mapping[str, object]


class Reader(NamedTuple):
    """A connection that sees one moment of a ledger, and what has to be known to ask it."""

    connection: Connection
    dialect: Dialect
    state: RolledUp

    def rows(self, query: str, given: Mapping[str, object] = {}) -> list[Any]:
        """Return the rows that answer a statement."""
        return self.connection.execute(query, given).fetchall()


def reader_of(
    connection: Connection, dialect: Dialect, used: Iterable[str], before: str | None, later: str | None
) -> Reader:
    """Return a reader: ``before`` and ``later`` are RolledUp's, ``used`` are the sums that are not 0 in the rollups."""
    names = set(used)
    if later is not None:
        (sums,) = connection.execute(f"{_NEW} WHERE {later}", {}).fetchall()
        names |= {name for name, number in zip(SUMS, sums, strict=True) if number}
    return Reader(connection, dialect, RolledUp(before, later, frozenset(names)))


def sums_by(reader: Reader, dimension: Dimension, window: Window) -> dict[tuple[str | int, ...], UsageTotals]:
    """Return the totals of the calls of a window by the keys of a dimension."""
    found: dict[tuple[str | int, ...], Sequence[int]] = {}
    query = query_for(reader, dimension, window)
    count = len(dimension.keys)
    grouped = f" GROUP BY {', '.join(map(str, range(1, count + 1)))}" if count else ""
    for keys, rows in query.parts:
        selected = ", ".join((*keys, *query.sums.values()))
        for row in reader.connection.execute(f"SELECT {selected} FROM {rows}{grouped}", query.given):  # noqa: S608 (constants)
            key, sums = row[:count], row[count:]
            if None in sums:  # the sums of no call, where there are no keys
                continue
            before = found.get(key)
            found[key] = sums if before is None else [a + b for a, b in zip(before, sums, strict=True)]
    return {key: totals_of(sums) for key, sums in sorted(found.items())}


def query_for(reader: Reader, dimension: Dimension, window: Window) -> RollupQuery:
    """Return what is asked for the sums of a window's calls."""
    state, dialect = reader.state, reader.dialect
    if not is_of_all_time(reader, dimension, window):
        window = _narrowed(reader, window)
    labels = [label_of(dimension, window)]
    if labels == ["tag"]:
        labels = [f"tag:{dimension.tag}"] if dimension.tag is not None else _tags(reader)
    given = {**window._asdict(), "apart": int(is_apart(dimension, window)), "labels": dialect.texts(labels)}
    sums = {name: dialect.total.format(name=name) if name in state.used else "0" for name in SUMS}
    all_calls = Span(None, window.since, window.until)
    spans = spans_of(dimension, window) if state.before is not None else [all_calls]
    if any(span.rollup for span in spans):
        parts = [_part(dialect, dimension, window, span, state.before or "true") for span in spans]
        if state.later is not None:
            parts.append(_part(dialect, dimension, window, all_calls, state.later, dialect.unindexed))
    else:
        parts = [_part(dialect, dimension, window, span) for span in spans]
    return RollupQuery(sums, parts, given)


def is_of_all_time(reader: Reader, dimension: Dimension, window: Window) -> bool:
    """Return whether rollup_ever has the answer, but for later calls."""
    return reader.state.before is not None and spans_of(dimension, window) == [ALL_TIME]


def page(connection: Connection, window: Window, after: tuple[int, int]) -> list[dict[str, Any]]:
    """Return the next rows of usage_event in the order of time, after one of which the time and id are given."""
    conditions = ["ts_ms >= :since AND ts_ms < :until AND (ts_ms, id) > (:ts_ms, :id)"]
    conditions += [f'"{name}" = :{name}' for name in window.values()]
    if window.model is not None:
        conditions.append("coalesce(nullif(model, ''), '(unknown)') = :model")
    query = f"SELECT * FROM usage_event WHERE {' AND '.join(conditions)} ORDER BY ts_ms, id LIMIT {PAGE}"  # noqa: S608 (constants)
    given = {**window._asdict(), "since": max(window.since, after[0]), "ts_ms": after[0], "id": after[1]}
    answer = connection.execute(query, given)
    names = [column[0] for column in answer.description or ()]
    return [dict(zip(names, row, strict=True)) for row in answer]


def _narrowed(reader: Reader, window: Window) -> Window:
    """Shrink the window to the first and last call of the session or user that is asked for."""
    for label, value in window.values().items():
        ends = (f'SELECT {end}(ts_ms) FROM usage_event WHERE "{label}" = :value' for end in ("min", "max"))  # noqa: S608 (constants)
        first, last = (reader.rows(query, {"value": value})[0][0] for query in ends)
        if first is None:
            return window._replace(until=window.since)
        window = window._replace(since=max(window.since, first), until=min(window.until, last + 1))
    return window


def _tags(reader: Reader) -> list[str]:
    """Return the labels of all tags, by a search for each rather than by reading the rollup."""
    query = "SELECT min(label) FROM rollup_32days WHERE apart = 0 AND label > :last AND label < 'tag;'"
    found: list[str] = []
    while (label := reader.rows(query, {"last": found[-1] if found else "tag"})[0][0]) is not None:
        found.append(label)
    later = reader.state.later
    if later is None:
        return found
    source = f"usage_measure, {reader.dialect.tags}"
    more = reader.rows(f"SELECT DISTINCT 'tag:' || tag.key FROM {source} WHERE {later}")  # noqa: S608 (constants)
    return sorted({*found, *(label for (label,) in more)})


def _part(
    dialect: Dialect, dimension: Dimension, window: Window, span: Span, also: str = "true", column: str = "{column}"
) -> tuple[list[str], str]:
    """Return the keys, and the rows that they are of; ``also`` is a condition on the calls that are read one by one."""
    label = label_of(dimension, window)
    conditions = [_among_buckets(dialect, span, one_value=label in window.values()), dialect.among("label", ":labels")]
    if span.rollup:
        conditions.append("apart = :apart")
    if label in window.values():
        conditions.append(f"value = :{label}")
    conditions += [f'"{name}" = :{name}' for name in window.values() if name != label]
    if window.model is not None:
        conditions.append("model = :model")
    conditions.append(dimension.condition)
    unit = LEVELS[span.rollup] if span.rollup else 1
    keys = [key.format(unit=unit) for key in dimension.keys]
    rows = span.rollup or _calls(dialect, label, also, column)
    return keys, f"{rows} WHERE {' AND '.join(conditions)}"


def _among_buckets(dialect: Dialect, span: Span, *, one_value: bool) -> str:
    """Return the condition for a span's buckets, by which a rollup is in order before it is by value."""
    if span.rollup and span.end - span.first == 1:
        return f"bucket = {span.first}"
    if span.rollup and one_value:  # look the value up in each, rather than read them all
        return dialect.between("bucket", span.first, span.end)
    return f"bucket >= {span.first} AND bucket < {span.end}"


def _calls(dialect: Dialect, label: str, also: str, column: str) -> str:
    """Return the calls under a label as if they were a rollup, with a bucket for each millisecond."""
    source = SOURCES[label]
    name, value = (dialect.text.format(expression=each) for each in (source.name, source.value))
    ts_ms, session, user = (column.format(column=each) for each in ("ts_ms", "session", '"user"'))
    return (
        f"(SELECT {name} AS label, {ts_ms} AS bucket, {column.format(column=value)} AS value, model, provider, "  # noqa: S608 (constants)
        f'operation, {session} AS session, {user} AS "user", {", ".join(SUMS)} '
        f"FROM {source.rows('usage_measure', dialect.tags)} "
        f"WHERE {also} AND {column.format(column=source.value)} IS NOT NULL) AS calls"
    )
