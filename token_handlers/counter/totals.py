"""Tallies: what a call adds to a counter, and running sums of that."""

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from token_handlers.usage import EXACT, MEASURES, Operation, Outcome, Source, UsageRecord, UsageTotals

UNKNOWN_MODEL = "(unknown)"
SESSION_MODEL = "\0session"
"""A label within: a session, a provider and a model, divided by NULs."""
BARE = "true"
"""The value of a tag that was given without one."""

Labelled = tuple[tuple[str, str], ...]

_add, _subtract = EXACT.add, EXACT.subtract
_ZERO = Decimal(0)


class Increment(NamedTuple):
    """What a call, or several alike, add to a counter: numbers by name, USD, the labels under which it is also summed,
    and how many of them have a cost.
    """

    numbers: Mapping[str, int]
    cost: Decimal | None
    saved: Decimal | None
    labels: Labelled
    priced: int = 1


def increment(
    counts: Mapping[str, int],
    operation: Operation = "chat",
    outcome: Outcome = "success",
    source: Source = "reported",
    cost: Decimal | None = None,
    saved: Decimal | None = None,
    requests: int = 1,
    labels: Labelled = (),
) -> Increment:
    """Return what a call adds: its tokens where it was billed, and one to each request count that it belongs to."""
    if outcome == "cached":
        return Increment({"cached_responses": requests}, None, saved, labels)
    if outcome == "failed":
        return Increment({"failed_requests": requests}, None, None, labels)
    if operation == "embeddings":
        numbers = {"embedding_tokens": counts.get("input_tokens", 0)}
    else:
        numbers = dict(counts)
    if source != "manual":
        numbers["successful_requests"] = requests
        if source == "estimated":
            numbers["estimated_requests"] = requests
        if cost is None:
            numbers["unpriced_requests"] = requests
    return Increment(numbers, cost, None, labels)


class RunningTotal:
    """One running sum; its counter's lock guards it."""

    __slots__ = ("cost", "numbers", "priced", "saved")

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.cost = _ZERO
        self.saved = _ZERO
        self.priced = 0

    def add(self, entry: Increment) -> None:
        """Add an entry."""
        numbers = self.numbers
        for name, number in entry.numbers.items():
            numbers[name] = numbers.get(name, 0) + number
        if entry.cost is not None:
            self.cost = _add(self.cost, entry.cost)
            self.priced += entry.priced
        if entry.saved is not None:
            self.saved = _add(self.saved, entry.saved)

    def subtract(self, entry: Increment) -> None:
        """Take an entry back that was added."""
        for name, number in entry.numbers.items():
            self.numbers[name] -= number
        if entry.cost is not None:
            self.cost = _subtract(self.cost, entry.cost)
            self.priced -= entry.priced

    def totals(self) -> UsageTotals:
        """Return the sum as it is now."""
        numbers = self.numbers
        totals = {measure.name: numbers[measure.unit] for measure in MEASURES if measure.unit in numbers}
        return UsageTotals(**totals, cost=self.known_cost(), saved_cost=self.saved)

    def known_cost(self) -> Decimal | None:
        """Return the USD, or None where there were requests and none could be priced."""
        return None if not self.priced and self.numbers.get("unpriced_requests") else self.cost


def increment_of(record: UsageRecord) -> Increment:
    """Return what a record adds."""
    return increment(
        record.usage.model_dump(exclude={"total_tokens"}, exclude_unset=True),
        operation=record.operation,
        outcome=record.outcome,
        source=record.source,
        cost=record.cost,
        saved=record.saved_cost,
        requests=record.requests,
        labels=label_pairs(record.model, record.session, record.user, record.node, record.tags, record.provider),
    )


def label_pairs(
    model: str | None,
    session: str | None,
    user: str | None,
    node: str | None,
    tags: Mapping[str, str],
    provider: str | None = None,
) -> Labelled:
    """Return the labels under which a call is summed; 'tag' sums every tag, a bare one by its name."""
    named = ("model", model or UNKNOWN_MODEL)
    if session is None and user is None and node is None and not tags:
        return (named,)
    pairs = [named]
    if session is not None:
        pairs.append(("session", session))
        pairs.append((SESSION_MODEL, f"{session}\0{provider or ''}\0{model or UNKNOWN_MODEL}"))
    if user is not None:
        pairs.append(("user", user))
    if node is not None:
        pairs.append(("langgraph_node", node))
    for name, value in tags.items():
        pairs.append((name, value))
        pairs.append(("tag", name if value == BARE else f"{name}={value}"))
    return tuple(pairs)
