import asyncio
from decimal import Decimal

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from llama_index.llms.openai import OpenAI

from token_handlers import Budget, BudgetExceeded, LangChainTokenHandler, record_cost, track_tokens
from token_handlers.tracking.surroundings import _Choice, activity

MESSAGES = [{"role": "user", "content": "How warm is it in Porto?"}]
CONFIG = {"configurable": {"thread_id": "t-4"}, "metadata": {"customer": "acme", "user_id": "u-1"}}


def chat(ledger, **modes):
    """Return a ChatOpenAI that talks to the test's channel."""
    return ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(close=1, **modes), api_key="none", max_retries=0)


def sdk(ledger):
    """Return OpenAI's own client that talks to the test's channel."""
    return openai.OpenAI(base_url=ledger.url(close=1), api_key="none", max_retries=0)


def embeddings(ledger):
    """Return OpenAIEmbeddings that talk to the test's channel."""
    url = ledger.url(close=1)
    return OpenAIEmbeddings(api_key="none", base_url=url, max_retries=0, check_embedding_ctx_length=False)


def llama_index(ledger):
    """Return LlamaIndex's OpenAI that talks to the test's channel."""
    return OpenAI(model="gpt-4o-mini", api_base=ledger.url(close=1), api_key="none", max_retries=0)


ASKS = {
    "a model": lambda ledger: chat(ledger).invoke("warm?"),
    "a chain": lambda ledger: (chat(ledger) | str).invoke("warm?"),
    "a model in a thread of LangChain's": lambda ledger: chat(ledger).batch(["warm?", "cold?"]),
    "an SDK": lambda ledger: sdk(ledger).chat.completions.create(model="gpt-4o-mini", messages=MESSAGES),
    "embeddings": lambda ledger: embeddings(ledger).embed_query("warm?"),
    "a model of LlamaIndex": lambda ledger: llama_index(ledger).complete("warm?"),
    "itself": lambda ledger: record_cost("temperature", "0.01"),
}


@pytest.fixture
def _only_tools(monkeypatch):
    """The environment asks for the tools' names alone."""
    monkeypatch.setattr(_Choice, "is_read", False)
    monkeypatch.setattr(_Choice, "names", None)
    monkeypatch.setenv("AGENTSIGHT_TOKEN_LABELS", "tool")


def labels_of(records):
    """Return the agent and the tool of each record, without repetitions."""
    return list(dict.fromkeys((record.tags.get("agent"), record.tags.get("tool")) for record in records))


def make_tool(function, name="temperature"):
    """Return a tool of a function of a city."""
    return tool(name, description="Return the temperature in a city.")(function)


@pytest.mark.parametrize("asks", ASKS)
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_what_a_tool_asks_has_its_name(ledger, asks, mode):
    """A call that an agent's tool makes has the tool's name, the agent's, and all that the run is labelled with."""

    def temperature(city: str) -> str:
        ASKS[asks](ledger)
        return f"21 degrees in {city}"

    records = []
    agent = create_agent(chat(ledger, rounds=1), [make_tool(temperature)], name="harbour")
    with track_tokens(sinks=[records.append]):
        if mode == "sync":
            agent.invoke({"messages": MESSAGES}, CONFIG)
        else:
            await agent.ainvoke({"messages": MESSAGES}, CONFIG)

    assert [("harbour", None), ("harbour", "temperature")] == labels_of(records)
    assert {("t-4", "u-1", "acme")} == {(each.session, each.user, each.tags["customer"]) for each in records}
    assert ["model", "tools"] == list(dict.fromkeys(record.node for record in records))


async def test_coroutines_as_tools(ledger):
    """A tool that is a coroutine has its name on its calls, of several at once each its own."""

    def asker(name):
        async def ask(city: str) -> str:
            await chat(ledger).ainvoke(city)
            return city

        return make_tool(ask, name)

    with track_tokens() as counter:
        await asyncio.gather(*(asker(name).ainvoke({"city": "Porto"}) for name in ("warm", "cold", "warm")))

    assert {"warm": 2, "cold": 1} == {name: sums.successful_requests for name, sums in counter.by("tool").items()}


def test_a_handler_sees_tools_too(ledger):
    """A handler in a callbacks list, without a block, has the labels as well."""
    handler = LangChainTokenHandler()

    def temperature(city: str) -> str:
        record_cost("weather API", "0.30")
        return str(chat(ledger).invoke(city).text)

    make_tool(temperature).invoke({"city": "Porto"}, {"callbacks": [handler]})
    by_tool = handler.by("tool")

    assert {"temperature", "weather API"} == set(by_tool)
    assert (1, Decimal("0.30")) == (by_tool["temperature"].successful_requests, by_tool["weather API"].cost)


