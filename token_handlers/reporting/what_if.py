"""What the calls of a ledger would have cost on other models: the same tokens, by the other models' rates."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from token_handlers.counter.tables import money, usd_column
from token_handlers.counter.totals import NOTHING, OTHER, Increment, increment_of, labels_of, summed
from token_handlers.pricing.catalog import base_name
from token_handlers.pricing.price import Price
from token_handlers.pricing.providers import provider_id
from token_handlers.pricing.recorded import price_as
from token_handlers.pricing.sellers import Sold, UnknownModel, find_seller, seller_of, sellers_of
from token_handlers.reporting.amounts import counted
from token_handlers.reporting.sums import added
from token_handlers.reporting.text import Row, Table, arranged, printable, sent
from token_handlers.usage import UsageRecord, UsageTotals

TOKENIZERS = (
    "Token counts are those of the model that answered: another model counts the same text otherwise, "
    "and may answer at another length."
)
CACHES = "Cached tokens are those that the provider's cache had then: another one's may have more of them, or fewer."

_TIMES = {"hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}


class Replacement(NamedTuple):
    """The model on which calls are priced, and whose calls: those of one model, or of every LLM where that is None."""

    sold: Sold
    asked: str
    model: str | None = None

    def is_about(self, record: UsageRecord) -> bool:
        """Return whether a call is one of those; a name without a date is every snapshot of the model."""
        if self.model is None:
            return record.operation in ("chat", "text_completion")
        names = {name.lower() for name in (record.model, record.requested_model) if name}
        names |= {base_name(name) for name in names}
        if self.model.lower() in names:
            return True
        seller, _, name = self.model.lower().partition("/")
        return name in names and provider_id(seller) == seller_of(record.provider, record.host)


class ComparedTotals(NamedTuple):
    """What the same calls used and cost, and what they would have cost."""

    actual: UsageTotals
    other: UsageTotals

    @property
    def change(self) -> float | None:
        """By which share the cost would change; None where calls of either side have no price, or cost nothing."""
        unpriced = self.actual.unpriced_requests or self.other.unpriced_requests
        if unpriced or not self.actual.cost or self.other.cost is None:
            return None
        return float(self.other.cost / self.actual.cost) - 1

    @property
    def change_in_words(self) -> str:
        """The change for people, such as "-92%"; "" where it is not known."""
        return "" if self.change is None else f"{self.change:+.0%}" if self.change else "0%"


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Calls compared by the values of a label. ``doubts`` are requests by the reason why their cost is an estimate.

    ``unmatched`` are replacements that are about no call, ``replaced`` the requests that were priced as another model.
    """

    replacements: Sequence[Replacement]
    total: ComparedTotals
    groups: Mapping[str, ComparedTotals]
    doubts: Mapping[str, int]
    replaced: int
    unmatched: Sequence[Replacement]

    @property
    def name(self) -> str:
        """What people call it: the model that is asked for, where it is one for all."""
        first = self.replacements[0]
        return f"As {first.asked}" if len(self.replacements) == 1 and first.model is None else "What if"

    def notes(self) -> list[str]:
        """Return what is to be known of it."""
        kept = self.total.actual.successful_requests - self.replaced
        notes = [TOKENIZERS]
        if self.total.actual.prompt_tokens_cached or self.total.actual.cache_write_tokens:
            notes.append(CACHES)
        told = [(number, f"would have an estimated cost: {doubt}.") for doubt, number in self.doubts.items()]
        told += [
            (self.total.other.unpriced_requests, "would have an unknown cost: not in the sum of what would have been."),
            (self.total.actual.unpriced_requests, "had an unknown cost: not in the sum of what was."),
            (kept, "on no other model: as they were."),
        ]
        return notes + [f"{counted(number, 'request')} {text}" for number, text in told if number > 0]


def replacement_of(text: str) -> Replacement:
    """Return what MODEL or MODEL=MODEL asks for; raises UnknownModel with what may have been meant."""
    before, equals, after = text.partition("=")
    if equals and not (before and after):
        raise ValueError(f"MODEL or MODEL=MODEL, such as gpt-4o=gpt-5-mini, is not {text!r}")
    name = after or before
    try:
        sold, _ = find_seller(name)
    except UnknownModel:
        if not (equals and sellers_of(name)):
            raise
        sold = Sold(name)  # whoever serves the calls that it is about may be one of them
    return Replacement(sold, text, before if equals else None)


