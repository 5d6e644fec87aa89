import asyncio
import gc
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from decimal import Decimal
from operator import add
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import httpx
import openai
import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from tests.support.bills import billed, counted
from token_handlers import Budget, BudgetExceeded, get_openai_callback, install, track_tokens, uninstall
from token_handlers.budget import Amounts
from token_handlers.errors import raise_faults
from token_handlers.langchain import LangChainTokenHandler, report_stream_usage
from token_handlers.langchain.calls import Run
from token_handlers.tokenizer import set_tokenizer
from token_handlers.tracking.call import current_context
from token_handlers.tracking.recorder import discard

# langchain-openai's own, where it adds up the usage of several prompts
pytestmark = pytest.mark.filterwarnings("ignore:Unexpected type for token usage")

NOTHING = Amounts()
QUESTION = "What is the weather in Porto today, and what will it be tomorrow?"
PROMPTS = [[HumanMessage(text)] for text in ("one", "two words", "three more words")]


def chat(ledger, /, model="gpt-4o-mini", *, modes=None, **settings):
    """Return a ChatOpenAI that talks to the test's channel, reports the usage of streams, and states its max_tokens."""
    settings = {"api_key": "none", "max_retries": 0, "max_tokens": 12, "stream_usage": True, **settings}
    return ChatOpenAI(model=model, base_url=ledger.url(**(modes or {})), **settings)


def room_for(calls, limit, ledger):
    """Return a budget with room for so many calls of QUESTION, and half a call more."""
    with track_tokens() as one:
        chat(ledger.server.channel("measure", close=1)).invoke(QUESTION)
    whole: Any = {"max_requests": 1, "max_tokens": one.total_tokens, "max_cost": one.cost}[limit]
    half = whole // 2 if isinstance(whole, int) else whole / 2
    return Budget(**{limit: whole * calls + half})


def amounts(ledger):
    """Return what the server billed as a budget books it: rejected requests are requests, too."""
    bill = ledger.total()
    tokens = bill.prompt_tokens + bill.completion_tokens
    cost = Decimal(bill.prompt_tokens * 150 + bill.completion_tokens * 600) / 10**9
    return Amounts(cost, tokens, bill.requests + bill.rejected)


class Answers(TypedDict):
    """What a graph's nodes add to."""

    answers: Annotated[list[str], add]


def _agent(model):
    return create_agent(model, []).invoke({"messages": [HumanMessage(QUESTION)]})


def _node(model):
    builder = StateGraph(Answers)
    builder.add_node("ask", lambda state: {"answers": [model.invoke(QUESTION).text]})
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    return builder.compile()


LIMITS = ("max_requests", "max_tokens", "max_cost")
SYNC: dict[str, Callable[[Any], object]] = {
    "invoke": lambda model: model.invoke(QUESTION),
    "stream": lambda model: list(model.stream(QUESTION)),
    "streaming": lambda model: model.model_copy(update={"streaming": True}).invoke(QUESTION),
    "chain": lambda model: (ChatPromptTemplate.from_template("{x}") | model | StrOutputParser()).invoke(
        {"x": QUESTION}
    ),
    "chain stream": lambda model: list((model | StrOutputParser()).stream(QUESTION)),
    "generate": lambda model: model.generate([[HumanMessage(QUESTION)]]),
    "batch": lambda model: model.batch([QUESTION]),
    "agent": _agent,
    "agent stream": lambda model: list(
        create_agent(model, []).stream({"messages": [QUESTION]}, stream_mode="messages")
    ),
    "node": lambda model: _node(model).invoke({"answers": []}),
}
ASYNC: dict[str, Callable[[Any], Any]] = {
    "ainvoke": lambda model: model.ainvoke(QUESTION),
    "astream": lambda model: _drain(model.astream(QUESTION)),
    "chain astream": lambda model: _drain((model | StrOutputParser()).astream(QUESTION)),
    "astream_events": lambda model: _drain(model.astream_events(QUESTION, version="v2")),
    "agenerate": lambda model: model.agenerate([[HumanMessage(QUESTION)]]),
    "abatch": lambda model: model.abatch([QUESTION]),
    "agent": lambda model: create_agent(model, []).ainvoke({"messages": [HumanMessage(QUESTION)]}),
    "agent astream": lambda model: _drain(create_agent(model, []).astream({"messages": [HumanMessage(QUESTION)]})),
}


