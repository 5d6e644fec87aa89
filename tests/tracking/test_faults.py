import asyncio
from contextvars import copy_context

import httpx
import pytest

from tests.support.bills import forget_open_calls
from tests.support.langchain_models import AnsweringChat
from tests.support.line_faults import ROOT, LineFault
from tests.support.provider_answers import CHAT
from token_handlers import Budget, track_tokens
from token_handlers.errors import raise_faults
from token_handlers.http import exchange
from token_handlers.tracking import recorder
from token_handlers.tracking.call import open_calls


@pytest.fixture(autouse=True)
def _lenient():
    """Faults are logged, as in an application, rather than raised; calls that others left open do not count here."""
    forget_open_calls()
    raise_faults(False)
    yield
    raise_faults(True)


def ask_langchain():
    """Ask by LangChain."""
    AnsweringChat().invoke("hello")


def ask_langchain_async():
    """Ask by LangChain in async code."""
    asyncio.run(AnsweringChat().ainvoke("hello"))


def ask_httpx():
    """Ask without a framework."""
    with httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, json=CHAT))) as client:
        client.post("http://mock/v1/chat/completions", json={"model": "gpt-4o-mini", "messages": []})


def outside_of_taps(lines):
    """Return the lines that are not those of the wraps around clients' own methods."""
    return [line for line in lines if not line.startswith(f"{ROOT}/http/")]


def broken_by_a_fault(ask):
    """Return the lines at which a fault loses the call, reaches the application, or keeps a reservation."""
    lost, raised, kept, position = [], [], [], 0
    with track_tokens(budget=Budget(max_requests=9, max_tokens=1000, max_cost=1)):
        ask()  # what a first call imports and caches is there, or the calls below would get shorter
    while True:
        position += 1
        budget = Budget(max_requests=9, max_tokens=1000, max_cost=1)
        with (
            track_tokens(budget=budget) as counter,
            LineFault(position, RuntimeError("injected"), open_calls.__len__) as fault,
        ):
            try:
                copy_context().run(ask)  # a variable that a fault leaves set is nobody else's
            except RuntimeError:
                raised.append(fault.line)
        if not fault.line:
            break
        if counter.successful_requests != 1:
            lost.append(fault.line)
        if budget.held().requests:
            kept.append(fault.line)
        for call in list(open_calls):
            recorder.discard(call)
    assert position > 100
    return lost, raised, kept


@pytest.mark.parametrize("ask", [ask_langchain, ask_langchain_async], ids=lambda ask: ask.__name__)
def test_a_fault_of_ours_at_any_line(ask):
    """Whatever raises once a call is open: it is counted, the application sees nothing, and no budget keeps a hold."""
    assert ([], [], []) == broken_by_a_fault(ask)


def test_a_fault_of_ours_where_an_answer_ends_a_call():
    """A call that has no event is counted as well, and the application sees nothing of a fault outside of the taps."""
    lost, raised, _ = broken_by_a_fault(ask_httpx)

    assert ([], []) == (outside_of_taps(lost), outside_of_taps(raised))


@pytest.mark.parametrize(
    "places",
    [["read_body", "ResponseUsage"], ["_header_names"]],
    ids=["its body", "its headers"],
)
def test_a_fault_of_ours_in_reading_an_answer(monkeypatch, places):
    """Where our reading of an answer fails, the call counts as an estimate, and the application sees nothing."""

    def fail(*args):
        raise RuntimeError("injected")

    for place in places:
        monkeypatch.setattr(exchange, place, fail)
    budget = Budget(max_requests=9)
    with track_tokens(budget=budget) as counter:
        ask_httpx()

    assert (1, 1, 0) == (counter.successful_requests, counter.estimated_requests, budget.held().requests)
