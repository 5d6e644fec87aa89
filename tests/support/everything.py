"""All that the package does, driven once with planted secrets, and what it writes, logs, shows and raises."""

import asyncio
import contextlib
import functools
import gc
import io
import json
import pickle
import sys
import traceback

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_openai import OpenAI as Legacy
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pydantic import SecretStr

from tests.support.agentsight_api import KEY, Answer
from tests.support.command_line import run_command
from tests.support.llama_index_clients import PROMPT, Weather, make_embedder, make_llm
from token_handlers import Budget, ConversationTracker, UsageRecord, shared_counter, track_tokens
from token_handlers.cli import main
from token_handlers.install import Settings
from token_handlers.langchain import LangChainTokenHandler, TrackedEmbeddings, report_stream_usage
from token_handlers.llama_index import LlamaIndexTokenHandler
from token_handlers.sinks.agentsight import AgentSightClient
from token_handlers.sinks.otel import OTelMetrics
from token_handlers.sinks.redis import RedisCounter
from token_handlers.sinks.sqlite import SQLiteLedger

SECRETS = {
    "prompt": "zanzibar-prompt-4711",
    "completion": "answer is made of plain words",  # what the loopback server says
    "tool arguments": "quetzal-argument-2718",
    "embedded text": "narwhal-document-3141",
    "key of the LLM": "sk-llm-key-0123456789abcdef",
    "key of AgentSight": KEY,
    "password of Redis": "hunter2-s3cret",
    "wrong password of Redis": "swordfish-wr0ng",
}
QUESTION = f"{SECRETS['prompt']}: how warm is it?"
KEYS = {"api_key": SECRETS["key of the LLM"], "max_retries": 0}


def temperature(city: str) -> str:
    """Return the temperature in a city."""
    return f"21 degrees in {SECRETS['tool arguments']}"


