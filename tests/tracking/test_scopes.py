import asyncio
import contextvars
import gc
import threading
from contextlib import contextmanager

import pytest

from tests.support.one_token import spend
from token_handlers import track_tokens
from token_handlers.tracking.scopes import active_scopes


def in_fresh_context(function, *args):
    """Call a function where no variable is set."""
    return contextvars.Context().run(function, *args)


def test_a_generator_stepped_in_fresh_contexts():
    """A web framework's way with a streaming response: every call counts, and the block is left cleanly."""
    counters = []

    def response():
        with track_tokens() as counter:
            counters.append(counter)
            spend()
            yield "a"
            spend()
            yield "b"
            spend()

    stepped = response()
    assert ["a", "b", None] == [in_fresh_context(next, stepped, None) for _ in range(3)]

    assert 3 == counters[0].prompt_tokens
    assert () == active_scopes()


def test_a_consumers_calls_are_not_the_generators():
    """What the consumer calls between two steps of a generator does not count in the generator's block."""
    counters = []

    def response():
        with track_tokens() as counter:
            counters.append(counter)
            for _ in range(3):
                spend()
                yield

    for _ in response():
        spend()

    assert 3 == counters[0].prompt_tokens


def test_interleaved_generators_stay_apart():
    """Two generators stepped in turn count their own calls, and what was entered later outlives what was earlier."""
    counters = {}

    def response(name, calls):
        with track_tokens() as counter:
            counters[name] = counter
            for _ in range(calls):
                spend()
                yield

    one, two = response("one", 2), response("two", 5)
    for _ in range(6):
        next(one, None)
        next(two, None)

    assert (2, 5) == (counters["one"].prompt_tokens, counters["two"].prompt_tokens)
    assert () == active_scopes()


def test_threads_started_by_a_generator_count():
    """A thread that runs in a copy of the generator's context belongs to its block."""
    counters = []

    def response():
        with track_tokens() as counter:
            counters.append(counter)
            thread = threading.Thread(target=contextvars.copy_context().run, args=(spend,))
            thread.start()
            thread.join()
            yield

    assert [None] == list(response())
    assert 1 == counters[0].prompt_tokens


def test_a_context_manager_around_a_block():
    """A generator that is a context manager is transparent: the calls are those between its two steps."""

    @contextmanager
    def tracked():
        with track_tokens(session="s") as counter:
            yield counter

    with tracked() as counter:
        spend()

    assert 1 == counter.prompt_tokens


def test_a_context_manager_inside_a_stepped_generator():
    """Through such a context manager, too, a generator that is stepped in fresh contexts counts its own calls."""
    counters = []

    @contextmanager
    def tracked():
        with track_tokens() as counter:
            yield counter

    def response():
        with tracked() as counter:
            counters.append(counter)
            spend()
            yield
            spend()
            yield

    stepped = response()
    in_fresh_context(next, stepped)
    spend()
    in_fresh_context(next, stepped)
    in_fresh_context(stepped.close)

    assert 2 == counters[0].prompt_tokens


@pytest.fixture
def counted():
    """Yield a counter of the test's calls."""
    with track_tokens() as counter:
        yield counter


def test_a_fixture_around_a_block(counted):
    """A yield fixture counts what its test calls."""
    spend()

    assert 1 == counted.prompt_tokens


async def test_an_async_generator():
    """An async generator's block counts the calls of its body, not those of its consumer."""
    counters = []

    async def response():
        async with track_tokens() as counter:
            counters.append(counter)
            for _ in range(3):
                await asyncio.sleep(0)
                spend()
                yield

    async for _ in response():
        spend()

    assert 3 == counters[0].prompt_tokens
    assert () == active_scopes()


def test_a_generator_that_is_dropped():
    """Dropping a generator in the middle ends its block."""

    def response():
        with track_tokens():
            yield

    next(stepped := response())
    del stepped
    gc.collect()

    assert () == active_scopes()


def test_leaving_in_another_context_closes_the_block():
    """Where the variable can't be reset, the block is over all the same."""
    block = track_tokens()
    counter = block.__enter__()
    in_fresh_context(block.__exit__, None, None, None)
    spend()

    assert 0 == counter.prompt_tokens
    assert () == active_scopes()
