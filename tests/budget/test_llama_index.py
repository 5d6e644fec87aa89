import re
from decimal import Decimal
from typing import Any

import openai
import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike

from tests.support.llama_index_budgets import Pairs, refusal
from tests.support.llama_index_clients import (
    CLIENTS,
    MESSAGES,
    PROMPT,
    TOOLS,
    Answering,
    Local,
    Weather,
    answer,
    drain,
    make_llm,
    run,
)
from tests.support.provider_answers import RESPONSE
from tests.support.provider_servers import replying
from token_handlers import BudgetExceeded, install, track_tokens, uninstall
from token_handlers.budget import Amounts
from token_handlers.llama_index import LlamaIndexTokenHandler, report_stream_usage
from token_handlers.tracking.state import state

pytestmark = pytest.mark.usefixtures("make_budget")

WAYS = {
    "chat": lambda llm: llm.chat(MESSAGES),
    "achat": lambda llm: run(llm.achat(MESSAGES)),
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
    "astream_chat": lambda llm: run(drain(llm.astream_chat(MESSAGES))),
    "complete": lambda llm: llm.complete("How?"),
    "acomplete": lambda llm: run(llm.acomplete("How?")),
    "stream_complete": lambda llm: list(llm.stream_complete("How?")),
    "astream_complete": lambda llm: run(drain(llm.astream_complete("How?"))),
}
MORE = {
    **WAYS,
    "predict": lambda llm: llm.predict(PROMPT, city="Rome"),
    "apredict": lambda llm: run(llm.apredict(PROMPT, city="Rome")),
    "stream": lambda llm: list(llm.stream(PROMPT, city="Rome")),
    "astream": lambda llm: run(drain(llm.astream(PROMPT, city="Rome"))),
    "chat_with_tools": lambda llm: llm.chat_with_tools(TOOLS, "What is 2 * 3?"),
    "achat_with_tools": lambda llm: run(llm.achat_with_tools(TOOLS, "What is 2 * 3?")),
    "stream_chat_with_tools": lambda llm: list(llm.stream_chat_with_tools(TOOLS, "What is 2 * 3?")),
    "astream_chat_with_tools": lambda llm: run(drain(llm.astream_chat_with_tools(TOOLS, "What is 2 * 3?"))),
    "structured_predict": lambda llm: llm.structured_predict(Weather, PROMPT, city="Rome"),
    "astructured_predict": lambda llm: run(llm.astructured_predict(Weather, PROMPT, city="Rome")),
    "stream_structured_predict": lambda llm: list(llm.stream_structured_predict(Weather, PROMPT, city="Rome")),
    "as_structured_llm": lambda llm: llm.as_structured_llm(Weather).chat(MESSAGES),
}


def client(ledger, name, modes=None, **more):
    """Return a client that asks for usage when it streams."""
    kind, settings = CLIENTS[name]
    return report_stream_usage(make_llm(ledger, kind, modes=modes, **settings, **more))


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("way", MORE)
def test_what_would_pass_a_limit_is_not_sent(ledger, make_budget, name, way):
    """Whatever method makes the call, those that the limit allows are sent and booked, and the next one is not."""
    llm, budget = client(ledger, name), make_budget(max_requests=2)
    with track_tokens(budget=budget) as counter:
        MORE[way](llm)
        MORE[way](llm)
        with pytest.raises(BudgetExceeded, match="gpt-4o-mini was not called: the budget has max_requests=2: 2 spent"):
            MORE[way](llm)

    assert 2 == len(ledger.entries()) == budget.spent().requests
    assert (2, 0, counter.total_tokens) == (counter.successful_requests, counter.failed_requests, budget.spent().tokens)


def test_tokens_and_cost(ledger, make_budget):
    """What a call really used is booked in place of its estimate, and is what the next one is checked against."""
    llm, budget = client(ledger, "OpenAI", max_tokens=20), make_budget(max_tokens=150, max_cost="1.00")
    with track_tokens(budget=budget) as counter:
        error = refusal(lambda: llm.chat(MESSAGES))

    bill = ledger.total()
    assert 3 <= bill.requests == len(ledger.entries())
    assert ("max_tokens", budget.spent().tokens) == (error.limit, error.spent)
    assert bill.prompt_tokens + bill.completion_tokens == budget.spent().tokens <= 150
    assert (counter.cost, bill.requests) == (budget.spent().cost, budget.spent().requests)


