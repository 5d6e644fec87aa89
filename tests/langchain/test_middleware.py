import inspect
import json
import logging
from decimal import Decimal
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelRetryMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from tests.support.bills import billed, counted
from token_handlers import Budget, BudgetExceeded, shared_counter, track_tokens
from token_handlers.budget import Amounts
from token_handlers.budget.limits import text
from token_handlers.langchain import BudgetMiddleware
from token_handlers.sinks.redis import RedisCounter

NOTHING = Amounts()
QUESTION = {"messages": [HumanMessage("How warm is it in Porto?")]}
NO_ANSWER = (
    "the answer is new limits (max_cost, max_tokens, max_requests, max_cost_per_minute) by name, or False to end, not"
)
STOPPED = "I have to stop here: the budget allows {0} requests, {0} are spent, and the next call may go beyond that."


def chat(ledger, /, model="gpt-4o-mini", **modes):
    """Return a ChatOpenAI that talks to the test's channel."""
    settings: Any = {"api_key": "none", "max_retries": 0, "max_tokens": 50, "stream_usage": True}
    return ChatOpenAI(model=model, base_url=ledger.url(**modes), **settings)


@tool
def temperature(city: str) -> str:
    """Return the temperature in a city."""
    return f"21 degrees in {city}"


@pytest.fixture
def runs():
    """What the advising tool was called for."""
    return []


@pytest.fixture
def advice(ledger, runs):
    """A tool that calls a model twice itself."""

    def ask(city: str) -> str:
        """Return advice about a city."""
        runs.append(city)
        return "".join(str(chat(ledger).invoke(text).text) for text in ("one", "two"))

    async def aask(city: str) -> str:
        """Return advice about a city."""
        runs.append(city)
        return "".join([str((await chat(ledger).ainvoke(text)).text) for text in ("one", "two")])

    made = tool("advice")(ask)
    made.coroutine = aask
    return made


def agent(ledger, budget, on_exceeded="end", *, tools=(temperature,), before=(), after=(), saver=None, **modes):
    """Return an agent under a budget."""
    middleware = [*before, BudgetMiddleware(budget, on_exceeded), *after]
    return create_agent(chat(ledger, **modes), list(tools), middleware=middleware, checkpointer=saver)


def requests(ledger):
    """Return how many requests went out."""
    return ledger.total().requests + ledger.total().rejected


def assert_booked(ledger, budget):
    """What is booked is what was billed, and nothing is held."""
    bill = ledger.total()
    assert (bill.prompt_tokens + bill.completion_tokens, requests(ledger)) == budget.spent()[1:]
    assert NOTHING == budget.held()


THREAD = {"configurable": {"thread_id": "1"}}


def _invoke(agent, given, config=None):
    return agent.invoke(given, config)


def _stream(agent, given, config=None):
    *_, last = agent.stream(given, config, stream_mode="values")
    return last


async def _ainvoke(agent, given, config=None):
    return await agent.ainvoke(given, config)


async def _astream(agent, given, config=None):
    return [one async for one in agent.astream(given, config, stream_mode="values")][-1]


WAYS = {"invoke": _invoke, "stream": _stream, "ainvoke": _ainvoke, "astream": _astream}


@pytest.fixture(params=WAYS)
def run(request):
    """Return what runs an agent to its end, or to its next question, in each of the ways."""
    way = WAYS[request.param]

    async def wait(*given):
        result = way(*given)
        return await result if request.param.startswith("a") else result

    return wait


@pytest.mark.parametrize("limit", [{"max_requests": 2}, {"max_tokens": 300}, {"max_cost": "0.00007"}])
async def test_an_agent_ends(ledger, run, limit):
    """It ends before the model call that would pass the limit; its last message says which limit and what is spent."""
    budget = Budget(**limit)
    state = await run(agent(ledger, budget, rounds=9), QUESTION)

    last, ((name, maximum),) = state["messages"][-1], limit.items()
    spent = text(budget.spent().under(name))
    unit = {"max_requests": "requests", "max_tokens": "tokens", "max_cost": "USD"}[name]
    words = (
        f"I have to stop here: the budget allows {maximum} {unit}, {spent} are spent, and the next call may go beyond"
    )
    asked = {"scope": "the budget", "limit": name, "maximum": str(maximum), "spent": spent, "model": "gpt-4o-mini"}
    assert (AIMessage, [], f"{words} that.") == (type(last), last.tool_calls, last.text)
    assert {"budget_exceeded": asked | {"message": last.text}} == last.response_metadata
    assert 2 == requests(ledger)
    assert_booked(ledger, budget)


