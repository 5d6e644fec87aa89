from contextlib import nullcontext
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

from tests.support.bills import billed, counted
from tests.support.llama_index_clients import MESSAGES, drain, no_swallowed_faults, run
from token_handlers import Budget, BudgetExceeded, install, shared_counter, track_tokens, uninstall
from token_handlers.budget import Amounts
from token_handlers.langchain import LangChainTokenHandler, TrackedEmbeddings
from token_handlers.llama_index import LlamaIndexTokenHandler, calls
from token_handlers.tracking.call import open_calls


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher, and no call stays open."""
    before = set(open_calls)
    with no_swallowed_faults():
        yield
    assert {} == calls.by_span
    assert before >= open_calls.keys()


class LangChainLLM(CustomLLM):
    """A LangChain model as LlamaIndex's LLM, as llama-index-llms-langchain has it: it passes on text, and no usage."""

    model: Any

    @classmethod
    def class_name(cls):
        return "LangChainLLM"

    @property
    def metadata(self):
        return LLMMetadata(is_chat_model=True)

    @llm_chat_callback()
    def chat(self, messages, **kwargs):
        answer = self.model.invoke([(message.role.value, message.content) for message in messages], **kwargs)
        return ChatResponse(message=ChatMessage(role="assistant", content=answer.content))

    @llm_chat_callback()
    def stream_chat(self, messages, **kwargs):
        def chunks():
            text = ""
            for chunk in self.model.stream([(message.role.value, message.content) for message in messages], **kwargs):
                text += chunk.content
                yield ChatResponse(message=ChatMessage(role="assistant", content=text), delta=chunk.content)

        return chunks()

    @llm_completion_callback()
    def complete(self, prompt, **kwargs):
        return CompletionResponse(text=self.model.invoke(prompt).content)

    @llm_completion_callback()
    def stream_complete(self, prompt, **kwargs):
        raise NotImplementedError


ADAPTED = {
    "chat": lambda llm: llm.chat(MESSAGES),
    "achat": lambda llm: run(llm.achat(MESSAGES)),
    "complete": lambda llm: llm.complete("How?"),
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
    "astream_chat": lambda llm: run(drain(llm.astream_chat(MESSAGES))),
}


def chat_openai(ledger, **settings):
    """Return LangChain's model on the test's channel."""
    url = ledger.url()
    return ChatOpenAI(model="gpt-4o-mini", base_url=url, api_key="none", stream_usage=True, max_retries=0, **settings)


@pytest.fixture
def adapted(ledger):
    """LangChain's ChatOpenAI on the test's channel, as LlamaIndex's LLM."""
    return LangChainLLM(model=chat_openai(ledger))


@pytest.mark.parametrize("way", ADAPTED)
def test_a_langchain_model_counts_once(ledger, adapted, way):
    """LangChain's own hook records what LlamaIndex asks of a LangChain model, exactly; LlamaIndex's events don't."""
    records = []
    with track_tokens(sinks=[records.append]) as counter:
        ADAPTED[way](adapted)

    assert billed(ledger) == counted(counter)
    assert (["openai"], 0) == ([record.provider for record in records], counter.estimated_requests)


@pytest.mark.parametrize("way", ADAPTED)
def test_a_langchain_model_holds_once(ledger, adapted, way):
    """Its calls are refused by LangChain's hook, and one under way is held once."""
    budget = Budget(max_requests=1)
    with track_tokens(budget=budget):
        ADAPTED[way](adapted)
        with pytest.raises(BudgetExceeded):
            ADAPTED[way](adapted)

    assert 1 == len(ledger.entries())
    assert (1, Amounts()) == (budget.spent().requests, budget.held())


@pytest.mark.parametrize("handler_type", ["langchain,llamaindex", "langchain", "llamaindex"])
def test_a_langchain_model_under_automatic_tracking(ledger, adapted, handler_type):
    """It counts once and exactly whatever is tracked, LlamaIndex alone too: by what openai's client answered."""
    counter = shared_counter()
    before = counter.snapshot()
    install(handler_type)
    adapted.chat(MESSAGES)
    uninstall()
    added = counter.successful_requests - before.successful_requests, counter.prompt_tokens - before.prompt_tokens
    estimated = counter.estimated_requests - before.estimated_requests

    assert ((1, billed(ledger)["prompt"]), 0) == (added, estimated)


@pytest.mark.parametrize("way", ADAPTED)
def test_a_handler_alone_counts_a_langchain_model(ledger, adapted, way):
    """Where nothing records LangChain's calls, our handler does by the provider's answers."""
    handler = LlamaIndexTokenHandler()
    adapted.callback_manager = CallbackManager([handler])
    ADAPTED[way](adapted)

    assert billed(ledger) == counted(handler.counter)
    assert 0 == handler.estimated_requests


def test_a_handler_beside_a_generators_block(ledger, adapted):
    """A block in a generator that waits elsewhere does not record LangChain's call, so the handler counts it."""

    def body():
        with track_tokens() as counter:
            yield counter

    steps, handler = body(), LlamaIndexTokenHandler()
    counter = next(steps)
    adapted.callback_manager = CallbackManager([handler])
    adapted.chat(MESSAGES)
    steps.close()

    assert (1, 0) == (handler.successful_requests, counter.successful_requests)


class MyLLM(LangChainLLM):
    """An LLM of one's own that asks a LangChain model."""

    @classmethod
    def class_name(cls):
        return "MyLLM"


