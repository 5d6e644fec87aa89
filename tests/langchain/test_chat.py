import asyncio
from decimal import Decimal

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pydantic import BaseModel

from tests.support.bills import billed, counted
from token_handlers import track_tokens
from token_handlers.langchain import LangChainTokenHandler, report_stream_usage

# langchain-openai's own, where it adds up the usage of several prompts
pytestmark = pytest.mark.filterwarnings("ignore:Unexpected type for token usage")


def chat(ledger, /, model="gpt-4o-mini", *, modes=None, **settings):
    """Return a ChatOpenAI that talks to the test's channel."""
    settings = {"api_key": "none", "max_retries": 0, **settings}
    return ChatOpenAI(model=model, base_url=ledger.url(**(modes or {})), **settings)


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


async def _agather(model):
    return await asyncio.gather(*(model.ainvoke(f"question {number}") for number in range(3)))


SYNC = {
    "invoke": lambda model: model.invoke("What is the weather?"),
    "batch": lambda model: model.batch(["one", "two words", "three more words"]),
    "generate": lambda model: model.generate([[HumanMessage(text)] for text in ("one", "two words", "three")]),
    "stream": lambda model: list(report_stream_usage(model).stream("What is the weather?")),
    "chain": lambda model: (ChatPromptTemplate.from_template("{x}?") | model | StrOutputParser()).invoke({"x": "a b"}),
    "chain stream": lambda model: list((report_stream_usage(model) | StrOutputParser()).stream("What is it?")),
    "parallel": lambda model: RunnableParallel(a=model, b=model, c=model).invoke("What is the weather?"),
    "bound": lambda model: model.bind_tools([Weather]).invoke("What is the weather?"),
    "bound stream": lambda model: list(report_stream_usage(model.bind_tools([Weather])).stream("Weather?")),
    "json_schema": lambda model: model.with_structured_output(Weather, method="json_schema").invoke("Weather?"),
    "json_mode": lambda model: model.with_structured_output(Weather, method="json_mode", include_raw=True).invoke(
        "Weather as JSON?"
    ),
    "function_calling": lambda model: model.with_structured_output(Weather, method="function_calling").invoke("How?"),
    "nested lambda": lambda model: RunnableLambda(lambda text: model.invoke(text + "?")).invoke("What weather"),
}

ASYNC = {
    "ainvoke": lambda model: model.ainvoke("What is the weather?"),
    "abatch": lambda model: model.abatch(["one", "two words", "three more words"]),
    "agenerate": lambda model: model.agenerate([[HumanMessage(text)] for text in ("one", "two words", "three")]),
    "gather": _agather,
}


@pytest.mark.parametrize("way", SYNC)
def test_sync_calls_equal_the_bill(ledger, way):
    """Every synchronous way of calling ChatOpenAI is counted as it is billed, by a block and by a handler alike."""
    handler = LangChainTokenHandler()
    with track_tokens() as counter:
        SYNC[way](chat(ledger, callbacks=[handler]))

    assert billed(ledger) == counted(counter) == counted(handler)
    assert counter.prompt_tokens > 0
    assert (0, 0) == (counter.estimated_requests, counter.unpriced_requests)


@pytest.mark.parametrize("way", ASYNC)
async def test_async_calls_equal_the_bill(ledger, way):
    """Every asynchronous way of calling ChatOpenAI is counted as it is billed."""
    handler = LangChainTokenHandler()
    async with track_tokens() as counter:
        await ASYNC[way](chat(ledger, modes={"close": 1}, callbacks=[handler]))

    assert billed(ledger) == counted(counter) == counted(handler)
    assert 0 == counter.estimated_requests


async def test_astream_equals_the_bill(ledger):
    """An asynchronous stream that reports usage is exact."""
    with track_tokens() as counter:
        async for _ in report_stream_usage(chat(ledger, modes={"close": 1})).astream("What is the weather?"):
            pass

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


@pytest.mark.parametrize("choices", [2, 3])
def test_several_choices_are_billed_once(ledger, choices):
    """With n > 1 each message carries the whole usage: it counts once, streamed or not."""
    model = chat(ledger, n=choices)
    with track_tokens() as counter:
        model.invoke("What is the weather?")
        model.generate([[HumanMessage("one")], [HumanMessage("two")]])
        list(report_stream_usage(model).stream("What is the weather?"))

    assert billed(ledger) == counted(counter)
    assert {"gpt-4o-mini-2024-07-18"} == set(counter.by_model)
    assert 0 == counter.unpriced_requests


@pytest.mark.parametrize("streaming", [False, True])
def test_the_responses_api(ledger, streaming):
    """Calls through the Responses API are exact, streamed too."""
    model = chat(ledger, use_responses_api=True, modes={"reasoning": 5, "cached": 2})
    with track_tokens() as counter:
        list(model.stream("What is the weather?")) if streaming else model.invoke("What is the weather?")

    assert billed(ledger) == counted(counter)
    assert (5, 2) == (counter.reasoning_tokens, counter.prompt_tokens_cached)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_streaming_switch(ledger, streaming):
    """A model that streams inside invoke is counted like any other."""
    with track_tokens() as counter:
        chat(ledger, streaming=True, stream_usage=streaming).invoke("What is the weather?")

    expected = billed(ledger)
    assert expected["requests"] == counter.successful_requests
    assert (not streaming) == bool(counter.estimated_requests)
    if streaming:
        assert expected == counted(counter)