async def test_an_agent_that_never_calls(ledger, run):
    """An agent whose first call is refused sends nothing."""
    budget = Budget(max_tokens=1)
    state = await run(agent(ledger, budget), QUESTION)

    assert ["HumanMessage", "AIMessage"] == [type(message).__name__ for message in state["messages"]]
    assert (0, NOTHING) == (requests(ledger), budget.spent())


def test_whose_budget(ledger):
    """The message names whose budget it is, by the labels of the blocks around the agent."""
    budget = Budget(max_tokens=1, scope="team", each="user", per="day")
    with track_tokens(user="ada"):
        state = agent(ledger, budget).invoke(QUESTION)

    assert (
        "I have to stop here: budget 'team' of user 'ada' per day allows 1 tokens, 0 are" in state["messages"][-1].text
    )


async def test_an_agent_ends_after_a_tool(ledger, run, advice, runs):
    """A tool whose model call is refused is broken off as an error; the agent ends, and calls no model any more."""
    budget = Budget(max_requests=2)
    state = await run(agent(ledger, budget, tools=[advice]), QUESTION)

    *_, error, last = state["messages"]
    assert (ToolMessage, "error", "advice") == (type(error), error.status, error.name)
    assert f"The tool was broken off. {STOPPED.format(2)}" == error.text
    assert STOPPED.format(2) == last.text
    assert error.response_metadata == last.response_metadata
    assert (2, 1) == (requests(ledger), len(runs))
    assert_booked(ledger, budget)


async def test_calls_of_tools_count(ledger, run, advice):
    """What an agent's tools call is booked with what it calls itself."""
    budget = Budget(max_requests=4)
    state = await run(agent(ledger, budget, tools=[advice]), QUESTION)

    assert "budget_exceeded" not in state["messages"][-1].response_metadata
    assert 4 == requests(ledger)
    assert_booked(ledger, budget)


def test_the_messages_of_a_stream(ledger):
    """stream_mode="messages" shows the last message as well."""
    stream = agent(ledger, Budget(max_requests=1)).stream(QUESTION, stream_mode="messages")
    texts = [message.text for message, _ in stream]

    assert STOPPED.format(1) == texts[-1]


async def test_an_ended_agent_goes_on(ledger, run):
    """With room again, the next turn of the conversation is an ordinary one."""
    budget = Budget(max_requests=1)
    made = agent(ledger, budget, saver=InMemorySaver())
    await run(made, QUESTION, THREAD)
    budget.set_limits(max_requests=9)
    state = await run(made, {"messages": [HumanMessage("And now?")]}, THREAD)

    assert "budget_exceeded" not in state["messages"][-1].response_metadata
    assert STOPPED.format(1) in [message.text for message in state["messages"]]
    assert_booked(ledger, budget)


async def test_an_agent_raises(ledger, run, advice):
    """With 'raise' BudgetExceeded passes, a tool's as well."""
    for tools, sent in (([temperature], 1), ([advice], 2)):
        budget, before = Budget(max_requests=sent), requests(ledger)
        with pytest.raises(BudgetExceeded, match=f"max_requests={sent}: {sent} spent"):
            await run(agent(ledger, budget, "raise", tools=tools), QUESTION)
        assert sent == requests(ledger) - before
        assert (sent, NOTHING) == (budget.spent().requests, budget.held())


async def test_a_budget_around_the_agent(ledger, run, advice):
    """The same budget in blocks around the agent counts each call once, and so do the counters."""
    budget = Budget(max_requests=3)
    with track_tokens(budget=budget) as outer, track_tokens(budget=budget):
        await run(agent(ledger, budget, tools=[advice]), QUESTION)

    assert 3 == requests(ledger)
    assert billed(ledger) == counted(outer)
    assert_booked(ledger, budget)


