"""The SQL in which stores differ, and how the questions that they share reach a connection.

Shared statements name their parameters ``:name`` and quote the column "user", a keyword of PostgreSQL.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class StatementResult(Protocol):
    """What a statement returned."""

    @property
    def description(self) -> Sequence[Sequence[Any]] | None:
        """Return the columns, each with its name first."""

    def fetchall(self) -> list[Any]:
        """Return all rows."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows."""


class Connection(Protocol):
    """A connection inside a transaction that sees one moment of a ledger."""

    def execute(self, query: str, given: Mapping[str, object], /) -> StatementResult:
        """Return what a statement with parameters answers."""


class Dialect(NamedTuple):
    """The SQL that each store writes in its own way."""

    tags: str
    """A table ``tag`` with the ``key`` and ``value`` of each tag of a call."""

    total: str
    """The sum of a {name}, as an integer."""

    text: str
    """An {expression} as a text that compares by its code points, as columns do."""

    unindexed: str
    """A {column}, such that no index of it is used."""

    among: Callable[[str, str], str]
    """Whether a column is among the texts of a parameter that `texts` made."""

    texts: Callable[[Sequence[str]], object]
    """Texts as a parameter's value."""

    between: Callable[[str, int, int], str]
    """Whether a column is a number from a first one, before an end, looked up one by one in an index."""


class RolledUp(NamedTuple):
    """Which calls the rollups have, and which not, as conditions on usage_measure; None where there are none."""

    before: str | None
    later: str | None
    used: frozenset[str]
    """Which of SUMS are not 0 for all calls."""
