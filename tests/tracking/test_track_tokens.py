import asyncio
import re
import threading
import uuid

import pytest

from tests.support.bills import record
from tests.support.one_token import end, spend, start
from token_handlers import TokenCounter, shared_counter, track_tokens
from token_handlers.tracking.recorder import show_estimate
from token_handlers.tracking.scopes import active_scopes


def test_a_block_counts_what_starts_inside():
    """Calls before and after the block are not counted."""
    spend()
    with track_tokens() as counter:
        spend()
        spend()
    spend()

    assert (2, 2) == (counter.prompt_tokens, counter.successful_requests)


def test_the_shared_counter_counts_everything():
    """Each recorded call reaches the shared counter once, however many blocks are around it."""
    before = shared_counter().by_model.get("one-shared")
    assert before is None
    with track_tokens(), track_tokens():
        record(start(), {"input_tokens": 1}, model="one-shared", cost=None)

    assert 1 == shared_counter().by_model["one-shared"].successful_requests


def test_nested_blocks_all_count():
    """An inner block does not hide the outer one."""
    with track_tokens() as outer:
        spend()
        with track_tokens() as inner:
            spend()
        spend()

    assert (3, 1) == (outer.prompt_tokens, inner.prompt_tokens)


def test_an_exception_leaves_nothing_behind():
    """After an exception the block is over."""
    with pytest.raises(KeyError), track_tokens() as counter:
        raise KeyError
    spend()

    assert 0 == counter.prompt_tokens
    assert () == active_scopes()


def test_a_call_belongs_to_where_it_started():
    """A call that starts inside and ends outside counts; one that starts outside and ends inside does not."""
    early = start()
    with track_tokens() as counter:
        late = start()
        end(early)
    end(late)

    assert 1 == counter.prompt_tokens


def test_an_open_call_is_shown_as_an_estimate_until_it_ends():
    """At the block's exit an open call counts as estimated; when it ends, the exact number takes its place."""
    with track_tokens() as counter:
        call = start()
    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)

    record(call, {"input_tokens": 5, "output_tokens": 7}, model="gpt-4o-mini")
    assert (5, 7, 1, 0) == (
        counter.prompt_tokens,
        counter.completion_tokens,
        counter.successful_requests,
        counter.estimated_requests,
    )


def test_a_reset_leaves_open_calls_to_what_comes_after():
    """A call that is shown as an estimate is not in what a reset returns, is shown after it, and counts once."""
    with track_tokens() as counter:
        call = start()

    assert 0 == counter.reset().prompt_tokens
    assert (1, 1) == (counter.estimated_requests, counter.prompt_tokens)
    end(call)
    assert (0, 1) == (counter.estimated_requests, counter.successful_requests)
    assert 1 == counter.reset().successful_requests


def test_an_estimate_shown_twice_counts_once():
    """A call that a task's end and a block's exit both show is one estimate."""
    with track_tokens() as counter:
        call = start()
        show_estimate(call)
        show_estimate(call)
    assert 1 == counter.estimated_requests

    end(call)
    assert (1, 0, 1) == (counter.prompt_tokens, counter.estimated_requests, counter.successful_requests)


def test_a_call_is_recorded_once():
    """A second end of one call changes nothing."""
    with track_tokens() as counter:
        call = start()
        end(call)
        end(call)

    assert 1 == counter.prompt_tokens


async def test_async_with():
    """`async with` is the same block."""
    async with track_tokens() as counter:
        await asyncio.sleep(0)
        spend()

    assert 1 == counter.prompt_tokens


async def test_concurrent_tasks_do_not_mix():
    """Each task's block counts its own calls, and a block around the tasks counts all of them."""

    async def work(calls):
        with track_tokens() as counter:
            for _ in range(calls):
                await asyncio.sleep(0)
                spend()
        return counter.prompt_tokens

    with track_tokens() as around:
        counts = await asyncio.gather(*(work(calls) for calls in range(1, 9)))

    assert list(range(1, 9)) == counts
    assert sum(range(1, 9)) == around.prompt_tokens


async def test_a_task_of_the_block_counts_even_after_it():
    """A task made inside the block belongs to it, whenever it runs."""

    async def later():
        spend()

    with track_tokens() as counter:
        task = asyncio.create_task(later())
    await task

    assert 1 == counter.prompt_tokens


def test_threads_of_ones_own():
    """A new thread knows no block; track_tokens(counter=...) enters it there, with its labels and the blocks around."""
    with track_tokens() as outer, track_tokens(session="s", tags={"team": "t"}) as counter:

        def work():
            spend()
            with track_tokens(counter=counter):
                spend()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert (4, 4) == (counter.prompt_tokens, outer.prompt_tokens)
    assert 4 == counter.by_session["s"].prompt_tokens == counter.by("team")["t"].prompt_tokens