async def test_other_budgets(ledger, run, advice):
    """A refusal of a budget of a block around the agent is raised, whatever the agent's own does."""
    for mode in ("end", "interrupt"):
        own, outer, before = Budget(max_requests=9), Budget(max_requests=2, scope="outer"), requests(ledger)
        with track_tokens(budget=outer), pytest.raises(BudgetExceeded, match="budget 'outer' has max_requests=2"):
            await run(agent(ledger, own, mode, tools=[advice], saver=InMemorySaver()), QUESTION, THREAD)
        assert 2 == requests(ledger) - before == own.spent().requests == outer.spent().requests
        assert (NOTHING, NOTHING) == (own.held(), outer.held())


def question(state):
    """Return what a state asks."""
    (asked,) = state["__interrupt__"]
    return asked.value


async def test_a_person_raises_the_limit(ledger, run):
    """The question is JSON and says what is to be known; with new limits the agent goes on, and asks again at those."""
    budget = Budget(max_requests=1, scope="team")
    made = agent(ledger, budget, "interrupt", saver=InMemorySaver(), rounds=3)
    state = await run(made, QUESTION, THREAD)
    words = "I have to stop here: budget 'team' allows 1 requests, 1 are spent, and the next call may go beyond that."
    asked = {"scope": "budget 'team'", "limit": "max_requests", "maximum": "1", "spent": "1", "model": "gpt-4o-mini"}
    assert asked | {"message": words} == json.loads(json.dumps(question(state))) == question(state)
    assert 1 == requests(ledger)

    state = await run(made, Command(resume={"max_requests": 3}), THREAD)
    assert ("3", "3") == (question(state)["maximum"], question(state)["spent"])
    state = await run(made, Command(resume={"max_requests": 5, "max_cost": "1.00"}), THREAD)
    assert "__interrupt__" not in state
    assert not any("budget_exceeded" in message.response_metadata for message in state["messages"])
    assert {"max_cost": Decimal("1.00"), "max_tokens": None, "max_requests": 5} == budget.limits
    assert 4 == requests(ledger)
    assert_booked(ledger, budget)


async def test_a_person_refuses(ledger, run):
    """With False the agent ends with the message."""
    budget = Budget(max_requests=1)
    made = agent(ledger, budget, "interrupt", saver=InMemorySaver())
    await run(made, QUESTION, THREAD)
    state = await run(made, Command(resume=False), THREAD)

    assert STOPPED.format(1) == state["messages"][-1].text
    assert (1, 1) == (requests(ledger), budget.limits["max_requests"])
    assert_booked(ledger, budget)


async def test_a_person_refuses_by_the_questions_id(ledger, run):
    """None, which LangGraph passes by a question's id alone, is no as well."""
    made = agent(ledger, Budget(max_requests=1), "interrupt", saver=InMemorySaver())
    state = await run(made, QUESTION, THREAD)
    state = await run(made, Command(resume={state["__interrupt__"][0].id: None}), THREAD)

    assert STOPPED.format(1) == state["messages"][-1].text
    assert 1 == requests(ledger)


async def test_a_no_is_a_no(ledger, run):
    """What a person refused is not sent, though there is room again when they say so."""
    budget = Budget(max_requests=1)
    made = agent(ledger, budget, "interrupt", saver=InMemorySaver())
    await run(made, QUESTION, THREAD)
    budget.set_limits(max_requests=99)
    state = await run(made, Command(resume=False), THREAD)

    assert STOPPED.format(1) == state["messages"][-1].text
    assert 1 == requests(ledger)


