import asyncio
import contextlib
import functools
from typing import Any

import httpx
import openai
import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.postprocessor import SentenceEmbeddingOptimizer
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.embeddings.openai import OpenAIEmbedding

from tests.support.llama_index_clients import make_embedder, no_swallowed_faults, run
from tests.support.provider_servers import replying
from token_handlers import Budget, BudgetExceeded, shared_counter, track_tokens, uninstall
from token_handlers.llama_index import LlamaIndexTokenHandler
from token_handlers.tokenizer.vocabularies import load


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher."""
    with no_swallowed_faults():
        yield


TEXTS = ["one two three", "four\nfive", "six, seven", "eight", "nine ten", "eleven"]
WAYS = {
    "text": lambda model: model.get_text_embedding("one two three"),
    "query": lambda model: model.get_query_embedding("who?"),
    "agg": lambda model: model.get_agg_embedding_from_queries(["who?", "what now?"]),
    "batch": lambda model: model.get_text_embedding_batch(TEXTS),
    "aquery": lambda model: run(model.aget_query_embedding("who?")),
    "atext": lambda model: run(model.aget_text_embedding("one two three")),
    "abatch": lambda model: run(model.aget_text_embedding_batch(TEXTS)),
    "abatch workers": lambda model: run(model.aget_text_embedding_batch(TEXTS)),
}


class Letters(BaseEmbedding):
    """An embedding model without a server."""

    asked: int = 0

    def _get_text_embedding(self, text):
        self.asked += 1
        return [1.0, 2.0]

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


class Pictures(Letters, MultiModalEmbedding):
    """A model whose server embeds the images that it is given by their files' names."""

    url: str = ""

    def _get_image_embedding(self, img_file_path):
        with httpx.Client() as client:
            return client.post(self.url, json={"input": [str(img_file_path)]}).json()["data"][0]["embedding"]

    async def _aget_image_embedding(self, img_file_path):
        async with httpx.AsyncClient() as client:
            return (await client.post(self.url, json={"input": ["pixels"]})).json()["data"][0]["embedding"]


IMAGES = [f"four-boats-left-in-the-harbour-{number}.png" for number in range(3)]
SEEN = {
    "image": lambda model: model.get_image_embedding(IMAGES[0]),
    "batch": lambda model: model.get_image_embedding_batch(IMAGES),
    "aimage": lambda model: run(model.aget_image_embedding(IMAGES[0])),
    "abatch": lambda model: run(model.aget_image_embedding_batch(IMAGES)),
}


@pytest.mark.parametrize("way", SEEN)
@pytest.mark.parametrize("in_block", [True, False], ids=["block", "handler"])
def test_images_equal_the_bill(way, in_block):
    """Images are counted by what the answer states, in a block and by a handler alone; a budget's refusal is kept."""
    handler = LlamaIndexTokenHandler()
    embedded: dict[str, Any] = {"object": "list", "model": "jina-clip-v2", "data": [{"index": 0, "embedding": [0.1]}]}
    embedded["usage"] = {"prompt_tokens": 4000, "total_tokens": 4000}
    with replying(embeddings=embedded) as server:
        manager = CallbackManager([] if in_block else [handler])
        model = Pictures(url=f"{server.url}/v1/embeddings", embed_batch_size=2, callback_manager=manager)
        budget = Budget(max_requests=4)
        with track_tokens(budget=budget) if in_block else contextlib.nullcontext(handler) as counter:
            SEEN[way](model)
            sent = len(server.asked)
            assert (sent, 4000 * sent, 0) == (
                counter.successful_requests, counter.embedding_tokens, counter.estimated_requests,
            )  # fmt: skip
            if in_block:
                with pytest.raises(BudgetExceeded):
                    list(map(SEEN[way], [model] * 5))
                assert sent <= len(server.asked) <= 4


def test_images_of_a_silent_server_are_flagged():
    """What embedding an image used is not made of its file's name."""
    handler = LlamaIndexTokenHandler()
    with replying(embeddings={"data": [{"index": 0, "embedding": [0.1]}]}) as server:
        model = Pictures(url=f"{server.url}/v1/embeddings", callback_manager=CallbackManager([handler]))
        model.get_image_embedding(IMAGES[0])

    assert (1, 1, 0) == (handler.successful_requests, handler.estimated_requests, handler.embedding_tokens)


@pytest.mark.parametrize("way", WAYS)
def test_embeddings_equal_the_bill(ledger, way):
    """Every method is counted by the usage that the client's response states, in the scope and in the handler."""
    handler = LlamaIndexTokenHandler()
    workers = 2 if "workers" in way else None
    model = make_embedder(ledger, embed_batch_size=2, num_workers=workers, callback_manager=CallbackManager([handler]))
    with track_tokens() as counter:
        WAYS[way](model)

    bill = ledger.total()
    assert (bill.requests, bill.embedding_tokens) == (counter.successful_requests, counter.embedding_tokens)
    assert (bill.requests, bill.embedding_tokens) == (handler.successful_requests, handler.total_embedding_token_count)
    assert (0, 0) == (counter.estimated_requests, counter.prompt_tokens)
    assert ["text-embedding-3-small"] == list(counter.by_model)
    assert counter.total_cost > 0


