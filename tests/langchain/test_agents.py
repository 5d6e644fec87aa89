from operator import add
from typing import Annotated, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

from tests.support.bills import billed, counted
from token_handlers import track_tokens
from token_handlers.langchain import report_stream_usage


@tool
def temperature(city: str) -> str:
    """Return the temperature in a city."""
    return f"21 degrees in {city}"


def chat(ledger, **modes):
    """Return a ChatOpenAI that reports the usage of streams and talks to the test's channel."""
    url = ledger.url(close=1, **modes)
    return report_stream_usage(ChatOpenAI(model="gpt-4o-mini", base_url=url, api_key="none", max_retries=0))


QUESTION = {"messages": [{"role": "user", "content": "How warm is it in Porto?"}]}


@pytest.mark.parametrize("rounds", [1, 3])
def test_create_agent(ledger, rounds):
    """Every model call of an agent's loop is counted, under the node that made it."""
    with track_tokens() as counter:
        create_agent(chat(ledger, rounds=rounds), [temperature]).invoke(QUESTION)

    assert billed(ledger) == counted(counter)
    assert rounds + 1 == counter.successful_requests == counter.by("langgraph_node")["model"].successful_requests


@pytest.mark.parametrize("mode", ["messages", "updates", "values"])
def test_create_agent_streams(ledger, mode):
    """An agent's streams are exact in every stream mode."""
    with track_tokens() as counter:
        for _ in create_agent(chat(ledger), [temperature]).stream(QUESTION, stream_mode=mode):
            pass

    assert billed(ledger) == counted(counter)
    assert (2, 0) == (counter.successful_requests, counter.estimated_requests)


async def test_create_agent_async(ledger):
    """An asynchronous agent is exact, streamed by messages too."""
    agent = create_agent(chat(ledger), [temperature])
    async with track_tokens() as counter:
        await agent.ainvoke(QUESTION)
        async for _ in agent.astream(QUESTION, stream_mode="messages"):
            pass

    assert billed(ledger) == counted(counter)
    assert (4, 0) == (counter.successful_requests, counter.estimated_requests)


def test_the_agent_executor(ledger):
    """The older AgentExecutor is counted as it is billed."""
    prompt = ChatPromptTemplate.from_messages([("user", "{input}"), ("placeholder", "{agent_scratchpad}")])
    agent = create_tool_calling_agent(chat(ledger), [temperature], prompt)
    with track_tokens() as counter:
        AgentExecutor(agent=agent, tools=[temperature]).invoke({"input": "How warm is it in Porto?"})

    assert billed(ledger) == counted(counter)
    assert 2 == counter.successful_requests


class State(TypedDict):
    """What the graph's nodes add to."""

    answers: Annotated[list[str], add]


def graph(model):
    """Return a graph of two parallel nodes and one after them, each a call."""

    def node(text):
        return lambda state: {"answers": [model.invoke(text).text]}

    builder = StateGraph(State)
    for name in ("left", "right", "last"):
        builder.add_node(name, node(name))
    for name in ("left", "right"):
        builder.add_edge(START, name)
        builder.add_edge(name, "last")
    builder.add_edge("last", END)
    return builder.compile()


def test_parallel_nodes(ledger):
    """LangGraph's parallel nodes are counted, each under its name."""
    with track_tokens() as counter:
        graph(chat(ledger)).invoke({"answers": []})

    assert billed(ledger) == counted(counter)
    requests = {node: totals.successful_requests for node, totals in counter.by("langgraph_node").items()}
    assert {"left": 1, "right": 1, "last": 1} == requests


def test_graph_messages(ledger):
    """stream_mode="messages" makes every model stream: each is exact, and counted once."""
    with track_tokens() as counter:
        for _ in graph(chat(ledger)).stream({"answers": []}, stream_mode="messages"):
            pass

    assert billed(ledger) == counted(counter)
    assert (3, 0) == (counter.successful_requests, counter.estimated_requests)


async def test_graph_events(ledger):
    """astream_events does so, too."""
    with track_tokens() as counter:
        async for _ in graph(chat(ledger)).astream_events({"answers": []}, version="v2"):
            pass

    assert billed(ledger) == counted(counter)
    assert 3 == counter.successful_requests