async def test_an_answer_to_another_process(ledger, run):
    """An answer that reaches another agent and budget, as after a restart, is that question's answer all the same."""
    saver = InMemorySaver()
    for answer, sent in (({"max_requests": 7}, 2), (False, 1)):
        config, before = {"configurable": {"thread_id": str(answer)}}, requests(ledger)
        await run(agent(ledger, Budget(max_requests=1), "interrupt", saver=saver), QUESTION, config)
        fresh = Budget(max_requests=3)
        state = await run(agent(ledger, fresh, "interrupt", saver=saver), Command(resume=answer), config)
        assert "__interrupt__" not in state
        assert sent == requests(ledger) - before
        assert (7 if answer else 3) == fresh.limits["max_requests"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (True, f"{NO_ANSWER} True"),
        ("2.00", f"{NO_ANSWER} '2.00'"),
        ({"cost": 1}, f"{NO_ANSWER} {{'cost': 1}}"),
        ({"max_cost": None}, "a limit can be raised, but not taken away: {'max_cost': None}"),
        ({"max_requests": "5"}, "max_requests must be a whole number, more than 0, not '5'"),
        ({"max_requests": 5, "max_cost": -1}, "max_cost must be USD, more than 0, not -1"),
    ],
)
def test_answers_that_are_none(ledger, answer, error):
    """A wrong answer changes nothing, and is asked again with what is wrong; the right one is taken then."""
    budget = Budget(max_requests=1)
    made = agent(ledger, budget, "interrupt", saver=InMemorySaver())
    made.invoke(QUESTION, THREAD)
    for _ in range(2):
        state = made.invoke(Command(resume=answer), THREAD)
        assert error == question(state)["error"]
    assert ({"max_cost": None, "max_tokens": None, "max_requests": 1}, 1) == (budget.limits, requests(ledger))

    state = made.invoke(Command(resume={"max_requests": 2}), THREAD)
    assert "__interrupt__" not in state
    assert 2 == requests(ledger)
    assert_booked(ledger, budget)


async def test_a_person_is_asked_after_a_tool(ledger, run, advice, runs):
    """A tool that was refused in its middle is not run again by itself; told of the new limit, the model goes on."""
    budget = Budget(max_requests=2)
    made = agent(ledger, budget, "interrupt", tools=[advice], saver=InMemorySaver())
    state = await run(made, QUESTION, THREAD)
    assert ("2", 2, 1) == (question(state)["spent"], requests(ledger), len(runs))

    state = await run(made, Command(resume={"max_requests": 3}), THREAD)
    error = next(message for message in state["messages"] if isinstance(message, ToolMessage))
    assert ("error", {}) == (error.status, error.response_metadata)
    assert error.text.endswith("The limit has been raised since: the tool may be called again.")
    assert (4, AIMessage) == (len(state["messages"]), type(state["messages"][-1]))
    assert (3, 1) == (requests(ledger), len(runs))
    assert_booked(ledger, budget)


async def test_a_person_refuses_after_a_tool(ledger, run, advice, runs):
    """With False the agent ends there."""
    budget = Budget(max_requests=2)
    made = agent(ledger, budget, "interrupt", tools=[advice], saver=InMemorySaver())
    await run(made, QUESTION, THREAD)
    state = await run(made, Command(resume=False), THREAD)

    assert STOPPED.format(2) == state["messages"][-1].text
    assert (2, 1) == (requests(ledger), len(runs))
    assert_booked(ledger, budget)


async def test_an_unpriced_model(ledger, run):
    """No limit makes a refused model without a price acceptable: asking raises, ending says so in the last message."""
    budget = Budget(max_cost=1, unpriced="refuse")
    unknown = chat(ledger, "nobody-knows-of-this")
    asking = create_agent(unknown, [], middleware=[BudgetMiddleware(budget, "interrupt")], checkpointer=InMemorySaver())
    with pytest.raises(BudgetExceeded, match="set_price"):
        await run(asking, QUESTION, THREAD)
    ending = create_agent(unknown, [], middleware=[BudgetMiddleware(budget)])
    last = (await run(ending, QUESTION))["messages"][-1]

    assert last.text.startswith("I have to stop here: nobody-knows-of-this was not called: it has no price")
    assert (None, "1") == (
        last.response_metadata["budget_exceeded"]["spent"],
        last.response_metadata["budget_exceeded"]["maximum"],
    )
    assert 0 == requests(ledger)


def test_a_store_that_can_not_be_asked(ledger):
    """A budget that fails closed: asking raises, and the agent goes on from there once its store can be used."""
    store = RedisCounter("redis://127.0.0.1:1", "nobody", timeout=0.1)
    try:
        closed = Budget(max_requests=9, store=store, scope="team", on_outage="fail_closed")
        saver = InMemorySaver()
        with pytest.raises(BudgetExceeded, match="fails closed"):
            agent(ledger, closed, "interrupt", saver=saver).invoke(QUESTION, THREAD)
        last = agent(ledger, closed).invoke(QUESTION)["messages"][-1]
    finally:
        store.close(0)
    assert "fails closed" in last.text
    assert 0 == requests(ledger)

    agent(ledger, Budget(max_requests=9), "interrupt", saver=saver).invoke(None, THREAD)
    assert 2 == requests(ledger)


