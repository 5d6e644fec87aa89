"""A place of each kind that a ledger may be in, for tests that hold for all of them."""

import contextlib
import sqlite3
from itertools import count

from token_handlers.sinks.postgres import SQLLedger
from token_handlers.sinks.postgres import schema as postgres_schema
from token_handlers.sinks.sqlite import SQLiteLedger, location
from token_handlers.sinks.sqlite import schema as sqlite_schema

NUMBERS = count(1)
PROGRAM = """
def open_ledger():
    import token_handlers.sinks.{} as sinks
    return sinks.{}
"""
BEFORE_LINES = (
    "DROP FUNCTION write_calls",
    "DROP TYPE usage_call",
    "ALTER TABLE usage_batch DROP COLUMN added_at",
    "CREATE FUNCTION add_calls(calls json, months text[]) RETURNS bigint LANGUAGE sql AS $$ SELECT 1::bigint $$",
    "REVOKE ALL ON FUNCTION add_calls FROM PUBLIC",
)
"""What makes a schema of PostgreSQL one of a version without write_calls, beside its version."""


class SQLitePlace:
    """A file that is not there yet."""

    examples, forks = 30, 10

    def __init__(self, path):
        self.path = path
        self.program = PROGRAM.format("sqlite", f"SQLiteLedger({str(path)!r})")
        self.why_out = "database is locked: end the program that has it locked"

    def open(self, **options):
        """Return a ledger there."""
        return SQLiteLedger(self.path, **options)

    def another(self):
        """Return an empty ledger in a place of its own."""
        return SQLiteLedger(self.path.with_name(f"{next(NUMBERS)}.db"))

    def rows(self, query):
        """Return what another program reads there."""
        with contextlib.closing(sqlite3.connect(self.path)) as program:
            return program.execute(query).fetchall()

    def make_older(self):
        """Let the ledger be as a version without rollup_ever made it."""
        version = sqlite_schema.VERSION - 1_000 * (sqlite_schema.FORMAT - sqlite_schema.BEFORE_EVER)
        with contextlib.closing(sqlite3.connect(self.path)) as program:
            program.executescript(f"DROP TABLE rollup_ever; PRAGMA user_version = {version}")

    @contextlib.contextmanager
    def outage(self, ledger, monkeypatch):
        """Let nobody write there."""
        monkeypatch.setattr(location, "BUSY_SECONDS", 0)
        ledger._file.close()
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as program:
            program.execute("BEGIN IMMEDIATE")
            yield


class PostgresPlaceOfTest:
    """A schema of a server that is not there yet."""

    examples, forks = 6, 3

    def __init__(self, server, schema):
        self.program = PROGRAM.format("postgres", f"SQLLedger({server.url!r}, {schema!r})")
        self._server = server
        self._schema = schema
        self.why_out = 'database "postgres" is not currently accepting connections: look at the server and the URL'

    def open(self, **options):
        """Return a ledger there."""
        return SQLLedger(self._server.url, self._schema, **options)

    def another(self):
        """Return an empty ledger in a place of its own."""
        return SQLLedger(self._server.url, f"{self._schema}_{next(NUMBERS)}")

    def rows(self, query):
        """Return what another program reads there."""
        return self._server.run(f"SET search_path = {self._schema}", query)

    def make_older(self):
        """Let the ledger be as a version without rollup_ever made it."""
        version = postgres_schema.VERSION - 1_000 * (postgres_schema.FORMAT - postgres_schema.BEFORE_EVER)
        self._server.run(
            f"SET search_path = {self._schema}",
            *BEFORE_LINES,
            "DROP TABLE rollup_ever",
            f"UPDATE ledger_version SET version = {version}",
        )

    def outage(self, ledger, monkeypatch):
        """Let nobody use the database."""
        return self._server.refusing()
