"""What a SQLite ledger costs to write: ``python tests/benchmarks/ledger.py``; large_ledgers.py says how it answers."""

import random
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from token_handlers import Usage, UsageRecord
from token_handlers.sinks.sqlite import SQLiteLedger

START = datetime(2026, 1, 1, tzinfo=UTC)
YEAR = timedelta(days=365)

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


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