class Everything:
    """What is driven, and where its traces are put."""

    def __init__(self, folder, channel, api, valkey, texts):
        self.folder, self.channel, self.api, self.valkey, self.texts = folder, channel, api, valkey, texts
        self.ledger = SQLiteLedger(folder / "own" / "ledger.db")
        self.outbox = folder / "own" / "outbox"
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])
        self.client = AgentSightClient(KEY, api.url, outbox=self.outbox, backoff=0.001, retries=1)
        self.fleet = RedisCounter(self.redis_url(SECRETS["password of Redis"]), linger=0.0)
        self.shut_out = RedisCounter(self.redis_url(SECRETS["wrong password of Redis"]), "out", linger=0.0)
        self.records: list[UsageRecord] = []
        self.sinks = [
            *(self.ledger, self.client, self.fleet, self.shut_out, OTelMetrics(self.provider)),
            *(self.records.append, self.fail),
        ]

    def redis_url(self, password):
        """Return the server's address with a password."""
        return self.valkey.url.replace("redis://", f"redis://:{password}@")

    def chat(self, settings=None, **modes):
        """Return a ChatOpenAI."""
        return ChatOpenAI(
            model="gpt-4o-mini", base_url=self.channel.url(**modes), stream_usage=True, **KEYS, **(settings or {})
        )

    def fail(self, record):
        """Be a sink that fails."""
        raise RuntimeError("a sink of the application's own")

    def note(self, place, thing):
        """Keep what an object shows of itself."""
        self.texts[place] = f"{thing!r} {thing} {vars(thing) if hasattr(thing, '__dict__') else ''}"
        with contextlib.suppress(Exception):  # most have locks
            self.texts[f"{place}, pickled"] = pickle.dumps(thing).decode("latin-1")
        if hasattr(thing, "_repr_html_"):
            self.texts[f"{place} in a notebook"] = thing._repr_html_()

    @contextlib.contextmanager
    def raised(self, place):
        """Keep an error of ours as Python prints it, with all that led to it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (whatever it is, it is to be searched)
            self.texts[place] = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
        else:
            raise AssertionError(f"{place}: nothing was raised")


def drive(every):
    """Drive everything."""
    with track_tokens(session="s", user="u", tags={"team": "red"}, sinks=every.sinks) as counter:
        langchain(every)
        llama_index(every)
        asyncio.run(asynchronous(every))
        every.note("TokenCounter", counter)
    every.channel.release()
    gc.collect()
    budgets(every)
    conversations(every)
    stores(every)
    show(every, counter)
    commands(every)
    every.texts["metrics"] = every.reader.get_metrics_data().to_json()
    for number, record in enumerate(every.records):
        every.texts[f"record {number}"] = record.model_dump_json()
    every.ledger.close()
    for fleet in (every.fleet, every.shut_out):
        fleet.close(timeout=0.1)
    every.provider.shutdown()
    for path in every.folder.rglob("*"):
        if path.is_file():
            every.texts[f"the file {path.name}"] = path.read_bytes().decode("latin-1")


def langchain(every):
    """LangChain: answers, streams, agents, caches, embeddings, errors, breaks, time-outs."""
    handler = LangChainTokenHandler()
    every.chat().invoke(QUESTION, config={"callbacks": [handler]})
    every.note("LangChainTokenHandler", handler)
    for words in ("always", "never", "every"):
        list(every.chat(usage=words).stream(QUESTION))
    next(every.chat(gate=3).stream(QUESTION))
    cached = every.chat({"cache": InMemoryCache()})
    for _ in range(2):
        cached.invoke(QUESTION)
    create_agent(every.chat(), [tool(temperature)]).invoke({"messages": [("user", QUESTION)]})
    every.chat(usage="never").bind_tools([tool(temperature)]).invoke(QUESTION)
    every.chat().with_structured_output(Weather).invoke(QUESTION)
    legacy = Legacy(model="gpt-3.5-turbo-instruct", base_url=every.channel.url(), **KEYS)
    list(report_stream_usage(legacy).stream(QUESTION))
    legacy.invoke(QUESTION)
    list(legacy.stream(QUESTION))
    embeddings = OpenAIEmbeddings(base_url=every.channel.url(), check_embedding_ctx_length=False, **KEYS)
    TrackedEmbeddings(embeddings).embed_documents([SECRETS["embedded text"]])
    for settings, modes in (
        ({}, {"status": 401}),
        ({}, {"status": 500}),
        ({}, {"cut": 2}),
        ({"timeout": 0.05}, {"hold": 1}),
    ):
        with contextlib.suppress(Exception):
            every.chat(settings, **modes).invoke(QUESTION)
        with contextlib.suppress(Exception):
            list(every.chat(settings, **modes).stream(QUESTION))


def llama_index(every):
    """LlamaIndex: the same."""
    messages = [ChatMessage(role="user", content=QUESTION)]
    handler = LlamaIndexTokenHandler()
    llm = functools.partial(make_llm, every.channel, **KEYS)
    llm(callback_manager=CallbackManager([handler])).chat(messages)
    every.note("LlamaIndexTokenHandler", handler)
    llm(modes={"usage": "never"}).complete(QUESTION)
    list(llm().stream_chat(messages))
    next(llm(modes={"gate": 3}).stream_chat(messages))
    llm().predict(PROMPT, city=QUESTION)
    llm().structured_predict(Weather, PROMPT, city=QUESTION)
    llm(modes={"usage": "never"}).chat_with_tools([FunctionTool.from_defaults(temperature)], user_msg=QUESTION)
    make_embedder(every.channel, **KEYS).get_text_embedding_batch([SECRETS["embedded text"]])
    for settings, modes in (({}, {"status": 500}), ({}, {"cut": 2}), ({"timeout": 0.05}, {"hold": 1})):
        with contextlib.suppress(Exception):
            llm(modes=modes, **settings).chat(messages)


async def asynchronous(every):
    """Both, asynchronously, with a task that is cancelled."""
    messages = [ChatMessage(role="user", content=QUESTION)]
    await every.chat().ainvoke(QUESTION)
    async for _ in every.chat(usage="never").astream(QUESTION):
        pass
    await make_llm(every.channel, **KEYS).achat(messages)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(every.chat(hold=1).ainvoke(QUESTION), 0.1)


def budgets(every):
    """Budgets that refuse, and that warn."""
    budget = Budget(max_tokens=1, scope="team")
    with track_tokens(budget=budget), every.raised("BudgetExceeded of LangChain"):
        every.chat().invoke(QUESTION)
    with track_tokens(budget=budget), every.raised("BudgetExceeded of LlamaIndex"):
        make_llm(every.channel, **KEYS).complete(QUESTION)
    every.note("Budget", budget)
    with track_tokens(budget=Budget(max_cost=1, warn_at=0.0000001)):
        every.chat().invoke(QUESTION)
    store = Budget(max_cost=1, scope="fleet", store=every.shut_out, on_outage="fail_closed")
    with track_tokens(budget=store), every.raised("BudgetExceeded of a store"):
        every.chat().invoke(QUESTION)
    every.note("Budget of a store", store)


def conversations(every):
    """Conversations that are sent, and that can't be."""
    tracker = ConversationTracker("c", api_key=SecretStr(KEY), endpoint=every.api.url)
    with tracker:
        every.chat().invoke(QUESTION)
    tracker.send_tracked_data()
    failing = ConversationTracker("d", sink=every.client)
    for place, answer in {
        "SendFailed of a refusal": Answer(400, body={"detail": f"not with {KEY}"}),
        "SendFailed of a server's fault": Answer(500, body={"detail": [KEY]}),
        "SendFailed of a lost connection": Answer(None),
    }.items():
        failing.track_token_usage(3, 4)
        every.api.fail(answer, answer)
        with every.raised(place):
            failing.send_tracked_data()
    every.client.flush()
    every.api.fail(Answer(500), Answer(500))
    failing.track_token_usage(1, 1)
    every.api.revoke(KEY)
    with every.raised("SendFailed of a key"):
        failing.send_tracked_data()
    with every.raised("a key that is none"):
        ConversationTracker("e", api_key=f"{KEY}0")
    with every.raised("an endpoint with a password"):
        AgentSightClient(KEY, f"https://me:{SECRETS['password of Redis']}@example.com")
    every.note("ConversationTracker", tracker)
    every.note("ConversationTracker that failed", failing)
    every.note("AgentSightClient", every.client)
    every.texts["the outbox"] = "".join(path.read_text() for path in every.outbox.iterdir())


