"""What a ledger costs to write, and how fast it answers once it is large.

``python tests/benchmarks/ledger.py [--rows 2_000_000] [--per-session 2] [--keep ledger.db]`` loads that many calls of a
year through the ledger's own statements (a quarter of an hour for ten million), then prints the warm milliseconds of
each question, and what the reports of all sessions need. A ledger that ``--keep`` names is asked again without being
loaded.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

from token_handlers import Usage, UsageRecord
from token_handlers.sinks.sql.rows import Row, milliseconds, row_of
from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.sinks.sqlite.rollups import append, roll_up
from token_handlers.usage import new_event_id

START = datetime(2026, 1, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
CHUNK = 100_000

_random = random.Random(1)


def make_call(number: int, rows: int, per_session: int = 10) -> UsageRecord:
    """Return one call of a year: part of a session, of 1,000 users, 20 models, 20 teams and 3 environments."""
    sent, received = _random.randrange(20, 8000), _random.randrange(1, 900)
    session = number // per_session
    return UsageRecord(
        usage=Usage(input_tokens=sent, output_tokens=received, cache_read_tokens=sent // 3),
        model=f"model-{_random.randrange(20)}",
        provider="openai",
        session=f"session-{session:032x}",
        user=f"user-{session % 1000}",
        tags={"team": f"team-{session % 20}", "env": f"env-{session % 3}"},
        cost=Decimal(sent * 15 + received * 60) / 10**8,
        cost_source="genai-prices",
        started_at=START + YEAR * (number / rows),
        ended_at=START + YEAR * (number / rows),
    )


def make_rows(first: int, end: int, rows: int, per_session: int) -> Iterator[Row]:
    """Yield rows like make_call's, made from a few calls because validating ten million takes longer than to write."""
    samples = [dict(row_of(make_call(number, rows))) for number in range(500)]
    for number in range(first, end):
        row = samples[number % 500]
        session = number // per_session
        row["event_id"] = new_event_id()
        row["ts_ms"] = row["ended_ms"] = milliseconds(START) + int(YEAR.total_seconds() * 1000 * number / rows)
        row["session"] = f"session-{session:032x}"
        row["user"] = f"user-{session % 1000}"
        row["model"] = f"model-{_random.randrange(20)}"
        row["tags"] = f'{{"team":"team-{session % 20}","env":"env-{session % 3}"}}'
        yield dict(row)


def load(ledger: SQLiteLedger, rows: int, per_session: int) -> None:
    """Write the calls in large transactions."""
    began = time.perf_counter()
    for first in range(0, rows, CHUNK):
        with ledger._file.writing() as connection:
            connection.execute("PRAGMA cache_size = -500000")
            append(connection, make_rows(first, min(first + CHUNK, rows), rows, per_session))
            while roll_up(connection):
                pass
        print(f"\r{min(first + CHUNK, rows):,} rows, {time.perf_counter() - began:.0f} s", end="", flush=True)
    print()


def ask(name: str, question: Callable[[], object]) -> None:
    """Print the median of five warm answers in milliseconds, and how many values the answer has."""
    answer = question()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        question()
        times.append(time.perf_counter() - began)
    size = len(answer) if isinstance(answer, dict) else 1
    print(f"{name:48}{sorted(times)[2] * 1e3:9.1f} ms{size:10,}")


def ask_all(ledger: SQLiteLedger, per_session: int) -> None:
    """Ask for totals by session, user, model, tag and day, of all time and of windows that cut days and hours."""
    session = f"session-{ledger.totals().successful_requests // per_session // 2:032x}"
    since, until = START + timedelta(days=40, hours=7, minutes=13), START + timedelta(days=300, minutes=1)
    ask("totals()", ledger.totals)
    ask("totals(session=)", lambda: ledger.totals(session=session))
    ask("totals(user=)", lambda: ledger.totals(user="user-7"))
    ask("totals(model=)", lambda: ledger.totals(model="model-7"))
    ask("totals(session=, user=)", lambda: ledger.totals(session=session, user="user-7"))
    ask("totals(since=, until=), odd times", lambda: ledger.totals(since=since, until=until))
    ask("totals(user=, since=, until=), odd times", lambda: ledger.totals(user="user-7", since=since, until=until))
    for label in ("model", "user", "day", "tag", "team", "operation"):
        by = partial(ledger.by, label)
        ask(f"by({label!r})", by)
        ask(f"by({label!r}, since=, until=), odd times", partial(by, since=since, until=until))
        ask(f"by({label!r}, user=)", partial(by, user="user-7"))
        ask(f"by({label!r}, model=)", partial(by, model="model-7"))
        ask(f"by({label!r}, session=)", partial(by, session=session))
    ask("by('hour')", lambda: ledger.by("hour"))
    ask("by('session', since=a day, until=)", lambda: ledger.by("session", since="2026-06-01", until="2026-06-01"))
    ask("by('session', user=)", lambda: ledger.by("session", user="user-7"))
    ask("by('session', top=100)", lambda: ledger.by("session", top=100))
    ask(
        "by('session', top=100, since=, until=), odd times",
        lambda: ledger.by("session", top=100, since=since, until=until),
    )
    ask("by_session_model()", lambda: ledger.by_session_model(session))
    ask("first of records(session=)", lambda: next(ledger.records(session=session)))


def report(path: Path) -> None:
    """Print the seconds and the memory that the reports of all sessions take, each in a process of its own."""
    page = Path(f"{path}.html")
    for arguments in (["sessions"], ["report", "--by", "session"], ["report", "--html", str(page)]):
        command = [sys.executable, "-m", "token_handlers", *arguments, "--ledger", str(path)]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        print(f"{' '.join(command[3:5]):32}{seconds:8.2f} s{used.ru_maxrss / 1024:8,.0f} MiB, status {status}")
    page.unlink()


def write(folder: Path, calls: int = 20_480) -> None:
    """Print what giving and writing a call costs, in new ledgers."""
    records = [make_call(number, calls) for number in range(calls)]
    for size in (512, 64, 8, 1):
        number = min(calls, 400 * size)
        with SQLiteLedger(folder / f"batches-{size}.db") as ledger:
            ledger._write(records[:size])
            began = time.process_time()
            for first in range(size, number, size):
                ledger._write(records[first : first + size])
            each = (time.process_time() - began) / (number - size) * 1e6
            print(f"{size:4} calls a commit: {each:7.1f} µs of CPU a call")
    with SQLiteLedger(folder / "batch.db") as ledger:
        began = time.perf_counter()
        for record in records[: calls // 2]:
            ledger(record)
        given = time.perf_counter()
        ledger.flush()
        ended = time.perf_counter()
    print(
        f"batch: {(given - began) / calls * 2e6:.1f} µs to give, {calls / 2 / (ended - began):,.0f} calls/s to the disk"
    )
    with SQLiteLedger(folder / "sync.db", durability="sync") as ledger:
        began = time.perf_counter()
        for record in records[:1000]:
            ledger(record)
        print(f"sync:  {1000 / (time.perf_counter() - began):,.0f} calls/s, each on the disk")


def main() -> None:
    """Load and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--per-session", type=int, default=10, help="how many calls a session has")
    parser.add_argument("--keep", type=Path, help="the ledger's path, if it is to stay")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        path = options.keep or Path(folder) / "ledger.db"
        with SQLiteLedger(path) as ledger:
            if not ledger.totals().successful_requests:
                load(ledger, options.rows, options.per_session)
            print(f"{path.stat().st_size / 2**20:,.0f} MiB")
            ask_all(ledger, options.per_session)
        report(path)


if __name__ == "__main__":
    main()