def test_details_and_cost(ledger):
    """Cached and reasoning tokens are parts of the whole, and the cost is the table's, to the last digit."""
    with track_tokens() as counter:
        chat(ledger, "o4-mini", modes={"prompt": 1000, "cached": 400, "reasoning": 30, "words": 20}).invoke("Why?")

    assert billed(ledger) == counted(counter)
    received = counter.completion_tokens
    # o4-mini: 1.10, cached 0.275, output 4.40 USD per million tokens
    assert Decimal(600 * 1100 + 400 * 275 + received * 4400) / 10**9 == counter.cost


@pytest.mark.parametrize(("tier", "input_price"), [("default", 250), ("flex", 125), ("priority", 450)])
def test_the_served_tier_prices_the_call(ledger, tier, input_price):
    """LangChain renames the details of flex and priority calls; they are read, and the served tier's price is used."""
    modes = {"prompt": 1000, "words": 1, "tier": tier, "reasoning": 4, "cached": 100}
    with track_tokens() as counter:
        chat(ledger, "gpt-5-mini", modes=modes).invoke("Why?")

    assert billed(ledger) == counted(counter)
    output_price, cached_price = input_price * 8, Decimal(input_price) / 10
    spent = 900 * input_price + 100 * cached_price + counter.completion_tokens * output_price
    assert spent / 10**9 == counter.cost


def test_a_server_that_omits_the_model(ledger):
    """Without a model in the answer the requested one is taken."""
    with track_tokens() as counter:
        chat(ledger, modes={"model": "omit"}).invoke("What is the weather?")

    assert billed(ledger) == counted(counter)
    assert (["gpt-4o-mini"], 0) == (list(counter.by_model), counter.unpriced_requests)


def test_an_unknown_model_is_unpriced(ledger, caplog):
    """A model that nobody knows has no cost, rather than none to pay, and one warning names it and the remedy."""
    with track_tokens() as counter:
        for _ in range(2):
            chat(ledger, "my-own-llama").invoke("What is the weather?")

    assert billed(ledger) == counted(counter)
    assert (None, 0.0, 2) == (counter.cost, counter.total_cost, counter.unpriced_requests)
    assert 1 == sum("my-own-llama" in line and "set_price" in line for line in caplog.messages)


def test_fallbacks_and_retries(ledger):
    """Rejected attempts cost nothing and count as failed; the one that succeeded counts once."""
    broken, sound = chat(ledger, modes={"status": "500"}), chat(ledger)
    with track_tokens() as counter:
        broken.with_fallbacks([sound]).invoke("What is the weather?")
    assert billed(ledger) == counted(counter)
    assert (1, 1) == (counter.successful_requests, counter.failed_requests)


def test_retries(ledger):
    """with_retry makes runs of its own: each attempt counts as what became of it."""
    model = chat(ledger, modes={"status": "500x2"}).with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    with track_tokens() as counter:
        model.invoke("What is the weather?")

    assert billed(ledger) == counted(counter)
    assert (1, 2) == (counter.successful_requests, counter.failed_requests)


def test_the_clients_own_retries(ledger):
    """The SDK's own retries are invisible; what was billed is counted."""
    with track_tokens() as counter:
        chat(ledger, modes={"status": "500x1"}, max_retries=2).invoke("What is the weather?")

    assert {**billed(ledger), "rejected": 0} == counted(counter)


def test_a_failing_generate(ledger):
    """When the second of three prompts fails, the first, of which no event comes, is exact; the third never went."""
    with track_tokens() as counter, pytest.raises(Exception, match="500"):
        chat(ledger, modes={"status": "500@2"}).generate([[HumanMessage(text)] for text in ("one", "two", "three")])

    assert billed(ledger) == counted(counter)
    assert (1, 0, 1) == (counter.successful_requests, counter.estimated_requests, counter.failed_requests)


async def test_a_failing_agenerate(ledger):
    """The asynchronous form tells each prompt's end, so all is exact."""
    with track_tokens() as counter, pytest.raises(Exception, match="500"):
        await chat(ledger, modes={"status": "500@2", "close": 1}).agenerate(
            [[HumanMessage(text)] for text in ("one", "two", "three")]
        )

    assert billed(ledger) == counted(counter)
    assert (2, 0, 1) == (counter.successful_requests, counter.estimated_requests, counter.failed_requests)


def test_an_azure_deployment(ledger):
    """AzureChatOpenAI is priced by the model that answered, whatever the deployment is called."""
    model = AzureChatOpenAI(
        azure_deployment="our-deployment",
        api_version="2024-10-21",
        azure_endpoint=ledger.url(model="gpt-4o-mini-2024-07-18"),
        api_key="none",
        max_retries=0,
    )
    with track_tokens() as counter:
        model.invoke("What is the weather?")

    assert billed(ledger) == counted(counter)
    assert (["gpt-4o-mini-2024-07-18"], 0) == (list(counter.by_model), counter.unpriced_requests)


def test_tags_of_the_run(ledger):
    """A run's own tags are labels of the record; LangChain's internal ones are not."""
    chain = ChatPromptTemplate.from_template("{x}") | chat(ledger)
    with track_tokens() as counter:
        chain.invoke({"x": "hi"}, config={"tags": ["nightly"]})

    assert {"nightly"} == set(counter.by("tag"))


def test_on_record(ledger):
    """on_record calls back with the record of each call of the counter when it ends, not when a total is read."""
    seen = []
    with track_tokens() as counter:
        counter.on_record(seen.append)
        chat(ledger).invoke("What is the weather?")
        assert counter.flush(10)
        assert [billed(ledger)["prompt"]] == [record.usage.input_tokens for record in seen]
    chat(ledger).invoke("What is the weather?")

    assert 1 == len(seen)
