import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAIResponses

from token_handlers import Budget, BudgetExceeded, track_tokens
from token_handlers.budget.tool_fees import allowed_fees

FUNCTION = {"type": "function", "function": {"name": "web_search_of_my_own", "parameters": {}}}


@pytest.mark.parametrize(
    ("tools", "counts"),
    [
        ([], {}),
        ([FUNCTION], {}),
        ([{"name": "web_search", "input_schema": {}}], {}),
        ([{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}], {"web_searches": 5}),
        ([{"type": "web_search_20250305", "name": "web_search"}], {"web_searches": 1}),
        ([{"type": "web_search_20250305", "name": "web_search", "max_uses": True}], {"web_searches": 1}),
        ([{"type": "web_search"}, {"type": "file_search"}], {"web_searches": 1, "storage_searches": 1}),
        ([{"type": "code_interpreter", "container": {"type": "auto"}}], {"container_sessions": 1}),
        ([{"google_search": {}}, {"google_maps": {}}], {"web_searches": 1, "maps_searches": 1}),
        ([{"googleSearch": {}}], {"web_searches": 1}),
        ([{"type": "x_search"}], {"social_searches": 1}),
        ([{"type": "web_fetch_20250910", "name": "web_fetch"}], {}),
        ([None, 7, "web_search", {"type": 7}, {}], {}),
    ],
)
def test_what_tools_may_be_billed_for(tools, counts):
    """Search tools and containers of the providers, as often as they may be used; one's own functions cost nothing."""
    assert counts == allowed_fees(tools).counts


def test_a_limit_of_all_tool_calls():
    """OpenAI's max_tool_calls is how often a tool may be used."""
    assert {"web_searches": 3} == allowed_fees([{"type": "web_search"}], 3).counts


def test_what_the_price_depends_on():
    """The kind of search tool and its context size are what its price depends on."""
    preview = {"type": "web_search_preview_2025_03_11", "search_context_size": "high"}

    assert {"web_search_tool": "web_search_preview", "search_context_size": "high"} == allowed_fees([preview]).context
    assert {"web_search_tool": "web_search"} == allowed_fees([{"type": "web_search"}]).context


def test_geminis_tools_as_objects():
    """A tool may be an object of the provider's own."""
    from google.genai import types

    assert {"web_searches": 1} == allowed_fees([types.Tool(google_search=types.GoogleSearch())]).counts


def test_a_budget_that_searches_would_exceed(ledger):
    """A call whose bound search tool may cost more than is left is not sent, although its tokens would fit."""
    model = ChatOpenAI(model="gpt-5-mini", base_url=ledger.url(), api_key="none", max_retries=0, use_responses_api=True)
    search = {"type": "web_search"}
    with track_tokens(budget=Budget(max_cost="0.10")), pytest.raises(BudgetExceeded, match=r"may take 0\.1"):
        model.bind(tools=[search], max_tool_calls=10).invoke([HumanMessage("hello")])

    assert 0 == ledger.total().requests
    with track_tokens(budget=Budget(max_cost="0.10")):
        model.bind(tools=[search], max_tool_calls=5).invoke([HumanMessage("hello")])
    assert 1 == ledger.total().requests


def test_an_sdks_searches_that_a_budget_has_no_room_for(ledger):
    """What the openai package's own request declares is held before it is sent."""
    client = openai.OpenAI(base_url=ledger.url(), api_key="none", max_retries=0)
    asked = {"model": "gpt-5-mini", "input": "hello", "tools": [{"type": "web_search"}]}
    with track_tokens(budget=Budget(max_cost="0.10")), pytest.raises(BudgetExceeded, match=r"may take 0\.1"):
        client.responses.create(**asked, max_tool_calls=10)

    assert 0 == ledger.total().requests
    with track_tokens(budget=Budget(max_cost="0.10")):
        client.responses.create(**asked, max_tool_calls=5)
    assert 1 == ledger.total().requests


def test_a_llama_index_models_searches_that_a_budget_has_no_room_for(ledger):
    """Its built-in tools are held before the call, as often as they may be used."""
    asked = {"built_in_tools": [{"type": "web_search"}], "additional_kwargs": {"max_tool_calls": 10}}
    model = OpenAIResponses("gpt-5-mini", api_base=ledger.url(), api_key="none", **asked)
    with track_tokens(budget=Budget(max_cost="0.10")), pytest.raises(BudgetExceeded, match=r"may take 0\.1"):
        model.chat([ChatMessage("hello")])
    assert 0 == ledger.total().requests
