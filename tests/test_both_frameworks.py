import asyncio
import os
import signal
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage as LlamaMessage
from llama_index.core.llms import ChatResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index.llms.openai import OpenAI

from tests.support.answer_server import answering, body, events
from tests.support.bills import billed, counted
from tests.support.llama_index_clients import make_llm
from tests.support.provider_answers import (
    CHAT,
    CHAT_STREAM,
    MESSAGE,
    MESSAGE_STREAM,
    RESPONSE,
    RESPONSE_STREAM,
    USAGE,
    chunk,
)
from token_handlers import Budget, BudgetExceeded, TokenCounter, install, shared_counter, track_tokens, uninstall
from token_handlers.counter.totals import CallLabels, Increment
from token_handlers.langchain import LangChainTokenHandler
from token_handlers.llama_index import LlamaIndexTokenHandler
from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.tokenizer import estimate_tokens

ROOT = Path(__file__).parents[1]

SCRIPT = """
import warnings
warnings.simplefilter("ignore")  # LlamaIndex's bridge imports langchain-community, which announces its sunset
import sys
import token_handlers.auto
assert not {{"langchain_core", "llama_index.core"}} & set(sys.modules)
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI
from token_handlers import shared_counter

url = {url!r}
ChatOpenAI(model="gpt-4o-mini", base_url=url, api_key="none").invoke("hi")
OpenAI(model="gpt-4o-mini", api_base=url, api_key="none").chat([ChatMessage(role="user", content="hi")])
counter = shared_counter()
print(counter.successful_requests, counter.prompt_tokens, counter.completion_tokens, counter.estimated_requests)
"""


def test_automatic_tracking_of_both(ledger):
    """The variable turns on what it names, as `import token_handlers.auto` alone reads it; each call counts once."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(url=ledger.url())],
        env={"PYTHONPATH": str(ROOT), "AGENTSIGHT_TOKEN_HANDLER_TYPE": "LlamaIndex, LangChain"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    entries = ledger.entries()
    prompt, completion = (
        sum(getattr(entry, f"{side}_tokens") for entry in entries) for side in ("prompt", "completion")
    )

    assert 2 == len(entries)
    assert (f"2 {prompt} {completion} 0\n", "") == (done.stdout, done.stderr)


@pytest.mark.parametrize(("handler_type", "counted"), [("langchain", 0), ("llamaindex", 1)])
def test_automatic_tracking_of_one(ledger, monkeypatch, handler_type, counted):
    """What the variable does not name is not counted."""
    from langchain_openai import ChatOpenAI

    monkeypatch.setenv("AGENTSIGHT_TOKEN_HANDLER_TYPE", handler_type)
    before = shared_counter().prompt_tokens
    install()
    try:
        ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), api_key="none").invoke("hi")
        make_llm(ledger).complete("a longer question than the other")
    finally:
        uninstall()
    sent = [entry.prompt_tokens for entry in ledger.entries()]

    assert sent[0] < sent[1]
    assert sent[counted] == shared_counter().prompt_tokens - before


def test_one_block_counts_both(ledger):
    """A block counts LangChain and LlamaIndex alike."""
    from langchain_openai import ChatOpenAI

    with track_tokens() as counter:
        ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), api_key="none").invoke("hi")
        make_llm(ledger).complete("hi")
    bill = ledger.total()

    assert (2, bill.prompt_tokens, bill.completion_tokens) == (
        counter.successful_requests,
        counter.prompt_tokens,
        counter.completion_tokens,
    )


def test_outside_of_a_generators_block(ledger):
    """A call of its consumer, between two steps, is nobody's: not the block's and not the shared counter's."""
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    def body():
        with track_tokens() as counter:
            yield counter

    steps = body()
    counter, before = next(steps), shared_counter().successful_requests
    ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), api_key="none").invoke("hi")
    make_llm(ledger).complete("hi")
    OpenAIEmbeddings(base_url=ledger.url(), api_key="none", check_embedding_ctx_length=False).embed_query("hi")
    steps.close()

    assert 3 == len(ledger.entries())
    assert (0, before) == (counter.successful_requests, shared_counter().successful_requests)


