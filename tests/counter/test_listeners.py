import logging
import os
import threading

import pytest
from langchain_openai import ChatOpenAI

from tests.support.bills import billed
from token_handlers import TokenCounter, UsageRecord, track_tokens
from token_handlers.counter import listeners
from token_handlers.counter.listeners import BackgroundListener
from token_handlers.errors import raise_faults


def test_a_callback_that_blocks(ledger):
    """A callback that never returns holds up no call and no other callback, and every call counts."""
    never, seen = threading.Event(), []
    with track_tokens() as counter:
        counter.on_record(lambda record: never.wait())
        counter.on_record(seen.append)
        for _ in range(3):
            ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), api_key="none").invoke("hello")

    assert billed(ledger)["prompt"] == counter.prompt_tokens
    assert not counter.flush(0.05)
    never.set()
    assert counter.flush(10)
    assert 3 == len(seen)


def test_a_callback_that_raises(ledger, caplog):
    """A callback that raises is logged once, gets the next record, and disturbs no call."""
    seen = []

    def fail(record):
        seen.append(record)
        raise ValueError("no")

    raise_faults(False)
    try:
        with track_tokens() as counter:
            counter.on_record(fail)
            for _ in range(2):
                ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), api_key="none").invoke("hello")
        assert counter.flush(10)
    finally:
        raise_faults(True)

    assert (2, 2) == (len(seen), counter.successful_requests)
    assert 1 == sum("failed with ValueError" in line for line in caplog.messages)


def test_a_callback_that_is_far_behind(monkeypatch, caplog):
    """Records beyond a number do not wait for a callback that blocks, and one warning says so."""
    monkeypatch.setattr(listeners, "MAX_WAITING", 3)
    inside, go_on, seen = threading.Event(), threading.Event(), []

    def slow(record):
        inside.set()
        go_on.wait()
        seen.append(record)

    hook = BackgroundListener(slow)
    hook(UsageRecord())
    inside.wait()
    with caplog.at_level(logging.WARNING):
        for _ in range(9):
            hook(UsageRecord())
    go_on.set()

    assert hook.flush(10)
    assert (4, 1) == (len(seen), len(caplog.messages))


def test_no_callback():
    """What can't be called is refused, by its name and at once."""
    with pytest.raises(TypeError, match="not 'print'"):
        TokenCounter().on_record("print")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork():
    """A forked child calls back from a thread of its own, and what waits in the parent is the parent's."""
    seen = []
    hook = BackgroundListener(seen.append)
    hook(UsageRecord())
    assert hook.flush(10)

    child = os.fork()
    if child == 0:
        hook(UsageRecord())
        os._exit(0 if hook.flush(10) and len(seen) == 2 else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert 1 == len(seen)