def compare(records: Iterable[UsageRecord], replacements: Sequence[Replacement], label: str) -> WhatIf:
    """Return what calls would have cost, by the values of a label; a replacement of one model beats that of all."""
    ordered = sorted(replacements, key=lambda each: each.model is None)
    sums: dict[str | None, tuple[Increment, Increment]] = {None: (NOTHING, NOTHING)}
    doubts: Counter[str] = Counter()
    used: Counter[Replacement] = Counter()
    for record in records:
        replacement = next((each for each in ordered if each.is_about(record)), None)
        price = None if replacement is None else price_as(record, replacement.sold)
        changed = record if replacement is None else _as_other(record, price)
        if replacement is not None and record.outcome == "success":
            used[replacement] += record.requests
            doubts.update(dict.fromkeys(() if price is None else price.doubts, record.requests))
        actual, other = increment_of(record), increment_of(changed)
        for value in (None, *_values(record, label)):
            before, after = sums.get(value, (NOTHING, NOTHING))
            sums[value] = summed((before, actual)), summed((after, other))
    compared = {value: ComparedTotals(*(total.totals() for total in pair)) for value, pair in sums.items()}
    whole = compared.pop(None)
    return WhatIf(
        replacements=replacements,
        total=whole,
        groups={str(value): each for value, each in compared.items()},
        doubts=dict(doubts.most_common()),
        replaced=sum(used.values()),
        unmatched=[each for each in ordered if each.model is not None and not used[each]],
    )


def what_if_table(label: str, what_if: WhatIf, top: int | None = None) -> Table:
    """Return what the calls cost and would have cost by a label, the most expensive first, and their sum."""
    named = [*_most_expensive(label, what_if.groups, top), ("Total", what_if.total)]
    costs = usd_column([each.actual.cost for _, each in named])
    others = usd_column([each.other.cost for _, each in named])
    rows: list[Row] = [
        (
            printable(name),
            sent(each.actual),
            each.actual.prompt_tokens,
            each.actual.completion_tokens,
            cost,
            other,
            each.change_in_words,
        )
        for (name, each), cost, other in zip(named, costs, others, strict=True)
    ]
    header = (label.capitalize(), "Requests", "Prompt", "Completion", "Cost (USD)", what_if.name, "Change")
    return Table(header, rows)


def what_if_json(what_if: WhatIf) -> dict[str, object]:
    """Return the comparison as JSON's types: money as texts of exact USD, a change as a share of 1."""
    return {
        "as": [each.asked for each in what_if.replacements],
        "replaced_requests": what_if.replaced,
        "total": _plain(what_if.total),
        "groups": {name: _plain(each) for name, each in what_if.groups.items()},
        "doubts": dict(what_if.doubts),
        "notes": what_if.notes(),
    }


def _plain(compared: ComparedTotals) -> dict[str, object]:
    amounts = {"cost": compared.actual.cost, "cost_as": compared.other.cost}
    return {
        **{name: None if amount is None else money(amount) for name, amount in amounts.items()},
        "unpriced_requests": compared.actual.unpriced_requests,
        "unpriced_requests_as": compared.other.unpriced_requests,
        "change": compared.change,
    }


def _most_expensive(
    label: str, groups: Mapping[str, ComparedTotals], top: int | None
) -> list[tuple[str, ComparedTotals]]:
    ordered = [
        (name, groups[name]) for name, _ in arranged(label, {name: each.actual for name, each in groups.items()})
    ]
    if top is None or len(ordered) <= top:
        return ordered
    rest = [each for _, each in ordered[top:]]
    others = ComparedTotals(added(each.actual for each in rest), added(each.other for each in rest))
    return [*ordered[:top], (OTHER, others)]


def _as_other(record: UsageRecord, price: Price | None) -> UsageRecord:
    """Return a call with what it would have cost, and with the doubts of that price beside its own of the usage."""
    cost = None if price is None else price.cost
    if record.outcome != "success":
        return record.model_copy(update={"saved_cost": cost} if record.outcome == "cached" else {})
    doubts = () if price is None else price.doubts
    saved = None if price is None else price.cache_saved
    return record.model_copy(
        update={"cost": cost, "cache_saved_cost": saved, "doubts": tuple(dict.fromkeys((*record.doubts, *doubts)))}
    )


def _values(record: UsageRecord, label: str) -> Iterator[str]:
    """Yield the values of a label that a call has, as a ledger's `by` has them."""
    if label in _TIMES:
        moment = record.started_at or record.ended_at
        if moment is not None:
            yield moment.strftime(_TIMES[label])
    elif label in ("provider", "operation"):
        value = getattr(record, label)
        if value:
            yield value
    else:
        yield from (value for name, value in labels_of(record).pairs() if name == label)
