"""The soak's workers: blocks of every form, inside each other, around calls chosen at random."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from tests.benchmarks import soak_tasks, soak_threads
from tests.benchmarks.soak_places import Clients, Node, Place
from token_handlers import ConversationTracker, UsageTotals, get_openai_callback, track_tokens

DEEPEST = 3
POOLED = 0.2


class Boom(Exception):
    """What a block may end with."""


@dataclass
class Soak:
    """What all workers share."""

    root: Node
    pool: Node
    seed: int
    clients: Clients
    quota: int
    """Calls of a worker."""
    taken: list[UsageTotals] = field(default_factory=list)
    """What resets of the pool's counter returned."""

    def place(self, kind: str, number: int) -> Place:
        """Return a worker's place: it has a node of its own."""
        return Place(self.root.inner(), Random(f"{self.seed}-{kind}-{number}"), self.clients)


def thread(soak: Soak, number: int) -> None:
    """Work in a thread until the quota is done."""
    place = soak.place("thread", number)
    with track_tokens(session=place.node.name, tags={"soak": soak.seed}, counter=place.node.counter):
        while place.made.total() < soak.quota:
            if place.draw.random() < POOLED:
                inside = place.at(place.node.inner(None, soak.pool))
                with track_tokens(counter=soak.pool.counter), track_tokens(counter=inside.node.counter):
                    place.draw.choice(soak_threads.PLAIN)(inside)
            else:
                _nest(place, 1)


def _nest(place: Place, depth: int) -> None:
    inside = place.at(place.node.inner())
    way = place.draw.choice(WAYS)
    with contextlib.suppress(Boom):
        way(inside, lambda: _calls(inside, depth))
    for end in inside.late:
        end()


def _calls(place: Place, depth: int) -> None:
    for _ in range(place.draw.randint(1, 5)):
        if depth < DEEPEST and place.draw.random() < 0.3:
            _nest(place, depth + 1)
        else:
            place.draw.choice(soak_threads.ALL)(place)


def _block(place: Place, calls: Callable[[], None]) -> None:
    with track_tokens(counter=place.node.counter, tags=["block"]):
        calls()


def _twice(place: Place, calls: Callable[[], None]) -> None:
    block = track_tokens(counter=place.node.counter, user="twice")
    with block, track_tokens(counter=place.node.counter):
        calls()


def _raising(place: Place, calls: Callable[[], None]) -> None:
    with track_tokens(counter=place.node.counter):
        calls()
        raise Boom


def _decorated(place: Place, calls: Callable[[], None]) -> None:
    track_tokens(counter=place.node.counter)(calls)()


def _generator(place: Place, calls: Callable[[], None]) -> None:
    def steps() -> Iterator[None]:
        with track_tokens(counter=place.node.counter):
            yield
            calls()
            yield

    for _ in steps():
        pass


def _callback(place: Place, calls: Callable[[], None]) -> None:
    with get_openai_callback() as handler:
        place.node.counter = handler.counter
        calls()


def _conversation(place: Place, calls: Callable[[], None]) -> None:
    tracker = ConversationTracker(place.node.name)
    place.node.counter = tracker.counter
    with tracker:
        calls()


WAYS = (_block, _twice, _raising, _decorated, _generator, _callback, _conversation)


async def task(soak: Soak, number: int) -> None:
    """Work in a task until the quota is done."""
    place = soak.place("task", number)
    async with track_tokens(session=place.node.name, tags={"soak": soak.seed}, counter=place.node.counter):
        while place.made.total() < soak.quota:
            if place.draw.random() < POOLED:
                inside = place.at(place.node.inner(None, soak.pool))
                async with track_tokens(counter=soak.pool.counter), track_tokens(counter=inside.node.counter):
                    await place.draw.choice(soak_tasks.PLAIN)(inside)
            else:
                await _anest(place, 1)


async def _anest(place: Place, depth: int) -> None:
    inside = place.at(place.node.inner())
    way = place.draw.choice(ASYNC_WAYS)
    with contextlib.suppress(Boom):
        await way(inside, lambda: _acalls(inside, depth))
    for end in inside.late:
        await end()


async def _acalls(place: Place, depth: int) -> None:
    for _ in range(place.draw.randint(1, 5)):
        if depth < DEEPEST and place.draw.random() < 0.3:
            await _anest(place, depth + 1)
        else:
            await place.draw.choice(soak_tasks.ALL)(place)


async def _ablock(place: Place, calls: Callable[[], Awaitable[None]]) -> None:
    async with track_tokens(counter=place.node.counter, tags=["block"]):
        await calls()


async def _araising(place: Place, calls: Callable[[], Awaitable[None]]) -> None:
    async with track_tokens(counter=place.node.counter):
        await calls()
        raise Boom


async def _adecorated(place: Place, calls: Callable[[], Awaitable[None]]) -> None:
    async def work() -> None:
        await calls()

    await track_tokens(counter=place.node.counter)(work)()


async def _agenerator(place: Place, calls: Callable[[], Awaitable[None]]) -> None:
    async def steps() -> AsyncIterator[None]:
        with track_tokens(counter=place.node.counter):
            yield
            await calls()
            yield

    async for _ in steps():
        pass


async def _acallback(place: Place, calls: Callable[[], Awaitable[None]]) -> None:
    async with get_openai_callback() as handler:
        place.node.counter = handler.counter
        await calls()


async def _aconversation(place: Place, calls: Callable[[], Awaitable[None]]) -> None:
    tracker = ConversationTracker(place.node.name)
    place.node.counter = tracker.counter
    async with tracker:
        await calls()


ASYNC_WAYS = (_ablock, _araising, _adecorated, _agenerator, _acallback, _aconversation)
