from decimal import Decimal

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool

from tests.support.llama_index_clients import make_llm
from token_handlers import Budget, BudgetExceeded, estimate, track_tokens
from token_handlers.pricing import reset_prices, set_price
from token_handlers.tokenizer import estimate_prompt

LEAST = Decimal("0.000000000001")
TEXT = "What is the weather in Paris?"


def weather(city: str) -> str:
    """The weather of a city."""
    return city


@pytest.fixture(autouse=True)
def _prices():
    set_price("dear", input_mtok=1, output_mtok=10, web_searches_kcount=10)
    yield
    reset_prices()


def known(cost):
    """Return a cost that is known."""
    assert cost is not None
    return cost


def assert_reserved(found, call):
    """A budget of what was foreseen has room for the call, and one of less has none: nothing is sent."""
    with track_tokens(budget=Budget(max_cost=known(found.max_cost) - LEAST)) as tokens, pytest.raises(BudgetExceeded):
        call()
    assert 0 == tokens.successful_requests
    with track_tokens(budget=Budget(max_cost=found.max_cost)) as tokens:
        call()
    assert 1 == tokens.successful_requests


@pytest.mark.parametrize("tools", [[], [tool(weather)], [{"type": "web_search"}]])
def test_it_is_what_a_budget_reserves_for_langchain(ledger, tools):
    """The most is to the last digit what a call of the same messages, tools and limit reserves."""
    is_run_by_openai = tools and isinstance(tools[0], dict)
    model = ChatOpenAI(
        model="gpt-4o-mini",
        base_url=ledger.url(),
        api_key="none",
        max_completion_tokens=100,
        use_responses_api=bool(is_run_by_openai),
    )
    messages = [SystemMessage("Be brief."), HumanMessage(TEXT)]
    found = estimate("gpt-4o-mini", messages, tools=tools, max_tokens=100)
    bound = model.bind(tools=tools) if is_run_by_openai else model.bind_tools(tools) if tools else model

    assert_reserved(found, lambda: bound.invoke(messages))


@pytest.mark.parametrize("tools", [[], [FunctionTool.from_defaults(weather)]])
def test_it_is_what_a_budget_reserves_for_llama_index(ledger, tools):
    """LlamaIndex's messages and tools are counted as its calls are."""
    llm = make_llm(ledger, max_tokens=100)
    messages = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=TEXT)]
    found = estimate("gpt-4o-mini", messages, tools=tools, max_tokens=100)
    asked = {"tools": [each.metadata.to_openai_tool() for each in tools]} if tools else {}

    assert_reserved(found, lambda: llm.chat(messages, **asked))


@pytest.mark.parametrize(
    "messages",
    [
        TEXT,
        [TEXT],
        [("user", TEXT)],
        {"role": "user", "content": TEXT},
        [{"role": "user", "content": [{"type": "text", "text": TEXT}]}],
        [{"type": "human", "data": {"content": TEXT}}],
        HumanMessage(TEXT),
        (HumanMessage(TEXT),),
        ChatMessage(TEXT),
        [ChatMessage(TEXT)],
        ChatPromptTemplate.from_template("{text}").invoke({"text": TEXT}),
    ],
)
def test_whatever_people_have(messages):
    """A text, pairs, mappings, either framework's messages, one or several, and a prompt's value are counted alike."""
    found = estimate("dear", messages, max_tokens=50)
    tokens = estimate_prompt([("user", TEXT)], model="dear").tokens

    assert (tokens, 0, 50) == (found.input_tokens, found.min_output_tokens, found.max_output_tokens)
    assert (Decimal(tokens) / 10**6, Decimal(tokens + 500) / 10**6) == (found.min_cost, found.max_cost)
    assert (None, ()) == (found.reason, found.doubts)


def test_without_a_limit():
    """Without max_tokens the most is not known, and not 0; the reason says what bounds it."""
    found = estimate("dear", TEXT)

    assert (None, None) == (found.max_output_tokens, found.max_cost)
    assert known(found.min_cost) > 0
    assert "the answer may be of any length: max_tokens bounds it" == found.reason
    assert str(found).endswith("0 to any number of output tokens, 0.000014 to unknown USD")


def test_a_name_without_a_price():
    """The tokens are there, the cost is not, and the reason asks what was meant."""
    found = estimate("gpt-4o-mni", TEXT, max_tokens=5)

    assert (None, None) == (found.min_cost, found.max_cost)
    assert str(found.reason).startswith("no price is known for 'gpt-4o-mni': did you mean gpt-4o-mini")
    assert found.input_tokens > 0


def test_what_a_number_leaves_out_is_said():
    """Images are not counted, and a tool's fee is in the most as often as the request allows."""
    message = {"role": "user", "content": [{"type": "image_url"}]}
    found = estimate("dear", message, tools=[{"type": "web_search_20250305", "max_uses": 3}], max_tokens=0)

    assert Decimal("0.03") == known(found.max_cost) - known(found.min_cost)
    assert found.method.endswith("+no-media")
    assert 2 == len(found.doubts)


def test_embeddings():
    """An embedding model has texts and no answer."""
    found = estimate("openai/text-embedding-3-small", ["one two", "three\nfour"])

    assert (4, 0, found.min_cost) == (found.input_tokens, found.max_output_tokens, found.max_cost)
    assert found.min_cost == Decimal("0.00000008")
    assert "output" not in str(found)


def test_a_tier_and_a_provider():
    """A batch costs half, and a provider's own price counts."""
    set_price("dear", "azure", input_mtok=2, output_mtok=10)
    whole, half = (estimate("gpt-5", TEXT, max_tokens=9, service_tier=tier) for tier in (None, "batch"))

    assert known(whole.max_cost) == 2 * known(half.max_cost)
    ours, azures = (known(estimate("dear", TEXT, provider=name).min_cost) for name in (None, "azure"))
    assert azures == 2 * ours


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("dear", 5), "not int"),
        (("dear", [object()]), "not object"),
        (("dear", b"hi"), "not bytes"),
        (("text-embedding-3-small", [5]), "an embedding model takes a text or a list of texts, not int"),
        ((None, TEXT), "estimate() takes a model's name"),
    ],
)
def test_what_is_no_prompt(arguments, error):
    """The error names the value that was passed and the types that are accepted."""
    with pytest.raises(TypeError) as caught:
        estimate(*arguments)

    assert error in str(caught.value)


def test_what_is_no_limit_or_tool():
    """A negative limit and an object that is no tool are refused."""
    with pytest.raises(ValueError, match="max_tokens must be a number of tokens, 0 or more, not -1"):
        estimate("dear", TEXT, max_tokens=-1)
    with pytest.raises(TypeError, match="a tool is a schema or a tool of LangChain or LlamaIndex, not int"):
        estimate("dear", TEXT, tools=[5])
