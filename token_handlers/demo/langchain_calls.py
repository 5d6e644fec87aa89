"""The calls that the demo makes with LangChain's real clients."""

from pydantic import SecretStr

from token_handlers.errors import MissingDependency

try:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
except ModuleNotFoundError as error:
    raise MissingDependency(error.name or "langchain-openai", "demo") from error

from token_handlers.langchain import report_stream_usage


@tool
def opening_hours(city: str) -> str:
    """Return when the museum of a city is open."""
    return f"The museum of {city} is open from 10 to 18 h, except on Mondays."


def make_calls(base_url: str | None, api_key: SecretStr) -> None:
    """Run a chain, a batch, two streams and a tool's loop; without ``base_url`` against OpenAI itself."""
    model = ChatOpenAI(model="gpt-4o-mini", base_url=base_url, api_key=api_key)
    chain = ChatPromptTemplate.from_template("Describe {city} in one sentence.") | model | StrOutputParser()
    chain.invoke({"city": "Lisbon"})
    model.batch([f"Name a dish from {country}." for country in ("Peru", "Japan", "Ghana")])
    for _ in report_stream_usage(model).stream("Tell me about the sea."):
        pass
    for _ in model.stream("Tell me about the mountains."):  # on another server than OpenAI's it reports no usage
        pass
    _use_tool(ChatOpenAI(model="gpt-4o", base_url=base_url, api_key=api_key))


def _use_tool(model: ChatOpenAI) -> None:
    """Ask, run the tool that the model calls, and hand over what it said: an agent without LangGraph's import."""
    able = model.bind_tools([opening_hours])
    question = HumanMessage("When is the museum of Porto open?")
    answer = able.invoke([question])
    calls = getattr(answer, "tool_calls", [])
    results = [ToolMessage(opening_hours.invoke(call["args"]), tool_call_id=call["id"]) for call in calls]
    able.invoke([question, answer, *results])
