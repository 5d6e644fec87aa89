import asyncio
import gc

import httpx
import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import ChatOpenAI

from tests.support.answer_server import answering, body, events
from tests.support.bills import billed, counted
from token_handlers import install, shared_counter, track_tokens, uninstall
from token_handlers.langchain import report_stream_usage


def chat(ledger, /, *, modes=None, reporting=False, **settings):
    """Return a ChatOpenAI that talks to the test's channel."""
    settings = {"api_key": "none", "max_retries": 0, **settings}
    model = ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(close=1, **(modes or {})), **settings)
    return report_stream_usage(model) if reporting else model


def requests(counter):
    """Return the billed, the estimated and the rejected requests."""
    return counter.successful_requests, counter.estimated_requests, counter.failed_requests


def assert_close(ledger, counter):
    """The estimate is of the bill's size: flagged, but no fantasy."""
    bill = billed(ledger)
    assert bill["prompt"] / 3 <= counter.prompt_tokens <= bill["prompt"] * 3
    assert bill["completion"] / 3 - 3 <= counter.completion_tokens <= bill["completion"] * 3 + 3


def test_an_unreported_stream_is_estimated(ledger, caplog):
    """By default ChatOpenAI does not ask another server for usage: estimated, flagged, and one warning."""
    with track_tokens() as counter:
        for _ in range(2):
            list(chat(ledger, modes={"model": "unreported-model"}).stream("What is the weather like in Porto today?"))

    assert (2, 2, 0) == requests(counter)
    assert_close(ledger, counter)
    assert 1 == sum("unreported-model" in line and "report_stream_usage" in line for line in caplog.messages)


async def test_an_unreported_astream_is_estimated(ledger):
    """So is an asynchronous stream."""
    with track_tokens() as counter:
        async for _ in chat(ledger).astream("What is the weather like in Porto today?"):
            pass

    assert (1, 1, 0) == requests(counter)
    assert_close(ledger, counter)


@pytest.mark.parametrize("choices", [1, 2])
@pytest.mark.parametrize("usage", ["always", "every", "doubled", "deltas", "negative"])
def test_usage_in_chunks_equals_the_bill(ledger, usage, choices):
    """Servers state usage at the end, in every chunk, twice or in increments: whichever is the bill is counted."""
    with track_tokens() as counter:
        list(chat(ledger, modes={"usage": usage, "words": 40}, n=choices).stream("What is the weather?"))

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


@pytest.mark.parametrize("usage", ["always", "every", "doubled", "deltas", "negative"])
async def test_usage_in_async_chunks_equals_the_bill(ledger, usage):
    """The same, asynchronously."""
    with track_tokens() as counter:
        async for _ in chat(ledger, modes={"usage": usage, "words": 40}).astream("What is the weather?"):
            pass

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


def break_off(stream):
    """Leave a loop over a stream."""
    for _ in stream:
        break


def close(stream):
    """Close a stream after a chunk."""
    next(stream)
    stream.close()


def collect(stream):
    """Drop a stream after a chunk."""
    next(stream)
    del stream
    gc.collect()


def raise_inside(stream):
    """Raise in the consumer of a stream."""
    with pytest.raises(KeyError):
        {}[next(stream).content]
    stream.close()


@pytest.mark.parametrize("breaking", [break_off, close, collect, raise_inside])
def test_a_broken_off_stream_is_estimated(ledger, breaking):
    """However a consumer leaves a stream, the prompt and the text received are estimated and flagged."""
    with track_tokens() as counter:
        breaking(chat(ledger, modes={"gate": 8, "words": 60}, reporting=True).stream("What is the weather like today?"))
        ledger.release()
        gc.collect()

    assert (1, 1, 0) == requests(counter)
    assert counter.prompt_tokens > 0
    assert counter.total_cost > 0