async def test_estimates_load_nothing_on_an_event_loop():
    """On an event loop an estimate uses what is there: no vocabulary is loaded, which takes longer than a moment."""
    asyncio.get_running_loop()
    before = set(sys.modules)
    estimate_tokens("one more word " * 166, "gpt-4o-mini")

    assert before == set(sys.modules)


class Borrowed(BaseChatModel):
    """A LangChain model that asks an LLM of LlamaIndex's, and passes on its answer with or without the usage."""

    llm: Any
    says_usage: bool = True

    @property
    def _llm_type(self):
        return "borrowed"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        response = self.llm.chat([LlamaMessage(role="user", content=message.content) for message in messages])
        usage = response.raw.usage
        counts = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
        usage_metadata = {**counts, "total_tokens": usage.total_tokens} if self.says_usage else None
        message = AIMessage(response.message.content, usage_metadata=usage_metadata)
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.mark.parametrize("says_usage", [True, False])
def test_a_langchain_model_that_asks_llama_index_counts_once(ledger, says_usage):
    """In the block and for the handler of the LangChain model; its budget is asked once, before anything is sent."""
    handler, budget = LangChainTokenHandler(), Budget(max_requests=1)
    model = Borrowed(llm=make_llm(ledger), says_usage=says_usage)
    with track_tokens(budget=budget) as counter:
        model.invoke("How?", {"callbacks": [handler]})
        with pytest.raises(BudgetExceeded, match="max_requests=1: 1 spent"):
            model.invoke("How?")

    assert billed(ledger) == counted(counter) == counted(handler.counter)
    assert 1 == len(ledger.entries()) == budget.spent().requests


def clients():
    """Return calls of both frameworks and of bare SDKs, as functions of an address, with what a server answers each."""
    import anthropic
    import openai
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings
    from llama_index.embeddings.openai import OpenAIEmbedding
    from llama_index.llms.openai import OpenAI, OpenAIResponses

    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
    embedding = {"object": "embedding", "index": 0, "embedding": [0.5]}
    embedded = {"object": "list", "model": "text-embedding-3-small", "data": [embedding], "usage": USAGE}

    def chat(url, **settings):
        return ChatOpenAI(model="gpt-4o-mini", base_url=url + "/v1", api_key="none", stream_usage=True, **settings)

    def claude(url):
        return ChatAnthropic(model_name="claude-opus-5", base_url=url, api_key="none", timeout=None, stop=None)

    def llm(url, kind=OpenAI):
        return kind(model="gpt-4o-mini", api_base=url + "/v1", api_key="none")

    def sdk(url):
        return openai.OpenAI(base_url=url + "/v1", api_key="none")

    whole, stream = (body, CHAT), (lambda listed, **headers: events(listed, done=True, **headers), CHAT_STREAM)
    message, messages = (
        (body, MESSAGE),
        (lambda listed, **headers: events(listed, named=True, **headers), MESSAGE_STREAM),
    )
    response, responses = (body, RESPONSE), (messages[0], RESPONSE_STREAM)
    return {
        "LangChain's chat": (whole, lambda url: chat(url).invoke("hi")),
        "LangChain's stream": (stream, lambda url: list(chat(url).stream("hi"))),
        "LangChain's responses": (response, lambda url: chat(url, use_responses_api=True).invoke("hi")),
        "LangChain's responses' stream": (
            responses,
            lambda url: list(chat(url, use_responses_api=True).stream("hi")),
        ),
        "LangChain's embeddings": (
            (body, embedded),
            lambda url: OpenAIEmbeddings(
                base_url=url + "/v1", api_key="none", check_embedding_ctx_length=False
            ).embed_query("hi"),
        ),
        "LangChain's Claude": (message, lambda url: claude(url).invoke("hi")),
        "LangChain's Claude's stream": (messages, lambda url: list(claude(url).stream("hi"))),
        "LlamaIndex's chat": (whole, lambda url: llm(url).complete("hi")),
        "LlamaIndex's stream": (stream, lambda url: list(llm(url).stream_complete("hi"))),
        "LlamaIndex's responses": (response, lambda url: llm(url, OpenAIResponses).complete("hi")),
        "LlamaIndex's embeddings": (
            (body, embedded),
            lambda url: OpenAIEmbedding(api_base=url + "/v1", api_key="none").get_text_embedding("hi"),
        ),
        "OpenAI's SDK": (whole, lambda url: sdk(url).chat.completions.create(**asked)),
        "OpenAI's SDK's stream": (stream, lambda url: list(sdk(url).chat.completions.create(**asked, stream=True))),
        "OpenAI's SDK's responses": (response, lambda url: sdk(url).responses.create(model="gpt-4o-mini", input="hi")),
        "Anthropic's SDK": (
            message,
            lambda url: anthropic.Anthropic(base_url=url, api_key="none").messages.create(
                **{**asked, "model": "claude-opus-5"}, max_tokens=9
            ),
        ),
    }


