import sys
from decimal import Decimal

import httpx
import openai
import pytest
import requests

from tests.support.answer_server import body
from tests.support.provider_answers import CHAT
from token_handlers import Budget, track_tokens
from token_handlers.http import ProviderAnswer, ProviderRequest
from token_handlers.http.requests import read_request
from token_handlers.langchain import owners as _langchain  # noqa: F401 (it is to know the list that a test replaces)
from token_handlers.llama_index import hook as _llama_index  # noqa: F401 (as above)
from token_handlers.payloads import ReportedUsage
from token_handlers.tracking import answers as rules
from token_handlers.tracking import recorder
from token_handlers.tracking.answers import (
    LOST,
    OWN_FRAMES,
    SEVERAL_TIERS,
    AnswerObserver,
    billed_by_answers,
    request_owners,
    total,
)
from token_handlers.tracking.call import Call
from token_handlers.tracking.result import DISCARD, FAILED, CallResult, Incomplete

EVENT = CallResult(ReportedUsage({"input_tokens": 1, "output_tokens": 1}))
CACHED = CallResult(ReportedUsage({"input_tokens": 1, "output_tokens": 1}), outcome="cached")


def request() -> ProviderRequest:
    """Return a request to OpenAI."""
    body = {"model": "gpt-4o-mini", "messages": []}
    found = read_request("POST", "https://api.openai.com/v1/chat/completions", body)
    assert found is not None
    return found


def usage(prompt=10, output=5, **more):
    """Return what an answer reports."""
    return ReportedUsage({"input_tokens": prompt, "output_tokens": output}, model="gpt-4o-mini", **more)


WHOLE = ProviderAnswer(request(), 200, usage(), is_final=True)
TWICE = usage(20, 10, beside=(("gpt-4o-mini", {"input_tokens": 10, "output_tokens": 5}),))
BEGUN = ProviderAnswer(request(), 200, usage(10, 1))
REJECTED = ProviderAnswer(request(), 429)
REFUSED = ProviderAnswer(request())
GONE = ProviderAnswer(request(), is_lost=True)
SILENT = ProviderAnswer(request(), 200)


@pytest.fixture
def call():
    """A call that is forgotten after the test."""
    opened = Call()
    yield opened
    recorder.discard(opened)


@pytest.mark.parametrize(
    ("answers", "verdict", "expected"),
    [
        ([WHOLE], EVENT, CallResult(usage())),
        ([WHOLE], FAILED, CallResult(usage())),
        ([WHOLE], Incomplete(), CallResult(usage())),
        ([WHOLE], CACHED, CACHED),
        ([REJECTED, WHOLE], EVENT, CallResult(usage())),
        ([REFUSED, WHOLE], EVENT, CallResult(usage())),
        ([WHOLE, WHOLE], EVENT, CallResult(TWICE, requests=2)),
        ([GONE, WHOLE], EVENT, CallResult(usage(doubts=(LOST,)), requests=2)),
        ([WHOLE._replace(lost_attempts=2)], EVENT, CallResult(usage(doubts=(LOST,)), requests=3)),
        ([SILENT, WHOLE], EVENT, CallResult(usage(doubts=(rules.LOST,)), requests=2)),
        ([WHOLE, BEGUN], EVENT, EVENT),
        ([BEGUN], Incomplete(), Incomplete(usage(10, 1), interrupted=True)),
        ([WHOLE._replace(usage=usage(10, 0))], Incomplete(text="hi"), Incomplete(usage(10, 0), "hi", interrupted=True)),
        ([BEGUN], FAILED, Incomplete(None, interrupted=True)),
        ([REJECTED], FAILED, FAILED),
        ([REFUSED], FAILED, FAILED),
        ([GONE], FAILED, Incomplete(None, interrupted=True)),
        ([SILENT], FAILED, Incomplete(None, interrupted=True)),
        ([SILENT], EVENT, EVENT),
        ([WHOLE._replace(usage=usage(0, 0))], EVENT, EVENT),
    ],
)
def test_rules(call, answers, verdict, expected):
    """The answers are the bill where they are whole and final, else the event is; a failure that was answered is none.

    A cache's answer stays free, and what was sent and lost is a request that is flagged.
    """
    call.answers = tuple(answers)

    assert expected == billed_by_answers(call, verdict)


@pytest.mark.parametrize(("is_begun", "expected"), [(True, Incomplete(None, interrupted=True)), (False, FAILED)])
def test_a_stream_that_was_begun_is_no_failure(call, is_begun, expected):
    """A client may give it up without closing it, so that the answer is not there yet; what it sent is billed."""
    call.is_begun = is_begun

    assert expected == billed_by_answers(call, FAILED)


