import asyncio
import contextvars
import threading

import pytest
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback

from tests.support.llama_index_clients import no_swallowed_faults, run
from token_handlers import track_tokens
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.owners import open_call_here


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher."""
    with no_swallowed_faults():
        yield


SENT = []
"""Name of the LLM -> the model of the call that a request sent there belongs to."""


def send(name):
    """Note whose request one that is sent here would be."""
    call = open_call_here()
    SENT.append((name, call.instance.name if isinstance(call, ModelCall) else None))


class Sender(CustomLLM):
    """An LLM that sends, and may ask another one first."""

    name: str = "one"
    other: CustomLLM | None = None

    @property
    def metadata(self):
        return LLMMetadata(model_name=self.name)

    @llm_completion_callback()
    def complete(self, prompt, *args, **kwargs):
        if self.other is not None:
            self.other.complete(prompt)
        send(self.name)
        return CompletionResponse(text="one")

    @llm_completion_callback()
    async def acomplete(self, prompt, *args, **kwargs):
        await asyncio.sleep(0)
        send(self.name)
        return CompletionResponse(text="one")

    @llm_completion_callback()
    def stream_complete(self, prompt, *args, **kwargs):
        for text in ("a", "ab"):
            if self.other is not None:
                self.other.complete(prompt)
            send(self.name)
            yield CompletionResponse(text=text, delta=text[-1])


class Undecorated(Sender):
    """One that fires no events."""

    def complete(self, prompt, *args, **kwargs):
        send(self.name)
        return CompletionResponse(text="one")

    def stream_complete(self, prompt, *args, **kwargs):
        for text in ("a", "ab"):
            send(self.name)
            yield CompletionResponse(text=text, delta=text[-1])


async def gathered():
    """Two calls at once."""
    await asyncio.gather(Sender(name="one").acomplete(""), Sender(name="two").acomplete(""))


def interleaved():
    """Two streams that are read by turns."""
    for _ in zip(Sender(name="one").stream_complete(""), Sender(name="two").stream_complete(""), strict=True):
        pass


def in_the_loop_of_a_stream():
    """What the application sends itself while it reads a stream is not the stream's."""
    for _ in Sender(name="one").stream_complete(""):
        send("application")


def in_a_fresh_context():
    """A stream that a web framework steps in a new context each time."""
    stream = iter(Sender(name="one").stream_complete(""))
    for _ in range(2):
        contextvars.Context().run(next, stream)


def in_another_thread():
    """A model that sends from a thread with its context."""

    class Threaded(Sender):
        @llm_completion_callback()
        def complete(self, prompt, *args, **kwargs):
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(send, self.name))
            thread.start()
            thread.join()
            return CompletionResponse(text="one")

    Threaded(name="one").complete("")


def in_a_thread_that_feeds_a_stream():
    """A model that has returned its stream when its thread sends the request, as BedrockConverse has."""
    returned = threading.Event()

    class Fed(Sender):
        @llm_completion_callback()
        def stream_complete(self, prompt, *args, **kwargs):
            context = contextvars.copy_context()
            thread = threading.Thread(target=lambda: returned.wait(30) and context.run(send, self.name))
            thread.start()

            def chunks():
                thread.join()
                yield CompletionResponse(text="one", delta="one")

            return chunks()

    stream = Fed(name="one").stream_complete("")
    returned.set()
    list(stream)


WAYS = {
    "complete": lambda: Sender().complete(""),
    "acomplete": lambda: run(Sender().acomplete("")),
    "achat by complete": lambda: run(Sender().achat([])),
    "stream": lambda: list(Sender().stream_complete("")),
    "a stream by way of another": lambda: list(Sender().stream_chat([])),
    "gathered": lambda: run(gathered()),
    "interleaved": interleaved,
    "one that asks another": lambda: Sender(name="one", other=Sender(name="two")).complete(""),
    "a stream that asks another": lambda: list(Sender(name="one", other=Sender(name="two")).stream_complete("")),
    "in a fresh context": in_a_fresh_context,
    "in another thread": in_another_thread,
    "in a thread that feeds a stream": in_a_thread_that_feeds_a_stream,
    "undecorated": lambda: Undecorated().complete(""),
    "an undecorated stream": lambda: list(Undecorated().stream_complete("")),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_request_belongs_to_the_innermost_call(way):
    """Whatever way the code that sends is reached, the call is that of the LLM in whose code it is."""
    SENT.clear()
    with track_tokens():
        WAYS[way]()

    assert SENT
    assert all(sender == owner for sender, owner in SENT)


def test_the_applications_own_requests_are_nobodys():
    """Neither outside of every call nor between two chunks of a stream."""
    SENT.clear()
    with track_tokens():
        send("application")
        in_the_loop_of_a_stream()

    assert {("application", None), ("one", "one")} == set(SENT)
    assert ("application", None) == SENT[0]
