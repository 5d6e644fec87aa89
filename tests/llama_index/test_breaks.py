import asyncio
import itertools

import httpx
import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.llms.openai import OpenAI, OpenAIResponses

from tests.support.bills import billed, counted
from tests.support.llama_index_clients import MESSAGES, drain, make_llm, no_swallowed_faults, run
from token_handlers import track_tokens
from token_handlers.llama_index import LlamaIndexTokenHandler, calls, report_stream_usage
from token_handlers.tracking.call import open_calls


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher, and no call stays open."""
    with no_swallowed_faults():
        yield
    assert {} == calls.by_span
    assert not any(isinstance(call, calls.ModelCall) for call in open_calls)


WAYS = {
    "chat": lambda llm: llm.chat(MESSAGES),
    "complete": lambda llm: llm.complete("How?"),
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
    "achat": lambda llm: run(llm.achat(MESSAGES)),
    "astream_chat": lambda llm: run(drain(llm.astream_chat(MESSAGES))),
}


@pytest.mark.parametrize("kind", [OpenAI, OpenAIResponses])
@pytest.mark.parametrize("status", ["401", "429", "500"])
@pytest.mark.parametrize("way", WAYS)
def test_refused_calls_cost_nothing(ledger, kind, status, way):
    """What the provider rejects is a failed request, for the scope and the handler, once."""
    handler = LlamaIndexTokenHandler()
    llm = make_llm(ledger, kind, modes={"status": status}, callback_manager=CallbackManager([handler]))
    with track_tokens() as counter, pytest.raises(Exception, match=status):
        WAYS[way](llm)

    assert (0, 1, 0) == (counter.successful_requests, counter.failed_requests, counter.total_tokens)
    assert (0, 1, 0) == (handler.successful_requests, handler.failed_requests, handler.total_llm_token_count)


def test_the_clients_own_retries_are_one_call(ledger):
    """A call that succeeds after retries is what was billed."""
    llm = make_llm(ledger, modes={"status": "500x1"}, max_retries=2)
    with track_tokens() as counter:
        llm.chat(MESSAGES)

    assert (1, 0) == (counter.successful_requests, counter.failed_requests)
    assert billed(ledger)["prompt"] == counter.prompt_tokens


def test_a_stream_broken_off_by_its_reader(ledger):
    """What was received so far is estimated and flagged."""
    with track_tokens() as counter:
        stream = make_llm(ledger, modes={"gate": 4}).stream_chat(MESSAGES)
        for _ in range(4):
            next(stream)
        stream.close()

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert 5 < counter.prompt_tokens < 40
    assert 0 < counter.completion_tokens <= 8


class Eager(OpenAI):
    """An LLM that sends the request of a stream at once, as Anthropic's and Mistral's do."""

    def _stream_chat(self, messages, **kwargs):
        chunks = super()._stream_chat(messages, **kwargs)
        first = next(chunks)
        return (chunk for chunk in itertools.chain([first], chunks))


def test_a_stream_that_was_sent_and_is_never_read(ledger):
    """The provider bills what nobody reads, which is an estimate; what was not sent is no call."""
    with track_tokens() as sent:
        make_llm(ledger, Eager).stream_chat(MESSAGES)
    with track_tokens() as unsent:
        make_llm(ledger).stream_chat(MESSAGES)

    assert (1, 1) == (sent.successful_requests, sent.estimated_requests)
    assert sent.prompt_tokens > 5
    assert 0 == unsent.successful_requests + unsent.estimated_requests


def test_a_stream_that_the_connection_breaks(ledger):
    """A connection that breaks in the middle is an interrupted call, not a failed one."""
    llm = make_llm(ledger, modes={"cut": 4, "drop": "reset"})
    with track_tokens() as counter, pytest.raises(httpx.ReadError):
        list(llm.stream_chat(MESSAGES))

    assert (1, 0, 1) == (counter.successful_requests, counter.failed_requests, counter.estimated_requests)
    assert counter.prompt_tokens > 5


def test_a_call_that_times_out(ledger):
    """It was sent, and may be billed: an estimate of its prompt."""
    llm = make_llm(ledger, modes={"hold": 1}, timeout=0.2)
    with track_tokens() as counter, pytest.raises(Exception, match="timed out"):
        llm.chat(MESSAGES)

    assert (1, 1, 0) == (counter.successful_requests, counter.estimated_requests, counter.completion_tokens)


@pytest.mark.parametrize("way", ["achat", "astream_chat"])
async def test_a_cancelled_call(ledger, way):
    """A task that is cancelled while it waits leaves an estimate, flagged."""
    llm = make_llm(ledger, modes={"hold": 1})
    call = llm.achat(MESSAGES) if way == "achat" else drain(llm.astream_chat(MESSAGES))
    with track_tokens() as counter:
        task = asyncio.create_task(call)
        await asyncio.to_thread(ledger.wait_at_gate)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert counter.prompt_tokens > 5


async def test_a_wait_that_is_over(ledger):
    """wait_for cancels the call inside."""
    llm = make_llm(ledger, modes={"hold": 1})
    with track_tokens() as counter, pytest.raises(TimeoutError):
        await asyncio.wait_for(llm.achat(MESSAGES), 0.2)

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)


def test_a_stream_read_after_its_scope(ledger):
    """It belongs to the scope that it was started in, which shows an estimate until it ends."""
    with track_tokens() as counter:
        stream = report_stream_usage(make_llm(ledger)).stream_chat(MESSAGES)
        next(stream)
    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    list(stream)

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


def test_an_answer_that_llama_index_cannot_read(ledger, monkeypatch):
    """A call that fails after the provider answered is what the provider billed."""

    def fail(*args, **kwargs):
        raise KeyError("blocks")

    monkeypatch.setattr("llama_index.llms.openai.base.from_openai_message", fail)
    with track_tokens() as counter, pytest.raises(KeyError):
        make_llm(ledger).chat(MESSAGES)

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests
