import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.llms.openai import OpenAI, OpenAIResponses

from tests.support.llama_index_budgets import Pairs
from tests.support.llama_index_clients import MESSAGES, PROMPT, Local, Weather, drain, make_embedder, make_llm, run
from token_handlers import BudgetExceeded, track_tokens
from token_handlers.llama_index import report_stream_usage

pytestmark = pytest.mark.usefixtures("make_budget")

WAYS = {
    "chat": lambda llm: llm.chat(MESSAGES),
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
    "achat": lambda llm: run(llm.achat(MESSAGES)),
    "astream_chat": lambda llm: run(drain(llm.astream_chat(MESSAGES))),
    "structured_predict": lambda llm: llm.structured_predict(Weather, PROMPT, city="Rome"),
}


@pytest.mark.parametrize("kind", [OpenAI, OpenAIResponses])
@pytest.mark.parametrize("status", ["401", "429", "500"])
@pytest.mark.parametrize("way", WAYS)
def test_rejected_calls(ledger, make_budget, kind, status, way):
    """A call that the provider rejects was sent: it is a request of the budget, without tokens."""
    llm, budget = make_llm(ledger, kind, modes={"status": status}), make_budget(max_requests=1, max_cost=1)
    with track_tokens(budget=budget):
        with pytest.raises(Exception, match=status):
            WAYS[way](llm)
        with pytest.raises(BudgetExceeded):
            WAYS[way](llm)

    assert (1, 0, 0) == (len(ledger.entries()), budget.spent().tokens, budget.spent().cost)


@pytest.mark.parametrize("kind", [OpenAI, OpenAIResponses])
@pytest.mark.parametrize("way", WAYS)
def test_retries(ledger, make_budget, kind, way):
    """What the client retries by itself is one request of the budget, as it is one call, and holds once."""
    llm, budget = make_llm(ledger, kind, modes={"status": "500x1"}, max_retries=2), make_budget(max_requests=1)
    with track_tokens(budget=budget):
        WAYS[way](llm)

    assert (2, 1) == (len(ledger.entries()), budget.spent().requests)


def test_retried_embeddings(ledger, make_budget):
    """Likewise, though LlamaIndex retries these itself."""
    budget = make_budget(max_requests=2)
    model = make_embedder(ledger, modes={"status": "500@2"}, max_retries=3, embed_batch_size=1)
    with track_tokens(budget=budget), contextlib.suppress(BudgetExceeded):
        model.get_text_embedding_batch(["one", "two", "three"])

    assert (3, 2) == (len(ledger.entries()), budget.spent().requests)


def test_a_server_that_is_not_there(make_budget):
    """A call that found no server is a request, too: the budget can't tell it from one that was rejected."""
    budget = make_budget(max_requests=1)
    llm = OpenAI(model="gpt-4o-mini", api_base="http://127.0.0.1:1/v1", api_key="none", max_retries=0)
    with track_tokens(budget=budget), pytest.raises(Exception, match="Connection error"):
        llm.chat(MESSAGES)

    assert (1, 0) == (budget.spent().requests, budget.spent().tokens)


@pytest.mark.parametrize("way", ["chat", "stream_chat", "structured_predict"])
def test_a_call_that_times_out(ledger, make_budget, way):
    """It may be billed: an estimate of its prompt is booked."""
    llm = make_llm(ledger, OpenAIResponses, modes={"hold": 1}, timeout=0.2)
    budget = make_budget(max_tokens=1000)
    with track_tokens(budget=budget) as counter, pytest.raises(Exception, match="timed out"):
        WAYS[way](llm)

    assert (1, counter.prompt_tokens) == (budget.spent().requests, budget.spent().tokens)
    assert counter.prompt_tokens > 5


@pytest.mark.parametrize("read", [1, 3])
def test_a_stream_broken_off_by_its_reader(ledger, make_budget, read):
    """What was received is booked, as an estimate, in place of what the whole answer might have taken."""
    budget = make_budget(max_tokens=1000)
    with track_tokens(budget=budget) as counter:
        stream = make_llm(ledger, max_tokens=500).stream_chat(MESSAGES)
        for _ in range(read):
            next(stream)
        assert budget.held().tokens > 500
        stream.close()

    assert (1, counter.total_tokens) == (budget.spent().requests, budget.spent().tokens)
    assert 0 < counter.total_tokens < 100


def test_a_stream_that_nobody_reads(ledger, make_budget):
    """It was never sent, and holds nothing once it is thrown away."""
    budget = make_budget(max_requests=1)
    with track_tokens(budget=budget):
        stream = make_llm(ledger).stream_chat(MESSAGES)
        assert 1 == budget.held().requests
        del stream
        list(make_llm(ledger).stream_chat(MESSAGES))

    assert 1 == len(ledger.entries()) == budget.spent().requests


def test_a_stream_read_after_its_block(ledger, make_budget):
    """A stream is of the budgets where it was made, wherever it is read."""
    budget = make_budget(max_requests=1)
    with track_tokens(budget=budget):
        stream = report_stream_usage(make_llm(ledger)).stream_chat(MESSAGES)
    assert 1 == budget.held().requests
    list(stream)

    bill = ledger.total()
    assert (1, bill.prompt_tokens + bill.completion_tokens) == (budget.spent().requests, budget.spent().tokens)


def test_a_stream_that_the_connection_breaks(ledger, make_budget):
    """What was received is booked."""
    budget = make_budget(max_tokens=1000)
    llm = make_llm(ledger, modes={"cut": 4, "drop": "reset"})
    with track_tokens(budget=budget) as counter, pytest.raises(Exception, match="reset"):
        list(llm.stream_chat(MESSAGES))

    assert (1, counter.total_tokens) == (budget.spent().requests, budget.spent().tokens)


