import contextvars
from datetime import date
from uuid import UUID

import pytest
from langchain import agents
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph

from token_handlers import Budget, BudgetExceeded, track_tokens
from token_handlers.langchain import activities
from token_handlers.langchain.activities import _outermost
from token_handlers.langchain.labels import MOST_LABELS
from token_handlers.tracking.surroundings import MOST_CHARACTERS


def model():
    """Return a model whose answer used 27 tokens."""
    usage = {"input_tokens": 20, "output_tokens": 7, "total_tokens": 27}
    answer = AIMessage("four", usage_metadata=usage, response_metadata={"model_name": "gpt-4o-mini"})
    return GenericFakeChatModel(messages=iter([answer]))


@pytest.fixture(autouse=True)
def _no_runs():
    """No run that another test has left open is followed."""
    _outermost.clear()


def tokens_by(counter, label):
    """Return the tokens of a label's values."""
    return {value: totals.total_tokens for value, totals in counter.by(label).items()}


def records_of(metadata, **block):
    """Return the records of a call with metadata."""
    records = []
    with track_tokens(sinks=[records.append], **block):
        model().invoke("how many boats?", {"metadata": metadata})
    return records


def test_metadata_labels_a_call():
    """Every key of a config's metadata is a label of the call."""
    with track_tokens() as tokens:
        model().invoke("how many boats?", {"metadata": {"customer": "acme", "shard": 7}})
    assert {"acme": 27} == tokens_by(tokens, "customer")
    assert {"7": 27} == tokens_by(tokens, "shard")


def test_a_graphs_thread_labels_its_calls():
    """The thread_id that a graph is configured with is a label of its calls, and their session."""
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [model().invoke(state["messages"])]})
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    with track_tokens() as tokens:
        graph.compile().invoke({"messages": [("user", "how many boats?")]}, {"configurable": {"thread_id": "t-4"}})
    for label in ("thread_id", "session"):
        assert {"t-4": 27} == tokens_by(tokens, label)
    assert {"ask": 27} == tokens_by(tokens, "langgraph_node")
    assert {"thread_id=t-4"} == set(tokens.by("tag"))


def test_an_agents_name_labels_its_calls():
    """An agent's name is the label "agent"."""
    with track_tokens() as tokens:
        agents.create_agent(model(), [], name="harbour").invoke({"messages": [("user", "how many boats?")]})
    assert {"harbour": 27} == tokens_by(tokens, "agent")


@pytest.mark.parametrize("key", ["session_id", "thread_id", "langfuse_session_id", "session"])
def test_metadata_fills_the_session(key):
    """Session ids fill the session where no block says otherwise."""
    assert ["s-1"] == [record.session for record in records_of({key: "s-1"})]
    assert ["block"] == [record.session for record in records_of({key: "s-1"}, session="block")]


@pytest.mark.parametrize("key", ["user_id", "langfuse_user_id", "user"])
def test_metadata_fills_the_user(key):
    """User ids fill the user where no block says otherwise."""
    assert ["42"] == [record.user for record in records_of({key: 42})]
    assert ["block"] == [record.user for record in records_of({key: 42}, user="block")]


def test_a_blocks_tag_goes_first():
    """A tag of a block stands against metadata of the same name."""
    (record,) = records_of({"customer": "acme", "team": "search"}, tags={"customer": "block"})
    assert {"customer": "block", "team": "search"} == record.tags


def test_what_is_no_label():
    """LangChain's own keys, names by which totals are grouped already, nested and empty values are left out."""
    metadata = {
        "ls_own": "x",
        "langgraph_own": "x",
        "lc_own": "x",
        "checkpoint_ns": "x",
        "model": "other",
        "provider": "other",
        "nested": {"a": 1},
        "listed": ["a"],
        "empty": "",
        "none": None,
        "when": date(2026, 11, 1),
        "id": UUID(int=1),
    }
    (record,) = records_of(metadata)
    assert {"when": "2026-11-01", "id": str(UUID(int=1))} == record.tags
    assert "gpt-4o-mini" == record.model


def test_labels_are_bounded():
    """At most MOST_LABELS keys are taken, with MOST_CHARACTERS of each value."""
    (record,) = records_of({f"key{number}": "x" * 1_000 for number in range(100)})
    assert MOST_LABELS == len(record.tags)
    assert {MOST_CHARACTERS} == {len(value) for value in record.tags.values()}


def test_budgets_go_by_a_users_metadata():
    """A budget for each user goes by the user that metadata names."""
    budget = Budget(max_requests=1, each="user")
    with track_tokens(budget=budget):
        model().invoke("one", {"metadata": {"user_id": "a"}})
        model().invoke("two", {"metadata": {"user_id": "b"}})
        with pytest.raises(BudgetExceeded):
            model().invoke("three", {"metadata": {"user_id": "a"}})


