"""How fast large ledgers answer, and how large they are, on both stores.

``python -m tests.benchmarks.large_ledgers [--rows 10_000_000] [--only postgres]`` fills a ledger with a tenth of the
calls and one with all, and prints of each the sizes and, for every question, the least and the median milliseconds
of seven warm answers. The calls are those of 60 days: 30 models, 20,000 users, 20 calls a session, three tags. The
stores make them from a number by one statement, and sum them by the ledger's own; first it checks with a few that the
ledger's writer would have written just these rows and sums.
"""

import argparse
import contextlib
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import psycopg

from tests.support.postgres_servers import Postgres
from token_handlers import get_llm_token_usage_for_session
from token_handlers.sinks.postgres import SQLLedger
from token_handlers.sinks.sql import rollups
from token_handlers.sinks.sql.ledger import SQLSink
from token_handlers.sinks.sql.schema import LEVELS
from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.sinks.sqlite.rollups import roll_up

SERVER = {"fsync": "on", "autovacuum": "on", "shared_buffers": "2GB", "max_wal_size": "8GB", "work_mem": "64MB"}
START = datetime(2026, 9, 1, tzinfo=UTC)
DAYS = 60
START_MS, SPAN_MS = round(START.timestamp() * 1000), DAYS * 86_400_000
MONTHS = ("2026_09", "2026_10")
PER_SESSION = 20
USERS = 20_000
AT_ONCE = 500_000
"""How many calls a fill writes and sums at once, which is more than a ledger does, and sums the same."""

TIMES = 7

# A call from its number n, by integer arithmetic that both stores share; 64 sessions are under way at a time.
NUMBERS = f"""
SELECT n, {{rows}} AS rows, (n * 2654435761) % 4294967296 / 65536 AS h, n / {64 * PER_SESSION} * 64 + n % 64 AS session
FROM ({{numbers}}) AS numbers
"""
CHOSEN = f"""
SELECT n, h, session, session * 7919 % {USERS} AS caller, {START_MS} + n * {SPAN_MS} / rows AS ts,
(session * 40503 % 65536 + n % 7 / 6 * 12345) % 65536 * ((session * 40503 % 65536 + n % 7 / 6 * 12345) % 65536)
/ 143165577 AS m, 20 + h % 7980 AS sent, 1 + (n * 2654435761) % 4294967296 / 131072 % 900 AS received
FROM ({NUMBERS}) AS hashed
"""
PRICED = f"""
SELECT *, CASE WHEN n % 100 = 99 THEN 'failed' ELSE 'success' END AS outcome,
CASE WHEN m = 28 THEN 0 ELSE sent / 3 * (n % 2) END AS cached,
CASE WHEN m IN (26, 27) OR n % 100 = 99 THEN NULL
  ELSE sent * 150 * (m + 1) + CASE WHEN m = 28 THEN 0 ELSE received * 600 * (m + 1) END END AS cost
FROM ({CHOSEN}) AS chosen
"""
COLUMNS = {
    "event_id": "'7b1ba41e1a2743be840f1cdcabef' || (1000 + n % 64) || '-' || n",
    "ts_ms": "ts",
    "ended_ms": "ts + 900",
    "operation": "CASE WHEN m = 28 THEN 'embeddings' ELSE 'chat' END",
    "outcome": "outcome",
    "source": "'reported'",
    "requests": "1",
    "session": "CASE WHEN n % 50 = 0 THEN NULL ELSE 'session-7f6e5d4c3b2a-' || session END",
    "user": "CASE WHEN n % 50 = 0 THEN NULL ELSE 'user-' || caller END",
    "node": "CASE WHEN n % 3 = 0 THEN 'agent' WHEN n % 3 = 1 THEN 'tools' END",
    "model": "'model-' || m || '-2026-08-06'",
    "provider": "CASE m % 4 WHEN 0 THEN 'openai' WHEN 1 THEN 'anthropic' WHEN 2 THEN 'google' ELSE 'azure' END",
    "requested_model": "'model-' || m",
    "service_tier": "'default'",
    "host": "'api.example.com'",
    "request_id": "'chatcmpl-7f6e5d4c3b2a1908-' || n",
    "tags": """'{"team":"team-' || (session % 20) || '","env":"env-' || (session % 3)
        || '","customer":"customer-' || (caller % 300) || '"}'""",
    "cost_nano": "cost",
    "cost_atto": "CASE WHEN cost IS NOT NULL THEN 0 END",
    "cost_source": "CASE WHEN cost IS NOT NULL THEN 'genai-prices' END",
    "cost_breakdown": """CASE WHEN cost IS NOT NULL THEN
        '[["input_tokens",' || sent || ',"0.15",1000000,"0.0001","",null],'
        || '["output_tokens",' || received || ',"0.6",1000000,"0.0002","",null]]' END""",
    "input_tokens": "sent",
    "output_tokens": "CASE WHEN m = 28 THEN 0 ELSE received END",
    "cache_read_tokens": "cached",
    "cache_write_tokens": "0",
    "reasoning_tokens": "CASE WHEN m = 28 THEN 0 ELSE received / 4 END",
}


