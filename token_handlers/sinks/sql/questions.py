"""What a store is asked for, and of which rollups and calls the answer is made."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

from token_handlers.sinks.escapes import escaped
from token_handlers.sinks.sql.rows import milliseconds
from token_handlers.sinks.sql.schema import DAY, EVER, HOUR, LABELS, LEVELS

Moment = datetime | date | str
EARLIEST_MS, LATEST_MS = -EVER, EVER


class Window(NamedTuple):
    """Which calls are asked for; times in milliseconds, ``until`` not included; labels as they are stored."""

    session: str | None = None
    user: str | None = None
    model: str | None = None
    since: int = EARLIEST_MS
    until: int = LATEST_MS

    def values(self) -> dict[str, str]:
        """Return the labels of which only one value is asked for."""
        asked = {"session": self.session, "user": self.user}
        return {label: value for label, value in asked.items() if value is not None}


class Dimension(NamedTuple):
    """By what calls are summed: expressions over a rollup's columns, for a label, in steps of time; and a condition."""

    keys: tuple[str, ...] = ()
    label: str = ""
    tag: str | None = None
    step: int = EVER
    condition: str = "true"


class Span(NamedTuple):
    """A piece of a window: from a rollup, in its buckets, or from the calls (rollup is None), in milliseconds."""

    rollup: str | None
    first: int
    end: int


ALL_TIME = Span("rollup_ever", 0, 1)

_DIMENSIONS = {
    "model": Dimension(("model",)),
    "provider": Dimension(("provider",), condition="provider <> ''"),
    "operation": Dimension(("operation",)),
    "day": Dimension((f"bucket * {{unit}} / {DAY}",), step=DAY),
    "hour": Dimension((f"bucket * {{unit}} / {HOUR}",), step=HOUR),
    "session": Dimension(("value",), "session"),
    "user": Dimension(("value",), "user"),
    "langgraph_node": Dimension(("value",), "langgraph_node"),
    "tag": Dimension(("substr(label, 5) || CASE value WHEN 'true' THEN '' ELSE '=' || value END",), "tag"),
}
SESSION_MODELS = Dimension(("provider", "model", "operation"))
PROVIDER_MODELS = Dimension(("provider", "model"))
_MODEL_KEYS = frozenset(SESSION_MODELS.keys)


def window_of(
    session: str | None, user: str | None, model: str | None, since: Moment | None, until: Moment | None
) -> Window:
    """Return the window of these labels and times."""
    start, end = moment_ms("since", since), moment_ms("until", until, end=True)
    return Window(_stored(session), _stored(user), _stored(model), start, end)


def moment_ms(name: str, moment: Moment | None, *, end: bool = False) -> int:
    """Return the milliseconds since 1970 of a time; a date is a whole day in UTC, so its end where an end is asked for.

    A time without a zone is refused: nobody knows which it is.
    """
    if moment is None:
        return LATEST_MS if end else EARLIEST_MS
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
    return _DIMENSIONS.get(label) or Dimension(("value",), "tag", escaped(label))


def label_of(dimension: Dimension, window: Window) -> str:
    """Return the label whose rollups answer a question."""
    return dimension.label or next(iter(window.values()), "")


def is_apart(dimension: Dimension, window: Window) -> bool:
    """Return whether a question tells models, providers or operations apart."""
    return window.model is not None or not _MODEL_KEYS.isdisjoint(dimension.keys)


def spans_of(dimension: Dimension, window: Window) -> list[Span]:
    """Return the pieces of a window, as coarse as its dimension and the rollups of its label allow."""
    if len({*window.values(), dimension.label} - {""}) > 1:
        return [Span(None, window.since, window.until)]  # no rollup has two labels
    label = LABELS[label_of(dimension, window)]
    levels = [
        level
        for level in (label.apart if is_apart(dimension, window) else label.together)
        if LEVELS[level] <= dimension.step
    ]
    if ALL_TIME.rollup in levels:
        if (window.since, window.until) == (EARLIEST_MS, LATEST_MS):
            return [ALL_TIME]
        levels.remove(ALL_TIME.rollup)
    return list(_split(window.since, window.until, levels))


def _stored(label: str | None) -> str | None:
    return None if label is None else escaped(label)


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


def _parse(name: str, text: str) -> datetime | date:
    for parse in (date.fromisoformat, datetime.fromisoformat):
        try:
            return parse(text)
        except ValueError:
            continue
    raise ValueError(f"{name} must be an ISO date or time, such as 2026-01-31 or 2026-01-31T12:00Z, not {text!r}")
