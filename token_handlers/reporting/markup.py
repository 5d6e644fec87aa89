"""HTML in which every text is escaped unless it is known to be HTML."""

import html
from collections.abc import Iterable

_EMPTY = frozenset({"input", "path", "rect"})


class Markup(str):
    """HTML; any other text is escaped where it is put between tags."""

    __slots__ = ()


Value = str | float | bool


def tag(name: str, *children: str, **attributes: Value) -> Markup:
    """Return an element. An attribute that is True stands without a value, one that is False or "" is left out.

    Underscores in names are hyphens, and one at the end is left out: ``class_="cost"``, ``aria_label="..."``.
    """
    given = "".join(_attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    return Markup(f"<{name}{given}/>" if name in _EMPTY else f"<{name}{given}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Markup:
    """Return texts and elements one after the other."""
    return Markup("".join(child if isinstance(child, Markup) else html.escape(child) for child in children))


def _attribute(name: str, value: Value) -> str:
    if value is False or value == "":
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
