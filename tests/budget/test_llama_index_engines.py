import asyncio
import contextlib
import gc
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor import LLMRerank
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from tests.support.llama_index_budgets import Pairs, refusal
from tests.support.llama_index_clients import MESSAGES, make_embedder, make_llm, multiply, run
from token_handlers import BudgetExceeded, Usage, UsageRecord, track_tokens
from token_handlers.llama_index import LlamaIndexTokenHandler, workers
from token_handlers.llama_index.handler import Messenger

# llama-index-workflows walks over the attributes of agents, which are pydantic models, and asks what it deprecates
# itself; chat memory leaves its database to the garbage collector.
pytestmark = [
    pytest.mark.usefixtures("make_budget"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def _tidy():
    """Chat engines and agents leave connections to the garbage collector, which is not to meet them in another test."""
    yield
    gc.collect()


TEXTS = ["one two three", "four\nfive", "six, seven", "eight", "nine ten", "eleven"]
DOCUMENTS = [Document(text=f"{city} is big. " * 20) for city in ("Berlin", "Paris", "Rome")]


async def in_peace(awaitable):
    """Await something, then what it left running."""
    try:
        return await awaitable
    finally:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)


WAYS = {
    "text": lambda model: model.get_text_embedding("one two three"),
    "query": lambda model: model.get_query_embedding("who?"),
    "agg": lambda model: model.get_agg_embedding_from_queries(["who?", "what now?"]),
    "batch": lambda model: model.get_text_embedding_batch(TEXTS),
    "atext": lambda model: run(model.aget_text_embedding("one two three")),
    "aquery": lambda model: run(model.aget_query_embedding("who?")),
    "abatch": lambda model: run(in_peace(model.aget_text_embedding_batch(TEXTS))),
}


class Letters(BaseEmbedding):
    """An embedding model without a server; ``asked`` is what it was asked for."""

    asked: Any

    def _get_text_embedding(self, text):
        self.asked.append(text)
        return [1.0, 2.0]

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workers", [None, 2])
def test_openai_embeddings(ledger, make_budget, way, workers):
    """Requests beyond the limit are not sent, by whatever method, and the tokens that were billed are booked.

    Of an async batch those are sent that fit in. When one fails, LlamaIndex ends none of its events.
    """
    budget, pairs = make_budget(max_requests=2), Pairs()
    manager = CallbackManager([pairs])
    model = make_embedder(ledger, embed_batch_size=2, num_workers=workers, callback_manager=manager)
    with track_tokens(budget=budget) as counter:
        error = refusal(lambda: WAYS[way](model))

    bill = ledger.total()
    assert 2 == len(ledger.entries()) == budget.spent().requests == counter.successful_requests
    assert (bill.embedding_tokens, counter.cost) == (budget.spent().tokens, budget.spent().cost)
    if way != "abatch":
        assert ("text-embedding-3-small", 3, set(), [error]) == (error.model, pairs.started, pairs.open, pairs.errors)


@pytest.mark.parametrize("way", WAYS)
def test_other_embeddings(make_budget, way):
    """Models whose client is not seen are checked where their batches start; an async batch is refused as a whole."""
    budget, pairs = make_budget(max_requests=2), Pairs()
    model = Letters(asked=[], embed_batch_size=2, callback_manager=CallbackManager([pairs, LlamaIndexTokenHandler()]))
    with track_tokens(budget=budget) as counter:
        error = refusal(lambda: WAYS[way](model))

    sent = 0 if way == "abatch" else 2
    assert (sent, sent) == (budget.spent().requests, counter.successful_requests)
    assert sent * (2 if way == "batch" else 1) == len(model.asked)
    assert (sent + 1, set(), [error]) == (pairs.started, pairs.open, pairs.errors)


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_other_embeddings_hold_what_they_send(make_budget, way):
    """Each batch holds its own texts; what it really used is booked."""
    budget, held = make_budget(max_tokens=1000), []

    class Watched(Letters):
        def _get_text_embedding(self, text):
            held.append(budget.held().requests)
            return super()._get_text_embedding(text)

    with track_tokens(budget=budget) as counter:
        WAYS[way](Watched(asked=[], embed_batch_size=2, callback_manager=CallbackManager([LlamaIndexTokenHandler()])))

    assert ([1] * 6 if way == "batch" else [3] * 6) == held
    assert (3, counter.embedding_tokens) == (budget.spent().requests, budget.spent().tokens)
    assert counter.embedding_tokens > 10


@pytest.mark.parametrize("kind", ["OpenAI", "Letters"])
def test_what_a_cache_answers(ledger, make_budget, kind):
    """What an embeddings cache answers is not sent: it needs no room, takes none, and lets go of what it held."""
    settings = {"embeddings_cache": SimpleKVStore(), "embed_batch_size": 2}
    model = make_embedder(ledger, **settings) if kind == "OpenAI" else Letters(asked=[], **settings)
    budget = make_budget(max_requests=1)
    with track_tokens(budget=budget):
        model.get_text_embedding_batch(TEXTS[:2])
        for _ in range(2):
            model.get_text_embedding_batch(TEXTS[:2])
            model.get_query_embedding(TEXTS[0])
            run(model.aget_text_embedding_batch(TEXTS[:2]))
        with pytest.raises(BudgetExceeded):
            model.get_text_embedding_batch(TEXTS[1:3])
        with pytest.raises(BudgetExceeded):
            run(in_peace(model.aget_text_embedding_batch(TEXTS[:4])))

    assert 1 == budget.spent().requests


def test_only_what_a_cache_lacks_is_held(make_budget):
    """A batch that a cache has in part holds the rest."""
    model, budget = Letters(asked=[], embeddings_cache=SimpleKVStore()), make_budget(max_tokens=4)
    model.get_text_embedding_batch(["word " * 50])
    with track_tokens(budget=budget):
        model.get_text_embedding_batch(["word " * 50, "two words"])

    assert (1, 2) == (budget.spent().requests, budget.spent().tokens)


def make_index(ledger):
    """Return an index over the documents."""
    return VectorStoreIndex.from_documents(DOCUMENTS, embed_model=make_embedder(ledger))


MODES = ["compact", "refine", "tree_summarize", "simple_summarize", "generation"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_query_engines(ledger, make_budget, mode, streaming):
    """An index, and queries over it until the limit is reached: in whichever of the calls that is, it is not sent."""
    budget = make_budget(max_requests=4)

    def ask():
        response = engine.query("What is big?")
        return "".join(response.response_gen) if streaming else str(response)

    with track_tokens(budget=budget):
        settings = {"response_mode": mode, "streaming": streaming, "similarity_top_k": 3}
        engine = make_index(ledger).as_query_engine(llm=make_llm(ledger), **settings)
        refusal(ask)

    assert 4 == len(ledger.entries()) == budget.spent().requests


async def test_async_query_engines(ledger, make_budget):
    """Several at once."""
    budget = make_budget(max_requests=4)
    with track_tokens(budget=budget):
        engine = make_index(ledger).as_query_engine(llm=make_llm(ledger), response_mode="tree_summarize")
        answers = await asyncio.gather(*(engine.aquery("What is big?") for _ in range(3)), return_exceptions=True)

    assert any(isinstance(answer, BudgetExceeded) for answer in answers)
    assert 4 == len(ledger.entries()) == budget.spent().requests


def test_a_streaming_response_read_after_its_block(ledger, make_budget):
    """Its LLM call starts when it is read: then the budgets of who reads it hold."""
    first, budget = make_budget(max_requests=2), make_budget(max_tokens=1)
    with track_tokens(budget=first):
        engine = make_index(ledger).as_query_engine(llm=make_llm(ledger), streaming=True)
        response = engine.query("What is big?")
    with track_tokens(budget=budget), pytest.raises(BudgetExceeded):
        "".join(response.response_gen)

    assert (2, 2, 0) == (len(ledger.entries()), first.spent().requests, budget.spent().requests)


# One chat engine reads its LLM in a thread, which ends with the very error that the application gets.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.usefixtures("_tidy")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("mode", ["simple", "condense_question", "context", "condense_plus_context"])
def test_chat_engines(ledger, make_budget, mode, streaming):
    """Turns with a chat engine until the limit is reached; the application gets the error in a stream as well."""
    budget = make_budget(max_requests=4)

    def ask():
        return "".join(engine.stream_chat("Why?").response_gen) if streaming else engine.chat("Why?")

    with track_tokens(budget=budget):
        engine = make_index(ledger).as_chat_engine(chat_mode=mode, llm=make_llm(ledger))
        refusal(ask)

    assert 4 == len(ledger.entries()) == budget.spent().requests


def test_rerankers(ledger, make_budget):
    """An LLM reranker is refused as well."""
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("one two", "three")]
    with track_tokens(budget=make_budget(max_tokens=10)), pytest.raises(BudgetExceeded):
        LLMRerank(llm=make_llm(ledger)).postprocess_nodes(nodes, query_str="Which?")

    assert [] == ledger.entries()


@pytest.mark.usefixtures("_tidy")
@pytest.mark.parametrize("kind", [FunctionAgent, ReActAgent, AgentWorkflow])
@pytest.mark.parametrize("limit", [1, 3])
async def test_agents(ledger, make_budget, kind, limit):
    """An agent ends with the BudgetExceeded of the round for which there is no room."""
    llm, budget = make_llm(ledger, modes={"rounds": 20}), make_budget(max_requests=limit)
    if kind is AgentWorkflow:
        agent = kind.from_tools_or_functions([multiply], llm=llm)
    else:
        agent = kind(tools=[multiply], llm=llm)

    async def ask():
        for _ in range(limit + 1):  # the server does not speak ReAct's language: that agent answers in one round
            await agent.run("What is 2 * 3?")

    with track_tokens(budget=budget), pytest.raises(BudgetExceeded):
        await ask()

    assert limit == len(ledger.entries()) == budget.spent().requests


@pytest.mark.usefixtures("_tidy")
@pytest.mark.parametrize("limits", [{"max_tokens": 2000}, {"max_requests": 1}])
async def test_a_call_from_within_a_tool(ledger, make_budget, limits):
    """It is checked like any other, and not sent. LlamaIndex turns what a tool raises into its output, so that the
    agent goes on; what it then sends is checked in its turn: refused where nothing is left, sent where there is room.
    """
    refused = []
    other = make_llm(ledger, max_tokens=5000)

    async def ask(question: str) -> str:
        """Ask another model."""
        try:
            return str(await other.achat(MESSAGES))
        except BudgetExceeded as error:
            refused.append(error)
            raise

    budget = make_budget(**limits)
    agent = FunctionAgent(tools=[ask], llm=make_llm(ledger))
    room = "max_tokens" in limits
    with track_tokens(budget=budget), contextlib.nullcontext() if room else pytest.raises(BudgetExceeded) as caught:
        await agent.run("What is 2 * 3?")

    assert 1 == len(refused)
    assert (2 if room else 1) == len(ledger.entries()) == budget.spent().requests
    assert room or caught.value is not refused[0]


def test_pipelines(ledger, make_budget):
    """An ingestion pipeline ends with the batch for which there is no room."""
    budget = make_budget(max_requests=2)
    model = make_embedder(ledger, embed_batch_size=1)
    with track_tokens(budget=budget), pytest.raises(BudgetExceeded):
        IngestionPipeline(transformations=[SentenceSplitter(), model]).run(documents=DOCUMENTS)

    assert 2 == len(ledger.entries()) == budget.spent().requests


async def test_async_pipelines(ledger, make_budget):
    """Likewise when it runs asynchronously."""
    budget = make_budget(max_requests=1)
    pipeline = IngestionPipeline(transformations=[Letters(asked=[], embed_batch_size=1)])
    with track_tokens(budget=budget), pytest.raises(BudgetExceeded):
        await pipeline.arun(documents=DOCUMENTS)

    assert 0 == budget.spent().requests


NODES = [TextNode(text=f"{number} one two three") for number in range(4)]


def test_workers_of_a_pipeline(ledger, make_budget):
    """What worker processes use is booked when they report it: the next call is refused, theirs were sent.

    Those of an async run are forked, and each checks its calls against a copy of the budget.
    """
    budget = make_budget(max_requests=2)
    pipeline = IngestionPipeline(transformations=[make_embedder(ledger)], disable_cache=True)
    with track_tokens(budget=budget):
        run(pipeline.arun(nodes=list(NODES), num_workers=2))
        with pytest.raises(BudgetExceeded, match="max_requests=2: 2 spent"):
            make_llm(ledger).chat(MESSAGES)

    assert (2, ledger.total().embedding_tokens) == (budget.spent().requests, budget.spent().tokens)
    assert 2 == len(ledger.entries())


def test_a_workers_record_is_booked_once(make_budget):
    """However many handlers saw a worker's call, and however often it is sent, it is booked once, in every budget."""
    outer, inner = make_budget(max_tokens=100), make_budget(max_requests=100)
    handler = LlamaIndexTokenHandler()
    with track_tokens(budget=outer), track_tokens(budget=inner):
        homes = [Messenger()._address, workers.address_of(handler, handler.counter)]
    record = UsageRecord(usage=Usage(input_tokens=3), model="m", operation="embeddings", event_id="from a worker")
    for sender in 2 * [workers.Sender(home) for home in homes]:
        sender(record)

    assert [(3, 1)] * 2 == [(budget.spent().tokens, budget.spent().requests) for budget in (outer, inner)]