def test_a_handler_alone_counts_embeddings(ledger):
    """No scope is needed."""
    handler = LlamaIndexTokenHandler()
    make_embedder(ledger, callback_manager=CallbackManager([handler])).get_text_embedding_batch(TEXTS)

    assert ledger.total().embedding_tokens == handler.total_embedding_token_count > 0


def test_embeddings_outside_are_not_counted(ledger):
    """Without a scope or a handler that wants them, embeddings are nobody's."""
    LlamaIndexTokenHandler()
    with track_tokens() as counter:
        pass
    make_embedder(ledger).get_text_embedding_batch(TEXTS)

    assert 0 == counter.embedding_tokens


def test_a_full_cache_hit_counts_nothing(ledger):
    """What an embeddings cache answers is not billed; of a partial hit only the rest is."""
    tokens = TokenCountingHandler(tokenizer=str.split)
    model = make_embedder(ledger, embeddings_cache=SimpleKVStore(), callback_manager=CallbackManager([tokens]))
    with track_tokens() as counter:
        model.get_text_embedding_batch(TEXTS[:3])
        model.get_text_embedding_batch(TEXTS[:3])
        model.get_text_embedding_batch(TEXTS[:4])
        model.get_query_embedding(TEXTS[0])
        run(model.aget_text_embedding_batch(TEXTS[:4]))

    bill = ledger.total()
    assert (2, bill.embedding_tokens) == (counter.successful_requests, counter.embedding_tokens)
    assert tokens.total_embedding_token_count > 2 * bill.embedding_tokens


def test_an_optimizer_equals_the_bill(ledger):
    """SentenceEmbeddingOptimizer embeds each node's sentences by the model's own method, outside of every span."""
    nodes = [NodeWithScore(node=TextNode(text="One. Two. Three.")), NodeWithScore(node=TextNode(text="Four. Five."))]
    handler = LlamaIndexTokenHandler()
    model = make_embedder(ledger, callback_manager=CallbackManager([handler]))
    optimizer = SentenceEmbeddingOptimizer(model, percentile_cutoff=1.0, tokenizer_fn=lambda text: text.split())
    with track_tokens() as counter:
        optimizer.postprocess_nodes(nodes, query_str="How many?")

    bill = ledger.total()
    assert (3, bill.embedding_tokens) == (counter.successful_requests, counter.embedding_tokens)
    assert (3, bill.embedding_tokens) == (handler.successful_requests, handler.total_embedding_token_count)
    assert 0 == counter.estimated_requests


class Asking(BaseEmbedding):
    """An embedding model that asks by httpx, as most integrations do."""

    url: str = ""

    def _get_text_embeddings(self, texts):
        body = {"model": "text-embedding-3-small", "input": texts}
        data = httpx.post(f"{self.url}/embeddings", json=body, headers={"Authorization": "none"}).json()["data"]
        return [each["embedding"] for each in data]

    def _get_text_embedding(self, text):
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)


@pytest.mark.parametrize(
    "block", [contextlib.nullcontext, track_tokens, functools.partial(track_tokens, sdk_calls=False)]
)
def test_an_optimizer_of_another_client(ledger, block):
    """What a model's own method sends counts once, by its answer, for the block and for the model's handler."""
    nodes = [NodeWithScore(node=TextNode(text="One. Two. Three.")), NodeWithScore(node=TextNode(text="Four. Five."))]
    handler = LlamaIndexTokenHandler()
    model = Asking(url=ledger.url(), callback_manager=CallbackManager([handler]))
    optimizer = SentenceEmbeddingOptimizer(model, percentile_cutoff=1.0, tokenizer_fn=lambda text: text.split())
    with block() as counter:
        optimizer.postprocess_nodes(nodes, query_str="How many?")
        model.get_text_embedding_batch(["Six."])

    bill = ledger.total()
    for counted in (counter or handler, handler):
        assert (4, bill.embedding_tokens) == (counted.successful_requests, counted.embedding_tokens)
        assert 0 == counted.estimated_requests


OWN_WAYS = {
    "text": lambda model: model._get_text_embedding("one two three"),
    "query": lambda model: model._get_query_embedding("who?"),
    "batch": lambda model: model._get_text_embeddings(TEXTS),
    "atext": lambda model: run(model._aget_text_embedding("one two three")),
    "aquery": lambda model: run(model._aget_query_embedding("who?")),
    "abatch": lambda model: run(model._aget_text_embeddings(TEXTS)),
}


@pytest.mark.parametrize("way", OWN_WAYS)
def test_a_models_own_methods_equal_the_bill(ledger, way):
    """They fire no event and open no span: the request counts where it is made, and only there."""
    model = make_embedder(ledger)
    before = shared_counter().snapshot()
    OWN_WAYS[way](model)
    untracked = ledger.total()
    assert before == shared_counter().snapshot()
    with track_tokens() as counter:
        OWN_WAYS[way](model)

    tokens = ledger.total().embedding_tokens - untracked.embedding_tokens
    assert (1, tokens) == (counter.successful_requests, counter.embedding_tokens)