def test_a_cost_that_would_pass_the_limit(ledger, make_budget):
    """max_cost is for what prompt and max_tokens may cost together; 8,000 tokens of gpt-4o-mini are 0.0048 USD."""
    budget = make_budget(max_cost=Decimal("0.004"))
    with track_tokens(budget=budget):
        with pytest.raises(BudgetExceeded, match=r"max_cost=0\.004 USD: 0 spent, and this call may take 0\.0048"):
            make_llm(ledger).chat(MESSAGES, max_tokens=8000)
        make_llm(ledger).chat(MESSAGES, max_tokens=800)

    assert 1 == len(ledger.entries())


STATED = {
    "field": (OpenAI, {"max_tokens": 5000}, {}),
    "call": (OpenAI, {"max_tokens": 1}, {"max_tokens": 5000}),
    "additional_kwargs": (OpenAI, {"additional_kwargs": {"max_completion_tokens": 5000}}, {}),
    "Responses": (OpenAIResponses, {"max_output_tokens": 5000}, {}),
    "OpenAILike": (OpenAILike, {"max_tokens": 5000, "is_chat_model": True}, {}),
}


@pytest.mark.parametrize("stated", STATED)
@pytest.mark.parametrize("way", ["chat", "stream_chat"])
def test_where_a_maximum_is_stated(ledger, make_budget, stated, way):
    """The output that a call allows is held wherever it is stated, with the prompt."""
    kind, settings, kwargs = STATED[stated]
    with track_tokens(budget=make_budget(max_tokens=4999)), pytest.raises(BudgetExceeded) as caught:
        getattr(make_llm(ledger, kind, **settings), way)(MESSAGES, **kwargs)

    assert 5005 < int(re.search(r"may take (\d+)", str(caught.value))[1]) < 5050
    assert [] == ledger.entries()


def test_a_maximum_that_is_none(make_budget):
    """-1 is how some say that there is no limit."""
    budget = make_budget(max_tokens=100)
    llm = Answering(answers=(answer({"usage": {"prompt_tokens": 7, "completion_tokens": 5}}),))
    with track_tokens(budget=budget):
        llm.chat(MESSAGES, num_predict=-1)

    assert 12 == budget.spent().tokens


class Watched(Local):
    """A model whose chat is LlamaIndex's own, by way of complete; ``held`` is what its calls held when it was asked."""

    budget: Any
    held: Any

    def _bill(self):
        self.held.append(self.budget.held())
        super()._bill()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reported", [True, False])
def test_a_call_by_way_of_another_is_held_once(make_budget, way, reported):
    """A chat that LlamaIndex makes of complete, in two or three steps, holds what one call holds."""
    budget = make_budget(max_requests=2)
    raw = {"usage": {"prompt_tokens": 5, "completion_tokens": 3}} if reported else None
    llm = Watched(raw=raw, budget=budget, held=[])
    with track_tokens(budget=budget):
        WAYS[way](llm)
        WAYS[way](llm)
        with pytest.raises(BudgetExceeded):
            WAYS[way](llm)

    assert (2, 2) == (llm.requests, budget.spent().requests)
    assert [1, 1] == [held.requests for held in llm.held]


class Router(CustomLLM):
    """An LLM that passes on what it is asked to another one."""

    other: Any

    @property
    def metadata(self):
        return LLMMetadata(model_name="router")

    @llm_chat_callback()
    def chat(self, messages, **kwargs):
        return self.other.chat(messages)

    @llm_chat_callback()
    async def astream_chat(self, messages, **kwargs):
        async def chunks():
            async for chunk in await self.other.astream_chat(messages):
                yield chunk

        return chunks()

    @llm_completion_callback()
    def complete(self, prompt, **kwargs):
        raise NotImplementedError

    @llm_completion_callback()
    def stream_complete(self, prompt, **kwargs):
        raise NotImplementedError


@pytest.mark.parametrize("way", ["chat", "astream_chat"])
def test_the_model_that_is_called_in_the_end_is_checked(ledger, make_budget, way):
    """Where an LLM calls another one, it is that one's price and maximum that count, once."""
    llm = Router(other=client(ledger, "OpenAI", max_tokens=4000))
    small, budget = make_budget(max_tokens=4000), make_budget(max_requests=1)
    with track_tokens(budget=small), pytest.raises(BudgetExceeded, match="gpt-4o-mini was not called"):
        WAYS[way](llm)
    with track_tokens(budget=budget):
        WAYS[way](llm)

    assert (0, 1, 1) == (small.spent().requests, budget.spent().requests, len(ledger.entries()))


