from decimal import Decimal

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import HumanMessage
from langchain_core.outputs import Generation
from langchain_openai import ChatOpenAI, OpenAI

from tests.support.bills import billed, counted
from token_handlers import track_tokens

# langchain-openai's own, where it adds up the usage of several prompts, and langchain-community's SQLiteCache's
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unexpected type for token usage"),
    pytest.mark.filterwarnings("ignore:The default value of `allowed_objects` will change"),
]


def chat(ledger, cache, **modes):
    """Return a ChatOpenAI that answers from a cache where it can."""
    return ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(close=1, **modes), api_key="none", cache=cache)


@pytest.fixture(params=["memory", "sqlite"])
def cache(request, tmp_path):
    """A cache of one's own: one that keeps the very objects, and one that keeps copies."""
    if request.param == "memory":
        yield InMemoryCache()
        return
    from langchain_community.cache import SQLiteCache

    kept = SQLiteCache(str(tmp_path / "cache.db"))
    yield kept
    kept.engine.dispose()


def test_a_hit_is_not_billed(ledger, cache):
    """An answer from the cache is counted as one, with what it saved, and not as used."""
    with track_tokens() as first:
        chat(ledger, cache).invoke("What is the weather?")
    with track_tokens() as second:
        for _ in range(2):
            chat(ledger, cache).invoke("What is the weather?")

    assert billed(ledger) == counted(first)
    assert (0, 0, 2) == (second.total_tokens, second.successful_requests, second.cached_responses)
    assert first.cost == second.saved_cost / 2
    assert (0, 0) == (second.unpriced_requests, first.cached_responses)


def test_a_hit_that_lost_its_message(ledger):
    """An answer of which the cache kept the text alone is a hit all the same; what it saved is not known."""

    class TextCache(InMemoryCache):
        def lookup(self, prompt, llm_string):
            found = super().lookup(prompt, llm_string)
            return found and [Generation(text=one.text) for one in found]

    cache = TextCache()
    with track_tokens() as counter:
        for _ in range(2):
            chat(ledger, cache).invoke("What is the weather?")

    assert billed(ledger) == counted(counter)
    assert (1, Decimal(0)) == (counter.cached_responses, counter.saved_cost)


async def test_an_async_hit_is_not_billed(ledger, cache):
    """The same, asynchronously."""
    with track_tokens() as counter:
        for _ in range(3):
            await chat(ledger, cache).ainvoke("What is the weather?")

    assert billed(ledger) == counted(counter)
    assert 2 == counter.cached_responses


def test_duplicates_in_one_generate(ledger):
    """The billed first of two equal prompts is told from the hit, though the cache keeps one object for both."""
    prompts = [[HumanMessage(text)] for text in ("same", "same", "other")]
    with track_tokens() as counter:
        chat(ledger, InMemoryCache()).generate(prompts)

    assert billed(ledger) == counted(counter)
    assert (2, 1) == (counter.successful_requests, counter.cached_responses)


def test_a_stream_does_not_use_the_cache(ledger):
    """stream() is sent and billed each time."""
    model = chat(ledger, InMemoryCache(), usage="always")
    with track_tokens() as counter:
        for _ in range(2):
            list(model.stream("What is the weather?"))

    assert billed(ledger) == counted(counter)
    assert (2, 0) == (counter.successful_requests, counter.cached_responses)


def test_a_hit_without_usage(ledger):
    """A hit whose first answer reported no usage saved an unknown cost, and is still no request."""
    model = chat(ledger, InMemoryCache(), usage="never")
    with track_tokens() as counter:
        for _ in range(2):
            model.invoke("What is the weather?")

    assert (1, 1, 1) == (counter.successful_requests, counter.estimated_requests, counter.cached_responses)
    assert 0 == counter.saved_cost


def test_a_legacy_hit_fires_nothing(ledger):
    """A legacy LLM's hit is invisible, and not billed either."""
    model = OpenAI(model="gpt-3.5-turbo-instruct", base_url=ledger.url(), api_key="none", cache=InMemoryCache())
    with track_tokens() as counter:
        model.invoke("say something")
        model.invoke("say something")
        model.generate(["say something", "say more"])

    assert billed(ledger) == counted(counter)
    assert 2 == counter.successful_requests


def test_the_global_cache(ledger):
    """A cache that is set for the process is recognised as well."""
    set_llm_cache(InMemoryCache())
    try:
        with track_tokens() as counter:
            for _ in range(2):
                chat(ledger, None).invoke("What is the weather?")
    finally:
        set_llm_cache(None)

    assert billed(ledger) == counted(counter)
    assert 1 == counter.cached_responses
