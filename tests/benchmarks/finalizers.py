"""Whether calls that the garbage collector ends, in the middle of anything, count once, and nobody waits for ever.

    python -m tests.benchmarks.finalizers [--moments 500] [--streams 20000] [--threads 8]

Streams of both frameworks are forgotten in reference cycles, as tracebacks make them: first in one thread, with the
collector coming one allocation later each time, so that it comes everywhere; then in threads that enter and leave
blocks, make calls, and read totals all the time, with the collector as often as it can. There is no HTTP, for httpx'
own connection pools do not bear this. After TIMEOUT seconds every thread's stack is printed, and the exit code is 1, as
it is where a number is wrong.
"""

import argparse
import faulthandler
import gc
import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

warnings.simplefilter("ignore")  # LangChain's, of its own future

from tests.benchmarks.memory import LLM, MESSAGES, METADATA, REPORTED, USAGE  # noqa: E402
from token_handlers import Budget, TokenCounter, shared_counter, track_tokens  # noqa: E402

TIMEOUT = 100
PROMPT = [HumanMessage("one more word " * 20)]


class Instant(BaseChatModel):
    """A chat model that answers at once, as ChatOpenAI does."""

    @property
    def _llm_type(self) -> str:
        return "instant"

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        return METADATA

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        message = AIMessage("Fine.", usage_metadata=USAGE, response_metadata=dict(REPORTED))
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output=dict(REPORTED))

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for _ in range(3):
            yield ChatGenerationChunk(message=AIMessageChunk(content="word "))


MODEL = Instant()


def lose(stream: Iterator[object]) -> None:
    """Forget a stream that was begun."""
    next(stream)
    ring: list[object] = [stream]
    ring.append(ring)


def sweep(moments: int) -> list[str]:
    """Lose a stream in a block, then make a call, with the collector ever later; return where the numbers are wrong."""
    wrong = []
    for moment in range(1, moments + 1):
        for lost in (lambda: MODEL.stream(PROMPT), lambda: LLM.stream_chat(MESSAGES)):
            budget = Budget(max_tokens=10**9, each="session")
            gc.collect()
            gc.set_threshold(moment, 1_000, 1_000)
            with track_tokens() as alone:
                lose(lost())
            gc.collect()
            with track_tokens(budget=budget, session="s") as counter:
                lose(lost())
                MODEL.invoke(PROMPT)
            gc.collect()
            totals, spent = counter.snapshot(), budget.spent("s")
            counted = alone.successful_requests, totals.successful_requests, totals.estimated_requests
            booked = spent.requests, spent.tokens - totals.total_tokens, budget.held("s").requests
            if (counted, booked) != ((1, 2, 1), (2, 0, 0)):
                wrong.append(f"the collector after {moment} allocations: counted {counted}, booked {booked}")
    return wrong


def work(number: int, common: TokenCounter) -> None:
    """Lose so many streams of each framework, and make as many calls, in blocks of every length."""
    own = TokenCounter()
    for one in range(number):
        with track_tokens(counter=common, session=f"s{one % 50}"), track_tokens(counter=own):
            lose(MODEL.stream(PROMPT))
            MODEL.invoke(PROMPT)
            with track_tokens() as inner:
                lose(LLM.stream_chat(MESSAGES))
            repr(inner)
        common.snapshot()
        shared_counter().by("session")


def main() -> None:
    """Work, and compare."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--moments", type=int, default=500)
    options.add_argument("--streams", type=int, default=20_000)
    options.add_argument("--threads", type=int, default=8)
    given = options.parse_args()
    logging.getLogger("token_handlers").setLevel(logging.ERROR)  # it warns, once, of what states no usage
    faulthandler.dump_traceback_later(TIMEOUT, exit=True)
    gc.collect()
    gc.freeze()  # what is there stays, so that collecting is quick
    missed = sweep(given.moments)
    print(f"{4 * given.moments} moments of the collector: {missed or 'all right'}")
    shared_counter().reset()
    gc.set_threshold(10, 2, 2)
    each, common = given.streams // given.threads // 2, TokenCounter()
    begun = time.perf_counter()
    threads = [threading.Thread(target=work, args=(each, common)) for _ in range(given.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    calls = each * given.threads
    print(f"{2 * calls:,} lost streams beside {calls:,} calls, {time.perf_counter() - begun:.0f} s")
    wanted = calls * 3, calls * 2, calls * USAGE["input_tokens"]
    wrong = bool(missed)
    for name, counter in {"the blocks' counter": common, "the shared counter": shared_counter()}.items():
        exact = counter.by_model[REPORTED["model_name"]]
        got = counter.successful_requests, counter.estimated_requests, exact.prompt_tokens
        wrong = wrong or got != wanted
        print(f"{name}: {got} requests, estimates, and reported tokens, of {wanted}")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
