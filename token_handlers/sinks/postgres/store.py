"""A PostgreSQL schema as the rows of a ledger's calls."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from token_handlers.errors import StoreRefused, StoreUnavailable, TokenHandlersError
from token_handlers.sinks.postgres.call_text import text_of
from token_handlers.sinks.postgres.connection import READ, WRITE, OpenTransaction, PostgresConnection, PostgresPlace
from token_handlers.sinks.postgres.migrations import bring_up
from token_handlers.sinks.postgres.schema import DIALECT, END_YEAR, FIRST_YEAR, add_used, rollup_lock, summed
from token_handlers.sinks.sql import rollups
from token_handlers.sinks.sql.ledger import Written
from token_handlers.sinks.sql.queries import Reader, reader_of
from token_handlers.sinks.sql.rows import EPOCH, NewCost, Row
from token_handlers.sinks.sql.schema import DAY, SUMS

MONTH_AHEAD = timedelta(days=20)
"""How long before a month begins its partition is made at the latest, if anybody writes."""

ROLL_UP_SECONDS = 1.0
"""How long enough calls wait for more to be summed with, as these make each cheaper."""

MANY = 8_192
"""How many calls don't wait for more, since a question sums them too: these take it some 30 ms."""

_ADD = "SELECT added, waiting, batches, seconds FROM write_calls(:calls, :months)"
_ROLL_UP = "SELECT waiting FROM roll_up(:most::integer)"
_STATE = "SELECT used, (SELECT min(batch) FROM usage_batch) FROM rollup_state"
_MONEY = (*SUMS[-7:], "unpriced_requests", "unpriced_cache_tokens", "estimated_requests")
"""The sums that another cost may change."""


class PostgresStore:
    """The rows in a schema: one connection writes, another reads."""

    def __init__(self, place: PostgresPlace, *, read_only: bool) -> None:
        self._schema = place.schema
        self._place = place
        self.place = place.name

        def opened(transaction: OpenTransaction) -> None:
            bring_up(place, transaction, read_only=read_only)

        self._writing, self._reading = PostgresConnection(place, opened), PostgresConnection(place, opened)

    def write(self, rows: Sequence[Row]) -> Written:
        """Keep rows in one transaction; if many calls wait for it, sum some in the rollups in another one."""
        added, is_due = self._add(rows) if rows else (0, True)
        if is_due:
            with contextlib.suppress(StoreUnavailable):  # the rows are kept; what waits is summed after a later batch
                return Written(added, self._roll_up() >= rollups.ROLL_UP_AT)
        return Written(added, has_more=False)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reader]:
        """Yield a reader of one moment."""
        with self._reading.transaction(READ) as transaction:
            yield _reader(transaction)

    def set_costs(self, costs: Sequence[NewCost]) -> None:
        """Give calls another cost, and the rollups too, while nobody else changes these."""
        ids, times = ", ".join(str(cost.id) for cost in costs), [cost.ts_ms for cost in costs]
        chosen = (
            f"ts_ms BETWEEN {min(times)} AND {max(times)} AND id IN ({ids}) "  # noqa: S608 (numbers)
            "AND batch NOT IN (SELECT batch FROM usage_batch)"
        )
        with self._writing.transaction(WRITE) as transaction:
            transaction.execute(rollup_lock(self._schema))
            transaction.execute(summed(chosen, rollups.sums_of(SUMS, "-")))
            for statement, values in rollups.new_costs(costs):
                transaction.execute_all(statement, values)
            transaction.execute(summed(chosen, rollups.sums_of(SUMS)))
            transaction.execute(add_used(f"ARRAY{list(_MONEY)}"))

    def is_outage(self, error: Exception) -> bool:
        """Return whether writing failed for a reason that may pass, rather than for one row."""
        return isinstance(error, StoreUnavailable) and not isinstance(error, StoreRefused)

    def explained(self, error: Exception) -> TokenHandlersError:
        """Return an error that names the place, what went wrong and the remedy."""
        return self._place.failure(error)

    def restart(self) -> None:
        """Start again, as a forked child does."""
        self._writing.leave_to_parent()
        self._reading.leave_to_parent()

    def close(self) -> None:
        """Close the connections."""
        self._writing.close()
        self._reading.close()

    def _add(self, rows: Sequence[Row]) -> tuple[int, bool]:
        """Add calls; return how many of them were new, and whether it is time to sum the calls that wait."""
        # In the order of their ids: two transactions that add the same calls wait for each other in one direction.
        calls = {str(row["event_id"]): row for row in reversed(rows)}
        text = text_of(calls[event_id] for event_id in sorted(calls))
        with self._writing.transaction(WRITE) as transaction:
            answer = transaction.execute(_ADD, {"calls": text, "months": _months(rows)})
            ((added, waiting, batches, seconds),) = answer.fetchall()
        if waiting < rollups.ROLL_UP_AT:
            return added, False
        return added, waiting >= MANY or batches >= rollups.ROLL_UP_AT or seconds >= ROLL_UP_SECONDS

    def _roll_up(self) -> int:
        with self._writing.transaction(WRITE) as transaction:
            ((waiting,),) = transaction.execute(_ROLL_UP, {"most": rollups.AT_ONCE}).fetchall()
        return int(waiting)


def _reader(transaction: OpenTransaction) -> Reader:
    """Return a reader that knows which batches the rollups have."""
    ((used, first),) = transaction.execute(_STATE).fetchall()
    if first is None:
        return reader_of(transaction, DIALECT, used, "true", None)
    pending = f"batch >= {first} AND batch IN (SELECT batch FROM usage_batch)"  # noqa: S608 (a number)
    return reader_of(transaction, DIALECT, used, f"NOT ({pending})", pending)


def _months(rows: Iterable[Row]) -> list[str]:
    """Return the partitions that calls belong to, and the one of the next days."""
    days = {int(row["ts_ms"] or 0) // DAY for row in rows}
    months = {_month_of(EPOCH + timedelta(days=day)) for day in days}
    return sorted({*months, _month_of(datetime.now(UTC) + MONTH_AHEAD)})


def _month_of(moment: datetime) -> str:
    if moment.year < FIRST_YEAR:
        return f"before_{FIRST_YEAR}"
    return f"{moment.year}_{moment.month:02}" if moment.year < END_YEAR else f"from_{END_YEAR}"