class Silent(Answering):
    """An LLM whose structured prediction fires no event, and goes through openai's client where there is one."""

    client: Any = None

    def structured_predict(self, output_cls, prompt, llm_kwargs=None, **prompt_args):
        text = prompt.format(**prompt_args)
        if self.client is not None:
            self.client.responses.create(model="gpt-4o-mini", input=text, **(llm_kwargs or {}))
        return output_cls(city="Rome", degrees=30)


def test_calls_without_events(ledger, make_budget):
    """They are checked in the provider's client, and their maximum is held."""
    budget = make_budget(max_requests=2, max_tokens=1000)
    with openai.OpenAI(base_url=ledger.url(), api_key="none") as sdk, track_tokens(budget=budget):
        llm = Silent(client=sdk, model="gpt-4o-mini")
        llm.structured_predict(Weather, PROMPT, city="Rome")
        with pytest.raises(BudgetExceeded, match="max_tokens=1000"):
            llm.structured_predict(Weather, PROMPT, {"max_output_tokens": 1000}, city="Rome")
        llm.structured_predict(Weather, PROMPT, city="Rome")
        with pytest.raises(BudgetExceeded, match="max_requests=2"):
            llm.structured_predict(Weather, PROMPT, city="Rome")

    assert 2 == len(ledger.entries()) == budget.spent().requests
    assert sum(entry.prompt_tokens + entry.completion_tokens for entry in ledger.entries()) == budget.spent().tokens


def test_calls_that_nobody_sees(make_budget):
    """Without events, and without any client that is watched, a call is refused before its method does anything."""
    llm, budget = Silent(), make_budget(max_requests=1)
    with track_tokens(budget=budget) as counter:
        llm.structured_predict(Weather, PROMPT, city="Rome")
        for call in (lambda: llm.structured_predict(Weather, PROMPT, city="Rome"), lambda: llm.chat(MESSAGES)):
            with pytest.raises(BudgetExceeded, match="max_requests=1: 1 spent"):
                call()

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)


