"""SQLLedger: every call of a fleet in a PostgreSQL database, and what the calls add up to."""

from pydantic import SecretStr

from token_handlers.sinks.backlog import Backlog, BacklogReader
from token_handlers.sinks.postgres.connection import PostgresPlace
from token_handlers.sinks.postgres.store import PostgresStore
from token_handlers.sinks.sql.ledger import Durability, Pace, SQLSink

PACE = Pace(capacity=20_000, batch=1_000, linger=0.1, end=5.0)


class SQLLedger(SQLSink):
    """A sink that keeps every call of many machines in a PostgreSQL database (14 or newer), asked as a SQLiteLedger is.

    ``url`` is postgresql://user@host:5432/database; nothing connects before the first use. The ledger is in a
    ``schema`` of its own (token_handlers, or what ?schema= in the URL says), which the first process that may do so
    makes, and a newer version of this package brings up to date. A call is kept once, by its event id, whichever
    machine gives it.

    A call returns at once, whatever the server does: a thread writes, up to 1,000 records in one transaction, a tenth
    of a second after the first; ``flush()`` returns True once the server has committed all that was given before. With
    ``durability="sync"`` a call returns when its record is committed, or raises TokenHandlersError within 5 s. While
    the server can't be used, up to ``capacity`` records wait in memory, later ones in the ``backlog`` where there is
    one, such as a SQLiteLedger that is a sink beside it; without one they are ``lost``. What waits in a backlog arrives
    though the process is killed, by the next that has it.

    Reads ask the server at once, for ``timeout`` seconds each, and raise StoreUnavailable. With ``read_only`` it takes
    nothing and changes nothing. Windows of time and exactness are a SQLiteLedger's.
    """

    def __init__(
        self,
        url: str | SecretStr,
        schema: str | None = None,
        *,
        timeout: float = 10.0,
        capacity: int = PACE.capacity,
        durability: Durability = "batch",
        backlog: Backlog | None = None,
        read_only: bool = False,
    ) -> None:
        if not isinstance(capacity, int) or capacity < 1:
            raise ValueError(f"capacity must be an int of 1 or more, not {capacity!r}")
        store = PostgresStore(PostgresPlace(url, schema, timeout), read_only=read_only)
        super().__init__(
            store,
            PACE._replace(capacity=capacity),
            name="token_handlers-postgres",
            durability=durability,
            read_only=read_only,
            backlog=None if backlog is None else BacklogReader(backlog),
        )
        self._opened()