@pytest.mark.parametrize("way", ["achat", "astream_chat", "astructured_predict"])
@pytest.mark.parametrize("kind", [OpenAI, OpenAIResponses])
async def test_a_cancelled_call(ledger, make_budget, way, kind):
    """A task that is cancelled while it waits leaves its prompt's estimate."""
    llm, budget = make_llm(ledger, kind, modes={"hold": 1}), make_budget(max_tokens=1000)
    calls = {
        "achat": lambda: llm.achat(MESSAGES),
        "astream_chat": lambda: drain(llm.astream_chat(MESSAGES)),
        "astructured_predict": lambda: llm.astructured_predict(Weather, PROMPT, city="Rome"),
    }
    with track_tokens(budget=budget) as counter:
        task = asyncio.create_task(calls[way]())
        await asyncio.to_thread(ledger.wait_at_gate)
        assert 1 == budget.held().requests
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert (1, counter.prompt_tokens) == (budget.spent().requests, budget.spent().tokens)
    assert counter.prompt_tokens > 5


@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"structured_predict"}))
def test_a_local_model_that_fails(make_budget, way):
    """An LLM whose chat is its own complete fails once, and lets go once."""
    budget = make_budget(max_requests=1)
    with track_tokens(budget=budget), pytest.raises(RuntimeError):
        WAYS[way](Local(error=RuntimeError("no")))

    assert 1 == budget.spent().requests


class Failing(Pairs):
    """A handler that raises where a call starts, which LlamaIndex lets it."""

    def on_event_start(self, *args, **kwargs):
        raise ValueError("no")


def test_a_handler_of_the_users_that_fails(ledger, make_budget):
    """What it keeps from being sent is not counted, not booked, and holds nothing."""
    budget, manager = make_budget(max_requests=1), CallbackManager([Failing()])
    with track_tokens(budget=budget) as counter:
        with pytest.raises(ValueError, match="no"):
            make_llm(ledger, callback_manager=manager).chat(MESSAGES)
        with pytest.raises(ValueError, match="no"):
            make_embedder(ledger, callback_manager=manager).get_text_embedding("one two")

    assert [] == ledger.entries()
    assert (0, 0, 0) == (counter.successful_requests, counter.failed_requests, budget.spent().requests)


THREADS = 16
CALLS = {
    "chat": lambda ledger: make_llm(ledger, modes={"hold": 1}).chat(MESSAGES),
    "stream_chat": lambda ledger: list(make_llm(ledger, modes={"hold": 1}).stream_chat(MESSAGES)),
    "structured_predict": lambda ledger: make_llm(ledger, OpenAIResponses, modes={"hold": 1}).structured_predict(
        Weather, PROMPT, city="Rome"
    ),
    "embeddings": lambda ledger: make_embedder(ledger, modes={"hold": 1}).get_text_embedding("one two"),
}


@pytest.mark.parametrize("way", CALLS)
def test_sixteen_threads_at_once(ledger, make_budget, way):
    """Of sixteen calls at the same time those are sent that fit in together; the others are refused meanwhile."""
    budget, refused = make_budget(max_requests=5), threading.Semaphore(0)

    def call():
        try:
            CALLS[way](ledger)
        except BudgetExceeded:
            refused.release()
            return 0
        return 1

    with track_tokens(budget=budget), ThreadPoolExecutor(THREADS) as pool:
        calls = [pool.submit(copy_context().run, call) for _ in range(THREADS)]
        ledger.wait_at_gate(5)
        for _ in range(THREADS - 5):
            assert refused.acquire(timeout=10)
        assert 5 == budget.held().requests
        ledger.release()
        sent = sum(call.result() for call in calls)

    assert 5 == sent == len(ledger.entries()) == budget.spent().requests


ASYNC = {
    "achat": lambda ledger: make_llm(ledger, modes={"hold": 1}).achat(MESSAGES),
    "astream_chat": lambda ledger: drain(make_llm(ledger, modes={"hold": 1}).astream_chat(MESSAGES)),
    "astructured_predict": lambda ledger: make_llm(ledger, OpenAIResponses, modes={"hold": 1}).astructured_predict(
        Weather, PROMPT, city="Rome"
    ),
    "embeddings": lambda ledger: make_embedder(ledger, modes={"hold": 1}).aget_text_embedding("one two"),
}


@pytest.mark.parametrize("way", ASYNC)
async def test_sixteen_tasks_at_once(ledger, make_budget, way):
    """Likewise for tasks."""
    budget = make_budget(max_requests=5)
    with track_tokens(budget=budget):
        tasks = [asyncio.create_task(ASYNC[way](ledger)) for _ in range(THREADS)]
        await asyncio.to_thread(ledger.wait_at_gate, 5)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert 5 == budget.held().requests
        ledger.release()
        answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert THREADS - 5 == sum(isinstance(answer, BudgetExceeded) for answer in answers)
    assert 5 == len(ledger.entries()) == budget.spent().requests


async def test_a_local_models_streams_at_once(make_budget):
    """Streams of one LLM that run side by side each hold once, though each is made of two."""
    llm, budget = Local(), make_budget(max_requests=3)
    with track_tokens(budget=budget):
        streams = [await llm.astream_chat(MESSAGES) for _ in range(3)]
        for _ in range(3):
            for stream in streams:
                await anext(stream)
        assert 3 == budget.held().requests
        with pytest.raises(BudgetExceeded):
            await llm.astream_chat(MESSAGES)
        for stream in streams:
            assert [] == [chunk async for chunk in stream]

    assert 3 == llm.requests == budget.spent().requests
