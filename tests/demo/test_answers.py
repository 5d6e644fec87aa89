import asyncio
import gc
import json
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAI, OpenAIEmbeddings
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI as LlamaOpenAI
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field, SecretStr, TypeAdapter

from token_handlers.demo.server.answers import count, split
from token_handlers.demo.server.schemas import example, schemas_in

ANSWER = "this answer is made of plain words so that counting is easy"
KEY = SecretStr("none")
MADE = PromptTemplate("make one about {topic}")


class Place(BaseModel):
    """Where something is."""

    kind: Literal["city", "village"]
    height: float = Field(gt=0, lt=1)


class Report(BaseModel):
    """A report."""

    title: str = Field(min_length=10)
    count: int = Field(ge=3)
    places: list[Place]
    more: Place | None = None


@tool
def weather(city: str, days: int) -> str:
    """Tell the weather."""
    return f"{city}: sunny for {days} days"


@tool
def population(city: str) -> int:
    """Tell how many people live there."""
    return len(city)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def langchain_chat(url: str, **settings: Any) -> Any:
    """LangChain's client of a URL."""
    return ChatOpenAI(model="gpt-4o-mini", base_url=url, api_key=KEY, max_retries=0, **settings)


def chat(url: str, content: Any, **settings: Any) -> Any:
    """The answer that the plain openai client gets."""
    messages: Any = [{"role": "user", "content": content}]
    with openai.OpenAI(base_url=url, api_key="none") as client:
        return client.chat.completions.create(model="m", messages=messages, **settings)


def llama_chat(url, kind=LlamaOpenAI, model="gpt-4o-mini", **settings):
    """LlamaIndex's client of a URL."""
    return kind(model=model, api_base=url, api_key="none", max_retries=0, **settings)


def billed(ledger):
    """The prompt and completion tokens of the channel."""
    total = ledger.total()
    return total.prompt_tokens, total.completion_tokens


def told(messages):
    """The tokens that LangChain's AI messages say they used."""
    usages: list[Any] = [message.usage_metadata for message in messages if isinstance(message, AIMessage)]
    return sum(usage["input_tokens"] for usage in usages), sum(usage["output_tokens"] for usage in usages)


@pytest.mark.parametrize("text", ["", "hello, you!", " leading and  double\n", "naïve 日本 £5", "\n \n"])
def test_pieces_join_to_the_text(text):
    """Splitting loses nothing, and a piece is a token."""
    assert text == "".join(split(text))
    assert len(split(text)) == count(text)


class Colour(Enum):
    RED = "red"


class Node(BaseModel):
    name: str
    children: list["Node"] = []
    parent: Optional["Node"] = None


@pytest.mark.parametrize(
    "kind",
    [
        Report,
        Node,
        Colour,
        date,
        UUID,
        bool,
        None,
        Any,
        Literal["a"],
        int | None,
        tuple[int, str],
        dict[str, int],
        Annotated[list[int], Field(min_length=3)],
        Annotated[list[int], Field(max_length=0)],
        Annotated[int, Field(gt=4, multiple_of=3)],
        Annotated[int, Field(lt=-4)],
        Annotated[int, Field(le=-4)],
        Annotated[float, Field(ge=2.5)],
        Annotated[float, Field(gt=2, lt=2.5)],
        Annotated[str, Field(max_length=2)],
    ],
    ids=str,
)
def test_examples_match_their_schema(kind):
    """A made-up value is valid for the type whose schema it was made from."""
    adapter = TypeAdapter(kind)

    assert adapter.validate_json(json.dumps(example(adapter.json_schema()))) is not Ellipsis


def test_examples_follow_what_pydantic_does_not_write():
    """Lists of types, merged schemas and schemas without a type have examples too."""
    assert example({"type": ["null", "integer"]}) == 1
    assert example({"allOf": [{"type": "object"}, {"properties": {"a": {}}}]}) == {"a": "a"}
    assert example({"items": {"type": "boolean"}}) == [True]
    assert example({"type": ["null"]}) is None


def test_quoted_schemas_are_found():
    """A schema in a prompt is found between other braces, and with its braces doubled."""
    schema = json.dumps(Place.model_json_schema())

    assert [Place.model_json_schema()] == schemas_in(f"{{not json}} {{}} {schema} {{}}")
    assert [Place.model_json_schema()] == schemas_in(schema.replace("{", "{{").replace("}", "}}"))


def test_langchain_answers_and_streams(ledger):
    """ChatOpenAI's usage is the ledger's, streamed or not, with either API."""
    messages = []
    for responses in (False, True):
        model = langchain_chat(ledger.url(), use_responses_api=responses, stream_usage=True)
        messages.append(model.invoke("hi there"))
        chunks = list(model.stream("hi there"))
        messages.append(sum(chunks[1:], chunks[0]))

    assert [ANSWER] * 4 == [message.text for message in messages]
    assert billed(ledger) == told(messages)


def test_langchain_sums_what_a_server_repeats(ledger):
    """ChatOpenAI adds up the usage of every chunk: 8 + 12 tokens become 120 + 102 where each chunk is cumulative."""
    chunks = list(langchain_chat(ledger.url(usage="every")).stream("hi there"))

    assert ((120, 102), (8, 12)) == (told([sum(chunks[1:], chunks[0])]), billed(ledger))


async def test_langchain_async_clients_leave_nothing_open(ledger):
    """An event loop may end after a call whose client lives on, since the ledger's connections end with each answer."""
    model = langchain_chat(ledger.url(), stream_usage=True)
    chunks = [chunk async for chunk in model.astream("hi there")]
    messages = [sum(chunks[1:], chunks[0]), *await asyncio.gather(*(model.ainvoke("hi") for _ in range(3)))]

    assert billed(ledger) == told(messages)