def insert(table: str, numbers: str, rows: int, **more: str) -> str:
    """Return the statement that adds those of so many calls which ``numbers`` chooses."""
    columns = {**COLUMNS, **more}
    names = ", ".join(f'"{name}"' for name in columns)
    made = f"SELECT {', '.join(columns.values())} FROM ({PRICED}) AS priced"
    return f"INSERT INTO {table} ({names}) {made}".replace("{numbers}", numbers).replace("{rows}", str(rows))


class Store(Protocol):
    """A ledger that its server or file fills."""

    name: str

    def open(self) -> SQLSink:
        """Return the ledger."""

    def insert(self, first: int, end: int, rows: int) -> None:
        """Add calls, whose sums may wait."""

    def settle(self) -> None:
        """Do what happens in time by itself."""

    def sizes(self) -> dict[str, float]:
        """Return the largest tables with their indexes, and all, in MiB."""

    def rows(self, table: str) -> list[tuple[object, ...]]:
        """Return a table in order."""


class PostgresStore:
    """A schema of a server; each 1,000 calls are a batch."""

    name = "PostgreSQL"

    def __init__(self, url: str, schema: str) -> None:
        self.url, self._schema = url, schema

    def open(self) -> SQLLedger:
        return SQLLedger(self.url, self._schema, timeout=3600)

    def insert(self, first: int, end: int, rows: int) -> None:
        with self.open() as ledger:
            ledger.totals()  # makes it
        batch = f"batch BETWEEN {first // 1000 + 1} AND {(end - 1) // 1000 + 1}"
        numbers = f"SELECT generate_series({first}::bigint, {end - 1}) AS n"
        statements = [
            *(f"SELECT make_month('{month}')" for month in MONTHS),
            insert("usage_event", numbers, rows, batch="n / 1000 + 1"),
            f"INSERT INTO usage_batch SELECT batch, count(*) FROM usage_event WHERE {batch} GROUP BY batch",
            f"INSERT INTO usage_key SELECT event_id FROM usage_event WHERE {batch}",
            f"SELECT setval('usage_batch_number', {(end - 1) // 1000 + 1})",
        ]
        with psycopg.connect(self.url, options=f"-c search_path={self._schema}") as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def settle(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")

    def sizes(self) -> dict[str, float]:
        query = """
        SELECT regexp_replace(relname, '_(20|from|before).*', '_*') AS name,
        sum(pg_total_relation_size(pg_class.oid))::float / 1048576
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = %s AND relkind = 'r' GROUP BY 1 ORDER BY 2 DESC
        """
        with psycopg.connect(self.url) as connection:
            found = dict(connection.execute(query, [self._schema]).fetchall())
        return {**dict(list(found.items())[:6]), "all": sum(found.values())}

    def rows(self, table: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url, options=f"-c search_path={self._schema}") as connection:
            return connection.execute(f"TABLE {table} ORDER BY 1, 2, 3, 4, 5, 6, 7".encode()).fetchall()


class SQLiteStore:
    """A file."""

    name = "SQLite"

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> SQLiteLedger:
        return SQLiteLedger(self.path)

    def insert(self, first: int, end: int, rows: int) -> None:
        count = f"SELECT {first} AS n UNION ALL SELECT n + 1 FROM counted WHERE n < {end - 1}"
        numbers = f"WITH RECURSIVE counted AS ({count}) SELECT n FROM counted"
        with self.open() as ledger, ledger._file.writing() as connection:
            connection.execute("PRAGMA cache_size = -1000000")
            connection.execute(insert("usage_event", numbers, rows))
            while roll_up(connection):
                pass

    def settle(self) -> None:
        pass

    def sizes(self) -> dict[str, float]:
        return {"all": self.path.stat().st_size / 2**20}

    def rows(self, table: str) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4, 5, 6, 7").fetchall()


def fill(store: Store, rows: int) -> None:
    """Make a ledger of so many calls, and sum them."""
    began = time.perf_counter()
    for start in range(0, rows, AT_ONCE):
        store.insert(start, min(start + AT_ONCE, rows), rows)
        with store.open() as ledger:
            while ledger._store.write([]).has_more:
                pass
    store.settle()
    print(f"{store.name}: {rows:,} calls in {time.perf_counter() - began:,.0f} s", flush=True)


def check(filled: Store, written: Store) -> None:
    """Compare what a fill makes with what the ledger's writer writes, rows and sums."""
    rollups.ROLL_UP_AT = 1
    fill(filled, 6_000)
    with filled.open() as ledger, written.open() as other:
        records = list(ledger.records())
        for record in records:
            other(record)
        assert other.flush(600)
        while other._store.write([]).has_more:
            pass
        assert len(records) == 6_000
        assert records == list(other.records())
    for table in (*LEVELS, "rollup_state"):
        if table in LEVELS:
            assert filled.rows(table), table
            assert filled.rows(table) == written.rows(table), table
    print(f"{filled.name}: a fill's rows and sums are the writer's", flush=True)


def questions(ledger: SQLSink, rows: int) -> dict[str, Callable[[], object]]:
    """Return the questions that are timed, by how a program writes them."""
    number = rows // PER_SESSION // 2
    session, user = f"session-7f6e5d4c3b2a-{number}", f"user-{number * 7919 % USERS}"
    since, until = START + timedelta(days=7, hours=7, minutes=13), START + timedelta(days=51, minutes=1)
    return {
        "totals()": ledger.totals,
        "by('model')": lambda: ledger.by("model"),
        "by('day')": lambda: ledger.by("day"),
        "by('hour')": lambda: ledger.by("hour"),
        "by('session', top=100)": lambda: ledger.by("session", top=100),
        "by('user', top=100)": lambda: ledger.by("user", top=100),
        "by('tag')": lambda: ledger.by("tag"),
        "by('team')": lambda: ledger.by("team"),
        "totals(session=)": lambda: ledger.totals(session=session),
        "totals(user=)": lambda: ledger.totals(user=user),
        "get_llm_token_usage_for_session()": lambda: get_llm_token_usage_for_session(session, ledger=ledger),
        "totals(since=, until=), odd times": lambda: ledger.totals(since=since, until=until),
        "by('model', since=, until=), odd times": lambda: ledger.by("model", since=since, until=until),
        "by('day', user=)": lambda: ledger.by("day", user=user),
        "by('session', top=100), the last day": lambda: ledger.by(
            "session", top=100, since=START + timedelta(DAYS - 1)
        ),
        "by('session', top=100), 44 days": lambda: ledger.by("session", top=100, since=since, until=until),
        "by('user'), all 20,000": lambda: ledger.by("user"),
    }


def ask(ledger: SQLSink, rows: int) -> dict[str, tuple[float, float]]:
    """Return the least and the median of some warm answers to each question, in milliseconds."""
    found = {}
    for name, question in questions(ledger, rows).items():
        assert question(), name
        times = []
        for _ in range(TIMES):
            began = time.perf_counter()
            question()
            times.append((time.perf_counter() - began) * 1000)
        found[name] = min(times), statistics.median(times)
    return found


def measure(stores: Sequence[Store], rows: int) -> None:
    """Fill a ledger with a tenth and one with all, and print sizes and answers side by side."""
    sizes, answers = [], []
    for store, number in zip(stores, (rows // 10, rows), strict=True):
        fill(store, number)
        with store.open() as ledger:
            answers.append(ask(ledger, number))
        sizes.append(store.sizes())
    print(f"{stores[0].name}, load {os.getloadavg()[0]:.1f}{rows // 10:>32,} calls{rows:>17,} calls")
    for name, (least, median) in answers[1].items():
        before = answers[0][name]
        print(f"{name:42}{before[0]:9.1f} ({before[1]:7.1f}) ms{least:9.1f} ({median:7.1f}) ms")
    for name, size in sizes[1].items():
        small = sizes[0].get(name, 0.0)
        print(f"{name:42}{small:17,.0f} MiB{size:17,.0f} MiB{size * 2**20 / rows:9,.0f} bytes a call")


def report(place: str) -> None:
    """Run each command in a process of its own, and print its seconds and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        page = str(Path(folder) / "report.html")
        for arguments in (["sessions"], ["report", "--by", "user"], ["report", "--html", page]):
            command = [sys.executable, "-m", "token_handlers", *arguments, "--ledger", place]
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            print(f"{' '.join(command[3:5]):42}{seconds:9.2f} s{used.ru_maxrss / 1024:8,.0f} MiB, status {status}")


def main() -> None:
    """Check, fill and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="a multiple of 10,000")
    parser.add_argument("--only", choices=("postgres", "sqlite"))
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places = []
        if options.only != "postgres":
            files = [SQLiteStore(folder / f"{name}.db") for name in ("filled", "written", "small", "large")]
            places.append((files, str(files[-1].path)))
        if options.only != "sqlite":
            url = stack.enter_context(Postgres(**SERVER)).url
            schemas = [PostgresStore(url, name) for name in ("filled", "written", "small", "large")]
            places.append((schemas, f"{url}?schema=large"))
        for (filled, written, *stores), place in places:
            check(filled, written)
            rollups.ROLL_UP_AT, rollups.AT_ONCE = 2_048, AT_ONCE
            measure(stores, options.rows)
            report(place)


if __name__ == "__main__":
    main()
