"""What each tracker adds to a call as people use it: one call a block, in one run and one table.

    python tests/benchmarks/trackers.py [rounds]

Rows are shapes of answers and ways of calling, columns what is attached; every figure is a ratio to the peer of its row
in the same run: langchain-community's get_openai_callback, or LlamaIndex's TokenCountingHandler attached for good. The
model answers at once to a conversation of 500 tokens. A figure is what a tracker adds above no handler at all, blocks
and the totals read after them included, as a mean over requests; the second one is the slowest request of a round, at
the median of the rounds. Rounds take all cells in random order, the collector is off inside a cell, and the measure
is CPU time, as other processes share the machine: of the calling thread for calls that block it, of the whole process
for trackers that work in threads. The last table is a real ChatOpenAI over loopback, in percent of its own CPU.
"""

import asyncio
import gc
import itertools
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

os.environ["LANGSMITH_TRACING"] = "false"
from anthropic.types import Message
from http_answers import serve  # type: ignore[import-not-found]  # beside this script
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tracers.context import _configure_hooks
from langchain_openai import ChatOpenAI
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index_instrumentation import root_dispatcher
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

warnings.simplefilter("ignore")
from langchain_community.callbacks import get_openai_callback as community_callback  # noqa: E402

REQUESTS, WARM, REAL_REQUESTS, CHUNKS = 24, 4, 8, 400
HOOKS = len(_configure_hooks)
WORDS = "one more word " * 27
ROLES = ("user", "assistant") * 3
PROMPT = [HumanMessage(WORDS) if role == "user" else AIMessage(WORDS) for role in ROLES]
CHAT = [ChatMessage(role=role, content=WORDS) for role in ROLES]

OPENAI_USAGE = {
    "completion_tokens": 20,
    "prompt_tokens": 500,
    "total_tokens": 520,
    "completion_tokens_details": {
        "accepted_prediction_tokens": 0,
        "audio_tokens": 0,
        "reasoning_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0},
}
ANTHROPIC_USAGE = {
    "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 400,
    "inference_geo": "not_available",
    "input_tokens": 100,
    "output_tokens": 20,
    "output_tokens_details": None,
    "server_tool_use": None,
    "service_tier": "standard",
    "speed": None,
}


class Shape(NamedTuple):
    """What a LangChain client's answers look like: who it is, usage_metadata, llm_output, and what a message adds."""

    provider: str
    model: str
    usage: dict[str, Any]
    output: dict[str, Any] | None
    more: dict[str, Any]


SHAPES = {  # as langchain-openai 1.7 and langchain-anthropic 1.7 give them; many others have a usage_metadata alone
    "ChatOpenAI's": Shape(
        "openai",
        "gpt-4o-mini",
        {
            "input_tokens": 500,
            "output_tokens": 20,
            "total_tokens": 520,
            "input_token_details": {"audio": 0, "cache_read": 0},
            "output_token_details": {"audio": 0, "reasoning": 0},
        },
        {
            "token_usage": OPENAI_USAGE,
            "model_provider": "openai",
            "model_name": "gpt-4o-mini-2024-07-18",
            "system_fingerprint": "fp",
            "id": "c",
            "service_tier": "default",
        },
        {"finish_reason": "stop", "logprobs": None},
    ),
    "Anthropic's": Shape(
        "anthropic",
        "claude-sonnet-4-5",
        {
            "input_tokens": 500,
            "output_tokens": 20,
            "total_tokens": 520,
            "input_token_details": {
                "cache_read": 400,
                "cache_creation": 0,
                "ephemeral_5m_input_tokens": 0,
                "ephemeral_1h_input_tokens": 0,
            },
        },
        {
            "id": "msg_1",
            "container": None,
            "model": "claude-sonnet-4-5-20250929",
            "stop_details": None,
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": ANTHROPIC_USAGE,
            "model_name": "claude-sonnet-4-5-20250929",
        },
        {"model_provider": "anthropic"},
    ),
    "bare": Shape("openai", "gpt-4o-mini", {"input_tokens": 500, "output_tokens": 20, "total_tokens": 520}, None, {}),
}
OPENAI, ANTHROPIC, BARE = SHAPES

COMPLETION = ChatCompletion(
    id="c",
    choices=[
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": "hello", "refusal": None, "annotations": []},
        }
    ],
    created=1,
    model="gpt-4o-mini-2024-07-18",
    object="chat.completion",
    service_tier="default",
    usage=CompletionUsage(**OPENAI_USAGE),
)
MESSAGE = Message(
    id="msg_1",
    type="message",
    role="assistant",
    model="claude-sonnet-4-5-20250929",
    content=[{"type": "text", "text": "hello"}],
    stop_reason="end_turn",
    usage=ANTHROPIC_USAGE,
)
RAWS: dict[str, tuple[str, str, Any]] = {
    "ChatCompletion": ("openai_llm", "gpt-4o-mini", COMPLETION),
    "Anthropic's": ("Anthropic_LLM", "claude-sonnet-4-5", dict(MESSAGE)),
    "a dict": ("openai_llm", "gpt-4o-mini", COMPLETION.model_dump(exclude_unset=True)),
}


