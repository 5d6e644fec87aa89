"""Checks of an environment that has LlamaIndex: see versions_checks."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI
from openai import APIStatusError
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tests.compat.versions_checks import Watch, automatic, block, estimated, every, exact, refuses, same, together
from token_handlers import Budget, track_tokens
from token_handlers.llama_index import LlamaIndexTokenHandler, report_stream_usage
from token_handlers.payloads import read_payload
from token_handlers.tokenizer.vocabularies import load

QUESTION = "What is the weather in Lisbon, and what will it be tomorrow?"
MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=QUESTION)]
PROMPT = PromptTemplate("What is the weather in {city}?")
DOCUMENTS = [Document(text=f"{city} is big. " * 20) for city in ("Berlin", "Paris", "Rome")]
OPTIONS: dict[str, Any] = {"api_key": "none", "max_retries": 0}


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


@contextmanager
def managed() -> Iterator[Watch]:
    """Count by a handler in the CallbackManager of the Settings."""
    handler, before = LlamaIndexTokenHandler(), Settings.callback_manager
    Settings.callback_manager = CallbackManager([handler])
    try:
        yield Watch([handler], [])
    finally:
        Settings.callback_manager = before


def make_llm(ledger, **modes):
    """Return an LLM on the check's channel, some of whose tokens are cached and some reasoning."""
    url = ledger.url(cached=4, reasoning=2, **modes)
    return OpenAI(model="gpt-4o-mini", api_base=url, callback_manager=Settings.callback_manager, **OPTIONS)


def make_embedder(ledger):
    """Return an embedding model on the check's channel."""
    return OpenAIEmbedding(
        model="text-embedding-3-small", api_base=ledger.url(), callback_manager=Settings.callback_manager, **OPTIONS
    )


def reporting(ledger):
    """Return an LLM that asks for usage when it streams."""
    return report_stream_usage(make_llm(ledger))


async def drain(stream):
    """Read an async stream to its end."""
    return [chunk async for chunk in await stream]


def refused(ledger, on, status):
    """Make a call that the server refuses."""
    with suppress(APIStatusError):
        make_llm(ledger, status=status).chat(MESSAGES)


def query(ledger, on):
    """Embed documents, and ask a question about them."""
    index = VectorStoreIndex.from_documents(DOCUMENTS, embed_model=make_embedder(ledger))
    index.as_query_engine(llm=make_llm(ledger)).query("How big is Rome?")
    same({"embeddings", "chat/completions"}, {entry.path for entry in ledger.entries()})


REPORTED = {
    "chat": lambda ledger, on: make_llm(ledger).chat(MESSAGES),
    "achat": lambda ledger, on: asyncio.run(make_llm(ledger).achat(MESSAGES)),
    "complete": lambda ledger, on: make_llm(ledger).complete(QUESTION),
    "acomplete": lambda ledger, on: asyncio.run(make_llm(ledger).acomplete(QUESTION)),
    "predict": lambda ledger, on: make_llm(ledger).predict(PROMPT, city="Rome"),
    "structured_predict": lambda ledger, on: make_llm(ledger).structured_predict(Weather, PROMPT, city="Rome"),
    "stream_chat with usage": lambda ledger, on: list(reporting(ledger).stream_chat(MESSAGES)),
    "stream_complete with usage": lambda ledger, on: list(reporting(ledger).stream_complete(QUESTION)),
    "astream_chat with usage": lambda ledger, on: asyncio.run(drain(reporting(ledger).astream_chat(MESSAGES))),
    "status 429": partial(refused, status="429"),
    "status 500": partial(refused, status="500"),
    "embeddings": lambda ledger, on: make_embedder(ledger).get_text_embedding_batch(["the sea", "a high mountain"]),
    "query embedding": lambda ledger, on: make_embedder(ledger).get_query_embedding("the sea"),
    "async embedding": lambda ledger, on: asyncio.run(make_embedder(ledger).aget_text_embedding("the sea")),
    "index": query,
}
UNREPORTED = {
    "stream_chat": lambda ledger, on: list(make_llm(ledger).stream_chat(MESSAGES)),
    "stream_complete": lambda ledger, on: list(make_llm(ledger).stream_complete(QUESTION)),
    "astream_chat": lambda ledger, on: asyncio.run(drain(make_llm(ledger).astream_chat(MESSAGES))),
}
WAYS = {
    "automatic": automatic,
    "block": block,
    "handler": managed,
    "all at once": partial(together, automatic, block, managed),
}


def async_block(ledger):
    """An async with block counts like a with block."""

    async def ask():
        async with track_tokens() as counter:
            await make_llm(ledger).achat(MESSAGES)
        return counter

    exact(ledger, asyncio.run(ask()))


def over_budget(ledger):
    """A call that would pass a budget is not sent."""
    with track_tokens(budget=Budget(max_requests=1)) as counter:
        make_llm(ledger).chat(MESSAGES)
        for call in (
            lambda: make_llm(ledger).chat(MESSAGES),
            lambda: asyncio.run(make_llm(ledger).achat(MESSAGES)),
            lambda: list(make_llm(ledger).stream_chat(MESSAGES)),
            lambda: make_embedder(ledger).get_text_embedding("the sea"),
        ):
            refuses(call)
    exact(ledger, counter)
    same(1, ledger.total().requests)


def broken_off(ledger):
    """A stream that is broken off is an estimate with a price: its model is known from its start."""
    with track_tokens() as counter:
        next(make_llm(ledger).stream_chat(MESSAGES))
    same((1, 1, 0), (counter.successful_requests, counter.estimated_requests, counter.unpriced_requests))


def after_uninstall(ledger):
    """Nothing is counted where nobody asks for it."""
    with automatic() as watch:
        pass
    make_llm(ledger).chat(MESSAGES)
    same([0], [counter.successful_requests for counter in watch.counters])


def no_details(ledger):
    """A usage without details is read, which older clients have no fields for."""
    usage = CompletionUsage(prompt_tokens=7, completion_tokens=5, total_tokens=12)
    raw = ChatCompletion(id="c", choices=[], created=0, model="m", object="chat.completion", usage=usage)
    same({"input_tokens": 7, "output_tokens": 5}, read_payload(raw).counts)


def vocabulary(ledger):
    """Tiktoken reads the vocabulary that llama-index-core ships."""
    encoding = load("o200k_base")
    same(True, encoding is not None and encoding.encode("hello world") == [24912, 2375])


CHECKS = {
    **every(WAYS, REPORTED, exact),
    **every(WAYS, UNREPORTED, estimated),
    "async with": async_block,
    "budget": over_budget,
    "broken-off stream": broken_off,
    "uninstall": after_uninstall,
    "usage without details": no_details,
    "vocabulary": vocabulary,
}
