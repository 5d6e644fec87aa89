"""What each tracker adds to a LangChain call, in µs, in one run.

    python tests/benchmarks/langchain.py [rounds]

Rows are trackers, columns ways of calling a chat model that answers at once. A figure is the median, over rounds in
which the trackers take turns, of what a call takes above one without any handler; the last line is that baseline.
"The peer's share" are ratios of our block to get_openai_callback.
"""

import asyncio
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

warnings.simplefilter("ignore")
from langchain_community.callbacks import get_openai_callback as peer  # noqa: E402

CALLS, CHUNKS = 40, 400
PROMPT = [HumanMessage("one more word " * 166)]  # 500 tokens
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


class Instant(BaseChatModel):
    """A chat model with ChatOpenAI's answers and no network."""

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


class NoOp(BaseCallbackHandler):
    """A handler that does nothing: what LangChain itself asks for having any."""


class InlineNoOp(NoOp):
    """The same, called on the event loop instead of in a thread."""

    run_inline = True

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; without it LangChain would make a string of the prompt."""


MODEL = Instant()


def invoke() -> float:
    """Return the seconds of one invoke."""
    started = time.perf_counter()
    for _ in range(CALLS):
        MODEL.invoke(PROMPT)
    return (time.perf_counter() - started) / CALLS


def ainvoke() -> float:
    """Return the seconds of one ainvoke."""

    async def work() -> float:
        started = time.perf_counter()
        for _ in range(CALLS):
            await MODEL.ainvoke(PROMPT)
        return (time.perf_counter() - started) / CALLS

    return asyncio.run(work())


def stream_chunk() -> float:
    """Return the seconds of one chunk of a stream."""
    started = time.perf_counter()
    for _ in MODEL.stream(PROMPT):
        pass
    return (time.perf_counter() - started) / CHUNKS


def astream_chunk() -> float:
    """Return the seconds of one chunk of an asynchronous stream."""

    async def work() -> float:
        started = time.perf_counter()
        async for _ in MODEL.astream(PROMPT):
            pass
        return (time.perf_counter() - started) / CHUNKS

    return asyncio.run(work())


@contextmanager
def constructor(handler: BaseCallbackHandler) -> Iterator[None]:
    """Give the model a handler."""
    MODEL.callbacks = [handler]
    yield
    MODEL.callbacks = None


@contextmanager
def hooks_of(present: int) -> Iterator[None]:
    """Leave LangChain with its first hooks alone: the baseline is without ours and without the peers'."""
    kept = _configure_hooks[present:]
    del _configure_hooks[present:]
    yield
    _configure_hooks.extend(kept)


def main(rounds: int) -> None:
    """Measure, and print the table."""
    own = len(_configure_hooks)
    from token_handlers import get_openai_callback, track_tokens

    with track_tokens() as warm:
        MODEL.invoke(PROMPT)
    assert warm.unpriced_requests == 0
    blocks: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "no handler": lambda: hooks_of(own),
        "no-op handler": lambda: constructor(NoOp()),
        "no-op handler, inline": lambda: constructor(InlineNoOp()),
        "after our block": nullcontext,
        "track_tokens": track_tokens,
        "our get_openai_callback": get_openai_callback,
        "get_openai_callback": peer,
        "get_usage_metadata_callback": get_usage_metadata_callback,
    }
    ways = (invoke, ainvoke, stream_chunk, astream_chunk)
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, block in blocks.items():
            for way in ways:
                with block():
                    taken.setdefault((name, way.__name__), []).append(way())
            hooks = len(_configure_hooks)
            if name == "get_usage_metadata_callback":  # it leaves a hook behind with every block
                del _configure_hooks[hooks - len(ways) :]
    print(f"{'µs per call':<28}" + "".join(f"{way.__name__:>15}" for way in ways) + f"{'with-block':>12}")
    for name, block in blocks.items():
        added = [_added(taken, name, way.__name__) for way in ways]
        row = "".join(f"{number:>15.2f}" for number in added)
        print(f"{name:<28}{row}" + ("" if name.startswith(("no", "after")) else f"{_block(block):>12.2f}"))
    shares = [
        _added(taken, "track_tokens", way.__name__) / _added(taken, "get_openai_callback", way.__name__) for way in ways
    ]
    print(f"{'the peer_s share'.replace('_', chr(39)):<28}" + "".join(f"{share:>15.3f}" for share in shares))
    base = [statistics.median(taken["no handler", way.__name__]) * 1e6 for way in ways]
    print(f"{'the call itself':<28}" + "".join(f"{number:>15.2f}" for number in base))


def _added(taken: dict[tuple[str, str], list[float]], name: str, way: str) -> float:
    pairs = zip(taken[name, way], taken["no handler", way], strict=True)
    return statistics.median(one - other for one, other in pairs) * 1e6


def _block(block: Callable[[], AbstractContextManager[object]]) -> float:
    started = time.perf_counter()
    for _ in range(2_000):
        with block():
            pass
    return (time.perf_counter() - started) / 2_000 * 1e6


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