class Instant(BaseChatModel):
    """LangChain: a chat model that answers in a shape, without a network."""

    shape: Any

    @property
    def _llm_type(self) -> str:
        return "instant"

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        return {"ls_provider": self.shape.provider, "ls_model_name": self.shape.model, "ls_model_type": "chat"}

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        shape = self.shape
        output = None if shape.output is None else dict(shape.output)
        message = AIMessage("hello", usage_metadata=shape.usage, response_metadata={**(output or {}), **shape.more})
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output=output)

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return self._generate(messages)

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for _ in range(CHUNKS):
            message = AIMessageChunk(content="word ", response_metadata={"model_provider": "openai"})
            yield ChatGenerationChunk(message=message)
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=self.shape.usage))

    async def _astream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        for chunk in self._stream(messages):
            yield chunk


class Silent(CustomLLM):
    """LlamaIndex: an LLM that answers with a raw response, without a network."""

    kind: Any
    model: Any
    answer: Any

    def to_payload(self) -> dict[str, Any]:
        return {"class_name": self.kind, "model_name": self.model}

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model)

    @llm_chat_callback()
    def chat(self, messages, **kwargs):
        return self.answer

    @llm_chat_callback()
    def stream_chat(self, messages, **kwargs):
        return (self.answer for _ in range(CHUNKS))

    @llm_completion_callback()
    def complete(self, prompt, **kwargs):
        return CompletionResponse(text="hello")

    @llm_completion_callback()
    def stream_complete(self, prompt, **kwargs):
        yield CompletionResponse(text="hello")


def silent(kind: str, model: str, raw: Any) -> Silent:
    """Return an LLM with one answer."""
    answer = ChatResponse(message=ChatMessage(role="assistant", content="hello"), raw=raw)
    return Silent(kind=kind, model=model, answer=answer, callback_manager=CallbackManager([]))


