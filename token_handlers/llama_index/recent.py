"""The last calls under TokenCountingHandler's names: numbers alone, where that keeps all texts for ever."""

import logging
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from token_handlers.counter.counter import TokenCounter
from token_handlers.counter.listeners import MakeRecord, made
from token_handlers.usage import UsageRecord

MOST_CALLS = 1_000
"""How many calls are kept; the totals have all of them."""


class CallCounts(NamedTuple):
    """The tokens of one call, under TokenCountingEvent's names; no text is kept, so the two texts are empty."""

    prompt_token_count: int
    completion_token_count: int
    total_token_count: int
    event_id: str
    prompt: str = ""
    completion: str = ""


class RecentCounts:
    """A listener of a counter that keeps the last calls."""

    def __init__(self) -> None:
        self._calls: deque[UsageRecord | MakeRecord] = deque(maxlen=MOST_CALLS)
        self._logger: logging.Logger | None = None
        self._verbose = False

    def announce(self, logger: logging.Logger | None, *, verbose: bool) -> None:
        """With ``verbose`` print the tokens of each call from now on, or log them where there is a logger."""
        if verbose:
            self._logger, self._verbose = logger, True

    def __call__(self, record: UsageRecord) -> None:
        """Keep a call."""
        self.defer(record)

    def defer(self, make_record: UsageRecord | MakeRecord) -> None:
        """Keep a call whose record is made when somebody asks for it."""
        self._calls.append(make_record)
        if self._verbose:
            self._say(made(make_record))

    def flush(self, timeout: float | None) -> bool:
        """Nothing waits here."""
        return True

    def llm_calls(self) -> list[CallCounts]:
        """Return the tokens of LLM calls, oldest first."""
        return [_counts(record) for record in self._answered() if record.operation != "embeddings"]

    def embeddings(self) -> list[CallCounts]:
        """Return the tokens of embedding requests, oldest first."""
        return [_counts(record) for record in self._answered() if record.operation == "embeddings"]

    def clear(self) -> None:
        """Forget all calls."""
        self._calls.clear()

    def _answered(self) -> Iterator[UsageRecord]:
        return (record for record in map(made, list(self._calls)) if record.outcome != "failed")

    def _say(self, record: UsageRecord) -> None:
        usage = record.usage
        if record.operation == "embeddings":
            message = f"Embedding Token Usage: {usage.input_tokens}"
        else:
            message = f"LLM Prompt Token Usage: {usage.input_tokens}\nLLM Completion Token Usage: {usage.output_tokens}"
        if self._logger is None:
            print(message, flush=True)  # noqa: T201 (verbose=True asks for it)
        else:
            self._logger.debug(message)


def recent_counts(counter: TokenCounter) -> RecentCounts:
    """Return what keeps a counter's last calls, one for all handlers that count into it."""
    recent = next((listener for listener in counter.listeners if isinstance(listener, RecentCounts)), None)
    if recent is None:
        recent = RecentCounts()
        counter.listen(recent)
    return recent


def _counts(record: UsageRecord) -> CallCounts:
    usage = record.usage
    total = usage.input_tokens + usage.output_tokens
    return CallCounts(usage.input_tokens, usage.output_tokens, total, record.event_id or "")
