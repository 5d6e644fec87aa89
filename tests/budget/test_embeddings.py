from decimal import Decimal

import httpx
import openai
import pytest
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings

from token_handlers import Budget, BudgetExceeded, track_tokens
from token_handlers.budget import Amounts
from token_handlers.langchain import TrackedEmbeddings

NOTHING = Amounts()


def amounts(ledger):
    """Return what the server billed as a budget books it: rejected requests are requests, too."""
    bill = ledger.total()
    return Amounts(Decimal(bill.embedding_tokens * 20) / 10**9, bill.embedding_tokens, bill.requests + bill.rejected)


TEXTS = ["the sea", "the mountains are high", "a plain"]


def openai_embeddings(ledger, **modes):
    """Return OpenAIEmbeddings that send each text by itself, without tiktoken, whose vocabulary may be absent."""
    return OpenAIEmbeddings(
        model="text-embedding-3-small",
        base_url=ledger.url(**modes),
        api_key="none",
        max_retries=0,
        check_embedding_ctx_length=False,
        chunk_size=1,
    )


@pytest.mark.parametrize("limit", [{"max_requests": 2}, {"max_tokens": 7}, {"max_cost": "0.00000014"}])
@pytest.mark.parametrize("wrap", [lambda embeddings: embeddings, TrackedEmbeddings])
def test_embeddings(ledger, limit, wrap):
    """Each request for embeddings is checked and booked, in the middle of embed_documents too."""
    budget = Budget(**limit)
    embeddings = wrap(openai_embeddings(ledger))
    with track_tokens(budget=budget) as counter:
        with pytest.raises(BudgetExceeded, match="text-embedding-3-small was not called"):
            embeddings.embed_documents(TEXTS)
        with pytest.raises(BudgetExceeded):
            embeddings.embed_query(TEXTS[1])

    assert 2 == ledger.total().requests == counter.successful_requests
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


@pytest.mark.parametrize("wrap", [lambda embeddings: embeddings, TrackedEmbeddings])
async def test_async_embeddings(ledger, wrap):
    """The same, asynchronously; a rejected request is a request."""
    budget = Budget(max_requests=3)
    async with track_tokens(budget=budget):
        with pytest.raises(openai.InternalServerError):
            await wrap(openai_embeddings(ledger, status=500)).aembed_query(TEXTS[0])
        with pytest.raises(BudgetExceeded):
            await wrap(openai_embeddings(ledger)).aembed_documents(TEXTS)

    assert (2, 1) == (ledger.total().requests, ledger.total().rejected)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


class PostedEmbeddings(Embeddings):
    """Embeddings with a client of their own, which does not say what it used."""

    def __init__(self, ledger, **modes):
        self.model, self.url = "text-embedding-3-small", f"{ledger.url(**modes)}/embeddings"

    def embed_documents(self, texts):
        answer = httpx.post(self.url, json={"model": self.model, "input": texts}).raise_for_status()
        return [one["embedding"] for one in answer.json()["data"]]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def test_other_embeddings(ledger):
    """Embeddings whose client says nothing are checked call by call, and booked as they are estimated."""
    budget = Budget(max_requests=2)
    with track_tokens(budget=budget) as counter:
        TrackedEmbeddings(PostedEmbeddings(ledger)).embed_documents(TEXTS)
        with pytest.raises(httpx.HTTPStatusError):
            TrackedEmbeddings(PostedEmbeddings(ledger, status=500)).embed_query(TEXTS[0])
        with pytest.raises(BudgetExceeded):
            TrackedEmbeddings(PostedEmbeddings(ledger)).embed_query(TEXTS[0])

    assert (1, 1) == (ledger.total().requests, ledger.total().rejected)
    assert Amounts(budget.spent().cost, counter.embedding_tokens, 2) == budget.spent()
    assert NOTHING == budget.held()


class InnerEmbeddings(Embeddings):
    """Embeddings that have OpenAI's inside."""

    def __init__(self, inner):
        self.inner = inner

    def embed_documents(self, texts):
        return self.inner.embed_documents(texts)

    def embed_query(self, text):
        return self.inner.embed_query(text)


def test_embeddings_inside_others(ledger):
    """Embeddings that pass their texts on to OpenAI's hold and book what those send, once."""
    budget = Budget(max_requests=2)
    with track_tokens(budget=budget) as counter:
        TrackedEmbeddings(InnerEmbeddings(openai_embeddings(ledger))).embed_documents(TEXTS[:2])
        assert billed_embeddings(ledger) == (counter.successful_requests, counter.embedding_tokens)
        with pytest.raises(BudgetExceeded):
            TrackedEmbeddings(InnerEmbeddings(openai_embeddings(ledger))).embed_query(TEXTS[2])
        budget.set_limits(max_requests=3)
        with pytest.raises(openai.InternalServerError):
            TrackedEmbeddings(InnerEmbeddings(openai_embeddings(ledger, status=500))).embed_query(TEXTS[2])

    assert (2, 1) == (counter.successful_requests, counter.failed_requests)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


def billed_embeddings(ledger):
    """Return the requests and tokens that the server billed."""
    return ledger.total().requests, ledger.total().embedding_tokens
