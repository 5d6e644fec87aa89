"""LlamaIndex's mocks, by which people foresee what an index and a query cost."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter

from token_handlers import Budget, BudgetExceeded, LlamaIndexTokenHandler, track_tokens
from token_handlers.pricing.sellers import UnknownModel
from token_handlers.tokenizer import estimate_tokens

PRICES = {"MockLLM": "anthropic/claude-opus-4-8", "MockEmbedding": "openai/text-embedding-3-small"}
DOCUMENTS = [Document(text="The clock in the hall strikes every hour. " * 40)]


def usd(totals):
    """Return a cost that is known."""
    assert totals.cost is not None
    return totals.cost


def build():
    """Build an index by a mock, and ask it."""
    index = VectorStoreIndex.from_documents(
        DOCUMENTS, embed_model=MockEmbedding(embed_dim=4), transformations=[SentenceSplitter(chunk_size=256)]
    )
    return index.as_query_engine(llm=MockLLM(max_tokens=64)).query("When does it strike?")


def test_an_index_before_it_is_built():
    """A block prices mocks as the models that they stand for, by these' tokenizers, and says it is an estimate."""
    with track_tokens(price_as=PRICES) as tokens:
        build()
    llm, embedder = tokens.by_model["MockLLM"], tokens.by_model["MockEmbedding"]

    assert (0, 3) == (tokens.unpriced_requests, tokens.estimated_requests)
    assert llm.prompt_tokens * 5 + llm.completion_tokens * 25 == usd(llm) * 10**6
    assert embedder.embedding_tokens * Decimal("0.02") == usd(embedder) * 10**6
    text = " ".join(["text"] * 64)
    assert estimate_tokens(text, "claude-opus-4-8").tokens == llm.completion_tokens
    assert estimate_tokens(text, "MockLLM").tokens < llm.completion_tokens


def test_a_handler_in_a_callback_manager():
    """LlamaIndexTokenHandler takes price_as where people put TokenCountingHandler."""
    handler = LlamaIndexTokenHandler(price_as=PRICES)
    manager = CallbackManager([handler])
    MockLLM(max_tokens=8, callback_manager=manager).complete("one two")
    MockEmbedding(embed_dim=4, callback_manager=manager).get_text_embedding("one two")

    assert 0 == handler.unpriced_requests
    assert usd(handler) > 0
    assert handler.embedding_tokens == estimate_tokens("one two", "text-embedding-3-small").tokens


def test_nested_and_in_threads():
    """A block inside overrides one around it, and the counter takes its stand-ins into a thread."""
    with (
        track_tokens(price_as={"MockLLM": "gpt-4o"}) as outer,
        track_tokens(price_as={"MockLLM": "gpt-4o-mini"}) as inner,
    ):
        MockLLM(max_tokens=8).complete("one")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(track_tokens(counter=outer)(MockLLM(max_tokens=8).complete), "one").result()

    assert usd(inner) * 10**6 == inner.prompt_tokens * Decimal("0.15") + inner.completion_tokens * Decimal("0.6")
    assert usd(outer) - usd(inner) == usd(inner) * Decimal("2.5") / Decimal("0.15")


def test_a_budget_foresees_it_too():
    """A budget reserves a mock's call at the price of the model that it stands for."""
    with track_tokens(price_as=PRICES, budget=Budget(max_cost="0.0001")), pytest.raises(BudgetExceeded):
        MockLLM(max_tokens=1000).complete("one two")


def test_without_it_a_mock_has_no_price():
    """Nobody is billed for a mock: without price_as its cost is unknown."""
    with track_tokens() as tokens:
        MockLLM(max_tokens=8).complete("one")

    assert (None, 1) == (tokens.cost, tokens.unpriced_requests)


@pytest.mark.parametrize("make", [track_tokens, LlamaIndexTokenHandler])
def test_names_that_nobody_sells(make):
    """A model that is mistyped is asked about at once, and a text in place of a mapping is shown what is taken."""
    with pytest.raises(UnknownModel, match="did you mean gpt-4o-mini"):
        make(price_as={"MockLLM": "gpt-4o-mni"})
    with pytest.raises(TypeError, match="price_as is a mapping of names to models, such as"):
        make(price_as="gpt-4o-mini")
