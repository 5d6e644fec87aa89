"""What each tracker adds to a LangChain or LlamaIndex call, in µs, in one run and one table.

    python tests/benchmarks/trackers.py [rounds]

Rows are trackers, columns ways of calling a model that answers at once: a LangChain call and a chunk of a stream, sync
and async, an empty with-block, a LlamaIndex chat and a chunk. The prompt is a conversation of six messages and 500
tokens, the answer has OpenAI's usage. A figure is the median, over rounds in which the trackers take turns, of what a
call takes above one without any handler, summing up included; the last line is that baseline. An empty block's is the
least that it took.
"""

import asyncio
import gc
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tracers.context import _configure_hooks
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index_instrumentation import root_dispatcher
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

warnings.simplefilter("ignore")
from langchain_community.callbacks import get_openai_callback as peer  # noqa: E402

CALLS, CHUNKS, EMPTY = 100, 400, 200
WORDS = "one more word " * 27
ROLES = ("user", "assistant") * 3
USAGE = {
    "input_tokens": 500,
    "output_tokens": 20,
    "total_tokens": 520,
    "input_token_details": {"audio": 0, "cache_read": 0},
    "output_token_details": {"audio": 0, "reasoning": 0},
}
METADATA = {
    "token_usage": {
        "completion_tokens": 20,
        "prompt_tokens": 500,
        "total_tokens": 520,
        "completion_tokens_details": {"audio_tokens": 0, "reasoning_tokens": 0},
        "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0},
    },
    "model_name": "gpt-4o-mini-2024-07-18",
    "service_tier": "default",
    "finish_reason": "stop",
}
PROMPT = [HumanMessage(WORDS) if role == "user" else AIMessage(WORDS) for role in ROLES]
CHAT = [ChatMessage(role=role, content=WORDS) for role in ROLES]
RAW = ChatCompletion(
    id="c",
    choices=[],
    created=1,
    model="gpt-4o-mini-2024-07-18",
    object="chat.completion",
    service_tier="default",
    usage=CompletionUsage(**METADATA["token_usage"]),
)
ANSWER = ChatResponse(message=ChatMessage(role="assistant", content="hello"), raw=RAW)


class Instant(BaseChatModel):
    """LangChain: a chat model with ChatOpenAI's answers and no network."""

    @property
    def _llm_type(self) -> str:
        return "instant"

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        return {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini", "ls_model_type": "chat"}

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        message = AIMessage("hello", usage_metadata=USAGE, response_metadata=dict(METADATA))
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output=dict(METADATA))

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return self._generate(messages)

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for _ in range(CHUNKS):
            yield ChatGenerationChunk(message=AIMessageChunk(content="word "))
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=USAGE))

    async def _astream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        for chunk in self._stream(messages):
            yield chunk


class Silent(CustomLLM):
    """LlamaIndex: an LLM with OpenAI's response and no network."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="gpt-4o-mini")

    @llm_chat_callback()
    def chat(self, messages, **kwargs):
        return ANSWER

    @llm_chat_callback()
    def stream_chat(self, messages, **kwargs):
        return (ANSWER for _ in range(CHUNKS))

    @llm_completion_callback()
    def complete(self, prompt, **kwargs):
        return CompletionResponse(text="hello")

    @llm_completion_callback()
    def stream_complete(self, prompt, **kwargs):
        yield CompletionResponse(text="hello")


class NoOp(BaseCallbackHandler):
    """A LangChain handler that does nothing: what LangChain itself asks for having any."""


class InlineNoOp(NoOp):
    """The same, called on the event loop instead of in a thread."""

    run_inline = True

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; without it LangChain would make a string of the prompt."""


class NoOpEvents:
    """A LlamaIndex event handler that does nothing."""

    def handle(self, event: object, **kwargs: object) -> None:
        """Do nothing."""


MODEL, LLM = Instant(), Silent()


def invoke() -> None:
    """Invoke CALLS times."""
    for _ in range(CALLS):
        MODEL.invoke(PROMPT)


def ainvoke() -> None:
    """Likewise, asynchronously."""

    async def work() -> None:
        for _ in range(CALLS):
            await MODEL.ainvoke(PROMPT)

    asyncio.run(work())


def stream_chunk() -> None:
    """Read a stream of CHUNKS."""
    for _ in MODEL.stream(PROMPT):
        pass


def astream_chunk() -> None:
    """Likewise, asynchronously."""

    async def work() -> None:
        async for _ in MODEL.astream(PROMPT):
            pass

    asyncio.run(work())


def chat() -> None:
    """Chat CALLS times."""
    for _ in range(CALLS):
        LLM.chat(CHAT)


def chat_chunk() -> None:
    """Read a stream of CHUNKS."""
    for _ in LLM.stream_chat(CHAT):
        pass


LANGCHAIN = {invoke: CALLS, ainvoke: CALLS, stream_chunk: CHUNKS, astream_chunk: CHUNKS}
LLAMA_INDEX = {chat: CALLS, chat_chunk: CHUNKS}
WAYS = {**LANGCHAIN, **LLAMA_INDEX}

Block = Callable[[], AbstractContextManager[object]]


@contextmanager
def constructor(handler: BaseCallbackHandler) -> Iterator[None]:
    """Give LangChain's model a handler."""
    MODEL.callbacks = [handler]
    yield
    MODEL.callbacks = None


