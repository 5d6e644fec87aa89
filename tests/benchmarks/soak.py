"""Whether the totals are the bill, after many calls in many threads and tasks at once.

    python -m tests.benchmarks.soak [--calls 50000] [--seed 1] [--threads 64] [--tasks 64] [--no-resets]

LangChain's and LlamaIndex's real clients call a loopback server in a process of its own, in nested scopes of every
form, with streams broken off, tasks cancelled, errors, retries, time-outs, dropped connections and caches. At the end
the counter of every scope, and the shared one, must be what the server billed: to the token, and to the last digit of
the cost; calls whose usage the client never got to know must be flagged as estimates, each. One more counter is reset
all the time, as an exporter of metrics does, and what the resets returned must add up to the bill. What is not so is
printed, and the exit code is 1.
"""

import argparse
import asyncio
import gc
import logging
import multiprocessing
import resource
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from random import Random
from typing import Any

from token_handlers.demo.server.billing import Billed
from token_handlers.demo.server.modes import modes_from, path_segment
from token_handlers.demo.server.server import LedgerServer

warnings.simplefilter("ignore")  # LangChain's, of its own future

from tests.benchmarks.soak_bill import Bill, bills, differences, pool_differences, promised  # noqa: E402
from tests.benchmarks.soak_blocks import Soak, task, thread  # noqa: E402
from tests.benchmarks.soak_places import Node, make_clients  # noqa: E402
from token_handlers import TokenCounter, shared_counter, track_tokens  # noqa: E402

SETTLE_SECONDS = 30.0
SHOWN = 40
COLLECTED = 0.05


class Server:
    """The loopback server in a process of its own."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        self._port = int(self._pipe.recv())

    def url(self, **modes: object) -> str:
        """Return a base URL under these modes."""
        return f"http://127.0.0.1:{self._port}/m/{path_segment(modes_from(modes))}/v1"

    def settled(self, requests: int) -> list[Billed]:
        """Return the requests, once so many are settled, or as many as there are after a time."""
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end:
            self._pipe.send("count")
            if self._pipe.recv() >= requests:
                break
            time.sleep(0.05)
        self._pipe.send("entries")
        found: list[Billed] = self._pipe.recv()
        return found

    def close(self) -> None:
        """End the process."""
        self._pipe.send("end")
        self._process.join()


def _serve(pipe: "Connection[Any, Any]") -> None:
    with LedgerServer() as server:
        pipe.send(server.port)
        while (asked := pipe.recv()) != "end":
            entries = server.ledger()
            pipe.send(entries if asked == "entries" else len(entries))


class Faults(logging.Handler):
    """Keeps what token_handlers logs as errors: faults of its own, which it has swallowed."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a fault."""
        self.found.append(self.format(record))


def work(soak: Soak, threads: int, tasks: int) -> list[str]:
    """Let all workers work, and return what they died of."""
    failures: list[str] = []

    def guarded(act: Callable[[], object]) -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is a finding
            failures.append("".join(traceback.format_exception(error)))

    async def all_tasks() -> None:
        outcomes = await asyncio.gather(*(task(soak, number) for number in range(tasks)), return_exceptions=True)
        failures.extend("".join(traceback.format_exception(one)) for one in outcomes if one is not None)
        await soak.clients.tasks.aclose()

    acts = [
        *(lambda number=number: thread(soak, number) for number in range(threads)),
        lambda: asyncio.run(all_tasks()),
    ]
    stop = threading.Event()
    workers = [threading.Thread(target=guarded, args=(act,)) for act in acts]
    reader = threading.Thread(target=guarded, args=(lambda: read(soak, stop),))
    for one in (*workers, reader):
        one.start()
    for one in workers:
        one.join()
    stop.set()
    reader.join()
    gc.collect()
    soak.clients.threads.close()
    return failures


def read(soak: Soak, stop: threading.Event) -> None:
    """Read totals while they change, as an exporter of metrics does, take the pool's away, and collect the garbage.

    Only here: LlamaIndex leaves a broken stream's connection for the collector to close, and where that happens in a
    thread that is inside httpcore's locked section, httpcore waits for itself. See finalizers.py for the rest.
    """
    draw = Random(soak.seed)
    while not stop.wait(0.05):
        if draw.random() < COLLECTED:
            gc.collect()
        soak.root.counter.snapshot()
        node = draw.choice(soak.root.all)
        str(node.counter)
        soak.taken.append(soak.pool.counter.reset())


def compare(soak: Soak, entries: list[Billed], *, resets: bool) -> tuple[dict[Node, Bill], list[str]]:
    """Return the bill of each node, and where the ledger, what was done, and the counters differ."""
    found = bills(soak.root.all, entries)
    wrong = list(promised(soak.root.all, entries))
    for node, bill in found.items():
        if node is soak.pool and resets:
            wrong.extend(pool_differences(bill, [*soak.taken, node.counter.reset()]))
        elif node is not soak.pool:
            wrong.extend(differences(node.name, bill, node.counter.by_model, node.counter.snapshot()))
    return found, wrong


def run(calls: int, seed: int, threads: int, tasks: int, *, resets: bool = True) -> int:
    """Work, print the figures, and return how many findings there are."""
    server, faults = Server(), Faults()
    logging.getLogger("token_handlers").addHandler(faults)
    shared_counter().reset()
    nodes: list[Node] = []
    root = Node("w", shared_counter(), all=nodes)
    nodes.append(root)
    clients = make_clients(server.url, threads + tasks)
    soak = Soak(root, root.inner(TokenCounter()), seed, clients, -(-calls // (threads + tasks)))
    with track_tokens(counter=soak.pool.counter):
        pass  # a counter stays inside the blocks in which it was first entered: here in none
    gc.freeze()
    gc.disable()
    begun = time.perf_counter()
    failures = work(soak, threads, tasks)
    seconds = time.perf_counter() - begun
    entries = server.settled(sum(node.done.total() - node.done["cached"] for node in nodes))
    server.close()
    found, wrong = compare(soak, entries, resets=resets)
    show(found[root], root.counter, len(nodes), seconds)
    findings = [*failures, *faults.found, *wrong]
    for finding in findings[:SHOWN]:
        print(f"WRONG {finding}")
    print(f"{len(findings)} differences")
    return len(findings)


def show(bill: Bill, counter: TokenCounter, nodes: int, seconds: float) -> None:
    """Print the figures."""
    calls, totals = sum(bill.others.values()), counter.snapshot()
    print(f"{calls:,} calls in {nodes:,} scopes, {seconds:.0f} s, {calls / seconds:.0f} a second")
    print(", ".join(f"{number:,} {kind}" for kind, number in sorted(bill.others.items()) if number))
    for kind in ("prompt", "completion", "cached", "reasoning", "embedding"):
        print(f"{kind:>12}: {sum(numbers[kind] for numbers in bill.models.values()):>12,} tokens billed")
    print(f"{'cost':>12}: ${sum(bill.costs.values())} billed, ${totals.cost} counted with the estimates'")
    print(f"{'memory':>12}: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB at most")


def main() -> None:
    """Read the options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--calls", type=int, default=50_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--threads", type=int, default=64)
    options.add_argument("--tasks", type=int, default=64)
    options.add_argument("--resets", action=argparse.BooleanOptionalAction, default=True)
    sys.exit(bool(run(**vars(options.parse_args()))))


if __name__ == "__main__":
    main()
