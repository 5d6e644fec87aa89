"""Whether anything grows: over calls, blocks, sessions, and runs that never end.

    python -m tests.benchmarks.memory [--calls 1000000] [--blocks 1000000] [--open 100000] [--limit 1] [--tables N]

LangChain's real callback manager is given the events of a recorded answer, LlamaIndex's real decorators an LLM that
answers at once, without HTTP. A row's first figures are what tracemalloc sees after a warm-up, when every table that
has a limit is at it, and at the end; then the difference by call. A row that grows by more than ``--limit`` bytes by
call says so, and the exit code is 1: a table of a fixed size may still move a little. ``--tables`` makes the tables
smaller, for a shorter warm-up.
"""

import argparse
import asyncio
import gc
import logging
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

from langchain_core.callbacks import CallbackManager
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult

warnings.simplefilter("ignore")  # LangChain's, of its own future

from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, CustomLLM, LLMMetadata  # noqa: E402
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback  # noqa: E402
from openai.types import CompletionUsage  # noqa: E402
from openai.types.chat import ChatCompletion  # noqa: E402

from token_handlers import TokenCounter, get_openai_callback, track_tokens  # noqa: E402

SERIALIZED = {"id": ["langchain", "chat_models", "openai", "ChatOpenAI"], "kwargs": {"model_name": "gpt-4o-mini"}}
METADATA = {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini", "ls_model_type": "chat"}
PROMPT = [HumanMessage("one more word " * 20)]
USAGE = {"input_tokens": 50, "output_tokens": 20, "total_tokens": 70}
REPORTED = {
    "token_usage": {"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70},
    "model_name": "gpt-4o-mini-2024-07-18",
}
MESSAGES = [ChatMessage(role="user", content="one more word " * 20)]
RAW = ChatCompletion(
    id="c", choices=[], created=1, model="gpt-4o-mini-2024-07-18", object="chat.completion",
    usage=CompletionUsage(prompt_tokens=50, completion_tokens=20, total_tokens=70),
)  # fmt: skip
NUMBERS = count()
COMMON = TokenCounter()


class Recorded(CustomLLM):
    """An LLM of LlamaIndex that has its answer already."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="gpt-4o-mini")

    @llm_chat_callback()
    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return ChatResponse(message=ChatMessage(role="assistant", content="Fine."), raw=RAW)

    @llm_chat_callback()
    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        return (ChatResponse(message=ChatMessage(role="assistant", content="Fine."), raw=None) for _ in range(3))

    @llm_completion_callback()
    def complete(self, prompt: str, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text="Fine.", raw=RAW)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, **kwargs: Any) -> Any:
        yield CompletionResponse(text="Fine.")


LLM = Recorded()


def start() -> Any:
    """Start a run of LangChain's, and return its manager."""
    manager = CallbackManager.configure(inheritable_metadata=METADATA)
    return manager.on_chat_model_start(SERIALIZED, [PROMPT], invocation_params={"model": "gpt-4o-mini"})[0]


def answer() -> LLMResult:
    """Return a recorded answer, as new as one that came over the wire."""
    message = AIMessage("Fine.", usage_metadata=USAGE, response_metadata=dict(REPORTED))
    return LLMResult(generations=[[ChatGeneration(message=message)]], llm_output=dict(REPORTED))


def call() -> None:
    """One run from its start to its end."""
    start().on_llm_end(answer())


def index_call() -> None:
    """One call of LlamaIndex's."""
    LLM.chat(MESSAGES)


def in_one_block(act: Callable[[], object]) -> Callable[[int], None]:
    """Return what does something so many times in a block, whose totals nobody reads meanwhile."""

    def many(number: int) -> None:
        with track_tokens():
            for _ in range(number):
                act()

    return many


def blocks(number: int) -> None:
    """Enter blocks of each kind, with a counter that stays and with counters of their own, and leave them."""

    async def entered() -> None:
        for _ in range(number // 4):
            async with track_tokens(user="u"):
                pass

    counter = TokenCounter()
    decorated = track_tokens(tags=["t"])(int)
    for _ in range(number // 4):
        with track_tokens(counter=counter):
            pass
        with get_openai_callback():
            pass
        decorated()
    asyncio.run(entered())


def sessions(number: int) -> None:
    """Make a call in each of so many new sessions, users and tags, which one counter and the shared one sum up."""
    with track_tokens(counter=COMMON):
        for one in islice(NUMBERS, number):
            with track_tokens(session=f"session {one}", user=f"user {one}", tags={"request": one}):
                call()


def never_ending(number: int) -> None:
    """Start runs whose end never comes, in a block of each its own."""
    for _ in range(number):
        with track_tokens():
            start()


def never_read(number: int) -> None:
    """Start streams of LlamaIndex's that are left in the middle, in a cycle, in a block of each its own."""
    for _ in range(number):
        with track_tokens():
            stream = LLM.stream_chat(MESSAGES)
            next(stream)
            ring = [stream]
            ring.append(ring)  # a cycle


def measure(work: Callable[[int], None], warm: int, number: int) -> tuple[int, int, float]:
    """Return the bytes before and after so many calls, and the seconds that they took."""
    work(warm)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    begun = time.perf_counter()
    work(number)
    seconds = time.perf_counter() - begun
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    return before, after, seconds


def limit_tables(size: int) -> None:
    """Make the tables smaller that have a limit: of open calls, the values of a label, and its combinations."""
    for name, module in list(sys.modules.items()):
        if name.startswith("token_handlers."):
            for limit in {"MAX_APART", "MAX_OPEN_CALLS", "MAX_VALUES"}.intersection(vars(module)):
                setattr(module, limit, min(size, getattr(module, limit)))


def rows(given: argparse.Namespace) -> Iterator[tuple[str, Callable[[int], None], int, int]]:
    """Yield what is measured: a name, the work, and how often for the warm-up and for the measurement."""
    # a counter keeps some combinations of labels apart before they are in its tables
    warm, full = min(1_000, given.calls), given.tables * 11 // 10 + 1_000
    yield "LangChain calls", in_one_block(call), warm, given.calls
    yield "LlamaIndex calls", in_one_block(index_call), warm, given.calls
    yield "blocks", blocks, warm, given.blocks
    yield "sessions, users and tags", sessions, full, given.calls
    yield "runs that never end", never_ending, full, given.open
    yield "streams left in the middle", never_read, warm, given.open


def main() -> None:
    """Measure, print, and tell by the exit code whether anything grew."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in (("--calls", 1_000_000), ("--blocks", 1_000_000), ("--open", 100_000)):
        options.add_argument(name, type=int, default=number)
    options.add_argument("--limit", type=float, default=1.0)
    options.add_argument("--tables", type=int, default=10_000)
    given = options.parse_args()
    limit_tables(given.tables)
    logging.getLogger("token_handlers").setLevel(logging.ERROR)  # it warns, once, of what states no usage
    never_ending(1)  # loads the tokenizer's vocabulary, which takes tracemalloc half a minute
    tracemalloc.start()
    grown = False
    print(f"{'':28}{'number':>11}{'kB before':>11}{'kB after':>11}{'bytes each':>12}{'seconds':>9}")
    for name, work, warm, number in rows(given):
        before, after, seconds = measure(work, warm, number)
        each = (after - before) / number
        grown = grown or each > given.limit
        growing = "  GROWS" if each > given.limit else ""
        print(
            f"{name:28}{number:>11,}{before / 1024:>11,.0f}{after / 1024:>11,.0f}{each:>12.3f}{seconds:>9.0f}{growing}",
            flush=True,
        )
    sys.exit(grown)


if __name__ == "__main__":
    main()
