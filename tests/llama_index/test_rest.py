import asyncio
import gc
import threading

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index_instrumentation import root_dispatcher

from tests.support.bills import forget_open_calls
from tests.support.llama_index_clients import MESSAGES, Answering, answer, no_swallowed_faults
from token_handlers import Budget, LlamaIndexTokenHandler, install, shared_counter, track_tokens, uninstall
from token_handlers.llama_index import filters
from token_handlers.llama_index.dispatcher import UNUSED_BEFORE_REST, EventRecorder, SpanRecorder
from token_handlers.tracking import scopes
from token_handlers.tracking.state import rest, state, watch_frameworks


@pytest.fixture(autouse=True)
def _alone():
    """No fault is swallowed by LlamaIndex's dispatcher, and nothing that other tests left keeps handlers awake."""
    uninstall()
    watch_frameworks()
    forget_open_calls()
    gc.collect()
    left = dict(filters.listening), set(scopes._living), scopes.active.set(())
    filters.listening.clear()
    scopes._living.clear()
    assert [False, False] == [filters.are_handlers_needed(), filters.may_be_tracked()]
    with no_swallowed_faults():
        yield
    filters.listening.update(left[0])
    scopes._living.update(left[1])
    scopes.active.reset(left[2])


def make_llm():
    """Return an LLM whose calls report one token."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return Answering(answers=(answer({"usage": usage}, "one"), answer({"usage": usage})))


def chat_outside():
    """Make calls that nobody tracks, until our handlers may rest."""
    for _ in range(UNUSED_BEFORE_REST):
        make_llm().chat(MESSAGES)


def are_awake():
    """Return whether LlamaIndex's dispatcher has our handlers, each once."""
    ours = [handler for handler in root_dispatcher.event_handlers if isinstance(handler, EventRecorder)]
    spans = [handler for handler in root_dispatcher.span_handlers if isinstance(handler, SpanRecorder)]
    assert len(ours) == len(spans) <= 1
    return bool(ours)


def test_handlers_rest_until_the_next_block():
    """After some calls outside of all blocks the dispatcher has no handler of ours, and the next block counts all."""
    for _ in range(2):
        assert are_awake()
        chat_outside()
        assert not are_awake()
        with track_tokens() as counter:
            make_llm().chat(MESSAGES)

        assert 1 == counter.prompt_tokens


def test_a_handler_wakes_them():
    """A LlamaIndexTokenHandler wakes our handlers, and they do not rest as long as it exists."""
    chat_outside()
    handler = LlamaIndexTokenHandler()
    assert are_awake()
    chat_outside()
    assert are_awake()
    Answering(answers=make_llm().answers, callback_manager=CallbackManager([handler])).chat(MESSAGES)

    assert 1 == handler.prompt_llm_token_count


def test_automatic_tracking_wakes_them():
    """Automatic tracking wakes our handlers, and they do not rest until it ends."""
    chat_outside()
    before = shared_counter().prompt_tokens
    install("llamaindex")
    chat_outside()
    uninstall()

    assert before + UNUSED_BEFORE_REST == shared_counter().prompt_tokens


async def test_a_task_of_a_block_that_was_left_keeps_them_awake():
    """The call of a block's task after the block's end counts, however many calls are made outside meanwhile."""
    go = asyncio.Event()

    async def work():
        await go.wait()
        await make_llm().achat(MESSAGES)

    with track_tokens() as counter:
        task = asyncio.create_task(work())
    chat_outside()
    go.set()
    await task

    assert 1 == counter.prompt_tokens


def test_a_block_of_another_thread_keeps_them_awake():
    """Our handlers do not rest while a block is open in another thread."""
    entered, done = threading.Event(), threading.Event()

    def work():
        with track_tokens():
            entered.set()
            done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait()
    chat_outside()
    assert are_awake()
    done.set()
    thread.join()
    chat_outside()

    assert not are_awake()


def test_an_open_stream_keeps_them_awake():
    """A stream of a block counts exactly, although it is read after its end and calls outside."""
    with track_tokens() as counter:
        stream = make_llm().stream_chat(MESSAGES)
        next(stream)
    chat_outside()
    list(stream)

    assert (1, 0) == (counter.prompt_tokens, counter.estimated_requests)


def test_they_stay_before_others():
    """Behind our handlers stands another one: they stay, as LlamaIndex may be going through its list."""
    theirs = object()
    root_dispatcher.event_handlers.append(theirs)
    try:
        chat_outside()
        assert theirs is root_dispatcher.event_handlers[-1]
        assert any(isinstance(handler, EventRecorder) for handler in root_dispatcher.event_handlers)
        with track_tokens() as counter:
            make_llm().chat(MESSAGES)
    finally:
        root_dispatcher.event_handlers.remove(theirs)

    assert (1, True) == (counter.prompt_tokens, are_awake())


def test_budgets_are_checked_after_a_rest():
    """The wrap that checks budgets rests, too, and the next block's budget refuses calls again."""
    with track_tokens(budget=Budget(max_requests=100)):
        make_llm().chat(MESSAGES)
    checking = CallbackManager.on_event_start
    chat_outside()
    assert checking is not CallbackManager.on_event_start
    budget = Budget(max_requests=1)
    with track_tokens(budget=budget) as counter:
        make_llm().chat(MESSAGES)
        with pytest.raises(Exception, match="max_requests"):
            make_llm().chat(MESSAGES)

    assert 1 == counter.successful_requests


def test_who_begins_meanwhile_is_seen():
    """A block that opens while handlers are about to rest finds them awake, whichever is first."""
    asked, did = [], []

    def is_needed():
        asked.append(None)
        return len(asked) == 2  # somebody has begun between the first look and the last

    rest(lambda: did.append("asleep"), lambda: did.append("awake"), is_needed)
    assert (["awake"], True) == (did, state.watched)

    def finalize():
        did.append("asleep")
        watch_frameworks()  # as a finalizer that opens a block in the middle

    rest(finalize, lambda: did.append("awake"), lambda: False)
    assert (["awake", "asleep", "awake", "awake"], True) == (did, state.watched)
