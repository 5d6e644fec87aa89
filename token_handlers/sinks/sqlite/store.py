"""A ledger's file as the rows of its calls."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence

from token_handlers.errors import TokenHandlersError
from token_handlers.sinks.sql.ledger import Written
from token_handlers.sinks.sql.queries import Reader
from token_handlers.sinks.sql.rows import NewCost, Row
from token_handlers.sinks.sqlite.backlog import UnsentCalls
from token_handlers.sinks.sqlite.file import LedgerFile
from token_handlers.sinks.sqlite.location import explained
from token_handlers.sinks.sqlite.rollups import reader, roll_up, set_costs

_FAILURES = (sqlite3.DatabaseError, OSError, TokenHandlersError)
_REFUSALS = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""What writing raises for a record that no ledger can hold, beside any error that is none of _FAILURES."""


class SQLiteStore:
    """The rows in a file."""

    def __init__(self, file: LedgerFile, unsent: UnsentCalls) -> None:
        self._file = file
        self._unsent = unsent
        self.place = str(file.path)

    def write(self, rows: Sequence[Row]) -> Written:
        """Keep rows and sum some in the rollups, in one transaction."""
        with self._file.writing() as connection:
            added = self._unsent.append(connection, rows)
            has_more = roll_up(connection)
        self._unsent.written(rows)
        return Written(added, has_more)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reader]:
        """Yield a reader of one moment."""
        with self.explaining(), self._file.reading() as connection:
            yield reader(connection)

    def set_costs(self, costs: Sequence[NewCost]) -> None:
        """Give calls another cost, and the rollups too."""
        with self.explaining(), self._file.writing() as connection:
            set_costs(connection, costs)

    def is_outage(self, error: Exception) -> bool:
        """Return whether writing failed for a reason that may pass, rather than for one row."""
        return isinstance(error, _FAILURES) and not isinstance(error, _REFUSALS)

    def explained(self, error: Exception) -> TokenHandlersError:
        """Return an error that names the file, what went wrong and the remedy."""
        return explained(self._file.path, error)

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn what goes wrong with the file into errors that say what to do."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self.explained(error) from error

    def restart(self) -> None:
        """Start again, as a forked child does."""
        self._unsent.restart()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
