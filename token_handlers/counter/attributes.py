"""What a framework's handler shows of its counter: all of it, under a TokenCounter's names."""

from collections.abc import Callable
from decimal import Decimal

from token_handlers.counter.counter import TokenCounter
from token_handlers.usage import Measures, UsageRecord, UsageTotals


class UsageAttributes(Measures):
    """A handler with a ``counter``."""

    counter: TokenCounter

    def _measure(self, unit: str) -> int:
        return self.counter._measure(unit)  # noqa: SLF001 (its own part of Measures)

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion tokens, without embeddings."""
        return self.counter.total_tokens

    @property
    def input_tokens(self) -> int:
        """The same as ``prompt_tokens``."""
        return self.counter.prompt_tokens

    @property
    def output_tokens(self) -> int:
        """The same as ``completion_tokens``."""
        return self.counter.completion_tokens

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
    def cache_saved_cost(self) -> Decimal | None:
        """USD that the provider's prompt cache saved, at list prices; None where nobody knows it."""
        return self.counter.cache_saved_cost

    @property
    def cache_hit_rate(self) -> float:
        """The share of the prompt tokens that the provider read from its prompt cache, from 0 to 1."""
        return self.counter.cache_hit_rate

    @property
    def by_model(self) -> dict[str, UsageTotals]:
        """Totals by model name, as the provider named the model that answered."""
        return self.counter.by_model

    @property
    def by_session(self) -> dict[str, UsageTotals]:
        """Totals by session; calls without a session are not in it."""
        return self.counter.by_session

    @property
    def by_user(self) -> dict[str, UsageTotals]:
        """Totals by user; calls without a user are not in it."""
        return self.counter.by_user

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
