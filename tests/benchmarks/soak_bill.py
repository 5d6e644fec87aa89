"""What the server billed, summed up per scope, and where a scope's counter says something else."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache

from tests.benchmarks.soak_places import ESTIMATED, Node
from tests.support.prices import genai_cost
from token_handlers import UsageTotals
from token_handlers.demo.server.billing import EMBEDDINGS, Billed

COUNTED = {
    "requests": "successful_requests",
    "prompt": "prompt_tokens",
    "completion": "completion_tokens",
    "cached": "prompt_tokens_cached",
    "reasoning": "reasoning_tokens",
    "embedding": "embedding_tokens",
    "unpriced": "unpriced_requests",
    "estimated": "estimated_requests",
}


@dataclass
class Bill:
    """What a scope's calls come to: numbers and cost of each model, and what is in no model's bill."""

    models: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    costs: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    others: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Bill") -> None:
        """Add another bill."""
        for model, numbers in other.models.items():
            self.models[model].update(numbers)
            self.costs[model] += other.costs[model]
        self.others.update(other.others)

    def enter(self, entry: Billed) -> None:
        """Add a request; of an estimated one its number alone, as only the server knows what it was billed."""
        if entry.status >= 400:
            self.others["hidden" if "#sdk" in entry.chan else "failed"] += 1
        elif entry.model in ESTIMATED:
            self.others["estimated"] += 1
        else:
            self.others["exact"] += 1
            model, cost = str(entry.resolved), _cost(entry)
            self.models[model].update(_numbers(entry), unpriced=int(cost is None))
            self.costs[model] += cost or 0

    def plain(self) -> dict[str, object]:
        """Return what counters are compared with, without zeros."""
        priced = {
            model: {**_without_zeros(numbers), "cost": self.costs[model]} for model, numbers in self.models.items()
        }
        return {**priced, "others": _without_zeros(self.others)}


def counted(by_model: Mapping[str, UsageTotals]) -> Bill:
    """Return a counter's totals in the form of a bill."""
    bill = Bill()
    for model, totals in by_model.items():
        numbers = Counter({name: getattr(totals, theirs) for name, theirs in COUNTED.items()})
        bill.others.update(failed=totals.failed_requests, cached=totals.cached_responses)
        if model in ESTIMATED:
            bill.others["estimated"] += numbers["requests"]
            bill.others["unflagged"] += numbers["requests"] - numbers["estimated"]
        elif any(numbers.values()):
            bill.others["exact"] += numbers["requests"]
            bill.models[model].update(numbers)
            bill.costs[model] += totals.cost or 0
    return bill


def bills(nodes: Iterable[Node], entries: Iterable[Billed]) -> dict[Node, Bill]:
    """Return each node's bill: its own requests, and those of the nodes inside it."""
    own = _by_node(entries)
    found = {node: Bill() for node in nodes}
    for node in found:
        bill = own[node.name]
        bill.others["cached"] += node.done["cached"]
        for around in _reach(node):
            found[around].add(bill)
    return found


def _reach(node: Node) -> set[Node]:
    """Return a node and all that it is inside of."""
    return {node}.union(*map(_reach, node.around))


def _by_node(entries: Iterable[Billed]) -> defaultdict[str, Bill]:
    own: defaultdict[str, Bill] = defaultdict(Bill)
    for entry in entries:
        own[entry.chan.partition("#")[0]].enter(entry)
    return own


def promised(nodes: Iterable[Node], entries: Iterable[Billed]) -> Iterator[str]:
    """Yield where the server's ledger has not what was done: then the soak itself is wrong."""
    own = _by_node(entries)
    for node in nodes:
        did = Counter({name: number for name, number in node.done.items() if name != "cached"})
        if did != own[node.name].others:
            yield f"{node.name} did {dict(did)}, the server has {dict(own[node.name].others)}"


def differences(name: str, bill: Bill, by_model: Mapping[str, UsageTotals], totals: UsageTotals) -> Iterator[str]:
    """Yield where a counter's totals are not the bill, or not the sum of its models."""
    wanted, got = bill.plain(), counted(by_model).plain()
    wanted["others"] = {kind: number for kind, number in _others(wanted).items() if kind != "hidden"}
    for key in sorted({*wanted, *got}):
        if wanted.get(key) != got.get(key):
            yield f"{name} {key}: billed {wanted.get(key)}, counted {got.get(key)}"
    for field_name in COUNTED.values():
        parts = sum(getattr(one, field_name) for one in by_model.values())
        if parts != getattr(totals, field_name):
            yield f"{name} {field_name}: {getattr(totals, field_name)} in all, {parts} by model"
    costs = sum((one.cost or Decimal() for one in by_model.values()), Decimal())
    if costs != (totals.cost or 0):
        yield f"{name} cost: {totals.cost} in all, {costs} by model"


def pool_differences(bill: Bill, taken: Iterable[UsageTotals]) -> Iterator[str]:
    """Yield where the sum of what resets returned is not the bill."""
    wanted: Counter[str] = Counter(failed=bill.others["failed"], cached_answers=bill.others["cached"])
    got: Counter[str] = Counter()
    cost = Decimal()
    for numbers in bill.models.values():
        wanted.update(numbers)
    for totals in taken:
        got.update({name: getattr(totals, theirs) for name, theirs in COUNTED.items()})
        got.update(failed=totals.failed_requests, cached_answers=totals.cached_responses)
        cost += totals.cost or 0
    if _without_zeros(wanted) != _without_zeros(got):
        yield f"resets: billed {_without_zeros(wanted)}, counted {_without_zeros(got)}"
    if cost != sum(bill.costs.values()):
        yield f"resets: billed ${sum(bill.costs.values())}, counted ${cost}"


def _others(plain: Mapping[str, object]) -> Mapping[str, int]:
    others = plain["others"]
    assert isinstance(others, Mapping)
    return others


def _without_zeros(numbers: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in numbers.items() if number}


def _numbers(entry: Billed) -> dict[str, int]:
    if entry.path == EMBEDDINGS:
        return {"requests": 1, "embedding": entry.prompt_tokens}
    return {
        "requests": 1,
        "prompt": entry.prompt_tokens,
        "completion": entry.completion_tokens,
        "cached": entry.cached_tokens,
        "reasoning": entry.reasoning_tokens,
    }


def _cost(entry: Billed) -> Decimal | None:
    if entry.cost is not None:
        return entry.cost
    return _table_cost(
        str(entry.resolved),
        entry.prompt_tokens,
        entry.completion_tokens,
        entry.cached_tokens,
        entry.reasoning_tokens,
    )


@cache
def _table_cost(model: str, sent: int, received: int, cached: int, reasoning: int) -> Decimal | None:
    counts = {
        "input_tokens": sent,
        "output_tokens": received,
        "cache_read_tokens": cached,
        "reasoning_tokens": reasoning,
    }
    return genai_cost(counts, model, "openai", time.time())