async def _drain(stream):
    return [one async for one in stream]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("way", SYNC)
def test_sync_calls(ledger, way, limit):
    """Every synchronous way of calling is refused before the request that would pass a limit, and booked as billed."""
    budget = room_for(2, limit, ledger)
    with track_tokens(budget=budget) as counter:
        for _ in range(2):
            SYNC[way](chat(ledger))
        for _ in range(2):
            with pytest.raises(BudgetExceeded, match=f"gpt-4o-mini was not called: the budget has {limit}="):
                SYNC[way](chat(ledger))

    assert 2 == ledger.total().requests
    assert billed(ledger) == counted(counter)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("way", ASYNC)
async def test_async_calls(ledger, way, limit):
    """So is every asynchronous way."""
    budget = await asyncio.to_thread(room_for, 2, limit, ledger)
    async with track_tokens(budget=budget) as counter:
        for _ in range(2):
            await ASYNC[way](chat(ledger))
        for _ in range(2):
            with pytest.raises(BudgetExceeded, match=f"gpt-4o-mini was not called: the budget has {limit}="):
                await ASYNC[way](chat(ledger))

    assert 2 == ledger.total().requests
    assert billed(ledger) == counted(counter)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


def test_batch(ledger):
    """Of a batch's calls, which start at once, those for which there is room are sent."""
    budget = Budget(max_requests=2)
    with track_tokens(budget=budget):
        answers = chat(ledger).batch(["one", "two", "three"], return_exceptions=True)
        with pytest.raises(BudgetExceeded):
            chat(ledger).batch(["one", "two"])

    assert 1 == sum(isinstance(answer, BudgetExceeded) for answer in answers)
    assert 2 == ledger.total().requests
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


async def test_abatch(ledger):
    """So are those of an asynchronous batch."""
    budget = Budget(max_requests=2)
    with track_tokens(budget=budget):
        answers = await chat(ledger).abatch(["one", "two", "three"], return_exceptions=True)

    assert 1 == sum(isinstance(answer, BudgetExceeded) for answer in answers)
    assert 2 == ledger.total().requests
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


def test_generate(ledger):
    """LangChain starts all prompts of a generate before it sends the first: they are sent together, or none is."""
    budget = Budget(max_requests=3)
    with track_tokens(budget=budget) as counter:
        with pytest.raises(BudgetExceeded, match="max_requests=3: 0 spent, 3 held"):
            chat(ledger).generate([*PROMPTS, PROMPTS[0]])
        assert (0, NOTHING, NOTHING) == (ledger.total().requests, budget.spent(), budget.held())
        chat(ledger).generate(PROMPTS)

    assert billed(ledger) == counted(counter)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


class _Watching(BaseCallbackHandler):
    def __init__(self):
        self.starts = 0

    def on_chat_model_start(self, *args, **kwargs):
        self.starts += 1

    on_llm_start = on_chat_model_start


class _WatchingAsync(AsyncCallbackHandler):
    async def on_chat_model_start(self, *args, **kwargs): ...

    async def on_llm_start(self, *args, **kwargs): ...


@pytest.mark.parametrize("budget", [Budget(max_requests=2), Budget(max_tokens=1)])
async def test_agenerate(ledger, budget):
    """The asynchronous form likewise, beside handlers whose start events LangChain then leaves unawaited."""
    with track_tokens(budget=budget) as counter:
        for callbacks in ([], [_Watching(), _WatchingAsync(), LangChainTokenHandler()]):
            with pytest.raises(BudgetExceeded):
                await chat(ledger).agenerate(PROMPTS, callbacks=callbacks)
            gc.collect()  # a coroutine that was never awaited warns when it is collected

    assert (0, NOTHING, NOTHING) == (ledger.total().requests, budget.spent(), budget.held())
    assert (0, {}) == (counter.failed_requests, counter.open_calls)