class _Seeing(AgentMiddleware):
    """Notes the last message of each request that is tried."""

    def __init__(self):
        super().__init__()
        self.last_texts = []

    def wrap_model_call(self, request, handler):
        self.last_texts.append(request.messages[-1].text)
        return handler(request)

    async def awrap_model_call(self, request, handler):
        self.last_texts.append(request.messages[-1].text)
        return await handler(request)


@pytest.mark.parametrize("way", WAYS)
async def test_wrap_up(ledger, way):
    """The model is told once that it has to finish, beyond the limit, and the agent ends with its answer."""
    budget = Budget(max_requests=2)
    seeing = _Seeing()
    stopped = agent(ledger, budget, "wrap_up", after=[seeing], rounds=5)
    answer = WAYS[way](stopped, QUESTION)
    messages = (await answer if inspect.isawaitable(answer) else answer)["messages"]

    assert 3 == requests(ledger)
    assert_booked(ledger, budget)
    assert ["human", "ai", "tool", "ai", "tool", "ai"] == [message.type for message in messages]
    assert ([], "max_requests") == (
        messages[-1].tool_calls,
        messages[-1].response_metadata["budget_exceeded"]["limit"],
    )
    assert messages[-1].text
    told = ["The budget of this task is used up (the budget, max_requests)" in text for text in seeing.last_texts]
    assert [False, False, False, True] == told


def test_wrap_up_after_a_tool_was_refused(ledger, advice, runs):
    """A tool's refused call is the reason to finish as well; the tool is not called again."""
    budget = Budget(max_requests=2)
    last = agent(ledger, budget, "wrap_up", tools=[advice]).invoke(QUESTION)["messages"][-1]

    assert (1, 3) == (len(runs), requests(ledger))
    assert (last.type, last.tool_calls, bool(last.text)) == ("ai", [], True)
    assert_booked(ledger, budget)


def test_wrap_up_under_another_budget(ledger):
    """A budget around the agent is not overdrawn."""
    outer = Budget(max_requests=2, scope="outer")
    with track_tokens(budget=outer), pytest.raises(BudgetExceeded, match="outer"):
        agent(ledger, Budget(max_requests=2), "wrap_up", rounds=5).invoke(QUESTION)

    assert 2 == requests(ledger) == outer.spent().requests


def test_a_cost_per_minute(ledger):
    """An agent that runs away is stopped by what it costs in a minute, and its last message says so."""
    budget = Budget(max_cost_per_minute="0.00006")
    last = agent(ledger, budget, rounds=50).invoke(QUESTION, {"recursion_limit": 200})["messages"][-1]

    assert "allows 0.00006 USD a minute" in last.text
    assert 1 <= requests(ledger) < 10


def test_settings():
    """What is no budget, or no way to behave, is refused."""
    with pytest.raises(TypeError, match=r"budget must be a Budget, not '0.50': write Budget\(max_cost=...\)"):
        BudgetMiddleware("0.50")
    with pytest.raises(ValueError, match="on_exceeded is one of 'end', 'wrap_up', 'raise', 'interrupt', not 'stop'"):
        BudgetMiddleware(Budget(max_requests=1), "stop")


def test_a_tools_own_interrupt(ledger):
    """A tool that asks a person itself is neither disturbed nor charged twice."""

    @tool
    def confirm(city: str) -> str:
        """Return whether a person wants to know."""
        return f"{interrupt('sure?')}"

    budget = Budget(max_requests=1)
    made = agent(ledger, budget, "interrupt", tools=[confirm], saver=InMemorySaver())
    assert "sure?" == question(made.invoke(QUESTION, THREAD))
    assert "max_requests" == question(made.invoke(Command(resume="yes"), THREAD))["limit"]
    state = made.invoke(Command(resume={"max_requests": 2}), THREAD)

    assert ["yes"] == [message.text for message in state["messages"] if isinstance(message, ToolMessage)]
    assert 2 == requests(ledger)
    assert_booked(ledger, budget)