@pytest.mark.parametrize("kind", [LangChainLLM, MyLLM])
@pytest.mark.parametrize("way", ADAPTED)
def test_whoever_sees_it_has_the_bill(ledger, kind, way):
    """A block and both frameworks' handlers have the call once and exactly, and so does the shared counter."""
    outer, inner = LlamaIndexTokenHandler(), LangChainTokenHandler()
    llm = kind(model=chat_openai(ledger, callbacks=[inner]), callback_manager=CallbackManager([outer]))
    before = shared_counter().snapshot()
    with track_tokens() as counter:
        ADAPTED[way](llm)
    ADAPTED[way](llm)
    added = shared_counter().snapshot()

    bill = billed(ledger)
    assert bill == counted(outer.counter) == counted(inner.counter)
    assert bill["requests"] == 2 * counter.successful_requests == 2
    assert (2, bill["prompt"], 0) == (
        added.successful_requests - before.successful_requests,
        added.prompt_tokens - before.prompt_tokens,
        added.estimated_requests - before.estimated_requests,
    )


class Judge(MyLLM):
    """One that asks a LangChain model, and then reports a request of its own."""

    @llm_chat_callback()
    def chat(self, messages, **kwargs):
        self.model.invoke("Which of us?")
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        return ChatResponse(message=ChatMessage(role="assistant", content="I"), raw={"usage": usage})


def test_what_the_outer_call_used_itself_counts(ledger):
    """Usage of its own, beside that of LangChain's call, is another call's."""
    with track_tokens() as counter:
        Judge(model=chat_openai(ledger)).chat(MESSAGES)

    assert (2, billed(ledger)["prompt"] + 100) == (counter.successful_requests, counter.prompt_tokens)


def test_a_langchain_model_fails_once(ledger):
    """A rejected call of LangChain's is one failed request."""
    handler = LlamaIndexTokenHandler()
    model = ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(status="401"), api_key="none", max_retries=0)
    with track_tokens() as counter, pytest.raises(Exception, match="401"):
        LangChainLLM(model=model, callback_manager=CallbackManager([handler])).chat(MESSAGES)

    assert (0, 1) == (counter.successful_requests, counter.failed_requests)
    assert (0, 1) == (handler.successful_requests, handler.failed_requests)


class LangchainEmbedding(BaseEmbedding):
    """LangChain's embeddings as LlamaIndex's, as llama-index-embeddings-langchain has them."""

    inner: Any

    def _get_query_embedding(self, query):
        return self.inner.embed_query(query)

    async def _aget_query_embedding(self, query):
        return await self.inner.aembed_query(query)

    def _get_text_embedding(self, text):
        return self.inner.embed_documents([text])[0]

    def _get_text_embeddings(self, texts):
        return self.inner.embed_documents(texts)

    async def _aget_text_embeddings(self, texts):
        return await self.inner.aembed_documents(texts)


def openai_embeddings(ledger):
    """Return OpenAIEmbeddings that send texts, as tiktoken's vocabulary may be absent."""
    settings = {"base_url": ledger.url(), "api_key": "none", "max_retries": 0, "check_embedding_ctx_length": False}
    return OpenAIEmbeddings(model="text-embedding-3-small", **settings)


EMBEDDED = {
    "query": lambda model: model.get_query_embedding("who?"),
    "batch": lambda model: model.get_text_embedding_batch(["one two", "three", "four"]),
    "aquery": lambda model: run(model.aget_query_embedding("who?")),
    "abatch": lambda model: run(model.aget_text_embedding_batch(["one two", "three", "four"])),
}


@pytest.mark.parametrize("way", EMBEDDED)
@pytest.mark.parametrize("wrap", [lambda embeddings: embeddings, TrackedEmbeddings])
@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("scoped", [True, False])
def test_langchain_embeddings_count_once(ledger, way, wrap, handled, scoped):
    """Whoever sees them has their bill, once: a block, LlamaIndex's handler, the shared counter."""
    handler = LlamaIndexTokenHandler()
    manager = CallbackManager([handler] if handled else [])
    model = LangchainEmbedding(inner=wrap(openai_embeddings(ledger)), embed_batch_size=2, callback_manager=manager)
    before = shared_counter().snapshot()
    with track_tokens() if scoped else nullcontext(handler.counter) as counter:
        EMBEDDED[way](model)
    added = shared_counter().snapshot()

    bill = ledger.total().requests, ledger.total().embedding_tokens
    if handled:
        assert bill == (handler.successful_requests, handler.embedding_tokens)
    if scoped:
        assert bill == (counter.successful_requests, counter.embedding_tokens)
    seen = handled or scoped or wrap is TrackedEmbeddings
    assert (bill if seen else (0, 0)) == (
        added.successful_requests - before.successful_requests,
        added.embedding_tokens - before.embedding_tokens,
    )
    assert added.estimated_requests == before.estimated_requests


def test_other_langchain_embeddings_are_estimated_once():
    """Those that nobody sees are estimated by LlamaIndex's events, or by the wrapper."""
    fake = DeterministicFakeEmbedding(size=2)
    with track_tokens() as counter:
        LangchainEmbedding(inner=fake).get_text_embedding_batch(["one two", "three"])
        LangchainEmbedding(inner=TrackedEmbeddings(fake)).get_text_embedding_batch(["one two", "three"])

    assert (2, 2) == (counter.successful_requests, counter.estimated_requests)
    assert 6 == counter.embedding_tokens
