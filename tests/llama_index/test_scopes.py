import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index_instrumentation import root_dispatcher

from tests.support.llama_index_clients import MESSAGES, Answering, answer, drain, no_swallowed_faults
from tests.support.provider_answers import CHAT
from tests.support.provider_servers import replying
from token_handlers import install, shared_counter, track_tokens, uninstall
from token_handlers.llama_index import calls
from token_handlers.llama_index.spans import current
from token_handlers.tracking.call import open_calls


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher."""
    with no_swallowed_faults():
        yield
    assert current.get() is None


def make_llm(tokens=1):
    """Return an LLM whose calls report some tokens."""
    usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    return Answering(answers=(answer({"usage": usage}, "one"), answer({"usage": usage})))


async def test_tasks_count_where_they_were_started():
    """Concurrent tasks with scopes of their own share no counts."""

    async def use(tokens):
        with track_tokens() as counter:
            await asyncio.sleep(0)
            make_llm(tokens).chat(MESSAGES)
            await asyncio.sleep(0)
            await make_llm(tokens).achat(MESSAGES)
        return counter.prompt_tokens

    with track_tokens() as outer:
        assert (2, 4, 6) == tuple(await asyncio.gather(use(1), use(2), use(3)))

    assert 12 == outer.prompt_tokens


def test_threads_with_the_context_count():
    """A thread that runs in a copy of the context belongs to the scope; another one doesn't, without `counter=`."""
    with track_tokens() as counter, ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, make_llm(1).chat, MESSAGES).result()
        pool.submit(make_llm(2).chat, MESSAGES).result()

    def work():
        with track_tokens(counter=counter):
            make_llm(4).chat(MESSAGES)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert 5 == counter.prompt_tokens


def test_automatic_tracking_sees_every_thread():
    """Threads without the context reach the shared counter."""
    before = shared_counter().prompt_tokens
    install("llamaindex")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(make_llm(7).chat, MESSAGES).result()
    uninstall()

    assert before + 7 == shared_counter().prompt_tokens


def test_streams_belong_where_they_started():
    """A stream that is read in another scope, or in none, belongs to the scope of its start."""
    with track_tokens(session="one") as counter:
        stream = make_llm(3).stream_chat(MESSAGES)
    with track_tokens() as reader:
        list(stream)

    assert (3, 0) == (counter.prompt_tokens, reader.prompt_tokens)
    assert ["one"] == list(counter.by_session)


async def test_streams_read_in_another_task():
    """Reading an async stream in another task changes nothing."""
    with track_tokens() as counter:
        stream = make_llm(3).astream_chat(MESSAGES)
        await asyncio.create_task(drain(stream))

    assert 3 == counter.prompt_tokens


def test_nothing_stays_open():
    """After its end a call is in no table, whatever became of it."""
    with track_tokens():
        make_llm().chat(MESSAGES)
        list(make_llm().stream_chat(MESSAGES))
        next(make_llm().stream_chat(MESSAGES))
        make_llm().stream_chat(MESSAGES)
        with pytest.raises(NotImplementedError):
            make_llm().complete("one")

    assert {} == calls.by_span
    assert not any(isinstance(call, calls.ModelCall) for call in open_calls)


def test_other_span_handlers_are_served():
    """Those of the user see what they saw, and the dispatcher's own upkeep reaches ours without harm."""
    spans = SimpleSpanHandler()
    root_dispatcher.add_span_handler(spans)
    with track_tokens() as counter:
        make_llm().chat(MESSAGES)
    context = root_dispatcher.capture_propagation_context()
    root_dispatcher.restore_propagation_context(context)
    root_dispatcher.shutdown()
    root_dispatcher.span_handlers = [handler for handler in root_dispatcher.span_handlers if handler is not spans]

    assert 1 == len(spans.completed_spans) == counter.successful_requests


class Threaded(CustomLLM):
    """An LLM that asks in a thread without its context, and passes on what was answered."""

    url: str

    @property
    def metadata(self):
        return LLMMetadata(model_name="gpt-4o-mini")

    @llm_completion_callback()
    def complete(self, prompt, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            raw = pool.submit(self.ask).result()
        return CompletionResponse(text="Hello", raw=raw)

    stream_complete = complete

    def ask(self):
        with httpx.Client() as client:
            return client.post(f"{self.url}/chat/completions", json={"model": "gpt-4o-mini", "messages": []}).json()


def test_a_request_of_a_bare_thread_counts_once():
    """Under automatic tracking the LLM's call is known by the answer's id; a block sees the LLM's alone."""
    with replying(completions=CHAT) as server:
        before = shared_counter().snapshot()
        install("auto")
        Threaded(url=server.url).complete("")
        uninstall()
        total = shared_counter().snapshot()
        assert (1, 100) == (
            total.successful_requests - before.successful_requests, total.prompt_tokens - before.prompt_tokens,
        )  # fmt: skip
        with track_tokens() as counter:
            Threaded(url=server.url).complete("")

    assert (2, 1, 100) == (len(server.asked), counter.successful_requests, counter.prompt_tokens)