class NoOp(BaseCallbackHandler):
    """A LangChain handler that does nothing: what LangChain itself asks for having any."""

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; without it LangChain would make a string of the prompt."""


class NoOpEvents:
    """A LlamaIndex event handler that does nothing."""

    def handle(self, event: object, **kwargs: object) -> None:
        """Do nothing."""


Block = Callable[[], AbstractContextManager[Any]]


def nothing() -> None:
    """Do nothing."""


class Tracker(NamedTuple):
    """One column: what is attached for good, and what is opened around each request and read after it."""

    attached: Callable[[Any], AbstractContextManager[object]]
    block: Block = nullcontext
    reads: tuple[str, ...] = ()
    flush: Callable[[], object] = nothing


@contextmanager
def without_us() -> Iterator[None]:
    """Leave the frameworks as they are before this package is imported."""
    from token_handlers import http
    from token_handlers.llama_index import hook
    from token_handlers.tracking import answers

    kept = _configure_hooks[HOOKS:]
    del _configure_hooks[HOOKS:]
    hook.detach()
    http.detach()
    yield
    hook.attach()
    answers.watch()
    _configure_hooks[HOOKS:] = kept


def bare(model: Any) -> AbstractContextManager[None]:
    """Attach nothing, and leave us out."""
    return without_us()


def ours(model: Any) -> AbstractContextManager[None]:
    """Attach nothing but what a block attaches itself."""
    return nullcontext()


def handler(make: Callable[[], BaseCallbackHandler], *, is_ours: bool = False) -> Callable[[Any], Any]:
    """Return what gives a LangChain model a handler."""

    @contextmanager
    def attached(model: Any) -> Iterator[None]:
        with nullcontext() if is_ours else without_us():
            model.callbacks = [make()]
            yield
            model.callbacks = None

    return attached


def manager(make: Callable[[], Any], *, is_ours: bool = False) -> Callable[[Any], Any]:
    """Return what gives a LlamaIndex LLM a callback handler."""

    @contextmanager
    def attached(llm: Any) -> Iterator[None]:
        with nullcontext() if is_ours else without_us():
            before, llm.callback_manager = llm.callback_manager, CallbackManager([make()])
            yield
            llm.callback_manager = before

    return attached


@contextmanager
def no_op_events(llm: Any) -> Iterator[None]:
    """Add an event handler that does nothing."""
    with without_us():
        before = root_dispatcher.event_handlers
        root_dispatcher.event_handlers = [*before, NoOpEvents()]
        yield
        root_dispatcher.event_handlers = before


def langfuse_handler() -> Callable[[], BaseCallbackHandler] | None:
    """Return what makes Langfuse's handler, its spans dropped where they would be sent; None without Langfuse."""
    try:
        from langfuse import Langfuse
        from langfuse.langchain import CallbackHandler
    except ImportError:
        return None
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Dropped(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    Langfuse(public_key="pk", secret_key="sk", base_url="http://127.0.0.1:9", span_exporter=Dropped())
    return CallbackHandler


def langchain_trackers(ledger: Any) -> dict[str, Tracker]:
    """Return the columns of LangChain's tables."""
    from token_handlers import Budget, LangChainTokenHandler, track_tokens
    from token_handlers.sinks.otel import OTelMetrics

    numbers = itertools.count()
    budget = Budget(max_cost=1_000_000)
    otel = OTelMetrics(MeterProvider([InMemoryMetricReader()]))
    three = ("total_tokens", "total_cost", "successful_requests")
    one = three[:1]

    def labelled(**more: Any) -> Any:
        return track_tokens(session=f"s{next(numbers)}", user="u", **more)

    langfuse = langfuse_handler()
    return {
        "none": Tracker(bare),
        "no-op": Tracker(handler(NoOp)),
        "peer": Tracker(bare, community_callback, one),
        "block": Tracker(ours, track_tokens, one),
        "labels": Tracker(ours, labelled, three),
        "ledger": Tracker(ours, lambda: track_tokens(sinks=[ledger]), one, ledger.flush),
        "Budget": Tracker(ours, lambda: track_tokens(budget=budget), one),
        "all": Tracker(ours, lambda: labelled(budget=budget, sinks=[ledger, otel]), three, ledger.flush),
        "handler": Tracker(handler(LangChainTokenHandler, is_ours=True)),
        "after": Tracker(ours),
    } | ({} if langfuse is None else {"Langfuse": Tracker(handler(langfuse))})


def llama_index_trackers(ledger: Any) -> dict[str, Tracker]:
    """Return the columns of LlamaIndex's table."""
    from token_handlers import Budget, LlamaIndexTokenHandler, track_tokens

    one = ("total_tokens",)
    budget = Budget(max_cost=1_000_000)
    return {
        "none": Tracker(bare),
        "no-op": Tracker(no_op_events),
        "peer": Tracker(manager(TokenCountingHandler)),
        "block": Tracker(ours, track_tokens, one),
        "ledger": Tracker(ours, lambda: track_tokens(sinks=[ledger]), one, ledger.flush),
        "handler": Tracker(manager(LlamaIndexTokenHandler, is_ours=True)),
        "after": Tracker(ours),
        "Budget": Tracker(ours, lambda: track_tokens(budget=budget), one),  # last: it wraps LlamaIndex's clients
    }


class Taken(NamedTuple):
    """The µs of each request, and of all threads for each, what is written in the background included."""

    requests: list[float]
    all_threads: float


def one_by_one(call: Callable[[], object], tracker: Tracker, number: int) -> Taken:
    """Make some requests with a block around each."""
    block, reads, clock = tracker.block, tracker.reads, time.thread_time_ns
    taken = []
    began = time.process_time_ns()
    for _ in range(number):
        start = clock()
        with block() as totals:
            call()
        for name in reads:
            getattr(totals, name)
        taken.append((clock() - start) / 1e3)
    tracker.flush()
    return Taken(taken, (time.process_time_ns() - began) / 1e3 / number)


def in_one_block(call: Callable[[], object], tracker: Tracker, number: int) -> Taken:
    """Make some requests in one block."""
    with tracker.block() as totals:
        taken = one_by_one(call, tracker._replace(block=nullcontext, reads=()), number)
    for name in tracker.reads:
        getattr(totals, name)
    return taken


def awaited(call: Callable[[], Any], tracker: Tracker, number: int) -> Taken:
    """Make some requests asynchronously, with a block around each: handlers may work in threads."""
    block, reads, clock = tracker.block, tracker.reads, time.process_time_ns
    taken = []

    async def work() -> None:
        for _ in range(number):
            start = clock()
            with block() as totals:
                await call()
            for name in reads:
                getattr(totals, name)
            taken.append((clock() - start) / 1e3)

    asyncio.run(work())
    tracker.flush()
    return Taken(taken, statistics.fmean(taken))


async def _read(model: Instant) -> None:
    async for _ in model.astream(PROMPT):
        pass


class Row(NamedTuple):
    """One line of a table: how a call is made, by which trackers, and of how many pieces it is."""

    name: str
    target: Any
    call: Callable[[], Any]
    measure: Callable[[Callable[[], Any], Tracker, int], Taken]
    trackers: dict[str, Tracker]
    pieces: int = 1
    requests: int = REQUESTS
    warm: int = WARM


def rows_of_langchain(trackers: dict[str, Tracker]) -> list[Row]:
    """Return the lines of LangChain's table."""
    models = {name: Instant(shape=shape) for name, shape in SHAPES.items()}

    def invoked(name: str) -> Callable[[], Any]:
        return lambda: models[name].invoke(PROMPT)

    def ainvoked(name: str) -> Callable[[], Any]:
        return lambda: models[name].ainvoke(PROMPT)

    first = models[OPENAI]
    few = {name: one for name, one in trackers.items() if name not in ("labels", "ledger", "all", "Langfuse")}
    blocks = {name: one for name, one in trackers.items() if name not in ("handler", "after", "Langfuse", "no-op")}
    return [
        *(Row(f"invoke, {name}", models[name], invoked(name), one_by_one, trackers) for name in SHAPES),
        Row("invoke, many in a block", first, invoked(OPENAI), in_one_block, blocks),
        *(Row(f"ainvoke, {name}", models[name], ainvoked(name), awaited, trackers) for name in SHAPES),
        Row("chunk of stream", first, lambda: list(first.stream(PROMPT)), one_by_one, few, CHUNKS, 1, 1),
        Row("chunk of astream", first, lambda: _read(first), awaited, few, CHUNKS, 1, 1),
    ]


def rows_of_llama_index(trackers: dict[str, Tracker]) -> list[Row]:
    """Return the lines of LlamaIndex's table."""
    llms = {name: silent(*raw) for name, raw in RAWS.items()}

    def chatted(name: str) -> Callable[[], Any]:
        return lambda: llms[name].chat(CHAT)

    first = next(iter(llms.values()))
    return [
        *(Row(f"chat, {name}", llms[name], chatted(name), one_by_one, trackers) for name in RAWS),
        Row("chunk", first, lambda: list(first.stream_chat(CHAT)), one_by_one, trackers, CHUNKS, 1, 1),
    ]


def measure(rows: list[Row], rounds: int) -> dict[tuple[str, str], list[Taken]]:
    """Measure all cells in each round, in random order."""
    cells = [(row, name) for row in rows for name in row.trackers]
    taken: dict[tuple[str, str], list[Taken]] = {}
    gc.collect()
    gc.freeze()
    gc.disable()
    for _ in range(rounds):
        random.shuffle(cells)
        for row, name in cells:
            tracker = row.trackers[name]
            with tracker.attached(row.target):
                row.measure(row.call, tracker._replace(flush=nothing), row.warm)  # waiting makes the next ones slow
                taken.setdefault((row.name, name), []).append(row.measure(row.call, tracker, row.requests))
            gc.collect()
    gc.enable()
    return taken


def mean(taken: list[Taken]) -> float:
    """Return the mean of a request, of the middle half of the rounds: others' work on this machine only adds."""
    means = sorted(statistics.fmean(each.requests) for each in taken)
    return statistics.fmean(means[len(means) // 4 : -(len(means) // 4) or None])


def slowest(taken: list[Taken]) -> float:
    """Return the slowest request of a round, at the median of the rounds."""
    return statistics.median(max(each.requests) for each in taken)


def behind(taken: list[Taken]) -> float:
    """Return what other threads take for a request."""
    return statistics.median(each.all_threads - statistics.fmean(each.requests) for each in taken)


def show(rows: list[Row], taken: dict[tuple[str, str], list[Taken]], *, shares: bool = False) -> None:
    """Print a table: what the peer adds in µs, and each other as a ratio to it: mean, slowest request."""
    names = [name for name in rows[0].trackers if name not in ("none", "peer")]
    print(f"{'':25}{'call':>6}{'peer':>6}" + "".join(f"{name:>12}" for name in names))
    for row in rows:
        base, peer = (taken[row.name, name] for name in ("none", "peer"))
        unit = mean(base) if shares else mean(peer) - mean(base)
        most = slowest(base) if shares else slowest(peer) - slowest(base)
        texts = [f"{row.name:25}{mean(base) / row.pieces:6.0f}{(mean(peer) - mean(base)) / row.pieces:6.1f}"]
        for name in names:
            if name not in row.trackers:
                texts.append(f"{'':12}")
                continue
            added, worst = mean(taken[row.name, name]) - mean(base), slowest(taken[row.name, name]) - slowest(base)
            figures = f"{added / unit:.1%}" if shares else f"{added / unit:.2f} {worst / most:5.2f}"
            texts.append(f"{figures:>12}")
        print("".join(texts), flush=True)


def rows_of_a_real_client(url: str, trackers: dict[str, Tracker]) -> list[Row]:
    """Return the line of a real ChatOpenAI."""
    model = ChatOpenAI(model="gpt-4o-mini", api_key="sk-1", base_url=f"{url}/2/v1", max_retries=0)
    names = ("none", "peer", "block", "all", "handler", "Langfuse")
    kept = {name: trackers[name] for name in names if name in trackers}
    return [
        Row("ChatOpenAI over loopback", model, lambda: model.invoke(PROMPT), one_by_one, kept, requests=REAL_REQUESTS)
    ]


def main(rounds: int) -> None:
    """Measure, and print the tables."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    with ExitStack() as stack:
        from token_handlers import track_tokens
        from token_handlers.sinks.sqlite import SQLiteLedger

        stack.callback(server.terminate)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ledger = stack.enter_context(SQLiteLedger(Path(folder, "usage.db")))
        langchain = rows_of_langchain(langchain_trackers(ledger))
        llama_index = rows_of_llama_index(llama_index_trackers(ledger))
        with track_tokens() as warm:
            for row in (langchain[0], llama_index[0]):
                row.call()
        assert (2, 0) == (warm.successful_requests, warm.unpriced_requests)
        print("Ratio to the peer, of the mean and of the slowest request; call and peer in µs a request or chunk")
        taken = measure(langchain, rounds)
        show(langchain, taken)
        print(f"the ledger's thread: {behind(taken[langchain[0].name, 'ledger']):.0f} µs a record")
        taken = measure(llama_index, rounds)
        show(llama_index, taken)
        print("In percent of what a real client takes by itself")
        real = rows_of_a_real_client(f"http://127.0.0.1:{pipe.recv()}", langchain[0].trackers)
        show(real, measure(real, rounds), shares=True)
    print(f"load of the machine: {', '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