@contextmanager
def manager(handler: Any) -> Iterator[None]:
    """Give LlamaIndex's LLM a callback handler."""
    before, LLM.callback_manager = LLM.callback_manager, CallbackManager([handler])
    yield
    LLM.callback_manager = before


@contextmanager
def no_op_events() -> Iterator[None]:
    """Add an event handler that does nothing."""
    before = root_dispatcher.event_handlers
    root_dispatcher.event_handlers = [*before, NoOpEvents()]
    yield
    root_dispatcher.event_handlers = before


@contextmanager
def without_us(hooks: int) -> Iterator[None]:
    """Leave the frameworks as they are before this package is imported: with LangChain's first hooks alone.

    get_usage_metadata_callback leaves one more hook behind each time, which is not to burden the others.
    """
    from token_handlers.llama_index import hook

    kept = _configure_hooks[hooks:]
    del _configure_hooks[hooks:]
    hook.detach()
    yield
    hook.attach()
    _configure_hooks[hooks:] = kept


BLOCKS: dict[str, Block] = {
    "get_openai_callback": peer,
    "get_usage_metadata_callback": get_usage_metadata_callback,
}
"""What is used as a with-block."""


def trackers(hooks: int) -> dict[str, tuple[Block, dict[Callable[[], None], int]]]:
    """Return each tracker's block, without us where it is not ours, and the ways of calling that it is for."""
    from token_handlers import get_openai_callback, track_tokens
    from token_handlers.langchain import LangChainTokenHandler
    from token_handlers.llama_index import LlamaIndexTokenHandler

    BLOCKS.update({"track_tokens": track_tokens, "our get_openai_callback": get_openai_callback})

    def apart(block: Block) -> Block:
        @contextmanager
        def both() -> Iterator[None]:
            with without_us(hooks), block():
                yield

        return both

    return {
        "no handler": (apart(nullcontext), WAYS),
        "no-op": (apart(lambda: constructor(NoOp())), LANGCHAIN),
        "no-op, inline": (apart(lambda: constructor(InlineNoOp())), LANGCHAIN),
        "no-op event handler": (apart(no_op_events), LLAMA_INDEX),
        "after our block": (nullcontext, WAYS),
        "track_tokens": (track_tokens, WAYS),
        "our get_openai_callback": (get_openai_callback, LANGCHAIN),
        "LangChainTokenHandler": (lambda: constructor(LangChainTokenHandler()), LANGCHAIN),
        "LlamaIndexTokenHandler": (lambda: manager(LlamaIndexTokenHandler()), LLAMA_INDEX),
        "get_openai_callback": (apart(peer), LANGCHAIN),
        "get_usage_metadata_callback": (apart(get_usage_metadata_callback), LANGCHAIN),
        "TokenCountingHandler": (apart(lambda: manager(TokenCountingHandler())), LLAMA_INDEX),
    }


def main(rounds: int) -> None:
    """Measure, and print the table."""
    hooks = len(_configure_hooks)
    from token_handlers import track_tokens

    with track_tokens() as warm:
        MODEL.invoke(PROMPT)
        LLM.chat(CHAT)
    assert (2, 0) == (warm.successful_requests, warm.unpriced_requests)
    table = trackers(hooks)
    taken: dict[tuple[str, Callable[[], None]], list[float]] = {}
    empty: dict[str, float] = {}
    gc.disable()
    for _ in range(rounds):
        for name, (block, ways) in table.items():
            for way in ways:
                taken.setdefault((name, way), []).append(_time(block, way))
            if name in BLOCKS:
                empty[name] = min(empty.get(name, float("inf")), _empty(BLOCKS[name]))
            gc.collect()
    print(f"{'µs':<28}" + "".join(f"{way.__name__:>14}" for way in WAYS) + f"{'with-block':>12}")
    for name, (_, ways) in table.items():
        added = [f"{_added(taken, name, way):>14.2f}" if way in ways else f"{'':>14}" for way in WAYS]
        print(f"{name:<28}" + "".join(added) + (f"{empty[name]:>12.2f}" if name in empty else ""))
    base = [statistics.median(taken["no handler", way]) for way in WAYS]
    print(f"{'the call itself':<28}" + "".join(f"{number:>14.2f}" for number in base))


def _time(block: Block, way: Callable[[], None]) -> float:
    """Return the µs of a call, the block's end included, which is when some trackers add up."""
    with block():
        way()  # warm
    entered = block()
    entered.__enter__()
    started = time.perf_counter()
    way()
    entered.__exit__(None, None, None)
    return (time.perf_counter() - started) / WAYS[way] * 1e6


def _added(taken: dict[tuple[str, Callable[[], None]], list[float]], name: str, way: Callable[[], None]) -> float:
    pairs = zip(taken[name, way], taken["no handler", way], strict=True)
    return statistics.median(one - other for one, other in pairs)


def _empty(block: Block) -> float:
    kept = list(_configure_hooks)
    started = time.perf_counter()
    for _ in range(EMPTY):
        with block():
            pass
    taken = time.perf_counter() - started
    _configure_hooks[:] = kept  # see without_us
    return taken / EMPTY * 1e6


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
