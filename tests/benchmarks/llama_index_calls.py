"""Microseconds that tracking adds to a LlamaIndex call and to a stream's chunk, next to LlamaIndex's own handlers.

``python tests/benchmarks/llama_index_calls.py``
"""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable

from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index_instrumentation import root_dispatcher
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

from token_handlers import track_tokens
from token_handlers.llama_index import LlamaIndexTokenHandler, hook

CALLS, CHUNKS, ROUNDS = 1_000, 2_000, 15
MESSAGES = [ChatMessage(role="user", content="How are you?")]
RAW = ChatCompletion(
    id="c", choices=[], created=1, model="gpt-4o-mini-2024-07-18", object="chat.completion",
    usage=CompletionUsage(prompt_tokens=22, completion_tokens=11, total_tokens=33),
)  # fmt: skip
ANSWER = ChatResponse(message=ChatMessage(role="assistant", content="Fine."), raw=RAW)


class Silent(CustomLLM):
    """An LLM that answers at once, with OpenAI's response."""

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
        return CompletionResponse(text="Fine.")

    @llm_completion_callback()
    def stream_complete(self, prompt, **kwargs):
        yield CompletionResponse(text="Fine.")


class NoOp:
    """The least that an event handler can do."""

    def handle(self, event, **kwargs):
        pass


def chats(llm: Silent) -> float:
    """Return the time of one chat."""
    start = time.perf_counter()
    for _ in range(CALLS):
        llm.chat(MESSAGES)
    return (time.perf_counter() - start) / CALLS * 1e6


def chunks(llm: Silent) -> float:
    """Return the time of one chunk."""
    start = time.perf_counter()
    for _ in llm.stream_chat(MESSAGES):
        pass
    return (time.perf_counter() - start) / CHUNKS * 1e6


@contextlib.contextmanager
def no_op():
    """Add an event handler that does nothing."""
    before = root_dispatcher.event_handlers
    root_dispatcher.event_handlers = [*before, NoOp()]
    yield
    root_dispatcher.event_handlers = before


@contextlib.contextmanager
def tracked():
    """Track everything."""
    hook.attach()
    with track_tokens():
        yield
    hook.detach()


@contextlib.contextmanager
def carried():
    """Let the LLM's own handler attach what it needs."""
    yield
    hook.detach()


def main() -> None:
    """Measure in turns, so that a slow moment of the machine hits all alike; the least of many is the cost."""
    variants: dict[str, tuple[Callable[[], object], Callable[[], contextlib.AbstractContextManager[None]]]] = {
        "nothing": (lambda: None, contextlib.nullcontext),
        "no-op event handler": (lambda: None, no_op),
        "TokenCountingHandler": (lambda: TokenCountingHandler(tokenizer=str.split), contextlib.nullcontext),
        "track_tokens()": (lambda: None, tracked),
        "LlamaIndexTokenHandler": (LlamaIndexTokenHandler, carried),
    }
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in variants}
    gc.disable()
    for _ in range(ROUNDS):
        for name, (make, surround) in variants.items():
            handler = make()
            llm = Silent(callback_manager=CallbackManager([handler] if handler else []))
            with surround():
                times[name][0].append(chats(llm))
                times[name][1].append(chunks(llm))
            gc.collect()
    base_call, base_chunk = (min(series) for series in times["nothing"])
    theirs = min(times["TokenCountingHandler"][0]) - base_call
    for name, (per_call, per_chunk) in times.items():
        added = min(per_call) - base_call
        print(
            f"{name:24} +{added:6.2f} us per chat ({added / theirs:5.1%} of TokenCountingHandler's; median "
            f"{statistics.median(per_call):6.1f}), +{min(per_chunk) - base_chunk:5.2f} us per chunk"
        )


if __name__ == "__main__":
    main()
