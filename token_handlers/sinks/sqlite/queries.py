"""Sums and rows out of the ledger: whole months, days and hours from the rollups, the rest from the calls."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

from token_handlers.sinks.sqlite.rows import milliseconds, usd
from token_handlers.sinks.sqlite.schema import DAY, HOUR, LABELS, LEVELS, MEASURES
from token_handlers.usage import UsageTotals

Moment = datetime | date | str
PAGE = 1000
"""How many rows a read takes at once."""

_MONTH = LEVELS["rollup_32days"]
_EARLIEST, _LATEST = -(10**5) * _MONTH, 10**5 * _MONTH
_SUMS = ", ".join(f"sum({measure})" for measure in MEASURES)


class Window(NamedTuple):
    """Which calls are asked for; times in milliseconds, ``until`` not included."""

    session: str | None = None
    user: str | None = None
    model: str | None = None
    since: int = _EARLIEST
    until: int = _LATEST

    def values(self) -> dict[str, str]:
        """Return the labels of which only one value is asked for."""
        asked = {"session": self.session, "user": self.user}
        return {label: value for label, value in asked.items() if value is not None}


class Dimension(NamedTuple):
    """By what calls are summed: expressions over a rollup's columns, for a label, in steps of time; and a condition."""

    keys: tuple[str, ...] = ()
    label: str = ""
    tag: str | None = None
    step: int = _MONTH
    condition: str = "true"


class Span(NamedTuple):
    """A piece of a window: from a rollup, in its buckets, or from the calls (rollup is None), in milliseconds."""

    rollup: str | None
    first: int
    end: int


class Question(NamedTuple):
    """What is asked of SQLite: sums by measure, of parts that have keys and rows, with values for the parameters."""

    sums: Mapping[str, str]
    parts: list[tuple[list[str], str]]
    given: Mapping[str, object]


_DIMENSIONS = {
    "model": Dimension(("model",)),
    "provider": Dimension(("provider",), condition="provider <> ''"),
    "operation": Dimension(("operation",)),
    "day": Dimension((f"bucket * {{unit}} / {DAY}",), step=DAY),
    "hour": Dimension((f"bucket * {{unit}} / {HOUR}",), step=HOUR),
    "session": Dimension(("value",), "session"),
    "user": Dimension(("value",), "user"),
    "langgraph_node": Dimension(("value",), "langgraph_node"),
    "tag": Dimension(("substr(label, 5) || iif(value = 'true', '', '=' || value)",), "tag"),
}
SESSION_MODELS = Dimension(("provider", "model", "operation"))
PROVIDER_MODELS = Dimension(("provider", "model"))
_MODEL_KEYS = frozenset(SESSION_MODELS.keys)


def moment_ms(name: str, moment: Moment | None, *, end: bool = False) -> int:
    """Return the milliseconds since 1970 of a time; a date is a whole day in UTC, so its end where an end is asked for.

    A time without a zone is refused: nobody knows which it is.
    """
    if moment is None:
        return _LATEST if end else _EARLIEST
    if isinstance(moment, str):
        moment = _parse(name, moment)
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError(f"{name} ({moment.isoformat()}) has no time zone: add one, such as +00:00")
        return milliseconds(moment)
    if not isinstance(moment, date):
        raise TypeError(f"{name} must be a datetime, a date or an ISO string, not {moment!r}")
    start = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return milliseconds(start) + (DAY if end else 0)


def dimension_of(label: str) -> Dimension:
    """Return the dimension of a label's name; what is no label that every call has is a tag's name."""
    return _DIMENSIONS.get(label) or Dimension(("value",), "tag", label)


def sums_by(
    connection: sqlite3.Connection, dimension: Dimension, window: Window
) -> dict[tuple[str | int, ...], UsageTotals]:
    """Return the totals of the calls of a window by the keys of a dimension."""
    found: dict[tuple[str | int, ...], Sequence[int]] = {}
    question = ask(connection, dimension, window)
    count = len(dimension.keys)
    grouped = f" GROUP BY {', '.join(map(str, range(1, count + 1)))}" if count else ""
    for keys, rows in question.parts:
        query = f"SELECT {', '.join((*keys, *question.sums.values()))} FROM {rows}{grouped}"  # noqa: S608 (constants)
        for row in connection.execute(query, question.given):
            key, sums = row[:count], row[count:]
            if None in sums:  # the sums of no call, where there are no keys
                continue
            before = found.get(key)
            found[key] = sums if before is None else [a + b for a, b in zip(before, sums, strict=True)]
    return {key: totals_of(sums) for key, sums in sorted(found.items())}