async def test_agenerate_with_room(ledger):
    """With room for all of its prompts it is sent, and booked as billed."""
    budget = Budget(max_requests=3)
    with track_tokens(budget=budget):
        await chat(ledger).agenerate(PROMPTS)

    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())
    assert 3 == ledger.total().requests


@pytest.mark.parametrize("sequence", ["generate", "agenerate"])
async def test_a_generate_that_fails(ledger, sequence):
    """Where the second of three prompts fails nothing stays held; the answer that is lost is booked as an estimate."""
    budget, model = Budget(max_tokens=10_000), chat(ledger, modes={"status": "500@2"})
    with track_tokens(budget=budget), pytest.raises(openai.InternalServerError):
        await model.agenerate(PROMPTS) if sequence == "agenerate" else model.generate(PROMPTS)

    assert NOTHING == budget.held()
    assert ledger.total().requests + 1 == budget.spent().requests


def test_retries(ledger):
    """Each attempt of with_retry is a request; the one that would pass the limit is not sent."""
    budget = Budget(max_requests=2)
    model = chat(ledger, modes={"status": "500"}).with_retry(stop_after_attempt=4, wait_exponential_jitter=False)
    with track_tokens(budget=budget), pytest.raises(BudgetExceeded):
        model.invoke(QUESTION)

    assert (2, 0) == (ledger.total().rejected, ledger.total().requests)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


def test_fallbacks(ledger):
    """A fallback for which there is room is sent in place of a model for which there is none."""
    budget = Budget(max_cost="0.0001")
    dear, cheap = chat(ledger, "gpt-4o"), chat(ledger)
    with track_tokens(budget=budget) as counter:
        assert dear.with_fallbacks([cheap]).invoke(QUESTION).text

    assert ["gpt-4o-mini-2024-07-18"] == list(counter.by_model)
    assert (1, 0) == (ledger.total().requests, counter.failed_requests)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


@pytest.mark.parametrize(
    ("own", "bound", "sent"),
    [
        ({"max_tokens": None}, {"max_tokens": 500}, False),
        ({"max_tokens": None}, {"max_tokens": 400}, True),
        ({"max_tokens": None}, {"max_completion_tokens": 500}, False),
        ({"max_tokens": None}, {}, True),
        ({"max_tokens": 500}, {}, False),
        ({"max_tokens": 500}, {"max_tokens": 400}, True),
        ({"max_tokens": 500}, {"max_completion_tokens": 400}, True),
        ({"max_tokens": 400}, {"max_tokens": 500}, False),
        ({"max_tokens": 200, "n": 2}, {}, True),
        ({"max_tokens": 200, "n": 3}, {}, False),
        ({"max_tokens": 200}, {"n": 3}, False),
        ({"max_tokens": 500, "use_responses_api": True}, {}, False),
        ({"max_tokens": 500, "use_responses_api": True}, {"max_tokens": 400}, True),
    ],
)
def test_max_tokens(ledger, own, bound, sent):
    """A call holds its prompt and the max_tokens that it states, bound or the model's own, for each of its answers."""
    budget = Budget(max_tokens=500)
    with track_tokens(budget=budget), nullcontext() if sent else pytest.raises(BudgetExceeded, match="500: 0 spent"):
        chat(ledger, **own).bind(**bound).invoke("hello")

    assert sent == ledger.total().requests
    assert NOTHING == budget.held()