def test_a_models_own_methods_are_refused_and_fail_for_free(ledger):
    """A budget refuses their requests before they are sent; a rejected one costs nothing."""
    uninstall()  # so that the SDK's gate comes to stand around LlamaIndex's wrap
    with track_tokens(budget=Budget(max_requests=1)) as counter:
        with pytest.raises(openai.AuthenticationError):
            make_embedder(ledger, modes={"status": "401"})._get_text_embeddings(TEXTS)
        with pytest.raises(BudgetExceeded):
            make_embedder(ledger)._get_text_embeddings(TEXTS)

    assert (0, 1) == (counter.successful_requests, counter.failed_requests)
    assert (0, 1) == (ledger.total().requests, ledger.total().rejected)


def test_unreported_embeddings_are_estimated(ledger):
    """Where the response states no usage, the texts are counted, and flagged."""
    with track_tokens() as counter:
        make_embedder(ledger, modes={"usage": "never"}).get_text_embedding_batch(TEXTS)

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert ledger.total().embedding_tokens == pytest.approx(counter.embedding_tokens, rel=0.3)


@pytest.mark.parametrize("way", ["get_text_embedding_batch", "aget_text_embedding_batch"])
def test_a_usage_of_zero_for_texts_is_no_bill(way):
    """A server that states 0 tokens for texts states no usage: these are counted, and flagged."""
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    rows = [{"object": "embedding", "index": at, "embedding": [1.0, 2.0]} for at in range(len(TEXTS))]
    answer = {"object": "list", "model": "text-embedding-3-small", "data": rows, "usage": usage}
    with replying(embeddings=answer) as provider, track_tokens() as counter:
        model = OpenAIEmbedding(model="text-embedding-3-small", api_base=provider.url, api_key="none")
        found = getattr(model, way)(TEXTS)
        _ = run(found) if asyncio.iscoroutine(found) else found

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert counter.embedding_tokens >= len(TEXTS)


def test_other_models_are_estimated():
    """A model whose client is not seen is counted by its texts, flagged."""
    handler = LlamaIndexTokenHandler()
    model = Letters(callback_manager=CallbackManager([handler]), embed_batch_size=2)
    with track_tokens() as counter:
        model.get_text_embedding_batch(TEXTS)
        run(model.aget_text_embedding_batch(TEXTS))
        model.get_query_embedding("who?")

    assert (7, 7) == (counter.successful_requests, counter.estimated_requests)
    assert counter.embedding_tokens == handler.total_embedding_token_count > 20


def test_estimates_are_made_by_the_models_own_vocabulary():
    """llama-index-core brings OpenAI's, and the first estimate loads it: texts have the tokens that OpenAI counts."""
    records, text = [], "Grüße,\n你好, 1,234.5"
    with track_tokens(sinks=[records.append]):
        Letters(model_name="text-embedding-3-small").get_text_embedding(text)

    [record] = records
    tokens = len(load("cl100k_base").encode_ordinary(text.replace("\n", " ")))
    assert ("estimated", "tiktoken:cl100k_base") == (record.source, record.method)
    assert tokens == record.usage.input_tokens


def test_other_models_caches_count_nothing():
    """An embeddings cache in memory is asked before the call what it has."""
    model = Letters(embeddings_cache=SimpleKVStore())
    model.get_text_embedding_batch(TEXTS[:3])
    with track_tokens() as counter:
        model.get_text_embedding_batch(TEXTS[:3])
        model.get_query_embedding(TEXTS[0])
        model.get_text_embedding_batch(TEXTS[:4])

    assert (1, 4) == (counter.successful_requests, model.asked)


def test_a_refused_batch_fails(ledger):
    """Refused requests are failed requests; those before them are counted."""
    model = make_embedder(ledger, modes={"status": "400@2"}, embed_batch_size=2)
    with track_tokens() as counter, pytest.raises(Exception, match="400"):
        model.get_text_embedding_batch(TEXTS)

    bill = ledger.total()
    assert (1, 1) == (counter.successful_requests, counter.failed_requests)
    assert bill.embedding_tokens == counter.embedding_tokens > 0


def test_a_partly_failing_async_batch(ledger):
    """What the other batches were billed for is counted, though LlamaIndex ends none of them."""
    model = make_embedder(ledger, modes={"status": "400@2"}, embed_batch_size=2)

    async def embed():
        with pytest.raises(Exception, match="400"):
            await model.aget_text_embedding_batch(TEXTS)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    with track_tokens() as counter:
        run(embed())

    bill = ledger.total()
    assert (2, 1) == (counter.successful_requests, counter.failed_requests)
    assert bill.embedding_tokens == counter.embedding_tokens > 0


def test_an_interrupted_embedding_is_an_estimate(ledger):
    """A request whose answer never came may be billed."""
    model = make_embedder(ledger, modes={"hold": 1}, timeout=0.2)
    with track_tokens() as counter, pytest.raises(Exception, match="timed out"):
        model.get_text_embedding("one two three")

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert counter.embedding_tokens > 0
