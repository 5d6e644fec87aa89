"""What a ledger on PostgreSQL takes in a second, and what that costs.

``python -m tests.benchmarks.postgres [--seconds 10]`` starts a server, lets 1, 2, 4 and 8 processes write for some
seconds each, and prints the records a second, and the CPU time of each record, its process's and the server's: other
programs disturb that less. Two cores that nobody else uses write what two seconds of CPU time pay for. The records are
short ones of 500 sessions; with ``--long`` each process has 64 sessions under way, of 20 calls each, and a record has
what a provider's answer and price tell. What waits to be summed in the end is summed before the server's time is read.
"""

import argparse
import multiprocessing
import os
import time
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing.synchronize import Barrier

import psutil

from tests.benchmarks.large_ledgers import SERVER
from tests.benchmarks.ledger import make_call
from tests.support.postgres_servers import Postgres
from token_handlers.sinks.postgres import SQLLedger
from token_handlers.usage import CostPart, new_event_id

Sent = tuple[int, float]


PARTS = (
    CostPart("input_tokens", 1_234, Decimal("0.15"), 1_000_000, Decimal("0.0001851")),
    CostPart("output_tokens", 345, Decimal("0.6"), 1_000_000, Decimal("0.000207")),
)


def told(number: int) -> dict[str, object]:
    """Return what a long record has beside its usage; a process has two models a session, as most do."""
    session = number // (64 * 20) * 64 + number % 64
    model = (session * 40_503 + number % 7 // 6 * 12_345) % 65_536 * 30 // 65_536
    return {
        "session": f"session-{os.getpid()}-{session:024x}",
        "user": f"user-{(session * 7_919 + os.getpid()) % 20_000}",
        "node": ("agent", "tools", None)[number % 3],
        "model": f"model-{model}-2026-08-06",
        "requested_model": f"model-{model}",
        "service_tier": "default",
        "host": "api.example.com",
        "request_id": f"chatcmpl-7f6e5d4c3b2a1908-{os.getpid()}-{number}",
        "cost_breakdown": PARTS,
    }


def write(
    url: str, schema: str, seconds: float, start: Barrier, sent: "multiprocessing.Queue[Sent]", *, long: bool
) -> None:
    """Give one process's records to a ledger, as fast as it takes them."""
    samples = [make_call(number, 5_000) for number in range(5_000)]
    number = 0
    with SQLLedger(url, schema, timeout=60) as ledger:
        ledger.totals()
        start.wait()
        used, end = time.process_time(), time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(1_000):
                fields: dict[str, object] = {"event_id": new_event_id(), "started_at": datetime.now(UTC)}
                if long:
                    fields |= told(number)
                ledger(samples[number % 5_000].model_copy(update=fields))
                number += 1
            while ledger.waiting > 10_000:
                time.sleep(0.005)
        assert ledger.flush(60)
        assert (0, 0) == (ledger.lost, ledger.duplicates)
        sent.put((number, time.process_time() - used))


def used_by(server: Postgres) -> float:
    """Return the CPU seconds of a server and its processes, ended ones included."""
    found = psutil.Process(server.pid)
    try:
        times = [found.cpu_times(), *(child.cpu_times() for child in found.children())]
    except psutil.NoSuchProcess:  # a child has ended: its time is its parent's now
        return used_by(server)
    return float(sum(each.user + each.system for each in times) + times[0].children_user + times[0].children_system)


def measure(server: Postgres, count: int, seconds: float, *, long: bool) -> None:
    """Print how many records a second so many processes write, from the first to the last that is committed."""
    schema = f"writers_{count}"
    start = multiprocessing.Barrier(count + 1)
    sent: multiprocessing.Queue[Sent] = multiprocessing.Queue()
    SQLLedger(server.url, schema).totals()
    arguments = server.url, schema, seconds, start, sent
    processes = [multiprocessing.Process(target=write, args=arguments, kwargs={"long": long}) for _ in range(count)]
    for process in processes:
        process.start()
    start.wait()
    began, used = time.perf_counter(), used_by(server)
    counts, times = zip(*(sent.get() for _ in processes), strict=True)
    total, ended = sum(counts), time.perf_counter()
    with SQLLedger(server.url, schema) as ledger:
        while ledger._store.write([]).has_more:
            pass
    each = sum(times) / total * 1e6, (used_by(server) - used) / total * 1e6
    print(
        f"{count} writers: {total / (ended - began):9,.0f} records/s, load {os.getloadavg()[0]:.1f}; "
        f"CPU time of a record: {each[0]:.0f} µs of its process, {each[1]:.0f} µs of the server, "
        f"which is {2e6 / sum(each):,.0f} records/s of two cores",
        flush=True,
    )
    for process in processes:
        process.join()
    with SQLLedger(server.url, schema, timeout=600) as ledger:
        assert total == ledger.totals().successful_requests
    server.run(f"DROP SCHEMA {schema} CASCADE")


def main() -> None:
    """Measure each number of writers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each number of writers writes")
    parser.add_argument("--long", action="store_true", help="write records of what providers tell, in new sessions")
    options = parser.parse_args()
    with Postgres(**SERVER) as server:
        for count in (1, 2, 4, 8):
            measure(server, count, options.seconds, long=options.long)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
