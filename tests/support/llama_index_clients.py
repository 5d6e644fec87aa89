"""Real LlamaIndex clients that talk to a test's channel, and models of our own, for the tests of LlamaIndex."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from token_handlers.llama_index import hook

MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="What is the weather?")]
PROMPT = PromptTemplate("The weather of {city}?")


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


TOOLS = [FunctionTool.from_defaults(multiply)]
CLIENTS: dict[str, tuple[type[OpenAI], dict[str, Any]]] = {
    "OpenAI": (OpenAI, {}),
    "OpenAIResponses": (OpenAIResponses, {}),
    "OpenAILike": (OpenAILike, {"is_chat_model": True, "is_function_calling_model": True}),
}
"""LLMs on OpenAI's API, and what makes them call tools."""

# llama-index-workflows walks over the attributes of agents, which are pydantic models, and asks what it deprecates
# itself; chat memory leaves its database to the garbage collector.
AGENT_WARNINGS = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def make_llm(ledger, kind=OpenAI, *, model="gpt-4o-mini", modes=None, **settings):
    """Return an LLM of one of OpenAI's classes on the test's channel."""
    settings = {"api_key": "none", "max_retries": 0, **settings}
    return kind(model=model, api_base=ledger.url(**(modes or {})), **settings)


def make_embedder(ledger, *, modes=None, **settings):
    """Return OpenAI's embedding model on the test's channel."""
    settings = {"api_key": "none", "max_retries": 0, "model": "text-embedding-3-small", **settings}
    return OpenAIEmbedding(api_base=ledger.url(**(modes or {})), **settings)


def run(coroutine):
    """As asyncio.run, without touching the current event loop, which is pytest-asyncio's."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)


async def drain(stream):
    """Read an async stream to its end, and return its last chunk."""
    return [chunk async for chunk in await stream][-1]


class Local(CustomLLM):
    """An LLM without a server whose chat is LlamaIndex's own, by way of complete; ``requests`` is what was billed."""

    raw: Any = None
    error: Any = None
    requests: int = 0

    @property
    def metadata(self):
        return LLMMetadata(model_name="local-1")

    @llm_completion_callback()
    def complete(self, prompt, **kwargs):
        self._bill()
        return CompletionResponse(text="one two three", raw=self.raw)

    @llm_completion_callback()
    def stream_complete(self, prompt, **kwargs):
        def chunks():
            self._bill()
            for text in ("one", "one two", "one two three"):
                yield CompletionResponse(text=text, delta=text[-3:], raw=self.raw)

        return chunks()

    def _bill(self):
        self.requests += 1
        if self.error is not None:
            raise self.error


class Answering(CustomLLM):
    """An LLM of any class name whose chat answers with what it was given."""

    answers: Any = ()
    name: str = "Answering"
    model: str | None = "asked-for"

    def to_payload(self):
        return {"class_name": self.name, "model_name": self.model}

    @property
    def metadata(self):
        return LLMMetadata(model_name=self.model or "unknown")

    @llm_chat_callback()
    def chat(self, messages, **kwargs):
        return self.answers[-1]

    @llm_chat_callback()
    def stream_chat(self, messages, **kwargs):
        return (answer for answer in self.answers)

    @llm_completion_callback()
    def complete(self, prompt, **kwargs):
        raise NotImplementedError

    @llm_completion_callback()
    def stream_complete(self, prompt, **kwargs):
        raise NotImplementedError


def answer(raw, text="one two three", **settings):
    """Return a chat response."""
    return ChatResponse(message=ChatMessage(role="assistant", content=text), raw=raw, **settings)


@contextlib.contextmanager
def no_swallowed_faults() -> Iterator[None]:
    """Raise what our handlers raised inside LlamaIndex's dispatcher, which swallows everything."""
    faults: list[BaseException] = []

    def kept(function):
        def call(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                faults.append(error)
                raise

        return call

    ours = [(hook._events, "handle"), *((hook._spans, name) for name in ("span_enter", "span_exit", "span_drop"))]
    for owner, name in ours:
        setattr(owner, name, kept(getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name in ours:
            delattr(owner, name)
    for fault in faults:
        raise fault
