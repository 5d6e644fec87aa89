import asyncio
import gc

import pytest
from llama_index.core import (
    Document,
    DocumentSummaryIndex,
    KeywordTableIndex,
    PropertyGraphIndex,
    SummaryIndex,
    VectorStoreIndex,
)
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.evaluation import FaithfulnessEvaluator, RelevancyEvaluator
from llama_index.core.extractors import KeywordExtractor, SummaryExtractor
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SemanticSplitterNodeParser, SentenceSplitter
from llama_index.core.postprocessor import LLMRerank
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import NodeWithScore, TextNode

from tests.support.llama_index_clients import (
    AGENT_WARNINGS,
    Weather,
    make_embedder,
    make_llm,
    multiply,
    no_swallowed_faults,
    run,
)
from token_handlers import Budget, BudgetExceeded, shared_counter, track_tokens
from token_handlers.llama_index import report_stream_usage

pytestmark = AGENT_WARNINGS


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher."""
    with no_swallowed_faults():
        yield


@pytest.fixture
def _tidy():
    """Chat engines and agents leave connections to the garbage collector, which is not to meet them in another test."""
    yield
    gc.collect()


DOCUMENTS = [Document(text=f"{city} is big. " * 20) for city in ("Berlin", "Paris", "Rome")]
STREAMED = ["compact", "refine", "tree_summarize", "simple_summarize", "generation"]
MODES = [*STREAMED, "accumulate", "compact_accumulate"]
CHATS = ["simple", "condense_question", "context", "condense_plus_context"]


def bill_of(ledger):
    """Return what the server billed, embeddings included."""
    bill = ledger.total()
    return bill.requests, bill.prompt_tokens, bill.completion_tokens, bill.embedding_tokens


def count_of(counter):
    """Return what a counter says, likewise."""
    return counter.successful_requests, counter.prompt_tokens, counter.completion_tokens, counter.embedding_tokens


def make_index(ledger):
    """Return an index over the documents."""
    return VectorStoreIndex.from_documents(DOCUMENTS, embed_model=make_embedder(ledger))


@pytest.mark.parametrize(("mode", "streaming"), [(mode, False) for mode in MODES] + [(mode, True) for mode in STREAMED])
def test_query_engines_equal_the_bill(ledger, mode, streaming):
    """An index and a query over it, in every response mode, streaming too."""
    with track_tokens() as counter:
        llm = report_stream_usage(make_llm(ledger))
        settings = {"response_mode": mode, "streaming": streaming, "similarity_top_k": 3}
        engine = make_index(ledger).as_query_engine(llm=llm, **settings)
        response = engine.query("What is big?")
        _ = "".join(response.response_gen) if streaming else str(response)

    assert bill_of(ledger)[1] > 0
    assert bill_of(ledger) == count_of(counter)
    assert 0 == counter.estimated_requests


async def test_async_query_engines_equal_the_bill(ledger):
    """The async forms as well, several at once."""
    with track_tokens() as counter:
        engine = make_index(ledger).as_query_engine(llm=make_llm(ledger), response_mode="tree_summarize")
        await asyncio.gather(*(engine.aquery("What is big?") for _ in range(3)))

    assert 7 == bill_of(ledger)[0]
    assert bill_of(ledger) == count_of(counter)


def test_a_query_read_after_its_scope(ledger):
    """Its LLM call starts when it is read, and belongs to the block of the query all the same, labels and all."""
    records, before = [], shared_counter().prompt_tokens
    index = make_index(ledger)
    with track_tokens(user="ada", sinks=[records.append]) as counter:
        engine = index.as_query_engine(llm=report_stream_usage(make_llm(ledger)), streaming=True)
        response = engine.query("What is big?")
    assert 0 == counter.prompt_tokens
    "".join(response.response_gen)

    assert bill_of(ledger)[1:3] == count_of(counter)[1:3]
    assert bill_of(ledger)[1] == shared_counter().prompt_tokens - before > 0
    assert ["ada"] * 2 == [record.user for record in records]


async def test_an_async_query_read_after_its_scope(ledger):
    """The same where the stream is asynchronous."""
    with track_tokens() as counter:
        engine = make_index(ledger).as_query_engine(llm=report_stream_usage(make_llm(ledger)), streaming=True)
        response = await engine.aquery("What is big?")
    assert [piece async for piece in response.response_gen]

    assert bill_of(ledger) == count_of(counter)


def test_queries_read_in_other_scopes(ledger):
    """Two queries whose streams are read by turns, in a third block, count each in its own."""
    engine = make_index(ledger).as_query_engine(llm=report_stream_usage(make_llm(ledger)), streaming=True)
    with track_tokens() as first:
        one = engine.query("What is big?")
    with track_tokens() as second:
        other = engine.query("Which of the boats is small?")
    with track_tokens() as reader:
        for pieces in zip(one.response_gen, other.response_gen, strict=False):
            assert pieces
        list(one.response_gen)
        list(other.response_gen)

    assert 0 == reader.total_tokens
    assert 2 == first.successful_requests == second.successful_requests  # the question's embedding, and the answer
    assert bill_of(ledger)[1] == first.prompt_tokens + second.prompt_tokens


def test_a_query_made_outside_counts_where_it_is_read(ledger):
    """A query that no block was around is counted in the block that reads its stream."""
    engine = make_index(ledger).as_query_engine(llm=report_stream_usage(make_llm(ledger)), streaming=True)
    response = engine.query("What is big?")
    with track_tokens() as reader:
        "".join(response.response_gen)

    assert bill_of(ledger)[1] == reader.prompt_tokens > 0


def test_a_budget_of_the_query_refuses_its_stream(ledger):
    """The limit of the block of the query holds for what its stream sends, which then is not sent."""
    index = make_index(ledger)
    with track_tokens(budget=Budget(max_requests=1)) as counter:  # the embedding of the question
        engine = index.as_query_engine(llm=report_stream_usage(make_llm(ledger)), streaming=True)
        response = engine.query("What is big?")
    sent = ledger.total().requests
    with pytest.raises(BudgetExceeded):
        "".join(response.response_gen)

    assert sent == ledger.total().requests
    assert 1 == counter.successful_requests


@pytest.mark.usefixtures("_tidy")
@pytest.mark.parametrize("mode", CHATS)
@pytest.mark.parametrize("streaming", [False, True])
def test_chat_engines_equal_the_bill(ledger, mode, streaming):
    """Two turns with a chat engine, which may ask its LLM several times."""
    with track_tokens() as counter:
        engine = make_index(ledger).as_chat_engine(chat_mode=mode, llm=report_stream_usage(make_llm(ledger)))
        for question in ("What is big?", "And old?"):
            if streaming:
                "".join(engine.stream_chat(question).response_gen)
            else:
                engine.chat(question)

    assert bill_of(ledger)[0] >= 3
    assert bill_of(ledger) == count_of(counter)


@pytest.mark.usefixtures("_tidy")
@pytest.mark.parametrize("kind", [FunctionAgent, ReActAgent, AgentWorkflow])
@pytest.mark.parametrize("reported", [True, False])
async def test_agents_equal_the_bill(ledger, kind, reported):
    """Every round of an agent counts in the scope that ran it; without reported usage as an estimate near the bill."""
    llm = report_stream_usage(make_llm(ledger)) if reported else make_llm(ledger)
    if kind is AgentWorkflow:
        agent = kind.from_tools_or_functions([multiply], llm=llm)
    else:
        agent = kind(tools=[multiply], llm=llm)
    with track_tokens() as counter:
        await agent.run("What is 2 * 3?")

    bill = bill_of(ledger)
    assert bill[0] == counter.successful_requests >= 2
    assert (0 if reported else bill[0]) == counter.estimated_requests
    if reported:
        assert bill == count_of(counter)
    else:
        assert 0.3 < counter.prompt_tokens / bill[1] < 1.5  # tools cost the server more than they would cost OpenAI


def test_rerankers_equal_the_bill(ledger):
    """An LLM reranker's call counts."""
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("one two", "three")]
    with track_tokens() as counter:
        LLMRerank(llm=make_llm(ledger)).postprocess_nodes(nodes, query_str="Which?")

    assert bill_of(ledger) == count_of(counter)
    assert 1 == counter.successful_requests