def test_a_stream_that_is_kept_open(ledger):
    """A stream that nobody drains or closes is an estimate from the block's exit on."""
    with track_tokens() as counter:
        stream = chat(ledger).stream("What is the weather like today?")
        next(stream)
        next(stream)
    assert (1, 1, 0) == requests(counter)

    stream.close()
    assert (1, 1, 0) == requests(counter)


async def test_a_cancelled_astream_is_estimated(ledger):
    """Cancelling the task that reads a stream leaves an estimate."""
    at_gate = asyncio.Event()

    async def read():
        received = 0
        async for chunk in chat(ledger, modes={"gate": 5, "words": 60}).astream("What is the weather like today?"):
            received += bool(chunk.content)
            if received == 5:  # all that comes before the gate opens, so that nothing arrives with the cancellation
                at_gate.set()

    with track_tokens() as counter:
        task = asyncio.create_task(read())
        await at_gate.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ledger.release()

    assert (1, 1, 0) == requests(counter)


async def test_a_broken_off_astream_is_estimated(ledger):
    """Leaving an asynchronous loop leaves an estimate."""
    with track_tokens() as counter:
        async with httpx.AsyncClient() as client:  # the cached one keeps the connection past the loop
            stream = chat(ledger, http_async_client=client).astream("What is the weather like today?")
            async for _ in stream:
                break
            await stream.aclose()

    assert (1, 1, 0) == requests(counter)


async def test_a_cancelled_ainvoke_is_estimated(ledger):
    """A cancelled ainvoke fires no event after its start, and is billed: an estimate, automatically tracked too."""
    before = shared_counter().estimated_requests
    install("langchain")
    try:
        with track_tokens() as counter:
            task = asyncio.create_task(chat(ledger, modes={"hold": 1}).ainvoke("What is the weather like today?"))
            await asyncio.to_thread(ledger.wait_at_gate)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)
            assert before + 1 == shared_counter().estimated_requests
    finally:
        uninstall()
        ledger.release()

    assert (1, 1, 0) == requests(counter)
    assert counter.prompt_tokens > 0


async def test_a_timeout_around_ainvoke_is_estimated(ledger):
    """asyncio.timeout leaves an estimate as well."""
    with track_tokens() as counter:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await chat(ledger, modes={"hold": 1}).ainvoke("What is the weather like today?")
        ledger.release()

    assert (1, 1, 0) == requests(counter)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_client_timeout_is_estimated(ledger, streaming):
    """A client that stops waiting is billed all the same: its call is an estimate."""
    with track_tokens() as counter:
        with pytest.raises(openai.APITimeoutError):
            chat(ledger, modes={"hold": 1}, timeout=0.3, streaming=streaming).invoke("What is the weather like today?")
        ledger.release()

    assert (1, 1, 0) == requests(counter)


@pytest.mark.parametrize("drop", ["close", "reset"])
@pytest.mark.parametrize("way", ["stream", "invoke streaming", "invoke"])
def test_a_dropped_connection_is_estimated(ledger, drop, way):
    """When the server drops the connection, what was received is estimated."""
    model = chat(ledger, modes={"cut": 5, "drop": drop, "words": 40}, streaming=way == "invoke streaming")
    with track_tokens() as counter, pytest.raises(Exception, match=r"(?i)connection|peer|read|incomplete|reset"):
        list(model.stream("What is it?")) if way == "stream" else model.invoke("What is the weather like?")

    assert (1, 1, 0) == requests(counter)
    assert counter.prompt_tokens > 0


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_a_rejected_call_costs_nothing(ledger, status, way):
    """A 4xx or 5xx answer is a failed request, and nothing else."""
    model = chat(ledger, modes={"status": status})
    with track_tokens() as counter, pytest.raises(openai.APIStatusError):
        model.invoke("hi") if way == "invoke" else list(model.stream("hi"))

    assert billed(ledger) == counted(counter)
    assert (0, 0, 1) == requests(counter)


class Overloaded(Exception):
    """What an SDK makes of an error in a stream: it has the status that the error names."""

    status_code = 503


