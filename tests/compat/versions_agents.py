"""Checks of an environment that has LangChain's agents: see versions_checks."""

from functools import partial

from langchain.agents import create_agent
from langchain_core.tools import tool

from tests.compat.versions_checks import every, exact, same
from tests.compat.versions_langchain import WITH_HANDLER, chat, config, reporting
from token_handlers import Budget, track_tokens
from token_handlers.langchain import BudgetMiddleware

QUESTION = {"messages": [{"role": "user", "content": "When is the museum of Porto open?"}]}


@tool
def opening_hours(city: str) -> str:
    """Return when the museum of a city is open."""
    return f"The museum of {city} is open from 10 to 18 h."


def streamed(ledger, on, mode):
    """Read the stream of an agent whose model asks for usage."""
    for _ in create_agent(reporting(ledger), [opening_hours]).stream(QUESTION, config(on), stream_mode=mode):
        pass


REPORTED = {
    "agent": lambda ledger, on: create_agent(chat(ledger), [opening_hours]).invoke(QUESTION, config(on)),
    "agent's updates": partial(streamed, mode="updates"),
    "agent's messages": partial(streamed, mode="messages"),
}


def middleware(ledger):
    """An agent ends where its budget does."""
    agent = create_agent(chat(ledger), [opening_hours], middleware=[BudgetMiddleware(Budget(max_requests=1))])
    with track_tokens() as counter:
        answer = agent.invoke(QUESTION)["messages"][-1]
    exact(ledger, counter)
    same((1, True), (ledger.total().requests, "budget_exceeded" in answer.response_metadata))


CHECKS = {**every(WITH_HANDLER, REPORTED, exact), "BudgetMiddleware": middleware}