def test_a_runs_name_labels_it():
    """What the caller calls a run of a model is its label "run_name", without metadata as well."""
    with track_tokens() as tokens:
        model().with_config(run_name="summary").invoke("how many boats?")
        model().invoke("how many boats?", {"run_name": "draft", "metadata": {"customer": "acme"}})
        model().invoke("how many boats?")
        with track_tokens(tags={"run_name": "block"}):
            model().invoke("how many boats?", {"run_name": "mine"})
    assert {"summary": 27, "draft": 27, "block": 27} == tokens_by(tokens, "run_name")
    assert {"acme": 27} == tokens_by(tokens, "customer")


def chain(name=None):
    """Return a chain of steps around a model, which may be called something."""
    made = RunnableLambda(lambda text: text) | (lambda text: model().invoke(text)) | StrOutputParser()
    return made.with_config(run_name=name) if name else made


def named(records):
    """Return the run names of records."""
    return [record.tags.get("run_name") for record in records]


async def test_the_name_of_an_outermost_run():
    """A chain's or graph's own name labels all that it asks, in any way of calling it, and nothing that follows."""
    records = []
    builder = StateGraph(MessagesState)
    builder.add_node("ask", lambda state: {"messages": [chain().invoke("boats?")]})
    graph = builder.add_edge(START, "ask").add_edge("ask", END).compile()
    with track_tokens(sinks=[records.append]):
        chain("nightly").invoke("boats?")
        await chain("awaited").ainvoke("boats?")
        list(chain("streamed").stream("boats?"))
        [piece async for piece in chain("streamed later").astream("boats?")]
        chain("batch").batch(["boats?", "sails?"])
        graph.invoke({"messages": []}, {"run_name": "graph"})
        await graph.ainvoke({"messages": []}, {"run_name": "graph later"})
        chain().invoke("boats?")
        model().invoke("boats?")

    assert ["nightly", "awaited", "streamed", "streamed later", "batch", "batch", "graph", "graph later"] == (
        named(records)[:-2]
    )
    assert [None, None] == named(records)[-2:]
    assert {} == _outermost


def test_a_model_within_a_named_run():
    """A model's own name goes before that of the outermost run."""
    records = []
    within = RunnableLambda(lambda text: model().with_config(run_name="own").invoke(text))
    with track_tokens(sinks=[records.append]):
        within.invoke("boats?", {"run_name": "outer"})

    assert ["own"] == named(records)


def test_runs_whose_name_nobody_knows():
    """Of runs that are under way at once, with different names, none is guessed; one without a name has none."""
    records = []
    with track_tokens(sinks=[records.append]):
        chain().batch(["boats?", "sails?"], [{"run_name": "one"}, {"run_name": "two"}])
        left = chain("left").stream("boats?")
        next(left)
        model().invoke("boats?")
        chain().invoke("boats?")
        left.close()
        chain("after").invoke("boats?")

    assert {"left", "after", None} >= set(named(records))
    assert [None, None, "after"] == named(records)[-3:]
    assert [None, None] == named(records)[:2]
    assert {} == _outermost


def test_runs_that_never_end(monkeypatch):
    """Of runs whose end never comes so many are remembered, and new ones are followed."""
    monkeypatch.setattr(activities, "MAX_RUNS", 2)
    monkeypatch.setattr(activities, "leave_outermost", lambda run_id: None)
    records = []
    with track_tokens(sinks=[records.append]):
        for name in ("one", "two", "three", "four"):
            contextvars.copy_context().run(chain(name).invoke, "boats?")

    assert ["one", "two", "three", "four"] == named(records)
    assert 2 == len(_outermost)


def test_failed_runs():
    """A run that fails labels nothing that follows."""
    records = []
    with track_tokens(sinks=[records.append]):
        with pytest.raises(ZeroDivisionError):
            RunnableLambda(lambda text: 1 / 0).invoke("x", {"run_name": "failed"})
        chain().invoke("boats?")

    assert [None] == named(records)
    assert {} == _outermost


def test_budgets_go_by_a_graphs_thread():
    """A budget for each thread goes by the thread that a graph is configured with."""

    def ask(state):
        return {"messages": [model().invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END).compile()
    budget = Budget(max_requests=1, each="thread_id")
    question = {"messages": [("user", "how many boats?")]}
    with track_tokens(budget=budget):
        for thread in ("a", "b"):
            graph.invoke(question, {"configurable": {"thread_id": thread}})
        with pytest.raises(BudgetExceeded, match="of thread_id 'a'"):
            graph.invoke(question, {"configurable": {"thread_id": "a"}})

    assert (1, 1) == (budget.spent("a").requests, budget.spent("b").requests)
