"""Fields of JSON-like dicts and of any SDK's objects, read alike and without ever raising."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

_NO_FIELDS = (str, bytes, bytearray, int, float, complex, list, tuple, set, frozenset, type, type(None))
_NO_SUCH_FIELD = "no_such_field_of_any_payload"


class Fields(Protocol):
    """Whatever has fields: a dict, or an object seen through ``view``."""

    def get(self, key: str, /) -> Any:
        """The field's value, None where there is none."""


class Attributes:
    """An object's or a foreign mapping's fields; one that cannot be read is None."""

    __slots__ = ("_lookup", "_source")

    def __init__(self, source: Any) -> None:
        self._source = source
        self._lookup: Callable[[str], Any] = source.get if _is_mapping(source) else partial(getattr, source)

    def names(self) -> list[Any]:
        """The names of the fields that are there; none where the source cannot list them."""
        try:
            source = self._source
            return list(source if _is_mapping(source) else object.__getattribute__(source, "__dict__"))
        except Exception:  # noqa: BLE001 - as below
            return []

    def get(self, key: str, /) -> Any:
        """The field's value, None where reading it raises."""
        try:
            return self._lookup(key)
        except Exception:  # noqa: BLE001 - a foreign object's own code runs here, and junk is None
            return None


def _is_mapping(source: Any) -> bool:
    return issubclass(type(source), Mapping)


def view(value: Any) -> Fields | None:
    """The value as something with fields; None for numbers, text, lists and other plain values."""
    kind = type(value)
    if kind is dict or kind is Attributes:
        fields: Fields = value
        return fields
    if issubclass(kind, _NO_FIELDS):
        return None
    try:
        return _own_fields(value) if _has_own_fields(value) else Attributes(value)
    except Exception:  # noqa: BLE001 - as above
        return None


def _has_own_fields(value: Any) -> bool:
    """Whether only what was set on it counts: of a pydantic model, whose own look-up takes 20 times as long as a
    dict's, and of an object that has every attribute one asks for, such as a Mock.
    """
    if hasattr(type(value), "__pydantic_fields__"):
        return True
    return not _is_mapping(value) and getattr(value, _NO_SUCH_FIELD, None) is not None


def _own_fields(value: Any) -> dict[str, Any]:
    own: dict[str, Any] = object.__getattribute__(value, "__dict__")
    more = getattr(value, "__pydantic_extra__", None) if hasattr(type(value), "__pydantic_fields__") else None
    return {**more, **own} if more else own


def named(fields: Fields) -> Iterator[tuple[str, Any]]:
    """Every field whose name is a text, with its value."""
    names = list(fields) if type(fields) is dict else fields.names() if type(fields) is Attributes else []
    return ((name, fields.get(name)) for name in names if type(name) is str)


_EMPTY: dict[str, Any] = {}


def part(fields: Fields, *keys: str) -> Fields:
    """The first of the named parts that has fields; an empty dict where none has."""
    for key in keys:
        found = view(fields.get(key))
        if found is not None:
            return found
    return _EMPTY


def items(fields: Fields, *keys: str) -> Iterator[Fields]:
    """What has fields in the first of the named lists."""
    for key in keys:
        found = entries(fields.get(key))
        if found is not None:
            yield from views(found)
            return


def entries(value: Any) -> list[Any] | None:
    """The entries of a list or tuple; None for anything else."""
    kind = type(value)
    if issubclass(kind, list):
        return list(list.__iter__(value))
    return list(tuple.__iter__(value)) if issubclass(kind, tuple) else None


def views(values: list[Any]) -> Iterator[Fields]:
    """What of a list has fields."""
    return (found for value in values if (found := view(value)) is not None)


def text(fields: Fields, *keys: str) -> str | None:
    """The first of the named fields that is a text with something in it."""
    for key in keys:
        found = fields.get(key)
        if issubclass(type(found), str) and str.__len__(found):
            return str.__str__(found)
    return None
