"""The calls that the demo makes with LlamaIndex's real clients."""

import asyncio

from pydantic import SecretStr

from token_handlers.errors import MissingDependency

try:
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.core.memory import ChatMemoryBuffer
    from llama_index.embeddings.openai import OpenAIEmbedding
    from llama_index.llms.openai import OpenAI
except ModuleNotFoundError as error:
    raise MissingDependency(error.name or "llama-index-core", "demo") from error

from token_handlers.llama_index import report_stream_usage

DOCUMENTS = (
    "The lighthouse of Peniche was lit for the first time in 1790.",
    "The tramway of Porto has three lines, of which one goes along the river to the sea.",
    "The library of Coimbra keeps bats, which eat the insects that eat the books.",
)


def ferry_hours(river: str) -> str:
    """Return when the ferry over a river runs."""
    return f"The ferry over the {river} runs every half hour until midnight."


def make_calls(base_url: str | None, api_key: SecretStr) -> None:
    """Embed an index, query it, stream an answer and run an agent; without ``base_url`` against OpenAI itself."""
    key = api_key.get_secret_value()
    llm = OpenAI(model="gpt-4o-mini", api_base=base_url, api_key=key)
    embedding = OpenAIEmbedding(model="text-embedding-3-small", api_base=base_url, api_key=key)
    index = VectorStoreIndex.from_documents([Document(text=text) for text in DOCUMENTS], embed_model=embedding)
    index.as_query_engine(llm=llm).query("Who guards the books of Coimbra?")
    reporting = report_stream_usage(llm)
    for _ in reporting.stream_complete("Tell me about lighthouses."):
        pass
    asyncio.run(_ask_agent(reporting))


async def _ask_agent(llm: OpenAI) -> None:
    agent = FunctionAgent(tools=[ferry_hours], llm=llm)
    await agent.run("When does the ferry over the Douro run?", memory=ChatMemoryBuffer.from_defaults(llm=llm))