Origin = tuple[dict[str, str], tuple[str | None, ...]]
OPENAI_ORIGIN: Origin = (
    {"x_request_id": "req_1", "openai_organization": "org_1", "openai_project": "proj_1"},
    ("req_1", "org_1", "proj_1"),
)
ANTHROPIC_ORIGIN: Origin = (
    {"request_id": "req_1", "anthropic_organization_id": "org_1"},
    ("req_1", "org_1", None),
)


@pytest.mark.parametrize("name", clients())
def test_records_name_their_origin(name):
    """Whichever client asked, a record has the id, the account and the host by which a bill can be matched."""
    (reply, answer), ask = clients()[name]
    records = []
    headers, expected = OPENAI_ORIGIN
    if "Claude" in name or "Anthropic" in name:
        headers, expected = ANTHROPIC_ORIGIN
    with answering(reply(answer, **headers)) as server, track_tokens(sinks=[records.append]):
        ask(server.url)

    [record] = records
    assert (*expected, "127.0.0.1") == (record.request_id, record.organization, record.project, record.host)


@pytest.mark.parametrize("framework", ["langchain", "llama_index"])
def test_what_the_prompt_cache_saved(ledger, tmp_path, framework):
    """The counter, the record and a ledger's totals have what the provider's cache saved, at the rates of the call."""
    with SQLiteLedger(tmp_path / "usage.db") as kept, track_tokens(session="s", sinks=[kept]) as tokens:
        if framework == "langchain":
            ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(cached=5), api_key="none").invoke(
                "hello there, how are you?"
            )
        else:
            make_llm(ledger, modes={"cached": 5}).chat([LlamaMessage(role="user", content="hello there, how are you?")])
        saved = 5 * (Decimal("0.15") - Decimal("0.075")) / 10**6

        assert (saved, 5 / tokens.prompt_tokens) == (tokens.cache_saved_cost, tokens.cache_hit_rate)
        assert {"s": saved} == {name: each.cache_saved_cost for name, each in tokens.by_session.items()}
        assert tokens.snapshot() == kept.totals()
        assert [saved] == [record.cache_saved_cost for record in kept.records()]


class UnreadableAnswer(Exception):
    """As LiteLLM's for what it cannot parse in the middle of a stream: it has the status of a server's error."""

    status_code = 503


def misread(url, held):
    """Begin to read a stream, fail on its first line, and leave the response open."""
    client = httpx.Client()
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    response = client.send(client.build_request("POST", f"{url}/v1/chat/completions", json=asked), stream=True)
    held += [client, response]
    next(response.iter_bytes())
    raise UnreadableAnswer