def stores(every):
    """A Redis server with a password, without it, and gone."""
    assert every.fleet.flush(10)
    every.note("RedisCounter", every.fleet)
    every.note("RedisCounter, shut out", every.shut_out)
    with every.raised("StoreUnavailable of a wrong password"):
        every.shut_out.ping()
    with every.raised("StoreUnavailable of totals"):
        every.shut_out.totals()
    for url in ("redis://:{}@localhost:port", "ftp://:{}@localhost", "redis://localhost:1?password={}&what=1"):
        with every.raised(f"an address {url}"):
            RedisCounter(url.format(SECRETS["password of Redis"])).ping()
    every.valkey.kill()
    with every.raised("StoreUnavailable of a server that is gone"):
        every.fleet.ping()


def show(every, counter):
    """What is shown of a ledger, of totals, of settings."""
    assert every.ledger.flush(10)
    every.note("SQLiteLedger", every.ledger)
    every.note("shared counter", shared_counter())
    for label in ("model", "session", "user", "tag", "langgraph_node"):
        every.texts[f"totals by {label}"] = repr(counter.by(label))
    environment = {
        "AGENTSIGHT_API_KEY": KEY,
        "AGENTSIGHT_TOKEN_REDIS_URL": every.redis_url(SECRETS["password of Redis"]),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        settings = Settings()
        every.texts["Settings"] = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


PROGRAM = """
import os, sys
import token_handlers
from langchain_openai import ChatOpenAI
model = ChatOpenAI(model="gpt-4o-mini", base_url=sys.argv[1], max_retries=0)
model.invoke(os.environ["QUESTION"])
list(model.stream(os.environ["QUESTION"]))
"""


def commands(every):
    """The command line: run, report, export, sessions, doctor, ingest, price."""
    (every.folder / "program.py").write_text(PROGRAM)
    exchange = {
        "messages": [{"role": "user", "content": QUESTION}],
        "choices": [{"message": {"content": SECRETS["completion"]}}],
        "model": "gpt-4o-mini",
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }
    environment = {
        "AGENTSIGHT_TOKEN_LEDGER": str(every.ledger.path),
        "AGENTSIGHT_API_KEY": KEY,
        "AGENTSIGHT_TOKEN_REDIS_URL": every.redis_url(SECRETS["password of Redis"]),
        "OPENAI_API_KEY": SECRETS["key of the LLM"],
        "QUESTION": QUESTION,
    }
    for words, given in (
        (("run", every.folder / "program.py", every.channel.url()), None),
        (("run", "--json", "--budget", "0.00000001", every.folder / "program.py", every.channel.url()), None),
        (("ingest", "-"), json.dumps(exchange)),
        (("report",), None),
        (("report", "--html", every.folder / "own" / "report.html"), None),
        (("report", "--by", "session", "--json"), None),
        (("export", "--csv"), None),
        (("export", "--json"), None),
        (("sessions",), None),
        (("doctor",), None),
        (("doctor", "--json"), None),
    ):
        every.texts[f"token-handlers {' '.join(map(str, words[:2]))}"] = printed(words, given or "", environment)


def printed(words, given, environment):
    """Return what a command prints; a program runs in a process of its own, the others in this one."""
    if words[0] == "run":
        done = run_command(*words, **environment)
        return done.stdout + done.stderr
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        for name, value in environment.items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            main([str(word) for word in words])
    return output.getvalue()