def ask(connection: sqlite3.Connection, dimension: Dimension, window: Window) -> Question:
    """Return what is to be asked for the sums of a window's calls."""
    window = _narrowed(connection, window)
    label = _label(dimension, window)
    tags = _tags(connection) if dimension.label == "tag" and dimension.tag is None else [f"tag:{dimension.tag}"]
    labels = json.dumps(tags if label == "tag" else [label])
    given = {**window._asdict(), "apart": _is_apart(dimension, window), "labels": labels}
    parts = [_part(dimension, window, span) for span in spans_of(dimension, window)]
    return Question(_sums(connection, window), parts, given)


def totals_of(sums: Sequence[int]) -> UsageTotals:
    """Return totals of the sums of MEASURES."""
    *numbers, priced, nano, atto, saved_nano, saved_atto = sums
    named: dict[str, int] = dict(zip(MEASURES, numbers, strict=False))
    cost = usd(nano, atto) if priced or not named["unpriced_requests"] else None
    return UsageTotals(**named, cost=cost, saved_cost=usd(saved_nano, saved_atto))


def spans_of(dimension: Dimension, window: Window) -> list[Span]:
    """Return the pieces of a window, as coarse as its dimension and the rollups of its label allow."""
    if len({*window.values(), dimension.label} - {""}) > 1:
        return [Span(None, window.since, window.until)]  # no rollup has two labels
    label = LABELS[_label(dimension, window)]
    levels = label.apart if _is_apart(dimension, window) else label.together
    return list(_split(window.since, window.until, [level for level in levels if LEVELS[level] <= dimension.step]))


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


def _label(dimension: Dimension, window: Window) -> str:
    return dimension.label or next(iter(window.values()), "")


def _split(first: int, end: int, levels: Sequence[str]) -> Iterator[Span]:
    if first >= end:
        return
    if not levels:
        yield Span(None, first, end)
        return
    unit = LEVELS[levels[0]]
    whole, rest = -(-first // unit), end // unit
    if whole >= rest:
        yield from _split(first, end, levels[1:])
        return
    yield from _split(first, whole * unit, levels[1:])
    yield Span(levels[0], whole, rest)
    yield from _split(rest * unit, end, levels[1:])


def _is_apart(dimension: Dimension, window: Window) -> bool:
    return window.model is not None or not _MODEL_KEYS.isdisjoint(dimension.keys)


def _narrowed(connection: sqlite3.Connection, window: Window) -> Window:
    """Return a window without the time before and after all calls of the label's value that is asked for."""
    for label, value in window.values().items():
        ends = (f"SELECT {end}(ts_ms) FROM usage_event WHERE {label} = ?" for end in ("min", "max"))  # noqa: S608 (constants)
        first, last = (connection.execute(query, (value,)).fetchone()[0] for query in ends)
        if first is None:
            return window._replace(until=window.since)
        window = window._replace(since=max(window.since, first), until=min(window.until, last + 1))
    return window


def _tags(connection: sqlite3.Connection) -> list[str]:
    """Return the labels of all tags, by a search for each rather than by reading the rollup."""
    query = "SELECT min(label) FROM rollup_32days WHERE apart = 0 AND label > ? AND label < 'tag;'"
    found: list[str] = []
    while (label := connection.execute(query, (found[-1] if found else "tag",)).fetchone()[0]) is not None:
        found.append(label)
    return found


def _sums(connection: sqlite3.Connection, window: Window) -> dict[str, str]:
    """Return what sums each measure: "0" for one that no call has had in these months, which saves half of the work."""
    months = f"bucket BETWEEN {window.since // _MONTH} AND {(window.until - 1) // _MONTH}"
    query = f"SELECT {_SUMS} FROM rollup_32days WHERE apart = 0 AND label = '' AND {months}"  # noqa: S608 (constants)
    totals = connection.execute(query).fetchone()
    return {measure: f"sum({measure})" if total else "0" for measure, total in zip(MEASURES, totals, strict=True)}


def _part(dimension: Dimension, window: Window, span: Span) -> tuple[list[str], str]:
    """Return the keys, and the rows that they are of."""
    label = _label(dimension, window)
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
    return keys, f"{span.rollup or _calls(label)} WHERE {' AND '.join(conditions)}"


def _calls(label: str) -> str:
    """Return the calls under a label as if they were a rollup, with a bucket for each millisecond."""
    name, value, tables, *_ = LABELS[label]
    return (
        f"(SELECT {name} AS label, ts_ms AS bucket, {value} AS value, model, provider, operation, session, user, "  # noqa: S608 (constants)
        f"{', '.join(MEASURES)} FROM {tables} WHERE {value} IS NOT NULL)"
    )


def _parse(name: str, text: str) -> datetime | date:
    for parse in (date.fromisoformat, datetime.fromisoformat):
        try:
            return parse(text)
        except ValueError:
            continue
    raise ValueError(f"{name} must be an ISO date or time, such as 2026-01-31 or 2026-01-31T12:00Z, not {text!r}")