class LeavingOpen(BaseChatModel):
    """A chat model whose client gives its stream up at an error in it, and leaves it open."""

    client: httpx.Client
    url: str
    left: list[httpx.Response]

    @property
    def _llm_type(self):
        return "leaving-open"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        raise NotImplementedError

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        request = self.client.build_request("POST", f"{self.url}/v1/chat/completions", json=body)
        response = self.client.send(request, stream=True)
        self.left.append(response)
        if response.status_code >= 400 or "error" in next(response.iter_lines()):
            raise Overloaded
        yield ChatGenerationChunk(message=AIMessageChunk(content=""))


@pytest.mark.parametrize(
    ("reply", "found"), [(events([{"error": {"code": 503}}]), (0, 1)), (body({}, status=503), (1, 0))]
)
def test_an_error_in_a_stream_is_no_rejection(reply, found):
    """The provider had begun to answer, and may bill it; a request that it answers by an error is none."""
    with httpx.Client() as client, answering(reply) as server, track_tokens() as counter:
        model = LeavingOpen(client=client, url=server.url, left=[])
        with pytest.raises(Overloaded):
            list(model.stream("hi"))
        assert found == (counter.failed_requests, counter.estimated_requests)
        model.left[0].close()

    assert found == (counter.failed_requests, counter.estimated_requests)


def test_a_refused_connection_costs_nothing():
    """What was never sent is a failed request."""
    model = ChatOpenAI(model="gpt-4o-mini", base_url="http://127.0.0.1:1/v1", api_key="none", max_retries=0)
    with track_tokens() as counter, pytest.raises(openai.APIConnectionError):
        model.invoke("hi")

    assert (0, 0, 1) == requests(counter)


def test_a_chain_broken_off_drains_the_stream(ledger):
    """A synchronous chain that is broken off reads its model's stream to the end: exact."""
    with track_tokens() as counter:
        break_off((chat(ledger, reporting=True) | StrOutputParser()).stream("What is the weather?"))
        gc.collect()

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


async def test_an_async_chain_broken_off_is_estimated(ledger):
    """An asynchronous chain that is broken off tells nothing of its model: an estimate, automatically tracked too."""
    before = shared_counter().estimated_requests
    install("langchain")
    try:
        with track_tokens() as counter:
            stream = (chat(ledger, modes={"words": 60}) | StrOutputParser()).astream("What is the weather like?")
            async for _ in stream:
                break
            await stream.aclose()
            await asyncio.sleep(0)
    finally:
        uninstall()

    assert (1, 1, 0) == requests(counter)
    assert before + 1 == shared_counter().estimated_requests


async def test_astream_events(ledger):
    """astream_events is exact when it is drained, and an estimate when it is broken off."""
    model = chat(ledger, reporting=True)
    with track_tokens() as counter:
        async for _ in model.astream_events("What is the weather like?", version="v2"):
            pass
    assert billed(ledger) == counted(counter)

    with track_tokens() as broken:
        events = model.astream_events("What is the weather like?", version="v2")
        async for event in events:
            if event["event"] == "on_chat_model_stream":
                break
        await events.aclose()
    assert 1 == broken.successful_requests


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_astream_events_v3(ledger):
    """Version 3 ends its model in a task of its own, perhaps only when the loop ends: exact all the same."""

    async def drain():
        with track_tokens() as counter:
            events = await chat(ledger, reporting=True).astream_events("What is the weather like?", version="v3")
            async for _ in events:
                pass
        return counter

    counter = asyncio.run(drain())
    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


def test_report_stream_usage_leaves_the_model(ledger):
    """report_stream_usage returns a copy, bound tools and all."""
    model = chat(ledger)
    bound = model.bind(stop=["x"])

    assert (None, True) == (model.stream_usage, report_stream_usage(model).stream_usage)
    assert ({"stop": ["x"]}, True) == (report_stream_usage(bound).kwargs, report_stream_usage(bound).bound.stream_usage)
