"""What a ledger on PostgreSQL takes in a second, and how fast it answers once it is large.

``python -m tests.benchmarks.postgres [--rows 10_000_000] [--url postgresql://...]`` starts a server unless a URL names
one, lets 1, 2, 4 and 8 processes write for some seconds each, then fills a year with rows, asks at a tenth
of them and at all, and prints the warm milliseconds of each question and the size of each table.
"""

import argparse
import contextlib
import multiprocessing
import time
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier

import psycopg

from tests.benchmarks.ledger import ask_all, make_call, make_rows
from tests.support.postgres_servers import Postgres
from token_handlers.sinks.postgres import SQLLedger
from token_handlers.sinks.postgres.store import PostgresStore
from token_handlers.usage import new_event_id

SERVER = {"fsync": "on", "autovacuum": "on", "shared_buffers": "2GB", "max_wal_size": "8GB", "work_mem": "64MB"}
CHUNK = 2_000
LOADERS = 2
SIZES = """
SELECT regexp_replace(relname, '_(20|from|before).*', '_*') AS name, sum(pg_total_relation_size(pg_class.oid))::bigint
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = %s AND relkind = 'r' GROUP BY 1 ORDER BY 2 DESC
"""


def write(url: str, schema: str, seconds: float, start: Barrier, sent: "multiprocessing.Queue[int]") -> None:
    """Give one process's records to a ledger, as fast as it takes them."""
    samples = [make_call(number, 5_000) for number in range(5_000)]
    number = 0
    with SQLLedger(url, schema) as ledger:
        ledger.totals()
        start.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(1_000):
                fields = {"event_id": new_event_id(), "started_at": datetime.now(UTC)}
                ledger(samples[number % 5_000].model_copy(update=fields))
                number += 1
            while ledger.waiting > 10_000:
                time.sleep(0.005)
        assert ledger.flush(60)
        assert (0, 0) == (ledger.lost, ledger.duplicates)
    sent.put(number)


def measure_writers(url: str, count: int, seconds: float) -> None:
    """Print how many records a second so many processes write, from the first to the last that is committed."""
    schema = f"writers_{count}"
    start = multiprocessing.Barrier(count + 1)
    sent: multiprocessing.Queue[int] = multiprocessing.Queue()
    SQLLedger(url, schema).totals()
    processes = [multiprocessing.Process(target=write, args=(url, schema, seconds, start, sent)) for _ in range(count)]
    for process in processes:
        process.start()
    start.wait()
    began = time.perf_counter()
    total = sum(sent.get() for _ in processes)
    print(f"{count} writers: {total / (time.perf_counter() - began):9,.0f} records/s", flush=True)
    for process in processes:
        process.join()
    with SQLLedger(url, schema, timeout=600) as ledger:
        assert total == ledger.totals().successful_requests
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


def load(url: str, first: int, end: int, rows: int, per_session: int) -> None:
    """Write a part of the calls."""
    with SQLLedger(url, "large", timeout=600) as ledger:
        store = ledger._store
        assert isinstance(store, PostgresStore)
        for number in range(first, end, CHUNK):
            store._add(list(make_rows(number, min(number + CHUNK, end), rows, per_session)))


def fill(url: str, first: int, end: int, rows: int, per_session: int) -> None:
    """Write calls from several processes, and sum them all."""
    began = time.perf_counter()
    part = -(-(end - first) // LOADERS)
    starts = range(first, end, part)
    processes = [
        multiprocessing.Process(target=load, args=(url, start, min(start + part, end), rows, per_session))
        for start in starts
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    with SQLLedger(url, "large", timeout=600) as ledger:
        while ledger._store.write([]).has_more:
            pass
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
    print(f"{end:,} rows, {(end - first) / (time.perf_counter() - began):,.0f} a second", flush=True)


def ask(url: str, per_session: int) -> None:
    """Print the sizes and how long the questions take."""
    with psycopg.connect(url) as connection:
        for name, size in connection.execute(SIZES, ["large"]):
            print(f"{name:32}{size / 2**20:9,.0f} MiB")
    with SQLLedger(url, "large", timeout=600) as ledger:
        ask_all(ledger, per_session)


def main() -> None:
    """Write, fill and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--per-session", type=int, default=10, help="how many calls a session has")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each number of writers writes")
    parser.add_argument("--url", help="a server's database; what is in its schemas large and writers_* is dropped")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = options.url or stack.enter_context(Postgres(**SERVER)).url
        for count in (1, 2, 4, 8):
            measure_writers(url, count, options.seconds)
        first = 0
        for end in (options.rows // 10, options.rows):
            fill(url, first, end, options.rows, options.per_session)
            ask(url, options.per_session)
            first = end


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