def test_langchain_other_clients(ledger):
    """Legacy completions, embeddings and Azure's chat are billed what they ask for."""
    url = ledger.url()
    OpenAI(model="instruct", base_url=url, api_key=KEY).generate(["hi there", "you"])
    AzureChatOpenAI(azure_endpoint=url, azure_deployment="own", api_version="2024-10-21", api_key=KEY).invoke("hi")
    vectors = OpenAIEmbeddings(model="e", base_url=url, api_key=KEY, check_embedding_ctx_length=False)

    assert 2 == len(vectors.embed_documents(["hi there", "you"]))
    assert ["instruct", "own", "e"] == [entry.model for entry in ledger.entries()]
    assert 3 == ledger.total().embedding_tokens


@pytest.mark.parametrize("responses", [False, True])
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_langchain_structured_output(ledger, method, responses):
    """Structured output is valid by every method; json_mode finds its schema in the prompt."""
    model = langchain_chat(ledger.url(), use_responses_api=responses)
    wanted = json.dumps(Report.model_json_schema()) if method == "json_mode" else "a report"
    answer = model.with_structured_output(Report, method=method, include_raw=True).invoke(wanted)

    assert isinstance(answer["parsed"], Report)
    assert billed(ledger) == told([answer["raw"]])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("responses", [False, True])
def test_langchain_agents_loop_and_end(ledger, responses, streaming):
    """An agent calls one tool for each round, then answers; every call is told as it is billed."""
    model = langchain_chat(ledger.url(rounds=2), use_responses_api=responses, streaming=streaming, stream_usage=True)
    agent: Any = create_agent(model, [weather, population])
    messages = agent.invoke({"messages": [("user", "hi")]})["messages"]

    assert ["human", "ai", "tool", "ai", "tool", "ai"] == [message.type for message in messages]
    assert ["city: sunny for 1 days", "4", ANSWER] == [message.text for message in messages if message.text][1:]
    assert billed(ledger) == told(messages)


@pytest.mark.parametrize("strategy", [Report, ToolStrategy(Report)], ids=["provider", "tool"])
def test_langchain_agents_end_with_structured_output(ledger, strategy):
    """An agent that must answer in a schema does so after its tool, with either strategy."""
    agent: Any = create_agent(langchain_chat(ledger.url()), [weather], response_format=strategy)
    state = agent.invoke({"messages": [("user", "hi")]})

    assert isinstance(state["structured_response"], Report)
    assert billed(ledger) == told(state["messages"])


@pytest.mark.parametrize(("choice", "called"), [("none", None), ("auto", "weather"), ("required", "weather")])
def test_tool_choice_decides(ledger, choice, called):
    """``none`` forbids calls; without rounds nothing is called unless it must be."""
    tools = [{"type": "function", "function": {"name": "weather"}}]
    answer = chat(ledger.url(), "hi", tools=tools, tool_choice=choice)

    calls = answer.choices[0].message.tool_calls or [None]
    assert called == (calls[0] and calls[0].function.name)
    assert answer.usage.completion_tokens == ledger.total().completion_tokens


def test_any_json_without_a_schema(ledger):
    """A JSON answer whose schema nobody stated is an object with an answer."""
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    answer = chat(ledger.url(), parts, response_format={"type": "json_object"})

    assert {"answer": ANSWER} == json.loads(answer.choices[0].message.content)
    assert 3 + 3 + 1 + 85 == answer.usage.prompt_tokens


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-3.5-turbo"])
@pytest.mark.parametrize("kind", [LlamaOpenAI, OpenAIResponses])
def test_llama_index_structured_predict(ledger, kind, model):
    """Structured prediction is valid by schema and by function call."""
    assert isinstance(llama_chat(ledger.url(), kind, model).structured_predict(Report, MADE, topic="cats"), Report)
    assert 1 == ledger.total().requests


def test_llama_index_text_programs(ledger):
    """A model without tools is shown the schema in its prompt, and answers with JSON."""
    model = llama_chat(ledger.url(), OpenAILike, is_chat_model=True)

    assert isinstance(model.structured_predict(Report, MADE, topic="cats"), Report)


# LlamaIndex's workflows look at deprecated members, and its default memory leaves a database open
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [LlamaOpenAI, OpenAIResponses])
@pytest.mark.parametrize("agent", [FunctionAgent, ReActAgent])
async def test_llama_index_agents_loop_and_end(ledger, agent, kind, streaming):
    """Agents with function calls and with the text protocol call their tool twice, then answer."""
    made = agent(tools=[add], llm=llama_chat(ledger.url(rounds=2), kind), streaming=streaming)
    answer = await made.run("add", memory=ChatMemoryBuffer.from_defaults())

    assert (ANSWER, ["2", "2"]) == (str(answer), [str(call.tool_output) for call in answer.tool_calls])
    assert 3 == ledger.total().requests


def test_llama_index_query_engines(ledger):
    """Retrieval finds the document that shares words with the question; each call is billed."""
    url = ledger.url()
    vectors = OpenAIEmbedding(model="text-embedding-3-small", api_base=url, api_key="none", max_retries=0)
    documents = [Document(text="cats are fine animals"), Document(text="rockets fly to the moon")]
    index = VectorStoreIndex.from_documents(documents, embed_model=vectors)
    engine = index.as_query_engine(llm=llama_chat(url), similarity_top_k=1)
    response = engine.query("which rockets fly?")

    assert (ANSWER, "rockets fly to the moon") == (str(response), response.source_nodes[0].text)
    assert (4 + 5 + 4, 3) == (ledger.total().embedding_tokens, ledger.total().requests)
    gc.collect()
