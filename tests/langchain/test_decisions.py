import asyncio
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from tests.support.provider_servers import replying
from token_handlers import Budget, BudgetExceeded, track_tokens
from token_handlers.langchain import LangChainTokenHandler

decisions = pytest.importorskip("langchain_core.decisions", reason="langchain-core has decision models since 1.8")
openai_decisions = pytest.importorskip("langchain_openai.decisions", reason="langchain-openai has no decisions yet")

# OpenAIDecisions is a beta
pytestmark = pytest.mark.filterwarnings("ignore:The class `OpenAIDecisions` is in beta")

USAGE = {"input_tokens": 48, "output_tokens": 7}
ANSWERS = {"many": {"type": "noul", "noul": 0.4}}
ASKED = {"state": "four boats left", "questions": {"many": decisions.types.Noul(instructions="are these many?")}}


class Judge(decisions.BaseDecisionModel):  # type: ignore[name-defined, misc]  # older versions have none
    """A decision model of one's own, which may ask another model."""

    model: str = "gpt-4o-mini"
    usage: Any = USAGE
    error: Any = None
    inner: Any = None
    sent: Any = ()

    @property
    def _provider(self):
        return "openai"

    def _classify(self, state, questions):
        self.sent += (str(state),)
        if self.error is not None:
            raise self.error
        if self.inner is not None:
            self.inner.invoke("are four boats many?")
        return self._answer()

    def _answer(self):
        body = {"answers": ANSWERS, "model": self.model, "usage": self.usage}
        return decisions.ClassifierResponse.model_validate(body)


class AsyncJudge(Judge):
    """One with a client that is asynchronous."""

    async def _aclassify(self, state, questions):
        if self.inner is not None:
            await self.inner.ainvoke("are four boats many?")
        return self._answer()


async def _each(models):
    return await asyncio.gather(*(model.ainvoke(ASKED) for model in models))


WAYS = {
    "invoke": lambda model: [model.invoke(ASKED), model.invoke(ASKED)],
    "batch": lambda model: model.batch([ASKED, ASKED]),
    "ainvoke": lambda model: asyncio.run(_each([model, model])),
    "abatch": lambda model: asyncio.run(model.abatch([ASKED, ASKED])),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Judge, AsyncJudge])
def test_decisions_are_counted(kind, way):
    """A decision model's call counts by the usage of its answer, in a block and by a handler, once."""
    handler = LangChainTokenHandler()
    with track_tokens() as tokens:
        WAYS[way](kind().with_config(callbacks=[handler]))
    for counted in (tokens, handler):
        assert (2, 96, 14) == (counted.successful_requests, counted.prompt_tokens, counted.completion_tokens)
        assert Decimal("0.0000228") == counted.cost
        assert 0 == counted.estimated_requests


@pytest.mark.parametrize("usage", [None, {"output_tokens": 7}])
def test_a_decision_without_usage_is_an_estimate(usage):
    """An answer that does not say what was sent is estimated, state and questions included, and flagged."""
    with track_tokens() as tokens:
        Judge(usage=usage).invoke(ASKED)
    assert (1, 1) == (tokens.successful_requests, tokens.estimated_requests)
    assert tokens.prompt_tokens > 8


def test_a_budget_stops_decisions():
    """A decision that a budget has no room for is not sent."""
    model = Judge()
    with track_tokens(budget=Budget(max_requests=1)) as tokens:
        model.invoke(ASKED)
        with pytest.raises(BudgetExceeded):
            model.invoke(ASKED)
        with pytest.raises(BudgetExceeded):
            asyncio.run(model.ainvoke(ASKED))
    assert ("four boats left",) == model.sent
    assert 1 == tokens.successful_requests


def test_a_failed_decision():
    """A decision that broke off is an estimate of what was sent, and nothing of it stays reserved."""
    budget = Budget(max_tokens=1_000)
    with track_tokens(budget=budget) as tokens, pytest.raises(RuntimeError):
        Judge(error=RuntimeError("lost")).invoke(ASKED)
    assert (1, 0) == (tokens.estimated_requests, tokens.completion_tokens)
    assert 0 == budget.held().tokens


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Judge, AsyncJudge])
def test_a_decision_that_passes_a_model_on(kind, way, ledger):
    """A decision model that asks a chat model and passes its usage on, or none, is that model's call."""
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), api_key="none", max_retries=0)
    with track_tokens() as tokens:
        WAYS[way](kind(inner=RunnableLambda(str) | chat, usage=None))
    assert (2, 0) == (tokens.successful_requests, tokens.estimated_requests)


def test_other_chains_are_no_decisions():
    """A chain that makes no call counts none, nor does a chain of run_type "llm" that names no model."""
    plain = RunnableLambda(lambda text: text)
    with track_tokens() as tokens:
        plain.invoke("one")
        plain._call_with_config(lambda text: text, "one", {}, run_type="llm")
    assert 0 == tokens.successful_requests


BODY = {
    "model": "gpt-4o-mini-2024-07-18",
    "answers": [{"name": "many", "type": "predicate", "probability": 0.4}],
    "usage": {"input_tokens": 48, "output_tokens": 7, "total_tokens": 55},
}


def _openai(url):
    return openai_decisions.OpenAIDecisions(model="gpt-4o-mini", api_key="none", base_url=url, max_retries=0)


QUESTION = {
    "input": "four boats left",
    "questions": {"many": openai_decisions.Predicate(instructions="are these many?")},
}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_openai_decisions_count_once(asynchronous):
    """OpenAI's decisions count once, though callbacks and the provider's HTTP answer both say what they used."""
    with replying(decisions=BODY) as server, track_tokens() as tokens:
        model = _openai(server.url)
        _ = asyncio.run(model.ainvoke(QUESTION)) if asynchronous else model.invoke(QUESTION)
    assert 1 == len(server.asked)
    assert (1, 48, 7) == (tokens.successful_requests, tokens.prompt_tokens, tokens.completion_tokens)
    assert Decimal("0.0000114") == tokens.cost
    assert (0, 0) == (tokens.estimated_requests, tokens.failed_requests)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_rejected_openai_decision_is_free(asynchronous):
    """A decision that OpenAI rejects is a failed request without tokens."""
    with replying() as server, track_tokens() as tokens:
        server.status = 429
        model = _openai(server.url)
        with pytest.raises(Exception, match="429"):
            _ = asyncio.run(model.ainvoke(QUESTION)) if asynchronous else model.invoke(QUESTION)
    assert (0, 1, 0) == (tokens.successful_requests, tokens.failed_requests, tokens.total_tokens)


def test_a_budget_stops_openai_decisions():
    """The decision over the limit is not sent to OpenAI."""
    with replying(decisions=BODY) as server, track_tokens(budget=Budget(max_requests=1)):
        model = _openai(server.url)
        model.invoke(QUESTION)
        with pytest.raises(BudgetExceeded):
            model.invoke(QUESTION)
        with pytest.raises(BudgetExceeded):
            asyncio.run(model.ainvoke(QUESTION))
    assert 1 == len(server.asked)