PARTS = {
    "document summaries": lambda llm, embedder: DocumentSummaryIndex.from_documents(
        DOCUMENTS, llm=llm, embed_model=embedder
    ),
    "keywords": lambda llm, embedder: KeywordTableIndex.from_documents(DOCUMENTS, llm=llm),
    "a property graph": lambda llm, embedder: PropertyGraphIndex.from_documents(
        DOCUMENTS, llm=llm, embed_model=embedder, show_progress=False
    ),
    "query fusion": lambda llm, embedder: QueryFusionRetriever(
        [SummaryIndex.from_documents(DOCUMENTS).as_retriever()], llm=llm, num_queries=3
    ).retrieve("What is big?"),
    "HyDE": lambda llm, embedder: HyDEQueryTransform(llm)("What is big?"),
    "an evaluator": lambda llm, embedder: FaithfulnessEvaluator(llm).evaluate(
        response="It is.", contexts=["It is big."]
    ),
    "another, asynchronously": lambda llm, embedder: run(
        RelevancyEvaluator(llm).aevaluate("What?", "It is.", ["It is big."])
    ),
    "extractors": lambda llm, embedder: IngestionPipeline(
        transformations=[SummaryExtractor(llm, show_progress=False), KeywordExtractor(llm, show_progress=False)]
    ).run(nodes=[TextNode(text="It is big.")] * 2),
    "a semantic splitter": lambda llm, embedder: SemanticSplitterNodeParser(
        embed_model=embedder, sentence_splitter=lambda text: text.split(". ")
    ).get_nodes_from_documents(DOCUMENTS),
    "a program": lambda llm, embedder: FunctionCallingProgram.from_defaults(Weather, "Weather of {city}?", llm=llm)(
        city="X"
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_other_parts_equal_the_bill(ledger, part):
    """What else of LlamaIndex takes an LLM or an embedding model asks it in ways that count."""
    with track_tokens() as counter:
        PARTS[part](make_llm(ledger), make_embedder(ledger))

    assert bill_of(ledger) == count_of(counter)
    assert counter.successful_requests > 0 == counter.estimated_requests


def test_pipelines_equal_the_bill(ledger):
    """An ingestion pipeline's embeddings count."""
    with track_tokens() as counter:
        IngestionPipeline(transformations=[SentenceSplitter(), make_embedder(ledger)]).run(documents=DOCUMENTS)

    assert bill_of(ledger) == count_of(counter)
    assert counter.embedding_tokens > 100
