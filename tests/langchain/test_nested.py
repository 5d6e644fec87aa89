import asyncio
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI

from tests.support.bills import billed, counted
from token_handlers import Budget, shared_counter, track_tokens
from token_handlers.budget import Amounts
from token_handlers.langchain import LangChainTokenHandler


class Router(BaseChatModel):
    """A model of one's own that asks another, and passes on its whole message, or the text alone."""

    inner: Any
    whole: bool = True
    usage: Any = None

    @property
    def _llm_type(self):
        return "router"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._result(self.inner.invoke(messages))

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        for chunk in self.inner.stream(messages):
            yield ChatGenerationChunk(message=chunk if self.whole else AIMessageChunk(content=chunk.content))

    def _result(self, message):
        if not self.whole:
            message = AIMessage(message.content, usage_metadata=self.usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


class AsyncRouter(Router):
    """One that asks asynchronously."""

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._result(await self.inner.ainvoke(messages))

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        async for chunk in self.inner.astream(messages):
            yield ChatGenerationChunk(message=chunk if self.whole else AIMessageChunk(content=chunk.content))


async def drain(stream):
    """Read a stream."""
    async for _ in stream:
        pass


WAYS = {
    "invoke": lambda model: model.invoke("Hi"),
    "ainvoke": lambda model: asyncio.run(model.ainvoke("Hi")),
    "stream": lambda model: list(model.stream("Hi")),
    "astream": lambda model: asyncio.run(drain(model.astream("Hi"))),
    "batch": lambda model: model.batch(["Hi", "Ho"]),
}


def chat(ledger, **settings):
    """Return a ChatOpenAI on the test's channel."""
    settings = {"api_key": "none", "max_retries": 0, "stream_usage": True, **settings}
    return ChatOpenAI(**{"model": "gpt-4o-mini", "base_url": ledger.url(), **settings})


CASES = [(Router, way) for way in WAYS if way != "astream"] + [(AsyncRouter, way) for way in WAYS]


@pytest.mark.parametrize(("kind", "way"), CASES)
@pytest.mark.parametrize("whole", [True, False])
def test_a_model_that_asks_another_counts_once(ledger, way, kind, whole):
    """What it passes on is the other's call, in the block, for the handlers of both, and in the shared counter."""
    outer, inner = LangChainTokenHandler(), LangChainTokenHandler()
    before = shared_counter().snapshot()
    with track_tokens() as counter:
        WAYS[way](kind(inner=chat(ledger, callbacks=[inner]), whole=whole, callbacks=[outer]))
    added = shared_counter().snapshot()

    bill = billed(ledger)
    assert bill == counted(counter) == counted(outer.counter) == counted(inner.counter)
    assert (bill["requests"], bill["prompt"], 0) == (
        added.successful_requests - before.successful_requests,
        added.prompt_tokens - before.prompt_tokens,
        counter.estimated_requests,
    )


def test_a_stream_read_in_a_thread_counts_beside_it(ledger):
    """LangChain reads the _stream of a model without _astream in a thread, and nothing there tells whose it is."""
    with track_tokens() as counter:
        WAYS["astream"](Router(inner=chat(ledger)))

    assert 2 * billed(ledger)["requests"] == counter.successful_requests == 2


def test_a_model_that_asks_a_model_that_asks(ledger):
    """However deep."""
    with track_tokens() as counter:
        Router(inner=Router(inner=chat(ledger))).invoke("Hi")

    assert billed(ledger) == counted(counter)


def test_usage_of_its_own_counts(ledger):
    """What it reports beside the other's usage is a call of its own."""
    usage = {"input_tokens": 100, "output_tokens": 1, "total_tokens": 101}
    with track_tokens() as counter:
        Router(inner=chat(ledger), whole=False, usage=usage).invoke("Hi")

    bill = billed(ledger)
    assert (2, bill["prompt"] + 100) == (counter.successful_requests, counter.prompt_tokens)


def test_calls_between_the_chunks_of_a_stream_are_their_own(ledger):
    """Who reads a stream and calls in between is not the stream's model."""
    model = chat(ledger)
    with track_tokens() as counter:
        for _ in model.stream("Hi"):
            model.invoke("Ho")

    assert billed(ledger) == counted(counter)
    assert 2 < counter.successful_requests


def test_it_holds_and_fails_once(ledger):
    """A budget holds room for one request, and a rejected one is one failure."""
    budget = Budget(max_requests=1)
    with track_tokens(budget=budget) as counter, pytest.raises(Exception, match="401"):
        Router(inner=chat(ledger, base_url=ledger.url(status="401"))).invoke("Hi")

    assert (0, 1) == (counter.successful_requests, counter.failed_requests)
    assert (1, Amounts()) == (budget.spent().requests, budget.held())
