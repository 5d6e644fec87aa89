"""What a framework's handler shows of its counter: all of it, under a TokenCounter's names."""

from collections.abc import Callable
from decimal import Decimal

from token_handlers.counter import TokenCounter
from token_handlers.usage import UsageRecord, UsageTotals


class Counted:
    """A handler with a ``counter``."""

    counter: TokenCounter

    @property
    def prompt_tokens(self) -> int:
        """Input tokens of LLM calls, cache reads and writes included."""
        return self.counter.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Output tokens, reasoning included."""
        return self.counter.completion_tokens

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion tokens, without embeddings."""
        return self.counter.total_tokens

    @property
    def prompt_tokens_cached(self) -> int:
        """Input tokens that the provider read from its prompt cache."""
        return self.counter.prompt_tokens_cached

    @property
    def cache_write_tokens(self) -> int:
        """Input tokens that the provider wrote to its prompt cache."""
        return self.counter.cache_write_tokens

    @property
    def reasoning_tokens(self) -> int:
        """Output tokens spent on reasoning."""
        return self.counter.reasoning_tokens

    @property
    def embedding_tokens(self) -> int:
        """Input tokens of embedding calls."""
        return self.counter.embedding_tokens

    @property
    def successful_requests(self) -> int:
        """Requests that were billed, LLM calls and embeddings."""
        return self.counter.successful_requests

    @property
    def failed_requests(self) -> int:
        """Requests that the provider rejected: nothing was billed."""
        return self.counter.failed_requests

    @property
    def cached_responses(self) -> int:
        """Answers from LangChain's own cache: nothing was sent, nothing was billed."""
        return self.counter.cached_responses

    @property
    def estimated_requests(self) -> int:
        """Requests whose usage nobody reported: their tokens are estimates."""
        return self.counter.estimated_requests

    @property
    def unpriced_requests(self) -> int:
        """Requests whose cost is not known; ``total_cost`` leaves them out."""
        return self.counter.unpriced_requests

    @property
    def cost(self) -> Decimal | None:
        """USD, exact; None when there were requests and none could be priced."""
        return self.counter.cost

    @property
    def total_cost(self) -> float:
        """USD as a float; 0.0 when nothing could be priced."""
        return self.counter.total_cost

    @property
    def saved_cost(self) -> Decimal:
        """USD that answers from LangChain's own cache would have cost."""
        return self.counter.saved_cost

    @property
    def by_model(self) -> dict[str, UsageTotals]:
        """Totals by model name, as the provider named the model that answered."""
        return self.counter.by_model

    @property
    def by_session(self) -> dict[str, UsageTotals]:
        """Totals by session; calls without a session are not in it."""
        return self.counter.by_session

    def by(self, label: str) -> dict[str, UsageTotals]:
        """Return the totals by the values of a label: 'model', 'session', 'user', 'langgraph_node', or a tag's name."""
        return self.counter.by(label)

    def add(self, record: UsageRecord) -> None:
        """Add one call to the counter."""
        self.counter.add(record)

    def snapshot(self) -> UsageTotals:
        """Return all totals as of one moment."""
        return self.counter.snapshot()

    def reset(self) -> UsageTotals:
        """Set everything to zero, and return what it was."""
        return self.counter.reset()

    def on_record(self, callback: Callable[[UsageRecord], object]) -> None:
        """Call back with the record of each call that the counter counts, from a thread of the callback's own."""
        self.counter.on_record(callback)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the callbacks of `on_record` have had every record; return whether they have."""
        return self.counter.flush(timeout)

    def get_token_usage(self) -> dict[str, int]:
        """Return the counts under AgentSight's names."""
        return self.counter.get_token_usage()
