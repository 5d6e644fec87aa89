"""Calls as one text that PostgreSQL reads, each as the literal of a row, which costs both sides less than JSON.

A row is (17,"a text",,), where a backslash comes before each quote and backslash of a text. While these are escaped,
NUL stands for the row's own quotes, as no text of a call has one. Three quotes in succession are in no call, as a quote
of a text follows a backslash, and one of the row stands next to a comma or a bracket; so they separate calls.
"""

import functools
from collections.abc import Iterable

from token_handlers.sinks.sql.rows import Row
from token_handlers.sinks.sql.schema import COLUMNS

SEPARATOR = '"""'
"""Stands between two calls."""


def text_of(calls: Iterable[Row]) -> str:
    """Return calls as the text that the function write_calls takes."""
    text = "\0\0\0".join([_form(tuple(call)) % call for call in calls])
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\0", '"')


@functools.lru_cache(1024)
def _form(columns: tuple[str, ...]) -> str:
    """Return the format of a row that has these columns; the others are null."""
    if unknown := set(columns) - COLUMNS.keys():
        raise ValueError(f"{', '.join(unknown)} is no column")
    places = {name: "%({})s" if kind.startswith("INTEGER") else "\0%({})s\0" for name, kind in COLUMNS.items()}
    return f"({','.join(place.format(name) if name in columns else '' for name, place in places.items())})"
