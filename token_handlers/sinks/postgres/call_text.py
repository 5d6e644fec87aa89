"""Calls as one text that PostgreSQL reads: each in the form of its row types, which costs both sides less than JSON.

A row is (17,"a text",,), its backslashes and quotes behind a backslash. No text of a call has a NUL, so that stands for
the quotes of the form until those of the texts are marked. A quote of a text comes behind a backslash then, and one of
the form ends or begins a text beside a comma or a bracket: three in a row are in no call, and so are put between two.
"""

import functools
from collections.abc import Iterable

from token_handlers.sinks.sql.rows import Row
from token_handlers.sinks.sql.schema import COLUMNS

SEPARATOR = '"""'
"""What is between two calls."""


def text_of(calls: Iterable[Row]) -> str:
    """Return calls as the text that the function write_calls takes."""
    text = "\0\0\0".join([_form(tuple(call)) % call for call in calls])
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\0", '"')


@functools.lru_cache(1024)
def _form(columns: tuple[str, ...]) -> str:
    """Return the row of a call that has these columns; the others are null."""
    if unknown := set(columns) - COLUMNS.keys():
        raise ValueError(f"{', '.join(unknown)} is no column")
    places = {name: "%({})s" if kind.startswith("INTEGER") else "\0%({})s\0" for name, kind in COLUMNS.items()}
    return f"({','.join(place.format(name) if name in columns else '' for name, place in places.items())})"