def test_an_agent_in_the_middle(ledger):
    """An agent is stopped before the model call that would pass the limit; what it used before is booked."""
    budget = Budget(max_requests=2)
    with track_tokens(budget=budget) as counter, pytest.raises(BudgetExceeded):
        create_agent(chat(ledger, modes={"rounds": 5}), [temperature]).invoke({"messages": [HumanMessage(QUESTION)]})

    assert 2 == ledger.total().requests
    assert billed(ledger) == counted(counter)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


@tool
def temperature(city: str) -> str:
    """Return the temperature in a city."""
    return f"21 degrees in {city}"


def test_a_tool_that_calls_a_model(ledger):
    """A tool's own calls are checked as well."""

    @tool
    def advice(city: str) -> str:
        """Return advice about a city."""
        return str(chat(ledger).invoke(city).text)

    budget = Budget(max_requests=1)
    agent = create_agent(chat(ledger), [advice])
    with track_tokens(budget=budget), pytest.raises(BudgetExceeded):
        agent.invoke({"messages": [HumanMessage(QUESTION)]})

    assert 1 == ledger.total().requests
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


def test_parallel_nodes(ledger):
    """Of LangGraph's parallel nodes those for which there is room call their models."""
    builder = StateGraph(Answers)
    for name in ("left", "middle", "right"):
        builder.add_node(name, lambda state: {"answers": [chat(ledger).invoke("hello").text]})
        builder.add_edge(START, name)
    budget = Budget(max_requests=2)
    with track_tokens(budget=budget), pytest.raises(BudgetExceeded):
        builder.compile().invoke({"answers": []})

    assert NOTHING == budget.held()
    assert 2 >= ledger.total().requests == budget.spent().requests


def test_handlers_inside_a_block(ledger):
    """Handlers in a callbacks list and get_openai_callback see a call beside the block: it is held and booked once."""
    budget, handler = Budget(max_requests=2), LangChainTokenHandler()
    with track_tokens(budget=budget), get_openai_callback() as callback:
        for _ in range(2):
            chat(ledger, callbacks=[handler]).invoke(QUESTION, config={"callbacks": [LangChainTokenHandler()]})
        with pytest.raises(BudgetExceeded):
            chat(ledger, callbacks=[handler]).invoke(QUESTION)

    assert billed(ledger) == counted(handler) == counted(callback)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


async def test_handlers_inside_an_async_block(ledger):
    """The same, asynchronously."""
    budget, handler = Budget(max_requests=1), LangChainTokenHandler()
    async with track_tokens(budget=budget):
        with get_openai_callback() as callback:
            await chat(ledger).ainvoke(QUESTION, config={"callbacks": [handler]})
            with pytest.raises(BudgetExceeded):
                await chat(ledger).ainvoke(QUESTION, config={"callbacks": [handler, _WatchingAsync()]})
            gc.collect()

    assert billed(ledger) == counted(handler) == counted(callback)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


def test_a_handler_under_a_budget_of_the_process(ledger):
    """A handler alone is under the process's budget."""
    budget, handler = Budget(max_requests=1), LangChainTokenHandler()
    install("langchain", budget=budget)
    try:
        chat(ledger, callbacks=[handler]).invoke(QUESTION)
        with pytest.raises(BudgetExceeded):
            chat(ledger, callbacks=[handler]).invoke(QUESTION)
    finally:
        uninstall()

    assert billed(ledger) == counted(handler)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


def legacy(ledger, **settings):
    """Return a legacy LLM that talks to the test's channel."""
    settings = {"max_tokens": 12, "max_retries": 0, **settings}
    return OpenAI(model="gpt-3.5-turbo-instruct", base_url=ledger.url(), api_key="none", **settings)


def test_a_legacy_model(ledger):
    """Several prompts are one request, but may be several: each holds one, and what was sent is booked."""
    budget = Budget(max_requests=3, max_cost=1)
    with track_tokens(budget=budget) as counter:
        legacy(ledger).generate(["one", "two words", "three"])
        with pytest.raises(BudgetExceeded, match="max_requests=3: 1 spent, 2 held by calls under way"):
            legacy(ledger).generate(["one", "two words", "three"])
        legacy(ledger).batch(["one", "two"])

    assert billed(ledger) == counted(counter)
    assert (2, NOTHING) == (ledger.total().requests, budget.held())
    assert (2, counter.total_tokens, counter.cost) == (*budget.spent()[2:0:-1], budget.spent().cost)