def test_a_counter_entered_twice_counts_once():
    """Nesting one counter in itself does not double it."""
    with track_tokens() as counter, track_tokens(counter=counter) as again:
        spend()

    assert counter is again
    assert 1 == counter.prompt_tokens


def test_labels_merge():
    """Inner labels override outer ones by name; the rest is inherited."""
    with (
        track_tokens(session="s", user="u", tags={"a": 1, "b": 2}) as outer,
        track_tokens(session="t", tags={"b": 3}, user=None),
    ):
        spend()

    assert {"t"} == set(outer.by_session)
    assert {"u"} == set(outer.by("user"))
    assert ({"1"}, {"3"}) == (set(outer.by("a")), set(outer.by("b")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tags": "beta"}, r"write tags=\['beta'\]"),
        ({"tags": {"model": "x"}}, "may not be called 'model'"),
        ({"tags": {3: "x"}}, "not 3"),
        ({"counter": {}}, "counter must be a TokenCounter"),
    ],
)
def test_bad_labels_are_refused(arguments, message):
    """What can't be a label is refused by an error that names it."""
    with pytest.raises((TypeError, ValueError), match=message):
        track_tokens(**arguments)


def test_ids_of_any_type_are_labels():
    """A session or user may be a number or a UUID; an empty one is no label, and nothing is raised for it."""
    user = uuid.UUID(int=7)
    with track_tokens(session=0, user=user) as counter:
        spend()
    with track_tokens(session="", user=None, counter=counter):
        spend()

    assert {"0": 2} == {name: totals.prompt_tokens for name, totals in counter.by_session.items()}
    assert {str(user): 2} == {name: totals.prompt_tokens for name, totals in counter.by_user.items()}


def test_one_block_object_in_many_threads():
    """One track_tokens object may be entered by several threads at once, and again later."""
    counter = TokenCounter()
    block = track_tokens(counter=counter)
    barrier = threading.Barrier(4)

    def work():
        with block:
            barrier.wait(10)
            spend()
            barrier.wait(10)
            spend()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with block:
        spend()

    assert 9 == counter.prompt_tokens


def test_decorated_functions():
    """As a decorator it counts each call of plain functions and generators."""
    counter, steps = TokenCounter(), TokenCounter()

    @track_tokens(session="decorated", counter=counter)
    def plain():
        """Spend."""
        spend()
        return "done"

    @track_tokens(counter=steps)
    def stepped():
        spend()
        yield 1
        spend()
        yield 2

    assert ("done", "done") == (plain(), plain())
    assert [1, 2] == list(stepped())
    assert ("plain", "Spend.") == (plain.__name__, plain.__doc__)
    assert (2, 2) == (counter.by_session["decorated"].prompt_tokens, steps.prompt_tokens)


async def test_decorated_coroutines():
    """As a decorator it counts coroutines and async generators, and stays out of the way of concurrent calls."""
    counter, steps = TokenCounter(), TokenCounter()

    @track_tokens(counter=counter)
    async def work():
        await asyncio.sleep(0)
        spend()

    @track_tokens(counter=steps)
    async def stepped():
        spend()
        yield 1
        spend()

    await asyncio.gather(work(), work(), work())
    assert [1] == [item async for item in stepped()]
    assert (3, 2) == (counter.prompt_tokens, steps.prompt_tokens)


def test_sinks_of_a_block():
    """A block's sinks get the records made inside, once each."""
    seen = []
    with track_tokens(sinks=[seen.append], session="s"), track_tokens(sinks=[seen.append]):
        spend()
    spend()

    assert [("s", "gpt-4o-mini", 1)] == [(one.session, one.model, one.usage.input_tokens) for one in seen]


def test_on_record():
    """on_record calls back with each record of this counter."""
    seen = []
    with track_tokens() as counter:
        counter.on_record(seen.append)
        spend()
    spend()

    assert counter.flush(10)
    assert ["reported"] == [one.source for one in seen]


@pytest.mark.parametrize("sinks", [print, "usage.db", ["usage.db"], [None]], ids=repr)
def test_what_are_no_sinks(sinks):
    """One sink without a list, a path or anything else that can't be called is refused by its name."""
    with pytest.raises(TypeError, match=rf"sinks must be a list of callables .*{re.escape(repr(sinks))}: write sinks="):
        track_tokens(sinks=sinks)
