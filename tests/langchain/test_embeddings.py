import asyncio

import openai
import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.storage import InMemoryByteStore
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings

from token_handlers import TokenCounter, install, shared_counter, track_tokens, uninstall
from token_handlers.langchain import TrackedEmbeddings

TEXTS = ["the sea", "the mountains are high", "a\nnew line"]


def embeddings(ledger, *, modes=None, **settings):
    """Return OpenAIEmbeddings that talk to the test's channel, without tiktoken, whose vocabulary may be absent."""
    settings = {"api_key": "none", "max_retries": 0, "check_embedding_ctx_length": False, **settings}
    return OpenAIEmbeddings(model="text-embedding-3-small", base_url=ledger.url(**(modes or {})), **settings)


def azure(ledger):
    """Return AzureOpenAIEmbeddings that talk to the test's channel."""
    return AzureOpenAIEmbeddings(
        azure_deployment="our-embeddings",
        azure_endpoint=ledger.url(model="text-embedding-3-small"),
        api_version="2024-10-21",
        api_key="none",
        check_embedding_ctx_length=False,
        max_retries=0,
    )


def counted(counter):
    """Return a counter's requests, tokens, estimates and unpriced requests."""
    return (
        counter.successful_requests,
        counter.embedding_tokens,
        counter.estimated_requests,
        counter.unpriced_requests,
    )


def billed(ledger):
    """Return what the server billed, as `counted` would count it."""
    return ledger.total().requests, ledger.total().embedding_tokens, 0, 0


@pytest.mark.parametrize("make", [embeddings, azure])
def test_a_block_counts_openai_embeddings(ledger, make):
    """OpenAI's and Azure's embeddings are exact in a block, without a wrapper."""
    with track_tokens() as counter:
        make(ledger).embed_documents(TEXTS)
        make(ledger).embed_query("the sea")

    assert billed(ledger) == counted(counter)
    assert (0, ["text-embedding-3-small"]) == (counter.total_tokens, list(counter.by_model))


@pytest.mark.parametrize("make", [embeddings, azure])
async def test_async_embeddings(ledger, make):
    """So they are asynchronously, also at once."""
    async with track_tokens() as counter:
        model = make(ledger)
        await asyncio.gather(model.aembed_documents(TEXTS), model.aembed_query("the sea"))

    assert billed(ledger) == counted(counter)


def test_chunks(ledger):
    """Each HTTP call of a chunked embed_documents is a request."""
    with track_tokens() as counter:
        embeddings(ledger, chunk_size=2).embed_documents(TEXTS)

    assert billed(ledger) == counted(counter)
    assert 2 == counter.successful_requests


def test_tracked_embeddings(ledger):
    """A wrapper counts outside of any block, once inside one, and behaves as what it wraps."""
    counter, before = TokenCounter(), shared_counter().successful_requests
    model = embeddings(ledger)
    tracked = TrackedEmbeddings(model, counter)
    with track_tokens() as around:
        vectors = tracked.embed_documents(TEXTS)
    tracked.embed_query("the sea")

    assert billed(ledger) == counted(counter)
    assert before + 2 == shared_counter().successful_requests
    assert 1 == around.successful_requests
    assert (3, "text-embedding-3-small") == (len(vectors), tracked.model)


async def test_tracked_embeddings_async(ledger):
    """Its asynchronous forms are exact as well."""
    counter = TokenCounter()
    tracked = TrackedEmbeddings(embeddings(ledger, modes={"close": 1}), counter)
    await tracked.aembed_documents(TEXTS)
    await tracked.aembed_query("the sea")

    assert billed(ledger) == counted(counter)


def test_other_embeddings_are_estimated():
    """Embeddings whose client says nothing are tokenised, flagged and unpriced: one request for each call."""
    tracked = TrackedEmbeddings(DeterministicFakeEmbedding(size=3))
    with track_tokens() as counter:
        assert 3 == len(tracked.embed_documents(TEXTS))
        assert 3 == len(tracked.embed_query("the sea"))
        assert [] == tracked.embed_documents([])

    assert (2, 2) == (counter.successful_requests, counter.estimated_requests)
    assert 6 <= counter.embedding_tokens <= 30