def test_total_of_none_and_one():
    """Nothing is nothing, and one answer is itself."""
    assert total([]) is None
    assert usage() == total([usage()])


def test_total_of_several():
    """Counts, doubts and costs are summed, and each other answer stands beside; several tiers are a doubt."""
    other = ReportedUsage({"input_tokens": 3, "output_tokens": 4}, Decimal(1), "flex", "gpt-4o", doubts=("a", "b"))
    last = usage(cost=Decimal(2), service_tier="default", doubts=("b",))
    expected = usage(13, 9, cost=Decimal(3), service_tier="default", beside=(("gpt-4o", other.counts),))

    assert expected._replace(doubts=("a", "b", SEVERAL_TIERS)) == total([other, last])


def test_total_of_an_answer_with_parts():
    """What an answer itself was billed for beside stands once in what stands beside the last."""
    part, rest = {"input_tokens": 2, "output_tokens": 1}, {"input_tokens": 8, "output_tokens": 4}
    summed = total([usage(beside=(("gpt-image-1", part),)), usage(1, 1)])

    assert summed is not None
    assert (("gpt-image-1", part), ("gpt-4o-mini", rest)) == summed.beside


def test_total_of_a_stated_cost_and_none():
    """A cost that one answer states is not the whole's."""
    summed = total([usage(cost=Decimal(2)), usage()])

    assert summed is not None
    assert summed.cost is None


def test_total_of_what_was_billed():
    """Where an answer says that it is billed for less than it counts, so is the sum."""
    summed = total([usage(billed={"input_tokens": 4, "output_tokens": 5}), usage()])

    assert summed is not None
    assert ({"input_tokens": 20, "output_tokens": 10}, {"input_tokens": 14, "output_tokens": 10}) == (
        summed.counts, summed.billed,
    )  # fmt: skip


def test_an_answer_after_the_end_is_left(call):
    """A call that has ended takes no more answers, and a request of one that has ended is nobody's."""
    observer = AnswerObserver()
    recorder.finish(call, DISCARD)
    observer.answered(call, WHOLE)

    assert () == call.answers


def test_the_innermost_of_two_frameworks_calls_owns_a_request(call, monkeypatch):
    """Of two calls of which one has made the other, the request is the other's."""
    inner = Call()
    inner.add_parent(call)
    monkeypatch.setattr("token_handlers.tracking.answers.request_owners", [lambda _: call, lambda _: inner])
    owner = AnswerObserver().opened(request())
    recorder.discard(inner)

    assert owner is inner


def test_request_owners_are_there_once():
    """Each framework finds its own call by one function."""
    assert len(set(request_owners)) == len(request_owners)


@pytest.fixture
def senders(monkeypatch):
    """The names of the functions that are on the stack below our own where an owner of a request is asked for."""
    found: list[str] = []

    def noting(request):
        found.append(sys._getframe(OWN_FRAMES).f_code.co_name)

    monkeypatch.setattr("token_handlers.tracking.answers.request_owners", [noting])
    return found


def test_own_functions_below_a_client(senders, answers):
    """Under any client, OWN_FRAMES of our functions are on the stack above the code that sends the request."""
    url, asked = answers.url + "/v1/chat/completions", {"messages": []}
    with httpx.Client() as client, requests.Session() as session, track_tokens():
        client.send(client.build_request("POST", url, json=asked))
        session.send(requests.Request("POST", url, json=asked).prepare())

    assert ["test_own_functions_below_a_client"] * 2 == senders


async def test_own_functions_below_an_async_client(senders, answers):
    """Under an async client there are as many."""
    async with httpx.AsyncClient() as client:
        with track_tokens():
            await client.send(client.build_request("POST", answers.url + "/v1/chat/completions", json={"messages": []}))

    assert ["test_own_functions_below_an_async_client"] == senders


def test_own_functions_below_a_gate(senders, answers):
    """A budget's gate, which asks above the client's retries, has as many above openai's `post`, or one more."""
    answers.answer(body(CHAT))
    with (
        openai.OpenAI(api_key="sk-1", base_url=answers.url + "/v1", max_retries=0) as client,
        track_tokens(budget=Budget(max_requests=9)),
    ):
        client.chat.completions.create(model="gpt-4o-mini", messages=[])

    assert senders in (["post"], ["_request"])  # LlamaIndex may have wrapped the method below it