async def test_an_async_legacy_model(ledger):
    """The same, asynchronously and streamed."""
    budget = Budget(max_requests=2)
    with track_tokens(budget=budget):
        with pytest.raises(BudgetExceeded):
            await legacy(ledger).agenerate(["one", "two words", "three", "four"], callbacks=[_WatchingAsync()])
        gc.collect()
        await legacy(ledger).agenerate(["one", "two words"])
        await _drain(legacy(ledger).astream("hello"))
        with pytest.raises(BudgetExceeded):
            await _drain(legacy(ledger).astream("hello"))

    assert (2, 2, NOTHING) == (ledger.total().requests, budget.spent().requests, budget.held())


@pytest.mark.parametrize("settings", [{"max_tokens": 100, "best_of": 3}, {"max_tokens": 100, "n": 3, "best_of": 3}])
def test_best_of(ledger, settings):
    """Every answer that a legacy model is to make is held."""
    with track_tokens(budget=Budget(max_tokens=300)), pytest.raises(BudgetExceeded):
        legacy(ledger, **settings).invoke("hello")
    with track_tokens(budget=Budget(max_tokens=310)):
        legacy(ledger, **settings).invoke("hello")

    assert 1 == ledger.total().requests


@pytest.mark.parametrize("model", ["gpt-4o-mini", "claude-opus-4-8"])
@pytest.mark.parametrize(
    "messages",
    [
        [HumanMessage("")],
        [HumanMessage("hi")] * 50,
        [SystemMessage("0A0A0A 1 2 3 \t\t" * 20), HumanMessage("Grüße, 東京, Ελλάδα, 🙂" * 20)],
        [HumanMessage(QUESTION), AIMessage("21 degrees"), ToolMessage("21", tool_call_id="c-1")],
    ],
)
def test_a_bound_is_no_less_than_the_estimate(model, messages):
    """What is reserved without an estimate is never less than the estimate."""
    run = Run(current_context(), uuid4(), [messages], metadata={"ls_model_name": model})
    discard(run)
    bound = run.prompt_bound()

    assert bound is not None
    assert run.estimate_prompt() <= bound