async def test_other_embeddings_are_estimated_async():
    """The same, asynchronously."""
    tracked = TrackedEmbeddings(DeterministicFakeEmbedding(size=3))
    async with track_tokens() as counter:
        await tracked.aembed_documents(TEXTS)
        await tracked.aembed_query("the sea")

    assert (2, 2) == (counter.successful_requests, counter.estimated_requests)


def test_without_usage_the_tokens_are_estimated(ledger):
    """A server that states no usage leaves an estimate."""
    with track_tokens() as counter:
        embeddings(ledger, modes={"usage": "never"}).embed_documents(TEXTS)

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert counter.embedding_tokens > 0


def test_a_cache_in_front(ledger):
    """CacheBackedEmbeddings cost what they miss: a full hit counts 0."""
    counter = TokenCounter()
    cached = CacheBackedEmbeddings.from_bytes_store(
        embeddings(ledger), InMemoryByteStore(), namespace="test", key_encoder="sha256"
    )
    tracked = TrackedEmbeddings(cached, counter)
    tracked.embed_documents(TEXTS[:2])
    tracked.embed_documents(TEXTS[:2])
    tracked.embed_documents(TEXTS)

    assert billed(ledger) == counted(counter)
    assert 2 == counter.successful_requests


def test_failures(ledger):
    """A rejected request fails, one that was broken off is estimated."""
    with track_tokens() as counter:
        with pytest.raises(openai.InternalServerError):
            embeddings(ledger, modes={"status": "500"}).embed_query("the sea")
        with pytest.raises(openai.APIConnectionError):
            embeddings(ledger, modes={"cut": 0}).embed_query("the sea")

    assert (1, 1, 1) == (counter.failed_requests, counter.successful_requests, counter.estimated_requests)


async def test_async_failures(ledger):
    """The same, asynchronously."""
    with track_tokens() as counter:
        with pytest.raises(openai.InternalServerError):
            await embeddings(ledger, modes={"status": "500"}).aembed_query("the sea")
        with pytest.raises(openai.APIConnectionError):
            await TrackedEmbeddings(embeddings(ledger, modes={"cut": 0})).aembed_query("the sea")

    assert (1, 1, 1) == (counter.failed_requests, counter.successful_requests, counter.estimated_requests)


def test_automatic_tracking(ledger):
    """With automatic tracking on, OpenAIEmbeddings are counted without a wrapper; with it off they are not."""
    before = shared_counter().embedding_tokens
    install("langchain")
    embeddings(ledger).embed_documents(TEXTS)
    uninstall()
    counted_once = ledger.total().embedding_tokens
    embeddings(ledger).embed_documents(TEXTS)

    assert before + counted_once == shared_counter().embedding_tokens


def test_the_client_alone_is_an_sdk_call(ledger):
    """What the application asks the openai client itself is in a block's total, unless that leaves SDKs' calls out."""
    client = openai.OpenAI(base_url=ledger.url(), api_key="none")
    with track_tokens(sdk_calls=False) as others, client, track_tokens() as counter:
        client.embeddings.create(model="text-embedding-3-small", input="the sea")
    with track_tokens(sdk_calls=False) as without, openai.OpenAI(base_url=ledger.url(), api_key="none") as client:
        client.embeddings.create(model="text-embedding-3-small", input="the sea")

    assert (1, 1, 0) == (counter.successful_requests, others.successful_requests, without.successful_requests)


@pytest.mark.parametrize("junk", [None, "text-embedding-3-small", object()])
def test_what_is_no_embeddings_is_refused(junk):
    """TrackedEmbeddings takes LangChain embeddings."""
    with pytest.raises(TypeError, match=f"not {type(junk).__name__}"):
        TrackedEmbeddings(junk)
