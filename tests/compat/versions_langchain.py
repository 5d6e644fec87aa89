"""Checks of an environment that has LangChain: see versions_checks."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from langchain_core.caches import InMemoryCache
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from openai import APIStatusError
from pydantic import BaseModel

from tests.compat.versions_checks import Watch, automatic, block, estimated, every, exact, refuses, same, together
from token_handlers import Budget, TokenCounter, get_openai_callback, track_tokens
from token_handlers.langchain import LangChainTokenHandler, TrackedEmbeddings, report_stream_usage

QUESTION = "What is the weather in Lisbon, and what will it be tomorrow?"
TEXTS = ["the sea", "the mountains are high"]
OPTIONS: dict[str, Any] = {"api_key": "none", "max_retries": 0}


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


@contextmanager
def callback() -> Iterator[Watch]:
    """Count by get_openai_callback."""
    with get_openai_callback() as handler:
        yield Watch([handler], [])


@contextmanager
def listed() -> Iterator[Watch]:
    """Count by a handler in a callbacks list."""
    handler = LangChainTokenHandler()
    yield Watch([handler], [handler])


def chat(ledger, **modes):
    """Return a chat model on the check's channel, some of whose tokens are cached and some reasoning."""
    return ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(cached=4, reasoning=2, **modes), **OPTIONS)


def legacy(ledger):
    """Return a legacy LLM on the check's channel."""
    return OpenAI(model="gpt-3.5-turbo-instruct", base_url=ledger.url(), **OPTIONS)


def embeddings(ledger):
    """Return embeddings on the check's channel, without tiktoken, whose vocabulary may be absent."""
    return OpenAIEmbeddings(
        model="text-embedding-3-small", base_url=ledger.url(), check_embedding_ctx_length=False, **OPTIONS
    )


def reporting(ledger):
    """Return a chat model that asks for usage when it streams."""
    return report_stream_usage(chat(ledger))


def chain(model):
    """Return a prompt, the model and a parser."""
    return ChatPromptTemplate.from_template("{x}?") | model | StrOutputParser()


async def drain(stream):
    """Read an async stream to its end."""
    return [chunk async for chunk in stream]


def refused(ledger, handlers, status):
    """Make a call that the server refuses."""
    with suppress(APIStatusError):
        chat(ledger, status=status).invoke(QUESTION, config(handlers))


def config(handlers):
    """Return a call's config."""
    return {"callbacks": handlers} if handlers else {}


REPORTED = {
    "invoke": lambda ledger, on: chat(ledger).invoke(QUESTION, config(on)),
    "ainvoke": lambda ledger, on: asyncio.run(chat(ledger).ainvoke(QUESTION, config(on))),
    "batch": lambda ledger, on: chat(ledger).batch(["one", "two words", "three more words"], config(on)),
    "abatch": lambda ledger, on: asyncio.run(chat(ledger).abatch(["one", "two words"], config(on))),
    "chain": lambda ledger, on: chain(chat(ledger)).invoke({"x": "a b"}, config(on)),
    "structured output": lambda ledger, on: (
        chat(ledger).with_structured_output(Weather, method="function_calling").invoke("How?", config(on))
    ),
    "legacy invoke": lambda ledger, on: legacy(ledger).invoke(QUESTION, config(on)),
    "legacy stream": lambda ledger, on: list(report_stream_usage(legacy(ledger)).stream(QUESTION, config(on))),
    "status 429": partial(refused, status="429"),
    "status 500": partial(refused, status="500"),
}
STREAMED = {
    "stream with usage": lambda ledger, on: list(reporting(ledger).stream(QUESTION, config(on))),
    "astream with usage": lambda ledger, on: asyncio.run(drain(reporting(ledger).astream(QUESTION, config(on)))),
    "chain's stream": lambda ledger, on: list(chain(reporting(ledger)).stream({"x": "a b"}, config(on))),
}
UNREPORTED = {
    "stream": lambda ledger, on: list(chat(ledger).stream(QUESTION, config(on))),
    "astream": lambda ledger, on: asyncio.run(drain(chat(ledger).astream(QUESTION, config(on)))),
    "legacy stream unasked": lambda ledger, on: list(legacy(ledger).stream(QUESTION, config(on))),
}
EMBEDDED = {
    "embed_documents": lambda ledger, on: embeddings(ledger).embed_documents(TEXTS),
    "embed_query": lambda ledger, on: embeddings(ledger).embed_query(TEXTS[0]),
    "aembed_documents": lambda ledger, on: asyncio.run(embeddings(ledger).aembed_documents(TEXTS)),
}
WAYS = {"automatic": automatic, "block": block, "get_openai_callback": callback}
WITH_HANDLER = {**WAYS, "handler": listed, "all at once": partial(together, automatic, block, callback, listed)}


def async_block(ledger):
    """An async with block counts like a with block."""

    async def ask():
        async with track_tokens() as counter:
            await chat(ledger).ainvoke(QUESTION)
        return counter

    exact(ledger, asyncio.run(ask()))


def tracked_embeddings(ledger):
    """TrackedEmbeddings count into the counter that they are given."""
    counter = TokenCounter()
    TrackedEmbeddings(embeddings(ledger), counter).embed_documents(TEXTS)
    exact(ledger, counter)


def cached_answer(ledger):
    """What LangChain's own cache answers is not billed."""
    model = ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), cache=InMemoryCache(), **OPTIONS)
    with track_tokens() as counter:
        model.invoke(QUESTION)
        model.invoke(QUESTION)
    exact(ledger, counter)
    same((1, 1), (ledger.total().requests, counter.cached_responses))


def cumulative_usage(ledger):
    """A server that repeats the running total in every chunk is not summed up."""
    with track_tokens() as counter:
        list(chat(ledger, usage="every").stream(QUESTION))
    exact(ledger, counter)


def over_budget(ledger):
    """A call that would pass a budget is not sent."""
    with track_tokens(budget=Budget(max_requests=1)) as counter:
        chat(ledger).invoke(QUESTION)
        for call in (lambda: chat(ledger).invoke(QUESTION), lambda: embeddings(ledger).embed_query(TEXTS[0])):
            refuses(call)
    exact(ledger, counter)
    same(1, ledger.total().requests)


def after_uninstall(ledger):
    """Nothing is counted where nobody asks for it."""
    with automatic() as watch:
        pass
    chat(ledger).invoke(QUESTION)
    same([0], [counter.successful_requests for counter in watch.counters])


CHECKS = {
    **every(WITH_HANDLER, REPORTED, exact),
    **every(WITH_HANDLER, STREAMED, exact),
    **every(WITH_HANDLER, UNREPORTED, estimated),
    **every(WAYS, EMBEDDED, exact),
    "async with": async_block,
    "TrackedEmbeddings": tracked_embeddings,
    "LangChain's cache": cached_answer,
    "usage in every chunk": cumulative_usage,
    "budget": over_budget,
    "uninstall": after_uninstall,
}