SHAPES = {
    "Anthropic": ({"usage": {"input_tokens": 20, "output_tokens": 11, "cache_read_input_tokens": 300}}, 331),
    "GenAI": ({"usage_metadata": {"prompt_token_count": 30, "thoughts_token_count": 40, "total_token_count": 70}}, 70),
    "Bedrock_Converse_LLM": ({"usage": {"inputTokens": 40, "outputTokens": 12, "totalTokens": 52}}, 52),
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_providers_report_is_booked(make_budget, name):
    """A budget's tokens are those that the provider bills: caches and thoughts included."""
    raw, tokens = SHAPES[name]
    llm, budget = Answering(name=name, answers=(answer(raw),)), make_budget(max_tokens=1000)
    with track_tokens(budget=budget):
        llm.chat(MESSAGES)
        list(llm.stream_chat(MESSAGES))

    assert (2 * tokens, 2) == (budget.spent().tokens, budget.spent().requests)


@pytest.mark.parametrize("way", WAYS)
def test_the_users_handlers_see_an_end(ledger, make_budget, way):
    """To handlers a refused call is one that starts, and ends with the BudgetExceeded that the application gets."""
    pairs = Pairs()
    llm = client(ledger, "OpenAI", callback_manager=CallbackManager([pairs]))
    with track_tokens(budget=make_budget(max_requests=1)):
        WAYS[way](llm)
        with pytest.raises(BudgetExceeded) as caught:
            WAYS[way](llm)

    assert (2, set(), [caught.value]) == (pairs.started, pairs.open, pairs.errors)


@pytest.mark.parametrize("handler_type", ["llamaindex", "langchain"])
def test_a_handler_without_a_block(ledger, make_budget, handler_type):
    """A budget of the whole process holds for the calls that only a LlamaIndexTokenHandler counts."""
    handler, budget = LlamaIndexTokenHandler(), make_budget(max_requests=1)
    llm = make_llm(ledger, callback_manager=CallbackManager([handler, handler]))
    install(handler_type, budget=budget)
    llm.chat(MESSAGES)
    with pytest.raises(BudgetExceeded):
        llm.chat(MESSAGES)

    assert (1, 1, 1) == (len(ledger.entries()), handler.successful_requests, budget.spent().requests)


def test_without_a_budget(ledger, make_budget, monkeypatch):
    """CallbackManager is LlamaIndex's own until there is a budget, as a wrap is not free; then calls are checked."""
    uninstall()
    monkeypatch.setattr(state, "checked", False)
    original = CallbackManager.__dict__["on_event_start"]
    with track_tokens():
        make_llm(ledger).chat(MESSAGES)
        assert original is CallbackManager.__dict__["on_event_start"]
        with track_tokens(budget=make_budget(max_requests=1)):
            make_llm(ledger).chat(MESSAGES)
            with pytest.raises(BudgetExceeded):
                make_llm(ledger).chat(MESSAGES)

    assert 2 == len(ledger.entries())


def test_uninstalling(ledger, make_budget):
    """uninstall() gives CallbackManager its own method back, and lets go of the budget; the next block has it again."""
    uninstall()
    original = CallbackManager.__dict__["on_event_start"]
    install("llamaindex", budget=make_budget(max_requests=1))
    assert original is not CallbackManager.__dict__["on_event_start"]
    make_llm(ledger).chat(MESSAGES)
    uninstall()
    assert original is CallbackManager.__dict__["on_event_start"]
    make_llm(ledger).chat(MESSAGES)

    assert 2 == len(ledger.entries())
    with track_tokens(budget=make_budget(max_tokens=1)), pytest.raises(BudgetExceeded):
        make_llm(ledger).chat(MESSAGES)


def test_budgets_around_budgets(ledger, make_budget):
    """All of them hold, and book: the block's, the one around it, and the process'; what one refuses none books."""
    whole, outer, inner = make_budget(max_requests=4), make_budget(max_requests=3), make_budget(max_requests=2)
    install("llamaindex", budget=whole)
    llm = make_llm(ledger)
    with track_tokens(budget=outer):
        llm.chat(MESSAGES)
        with track_tokens(budget=inner):
            llm.chat(MESSAGES)
            llm.chat(MESSAGES)
            with pytest.raises(BudgetExceeded):
                llm.chat(MESSAGES)
        with pytest.raises(BudgetExceeded, match="max_requests=3"):
            llm.chat(MESSAGES)
    llm.chat(MESSAGES)
    with pytest.raises(BudgetExceeded, match="max_requests=4"):
        llm.chat(MESSAGES)

    assert (4, 3, 2) == tuple(budget.spent().requests for budget in (whole, outer, inner))
    assert 4 == len(ledger.entries())


def test_each_user_has_an_account(ledger, make_budget):
    """A budget for each user counts those apart, by the blocks around their calls."""
    budget = make_budget(max_requests=1, each="user")
    for user in ("ann", "bob"):
        with track_tokens(user=user, budget=budget):
            make_llm(ledger).chat(MESSAGES)
            with pytest.raises(BudgetExceeded, match=f"of user '{user}'"):
                make_llm(ledger).chat(MESSAGES)

    assert 2 == len(ledger.entries())
    assert [(1, Amounts())] * 2 == [(budget.spent(user).requests, budget.held(user)) for user in ("ann", "bob")]


def test_asking_instead(ledger, make_budget):
    """on_exceeded may let a call be sent, which is booked above the limit."""
    asked = []

    def ask(error):
        asked.append(error.model)
        return len(asked) < 2

    budget = make_budget(max_requests=1, on_exceeded=ask)
    with track_tokens(budget=budget):
        refusal(lambda: make_llm(ledger).chat(MESSAGES))

    assert (2, 2, ["gpt-4o-mini"] * 2) == (len(ledger.entries()), budget.spent().requests, asked)


@pytest.mark.parametrize(("limit", "sent"), [("0.005", 0), ("0.015", 1)])
@pytest.mark.parametrize("declared", ["by the LLM", "by the call"])
def test_fees_of_declared_tools_are_held(make_budget, limit, sent, declared):
    """A budget holds what a provider's own tools may be billed for, before the call is sent."""
    tools = [{"type": "web_search"}]
    own, given = ({"built_in_tools": tools}, {}) if declared == "by the LLM" else ({}, {"tools": tools})
    with replying(responses=RESPONSE) as server, track_tokens(budget=make_budget(max_cost=limit)):
        llm = OpenAIResponses(
            model="gpt-5-mini", api_key="none", api_base=server.url, max_retries=0, max_output_tokens=50, **own
        )
        for _ in range(sent):
            llm.chat(MESSAGES, **given)
        with pytest.raises(BudgetExceeded):
            llm.chat(MESSAGES, **given)

    assert sent == len(server.asked)
