import gc
from types import SimpleNamespace

import openai
import pytest
from langchain_openai import ChatOpenAI
from llama_index.core import Document, SummaryIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import FunctionTool, QueryEngineTool, ToolSelection
from llama_index.core.tools.calling import acall_tool_with_selection, call_tool_with_selection

from tests.support.llama_index_clients import AGENT_WARNINGS, make_embedder, make_llm, no_swallowed_faults
from token_handlers import record_cost, track_tokens
from token_handlers.llama_index import agents
from token_handlers.tracking.surroundings import activity

pytestmark = AGENT_WARNINGS


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher, and agents leave nothing for another test."""
    with no_swallowed_faults():
        yield
    gc.collect()
    assert activity.get() is None
    assert {} == agents._running


ASKS = {
    "a model": lambda ledger: make_llm(ledger).complete("warm?"),
    "embeddings": lambda ledger: make_embedder(ledger).get_text_embedding("warm?"),
    "an SDK": lambda ledger: openai.OpenAI(base_url=ledger.url(), api_key="none").chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "warm?"}]
    ),
    "a model of LangChain": lambda ledger: ChatOpenAI(
        model="gpt-4o-mini", base_url=ledger.url(), api_key="none"
    ).invoke("warm?"),
    "itself": lambda ledger: record_cost("temperature", "0.01"),
}


def temperature_by(ledger, asks):
    """Return a tool that asks something."""

    def temperature(city: str) -> str:
        """Return the temperature in a city."""
        ASKS[asks](ledger)
        return f"21 degrees in {city}"

    return FunctionTool.from_defaults(temperature)


def labels_of(records):
    """Return the agent and the tool of each record, without repetitions."""
    return list(dict.fromkeys((record.tags.get("agent"), record.tags.get("tool")) for record in records))


@pytest.mark.parametrize("asks", ASKS)
async def test_what_a_tool_asks_has_its_name(ledger, asks):
    """A call that an agent's tool makes has the tool's name and the agent's, an agent's own call its own."""
    records = []
    agent = FunctionAgent(name="harbour", tools=[temperature_by(ledger, asks)], llm=make_llm(ledger))
    with track_tokens(sinks=[records.append]):
        await agent.run("How warm is it in Porto?")
        make_llm(ledger).complete("And what follows?")

    assert [("harbour", None), ("harbour", "temperature"), (None, None)] == labels_of(records)


@pytest.mark.parametrize("streaming", [True, False])
async def test_workflows_of_agents(ledger, streaming):
    """In a workflow each agent's calls have its name, the tools' too."""
    names = iter(["handoff", "temperature"])

    def answer(messages, **kwargs):
        if messages[-1].role == "tool" and "Porto" in str(messages[-1].content):
            return ChatMessage("done", role="assistant")
        name = next(names)
        given = {"to_agent": "weather", "reason": "warm"} if name == "handoff" else {"city": "Porto"}
        return ChatMessage(
            role="assistant",
            blocks=[{"block_type": "tool_call", "tool_call_id": name, "tool_name": name, "tool_kwargs": given}],
        )

    llm, tool = MockFunctionCallingLLM(response_generator=answer), temperature_by(ledger, "a model")
    workflow = AgentWorkflow(
        agents=[
            FunctionAgent(name="desk", description="asks", tools=[], llm=llm, streaming=streaming),
            FunctionAgent(name="weather", description="knows", tools=[tool], llm=llm, streaming=streaming),
        ],
        root_agent="desk",
    )
    records = []
    with track_tokens(sinks=[records.append]):
        await workflow.run("How warm is it in Porto?")

    assert [("desk", None), ("weather", None), ("weather", "temperature")] == labels_of(records)


async def test_react_agents(ledger):
    """An agent that writes its tool calls as text has a name as well."""
    records = []
    agent = ReActAgent(name="harbour", tools=[temperature_by(ledger, "a model")], llm=make_llm(ledger))
    with track_tokens(sinks=[records.append]):
        await agent.run("How warm is it in Porto?")

    assert ("harbour", None) == labels_of(records)[0]


@pytest.mark.parametrize("way", ["called", "awaited", "selected", "selected and awaited"])
async def test_tools_without_an_agent(ledger, way):
    """A tool labels what it asks whoever calls it; a query engine may be one."""
    index = SummaryIndex.from_documents([Document(text="Porto is warm.")])
    tool = QueryEngineTool.from_defaults(
        index.as_query_engine(llm=make_llm(ledger)), name="facts", description="what is known"
    )
    chosen = ToolSelection(tool_id="1", tool_name="facts", tool_kwargs={"input": "How warm?"})
    records = []
    with track_tokens(sinks=[records.append]):
        if way == "called":
            tool.call("How warm?")
        elif way == "awaited":
            await tool.acall("How warm?")
        elif way == "selected":
            call_tool_with_selection(chosen, [tool])
        else:
            await acall_tool_with_selection(chosen, [tool])

    assert [(None, "facts")] == labels_of(records)


def test_a_tool_that_fails(ledger):
    """A tool that raises labels nothing that follows."""

    def fails(city: str) -> str:
        raise LookupError(city)

    records = []
    with track_tokens(sinks=[records.append]):
        with pytest.raises(LookupError):
            FunctionTool.from_defaults(fails, name="temperature").call(city="Porto")
        make_llm(ledger).complete("warm?")

    assert [(None, None)] == labels_of(records)


def test_many_runs(monkeypatch):
    """Runs that never end are followed up to a limit."""
    monkeypatch.setattr(agents, "MAX_RUNS", 2)
    monkeypatch.setattr(agents, "_running", type(agents._running)())

    given = SimpleNamespace(arguments={"ev": SimpleNamespace(current_agent_name="harbour")})
    for number in range(5):
        agents.enter_step(f"Workflow.run_agent_step-{number}", given, f"run-{number}")
        agents.leave(f"Workflow.run_agent_step-{number}")

    assert ["run-3", "run-4"] == list(agents._running)
    agents._running.clear()