def test_tools_in_tools(ledger):
    """Of tools that call each other the innermost has the call, and each its own before and after."""
    inner = make_tool(lambda city: chat(ledger).invoke(city).text, "inner")

    def outer(city: str) -> str:
        chat(ledger).invoke(city)
        inner.invoke({"city": city})
        return str(chat(ledger).invoke(city).text)

    records = []
    with track_tokens(sinks=[records.append]):
        make_tool(outer, "outer").invoke({"city": "Porto"})

    assert ["outer", "inner", "outer"] == [record.tags["tool"] for record in records]


def test_an_agent_as_a_tool(ledger):
    """The calls of an agent that is another's tool have its own name, and the tool's."""
    inner = create_agent(chat(ledger, rounds=0), [], name="weather")
    ask = make_tool(lambda city: inner.invoke({"messages": MESSAGES})["messages"][-1].text)
    records = []
    with track_tokens(sinks=[records.append]):
        create_agent(chat(ledger, rounds=1), [ask], name="harbour").invoke({"messages": MESSAGES})

    assert [("harbour", None), ("weather", "temperature")] == labels_of(records)


def test_what_follows_a_tool_is_not_its_own(ledger):
    """A tool that has ended, or failed, labels nothing that its caller does next."""

    def fails(city: str) -> str:
        raise LookupError(city)

    records = []
    with track_tokens(sinks=[records.append]):
        make_tool(lambda city: city).invoke({"city": "Porto"})
        with pytest.raises(LookupError):
            make_tool(fails).invoke({"city": "Porto"})
        chat(ledger).invoke("warm?")
        sdk(ledger).chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)

    assert [(None, None)] == labels_of(records)
    assert activity.get() is None


async def test_a_tool_without_an_end(ledger, monkeypatch):
    """Nor does one whose end is never said, as older versions of LangChain say none of a cancelled tool."""
    monkeypatch.setattr("token_handlers.langchain.activities.leave_tool", lambda run_id: None)
    tools = [make_tool(lambda city: city, name) for name in ("one", "two", "three")]
    records = []
    with track_tokens(sinks=[records.append]):
        for each in tools:
            each.invoke({"city": "Porto"})
        await chat(ledger).ainvoke("warm?")
        make_tool(lambda city: chat(ledger).invoke(city).text, "four").invoke({"city": "Porto"})

    assert [(None, None), (None, "four")] == labels_of(records)
    assert activity.get().outer is None


def test_a_block_goes_first(ledger):
    """A block's own "tool" and "agent" stand against the frameworks'."""
    ask = make_tool(lambda city: chat(ledger).invoke(city).text)
    with track_tokens(tags={"tool": "mine"}) as counter:
        ask.invoke({"city": "Porto"})
        record_cost("search", Decimal("0.01"))

    assert {"mine": None, "search": None} == dict.fromkeys(counter.by("tool"))


@pytest.mark.usefixtures("_only_tools")
def test_chosen_labels(ledger):
    """AGENTSIGHT_TOKEN_LABELS names the labels that are taken."""
    ask = make_tool(lambda city: chat(ledger).invoke(city).text)
    records = []
    with track_tokens(sinks=[records.append]):
        create_agent(chat(ledger, rounds=1), [ask], name="harbour").invoke({"messages": MESSAGES}, CONFIG)

    assert [{}, {"tool": "temperature"}, {}] == [record.tags for record in records]
    assert {(None, None)} == {(record.session, record.user) for record in records}


def test_a_runaway_agent(ledger):
    """A cost per minute stops an agent in a loop, what its tools cost by themselves included."""

    def temperature(city: str) -> str:
        record_cost("weather API", "0.30")
        return "warm"

    ask = make_tool(temperature)
    budget = Budget(max_cost_per_minute="1.00")
    with track_tokens(budget=budget) as counter, pytest.raises(BudgetExceeded, match="in the last minute") as raised:
        create_agent(chat(ledger, rounds=100), [ask], name="harbour").invoke({"messages": MESSAGES})

    assert "max_cost_per_minute" == raised.value.limit
    assert Decimal("1.2") == counter.by("tool")["weather API"].cost
    assert 4 == ledger.total().requests