@pytest.mark.parametrize("first", [True, False])
def test_other_middleware(ledger, first):
    """Beside others it works as alone: a person's approval of tools, and a limit of calls."""
    others = [
        HumanInTheLoopMiddleware(interrupt_on={"temperature": True}),
        ModelCallLimitMiddleware(run_limit=9),
    ]
    budget = Budget(max_requests=1)
    places = {"after": others} if first else {"before": others}
    made = agent(ledger, budget, "interrupt", saver=InMemorySaver(), **places)
    made.invoke(QUESTION, THREAD)
    state = made.invoke(Command(resume={"decisions": [{"type": "approve"}]}), THREAD)
    assert "max_requests" == question(state)["limit"]
    state = made.invoke(Command(resume={"max_requests": 2}), THREAD)

    assert "__interrupt__" not in state
    assert 2 == requests(ledger)
    assert_booked(ledger, budget)


def test_middleware_that_repeats_calls(ledger):
    """Before it in the list, middleware that repeats failed calls repeats what failed, and no refusal."""
    budget = Budget(max_requests=2)
    retry = ModelRetryMiddleware(max_retries=5, initial_delay=0, jitter=False)
    state = agent(ledger, budget, before=[retry], status="500").invoke(QUESTION)

    assert STOPPED.format(2) == state["messages"][-1].text
    assert 2 == requests(ledger)
    assert_booked(ledger, budget)


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


@pytest.mark.parametrize("tools", [[], [temperature]])
def test_structured_output(ledger, tools):
    """An agent that owes a structured answer ends without one."""
    middleware = [BudgetMiddleware(Budget(max_tokens=1))]
    made = create_agent(chat(ledger), tools, middleware=middleware, response_format=ToolStrategy(Weather))
    state = made.invoke(QUESTION)

    assert state.get("structured_response") is None
    assert "I have to stop here" in state["messages"][-1].text
    assert 0 == requests(ledger)


async def test_an_agent_as_a_tool(ledger, run):
    """An agent under the same budget inside a tool ends with its message, and the outer one then ends as well."""
    budget = Budget(max_requests=2)
    inner = agent(ledger, budget)

    @tool
    def delegate(city: str) -> str:
        """Ask another agent."""
        return str(inner.invoke(QUESTION)["messages"][-1].text)

    state = await run(agent(ledger, budget, tools=[delegate]), QUESTION)

    *_, told, last = state["messages"]
    assert ("success", STOPPED.format(2), STOPPED.format(2)) == (told.status, told.text, last.text)
    assert 2 == requests(ledger)
    assert_booked(ledger, budget)


def test_a_tool_that_fails_by_itself(ledger):
    """Errors that are no refusals stay what they are."""

    @tool
    def broken(city: str) -> str:
        """Fail."""
        raise LookupError("gone")

    budget = Budget(max_requests=9)
    with pytest.raises(LookupError, match="gone"):
        agent(ledger, budget, tools=[broken]).invoke(QUESTION)
    assert_booked(ledger, budget)


def test_what_others_see(ledger):
    """Middleware further in sees the refusal as an error, that further out as an answer."""
    seen = []

    class Watch(AgentMiddleware):
        def __init__(self, place):
            self.place = place

        @property
        def name(self):
            return self.place

        def wrap_model_call(self, request, handler):
            try:
                response = handler(request)
            except BudgetExceeded:
                seen.append((self.place, "error"))
                raise
            seen.append((self.place, "answer"))
            return response

    budget = Budget(max_tokens=1)
    agent(ledger, budget, before=[Watch("out")], after=[Watch("in")]).invoke(QUESTION)
    assert [("in", "error"), ("out", "answer")] == seen


def test_the_shared_counter(ledger, caplog):
    """Calls of an agent that is under a budget alone reach the shared counter, as those in any block."""
    before = shared_counter().successful_requests
    with caplog.at_level(logging.ERROR, "token_handlers"):
        agent(ledger, Budget(max_requests=9)).invoke(QUESTION)

    assert 2 == shared_counter().successful_requests - before
    assert [] == caplog.messages
