"""The calls of a ledger that a provider's bill is of, summed by day and model as the bill is."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date
from decimal import Decimal

from token_handlers.http.requests import provider_of
from token_handlers.pricing.providers import provider_id
from token_handlers.reporting.bills.bill import COUNTED, plain_model
from token_handlers.usage import EXACT, UsageRecord

UNNAMED = "(unknown)"


@dataclass(slots=True)
class CallSum:
    """A sum of calls."""

    requests: int = 0
    cost: Decimal = Decimal(0)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, record: UsageRecord) -> None:
        """Add a call; one whose cost is not known adds none."""
        self.requests += record.requests
        self.cost = EXACT.add(self.cost, record.cost or Decimal(0))
        for name in COUNTED:
            number = getattr(record.usage, name)
            if number:
                self.counts[name] = self.counts.get(name, 0) + number

    def merge(self, other: "CallSum", sign: int = 1) -> None:
        """Add another sum, or subtract it."""
        self.requests += sign * other.requests
        self.cost = EXACT.add(self.cost, sign * other.cost)
        for name, number in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + sign * number


@dataclass(slots=True)
class LedgerSum:
    """The calls of one day and model: all of them, and those that may differ from the bill.

    ``across`` are those that began on this day and ended on the next; ``unidentified`` counts those without an id.
    """

    all: CallSum = field(default_factory=CallSum)
    estimated: CallSum = field(default_factory=CallSum)
    unpriced: CallSum = field(default_factory=CallSum)
    across: CallSum = field(default_factory=CallSum)
    hosts: set[str] = field(default_factory=set)
    unidentified: int = 0

    def add(self, record: UsageRecord, day: date) -> None:
        """Add a call that began on a day."""
        self.all.add(record)
        if record.cost is None:
            self.unpriced.add(record)
        elif record.source == "estimated" or record.doubts:
            self.estimated.add(record)
        if record.ended_at is not None and record.ended_at.astimezone(UTC).date() > day:
            self.across.add(record)
        if record.host:
            self.hosts.add(record.host)
        self.unidentified += record.request_id is None

    def merge(self, other: "LedgerSum") -> None:
        """Add the calls of another model."""
        for name in ("all", "estimated", "unpriced", "across"):
            getattr(self, name).merge(getattr(other, name))
        self.hosts |= other.hosts
        self.unidentified += other.unidentified


@dataclass(slots=True)
class LedgerCalls:
    """The calls of a provider by day and model.

    ``projects`` are those that the answers' headers named. ``ids`` are the provider's own of the calls. ``elsewhere``
    counts the requests of which nobody knows who bills them.
    """

    sums: dict[tuple[date, str], LedgerSum] = field(default_factory=dict)
    projects: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    elsewhere: int = 0

    def searches(self, day: date, kind: str) -> dict[str, int]:
        """Return how many searches, ... each model made on a day."""
        found = {model: each.all.counts.get(kind, 0) for (on, model), each in self.sums.items() if on == day}
        return {model: number for model, number in found.items() if number}


def read_calls(
    records: Iterable[UsageRecord], provider: str, project: str | None = None, *, keep_ids: bool = False
) -> LedgerCalls:
    """Return the calls that a provider bills: by the host that answered, else by the provider's name.

    An OpenAI client that talks to OpenRouter is billed by OpenRouter. With a project, those known to be of another one
    are left out. ``keep_ids`` is for a bill that has each call.
    """
    calls = LedgerCalls()
    for record in records:
        if record.outcome != "success" or record.started_at is None:
            continue
        biller = _biller(record)
        if project and record.project and record.project != project:
            continue
        if biller is None:
            calls.elsewhere += record.requests
        elif biller == provider:
            day = record.started_at.astimezone(UTC).date()
            model = plain_model(record.model or UNNAMED)
            calls.sums.setdefault((day, model), LedgerSum()).add(record, day)
            if record.project:
                calls.projects.add(record.project)
            if keep_ids and record.request_id:
                calls.ids.add(record.request_id)
    return calls


def _biller(record: UsageRecord) -> str | None:
    owner = provider_of(record.host) if record.host else None
    return owner or (provider_id(record.provider) if record.provider else None)