@pytest.mark.parametrize(
    ("messages", "invocation"),
    [
        ([HumanMessage([{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": "x"}])], {}),
        ([AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}])], {}),
        ([HumanMessage("hi")], {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ([HumanMessage("hi")], {"functions": [{"name": "f"}]}),
        ([HumanMessage("hi")], {"response_format": {"type": "json_schema", "json_schema": {}}}),
        ([], {}),
    ],
)
def test_tools_schemas_and_images_have_no_bound(messages, invocation):
    """Such prompts are estimated at once, as those are with a tokenizer of one's own."""
    run = Run(current_context(), uuid4(), [messages], invocation=invocation)
    plain = Run(current_context(), uuid4(), [[HumanMessage("hi")]])
    set_tokenizer(len)
    try:
        assert (None, None) == (run.prompt_bound(), plain.prompt_bound())
    finally:
        set_tokenizer(None)
    assert (None, 18) == (run.prompt_bound(), plain.prompt_bound())
    for one in (run, plain):
        discard(one)


class Forecast(BaseModel):
    """What a structured answer is to have."""

    place: str
    highest_temperature_in_degrees_celsius: int
    lowest_temperature_in_degrees_celsius: int
    probability_of_precipitation: float


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_the_schema_of_a_structured_answer(ledger, api):
    """It is sent and billed with the prompt, and so it is reserved."""
    model = chat(ledger, use_responses_api=api == "responses").with_structured_output(Forecast)
    with track_tokens(budget=Budget(max_tokens=60)), pytest.raises(BudgetExceeded):
        model.invoke("hi")

    assert 0 == ledger.total().requests


@pytest.mark.parametrize("way", ["invoke", "streaming", "generate", "ainvoke"])
@pytest.mark.parametrize("everywhere", [True, False])
async def test_a_cache(ledger, way, everywhere):
    """An answer from LangChain's cache books nothing, and needs no room: an exhausted budget refuses others alone."""
    budget, cache = Budget(max_requests=1), InMemoryCache()
    model = chat(ledger, cache=None if everywhere else cache)
    set_llm_cache(cache if everywhere else None)

    async def call(question):
        if way == "ainvoke":
            return await model.ainvoke(question)
        if way == "generate":
            return model.generate([[HumanMessage(question, id="q-1")]])
        return (model.model_copy(update={"streaming": True}) if way == "streaming" else model).invoke(question)

    try:
        with track_tokens(budget=budget) as counter:
            for _ in range(3):
                await call(QUESTION)
            with pytest.raises(BudgetExceeded):
                await call("something else")
            with pytest.raises(BudgetExceeded):
                list(model.stream(QUESTION))  # which does not ask the cache
    finally:
        set_llm_cache(None)

    assert (1, 2) == (ledger.total().requests, counter.cached_responses)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


async def test_a_cache_that_fails(ledger):
    """A cache that can't be asked has no answer: the call is refused."""

    class Broken(InMemoryCache):
        def lookup(self, prompt, llm_string):
            raise LookupError

    budget = Budget(max_tokens=1)
    raise_faults(False)
    try:
        with track_tokens(budget=budget), pytest.raises(BudgetExceeded):
            chat(ledger, cache=Broken()).invoke(QUESTION)
    finally:
        raise_faults(True)

    assert (0, NOTHING) == (ledger.total().requests, budget.held())


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "generate", "agenerate", "legacy"])
async def test_a_refusal_is_raised_once(ledger, caplog, way):
    """LangChain writes no warning beside the exception, which is the budget's own, and without a chain of others."""
    budget = Budget(max_tokens=1)
    model = legacy(ledger) if way == "legacy" else chat(ledger)
    calls = {
        "invoke": lambda: model.invoke(QUESTION),
        "legacy": lambda: model.invoke(QUESTION),
        "stream": lambda: list(model.stream(QUESTION)),
        "generate": lambda: model.generate(PROMPTS),
        "ainvoke": lambda: model.ainvoke(QUESTION),
        "astream": lambda: _drain(model.astream(QUESTION)),
        "agenerate": lambda: model.agenerate(PROMPTS),
    }

    async def call():
        answer = calls[way]()
        return await answer if inspect.isawaitable(answer) else answer

    with track_tokens(budget=budget), pytest.raises(BudgetExceeded) as raised:
        await call()

    assert [] == caplog.messages
    assert (BudgetExceeded, True) == (type(raised.value), raised.value.__suppress_context__)
    assert budget.refused(raised.value)
    assert repr(raised.value).startswith("BudgetExceeded('gpt-")
    chain: list[BaseException] = [raised.value]
    while (context := chain[-1].__cause__ or chain[-1].__context__) is not None:
        assert context not in chain  # whoever walks the errors comes to an end
        chain.append(context)


@pytest.mark.parametrize("status", [429, 500, 400])
def test_rejected_calls(ledger, status):
    """A rejected call is a request that cost nothing, and nothing of it stays held."""
    budget = Budget(max_requests=2, max_tokens=1000, max_cost=1)
    with track_tokens(budget=budget):
        for call in (lambda model: model.invoke(QUESTION), lambda model: list(model.stream(QUESTION))):
            with pytest.raises(openai.APIStatusError):
                call(chat(ledger, modes={"status": status}))
        with pytest.raises(BudgetExceeded):
            chat(ledger).invoke(QUESTION)

    assert (2, Amounts(requests=2), NOTHING) == (ledger.total().rejected, budget.spent(), budget.held())


async def test_a_call_that_is_never_sent(ledger):
    """Where nothing listens nothing is booked but the attempt, and nothing stays held."""
    budget = Budget(max_tokens=1000)
    model = ChatOpenAI(model="gpt-4o-mini", base_url="http://127.0.0.1:1/v1", api_key="none", max_retries=0)
    with track_tokens(budget=budget):
        with pytest.raises(openai.APIConnectionError):
            model.invoke(QUESTION)
        with pytest.raises(openai.APIConnectionError):
            await model.ainvoke(QUESTION)

    assert (Amounts(requests=2), NOTHING) == (budget.spent(), budget.held())


def _break(stream):
    for _ in stream:
        break


def _close(stream):
    next(stream)
    stream.close()


@pytest.mark.parametrize("leave", [_break, _close])
def test_streams_that_are_broken_off(ledger, leave):
    """A stream that is broken off is booked as the estimate that the counter has, and holds nothing."""
    budget = Budget(max_tokens=10_000)
    with track_tokens(budget=budget) as counter:
        leave(chat(ledger, modes={"words": 200}, max_tokens=500).stream(QUESTION))
    gc.collect()

    assert (1, 1) == (counter.estimated_requests, budget.spent().requests)
    assert (counter.total_tokens, NOTHING) == (budget.spent().tokens, budget.held())


@pytest.mark.parametrize("drop", ["close", "reset"])
async def test_streams_that_the_server_drops(ledger, drop):
    """So is one that the server drops."""
    budget = Budget(max_tokens=10_000)
    model = chat(ledger, modes={"cut": 3, "drop": drop})
    with track_tokens(budget=budget) as counter:
        with pytest.raises((httpx.HTTPError, openai.APIError)):
            list(model.stream(QUESTION))
        with pytest.raises((httpx.HTTPError, openai.APIError)):
            await _drain(model.astream(QUESTION))

    assert (2, 2) == (counter.estimated_requests, budget.spent().requests)
    assert (counter.total_tokens, NOTHING) == (budget.spent().tokens, budget.held())


async def test_streams_that_are_left(ledger):
    """A stream that is left, and one whose task is cancelled, are booked when they are finished with."""
    budget = Budget(max_tokens=10_000)
    with track_tokens(budget=budget) as counter:
        stream = chat(ledger, modes={"gate": 2}, max_tokens=500).astream(QUESTION)
        await anext(stream)
        assert 1 == budget.held().requests
        await stream.aclose()
        reading = asyncio.create_task(_drain(chat(ledger, modes={"gate": 0}).astream(QUESTION)))
        await asyncio.to_thread(ledger.wait_at_gate, 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    assert (2, 2) == (counter.estimated_requests, budget.spent().requests)
    assert (counter.total_tokens, NOTHING) == (budget.spent().tokens, budget.held())


async def test_a_cancelled_ainvoke(ledger):
    """A cancelled ainvoke, of which LangChain tells no end, is booked as an estimate and holds nothing."""
    budget = Budget(max_tokens=10_000)
    with track_tokens(budget=budget) as counter:
        task = asyncio.create_task(chat(ledger, modes={"gate": 0}).ainvoke(QUESTION))
        await asyncio.to_thread(ledger.wait_at_gate)
        assert 1 == budget.held().requests
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert (1, 1) == (counter.estimated_requests, budget.spent().requests)
    assert (counter.total_tokens, NOTHING) == (budget.spent().tokens, budget.held())


# Of calls that may take 1,000 tokens and a short prompt, each has room for five.
FIVE = [{"max_requests": 5}, {"max_tokens": 5500}, {"max_cost": "0.0033"}]


@pytest.mark.parametrize("limit", FIVE)
@pytest.mark.parametrize("streamed", [False, True])
def test_sixteen_threads(ledger, limit, streamed):
    """Sixteen threads that call at once can't run through a budget: five requests go out, eleven are refused."""
    budget, refused, barrier = Budget(**limit), threading.Semaphore(0), threading.Barrier(16)
    model = chat(ledger, modes={"gate": 0}, max_tokens=1000)

    def work(_):
        with track_tokens(budget=budget):
            barrier.wait(30)
            try:
                list(model.stream("hello")) if streamed else model.invoke("hello")
            except BudgetExceeded:
                refused.release()
                return 0
            return 1

    with ThreadPoolExecutor(16) as pool:
        calls = pool.map(work, range(16))
        ledger.wait_at_gate(5)
        assert all(refused.acquire(timeout=30) for _ in range(11))
        held, spent = budget.held(), budget.spent()
        ledger.release()
        assert 5 == sum(calls) == ledger.total().requests

    assert (5, NOTHING) == (held.requests, spent)
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


@pytest.mark.parametrize("limit", FIVE)
@pytest.mark.parametrize("streamed", [False, True])
async def test_sixteen_tasks(ledger, limit, streamed):
    """Nor can sixteen tasks."""
    budget = Budget(**limit)
    model = chat(ledger, modes={"gate": 0}, max_tokens=1000)
    with track_tokens(budget=budget):
        calls = [_drain(model.astream("hello")) if streamed else model.ainvoke("hello") for _ in range(16)]
        tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.to_thread(ledger.wait_at_gate, 5)
    ledger.release()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert 11 == sum(isinstance(answer, BudgetExceeded) for answer in answers)
    assert 5 == ledger.total().requests
    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())


def test_spend_is_recorded_before_anything_raises(ledger):
    """When a refusal reaches on_exceeded, what was spent is in the budget, the counter and the sinks."""
    seen, records = [], []

    def ask(error):
        seen.append((error.spent, budget.spent().requests, counter.successful_requests, len(records)))

    budget = Budget(max_requests=2, on_exceeded=ask)
    with track_tokens(budget=budget, sinks=[records.append]) as counter:
        chat(ledger).batch(["one", "two"])
        with pytest.raises(BudgetExceeded):
            chat(ledger).invoke(QUESTION)

    assert [(2, 2, 2, 2)] == seen


def test_what_other_handlers_see(ledger):
    """A handler that saw a refused call's start gets no other event; those of a chain around it get the error."""
    watching, errors = _Watching(), []

    class Chain(BaseCallbackHandler):
        def on_chain_error(self, error, **kwargs):
            errors.append(error)

    chain = chat(ledger, callbacks=[watching]) | StrOutputParser()
    with track_tokens(budget=Budget(max_tokens=1)), pytest.raises(BudgetExceeded) as raised:
        chain.invoke(QUESTION, config={"callbacks": [Chain()]})

    assert [raised.value] == errors
    assert watching.starts <= 1


class Passing(BaseChatModel):
    """A chat model that passes its calls on."""

    inner: ChatOpenAI

    @property
    def _llm_type(self) -> str:
        return "passing"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.inner.invoke(messages))])


def test_a_model_that_passes_its_calls_on(ledger):
    """Where the inner model is refused, the outer one has used nothing either."""
    budget = Budget(max_tokens=100)
    model = Passing(inner=chat(ledger, max_tokens=100))
    with track_tokens(budget=budget) as counter, pytest.raises(BudgetExceeded):
        model.invoke(QUESTION)

    assert (0, NOTHING, NOTHING) == (ledger.total().requests, budget.spent(), budget.held())
    assert (0, 0, {}) == (counter.failed_requests, counter.successful_requests, counter.open_calls)


def test_report_stream_usage(ledger):
    """A model that was made to report the usage of its streams is checked as the model itself."""
    budget = Budget(max_requests=1)
    model = report_stream_usage(chat(ledger, stream_usage=False))
    with track_tokens(budget=budget):
        list(model.stream(QUESTION))
        with pytest.raises(BudgetExceeded):
            list(model.stream(QUESTION))

    assert (amounts(ledger), NOTHING) == (budget.spent(), budget.held())
