"""Checks of an environment that has LlamaIndex with Anthropic's client: see versions_checks."""

import asyncio
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.anthropic import Anthropic
from pydantic import BaseModel

from tests.compat.versions_checks import automatic, block, every, exact, refuses, same
from token_handlers import Budget, track_tokens

MESSAGES = [ChatMessage(role="user", content="What is the weather in Lisbon?")]
PROMPT = PromptTemplate("What is the weather in {city}?")
NATIVE, BY_TOOL = "claude-sonnet-4-5", "claude-sonnet-4-0"


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


def make_llm(ledger, model=NATIVE):
    """Return an LLM on the check's channel, some of whose tokens are cached."""
    url = ledger.url(cached=4).removesuffix("/v1")
    return Anthropic(
        model=model, base_url=url, api_key="none", max_retries=0, callback_manager=CallbackManager(), max_tokens=200
    )


async def drain(stream):
    """Read an async stream to its end."""
    return [item async for item in await stream]


def structured(model: str) -> dict[str, Any]:
    """Return the ways to ask for an answer of a schema."""
    return {
        f"{model}, structured_predict": lambda ledger, on: make_llm(ledger, model).structured_predict(
            Weather, PROMPT, city="Rome"
        ),
        f"{model}, stream_structured_predict": lambda ledger, on: list(
            make_llm(ledger, model).stream_structured_predict(Weather, PROMPT, city="Rome")
        ),
        f"{model}, astream_structured_predict": lambda ledger, on: asyncio.run(
            drain(make_llm(ledger, model).astream_structured_predict(Weather, PROMPT, city="Rome"))
        ),
        f"{model}, as_structured_llm": lambda ledger, on: list(
            make_llm(ledger, model).as_structured_llm(Weather).stream_chat(MESSAGES)
        ),
        f"{model}, as_structured_llm in async code": lambda ledger, on: asyncio.run(
            drain(make_llm(ledger, model).as_structured_llm(Weather).astream_chat(MESSAGES))
        ),
    }


CALLS = {
    "chat": lambda ledger, on: make_llm(ledger).chat(MESSAGES),
    "stream_chat": lambda ledger, on: list(make_llm(ledger).stream_chat(MESSAGES)),
    "stream_complete": lambda ledger, on: list(make_llm(ledger).stream_complete("What is the weather in Lisbon?")),
    **structured(NATIVE),
    **structured(BY_TOOL),
}


def over_budget(ledger):
    """A structured stream that would pass a budget is not sent."""
    with track_tokens(budget=Budget(max_requests=1)) as counter:
        make_llm(ledger).chat(MESSAGES)
        refuses(lambda: list(make_llm(ledger).stream_structured_predict(Weather, PROMPT, city="Rome")))
        refuses(lambda: asyncio.run(drain(make_llm(ledger).as_structured_llm(Weather).astream_chat(MESSAGES))))
    exact(ledger, counter)
    same(1, ledger.total().requests)


CHECKS = {**every({"automatic": automatic, "block": block}, CALLS, exact), "budget": over_budget}