class MisreadingChain(BaseChatModel):
    """A model of LangChain's whose client cannot read what it was answered."""

    url: str
    held: list[Any] = []  # noqa: RUF012 (LangChain's models are pydantic's, which copies it)

    def _generate(self, *args, **kwargs):
        raise NotImplementedError

    def _stream(self, *args, **kwargs):
        misread(self.url, self.held)
        yield ChatGenerationChunk(message=AIMessageChunk(content=""))

    @property
    def _llm_type(self):
        return "misreading"


class MisreadingIndex(CustomLLM):
    """The same of LlamaIndex's."""

    url: str
    held: list[Any] = []  # noqa: RUF012 (as above)

    @property
    def metadata(self):
        return LLMMetadata(model_name="gpt-4o-mini")

    @llm_chat_callback()
    def stream_chat(self, messages, **kwargs):
        def chunks():
            misread(self.url, self.held)
            yield ChatResponse(message=messages[0])

        return chunks()

    def complete(self, *args, **kwargs):
        raise NotImplementedError

    def stream_complete(self, *args, **kwargs):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        (MisreadingChain, lambda model: list(model.stream("hi"))),
        (MisreadingIndex, lambda model: list(model.stream_chat([LlamaMessage(role="user", content="hi")]))),
    ],
    ids=["LangChain", "LlamaIndex"],
)
def test_a_stream_that_a_client_cannot_read_is_billed(kind, read):
    """A status in a client's error is no rejection where the provider had begun to answer."""
    with answering(events(CHAT_STREAM, done=True)) as server:
        model = kind(url=server.url)
        with track_tokens() as counter, pytest.raises(UnreadableAnswer):
            read(model)
        for each in reversed(model.held):
            each.close()

    assert (1, 0, 1) == (counter.successful_requests, counter.failed_requests, counter.estimated_requests)
    assert counter.prompt_tokens > 0


WORDLESS = {"prompt_tokens": 100, "completion_tokens": 0, "total_tokens": 100}
MODELS = {
    "LangChain": lambda url: ChatOpenAI(model="gpt-4o-mini", base_url=url, api_key="none", stream_usage=True),
    "LlamaIndex": lambda url: OpenAI("gpt-4o-mini", api_base=url, api_key="none"),
}
ASKED = {
    ("LangChain", False): lambda model: model.invoke("hi"),
    ("LangChain", True): lambda model: list(model.stream("hi")),
    ("LlamaIndex", False): lambda model: model.complete("hi"),
    ("LlamaIndex", True): lambda model: list(model.stream_complete("hi")),
}


@pytest.mark.parametrize(("framework", "streamed"), ASKED)
def test_an_output_of_zero_beside_text_is_estimated(framework, streamed):
    """The prompt is as it was stated, the text is counted, and the call is flagged."""
    reply = (
        events([*CHAT_STREAM[:-1], chunk(usage=WORDLESS)], done=True) if streamed else body(CHAT | {"usage": WORDLESS})
    )
    with answering(reply) as server, track_tokens() as counter:
        ASKED[framework, streamed](MODELS[framework](server.url))

    assert (1, 1, 100) == (counter.successful_requests, counter.estimated_requests, counter.prompt_tokens)
    assert counter.completion_tokens > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [
        TokenCounter,
        lambda: LangChainTokenHandler().counter,
        lambda: LlamaIndexTokenHandler().counter,
    ],
    ids=["a TokenCounter", "a LangChain handler's", "a LlamaIndex handler's"],
)
def test_a_fork_while_a_thread_reads_a_counter(make):
    """The child reads any counter as well, though the thread that holds its lock does not exist there."""
    counter = make()
    entered, gate = threading.Event(), threading.Event()

    class Slow(str):
        __slots__ = ()

        def __hash__(self):
            if threading.get_ident() == reader.ident:
                entered.set()
                gate.wait()
            return str.__hash__(self)

    reader = threading.Thread(target=counter.by, args=("model",))
    counter.apply(Increment({"input_tokens": 1}, labels=CallLabels(Slow("m"))))
    reader.start()
    entered.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # ends one that waits for the lock
        os._exit(0 if counter.by("model")["m"].prompt_tokens == 1 else 1)
    gate.set()
    reader.join()
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
