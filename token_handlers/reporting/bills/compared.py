"""One day and model of a bill beside the ledger's calls, and the causes of what differs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from token_handlers.reporting.bills.bill import TOKENS, BilledSum
from token_handlers.reporting.bills.calls import LedgerSum

NOISE = Decimal("0.000001")
"""USD a row that floats in a bill may be off by, and nobody looks for."""

EXPLAINED = {
    "account": "of other projects of the account",
    "open": "on days that the bill may still lack calls of",
    "midnight": "under way at midnight UTC, which the bill has on the other day",
    "unpriced": "without a price in the ledger: see token_handlers.set_price and token-handlers reprice",
    "estimated": "of which the ledger says that they are estimates",
    "discount": "discount of the account: token_handlers.set_multiplier makes the ledger's cost the billed one",
    "beside": "billed beside calls",
    "rounded": "rounded away in the export, which has whole cents",
}
"""The kinds of causes that the ledger or the bill states, and what they mean after their number of requests."""

OF_CALLS = frozenset(("account", "midnight", "unpriced", "estimated"))
"""Those that are of calls, and so have a number of requests where the bill has one."""


class Cause(NamedTuple):
    """Why a part of a difference is there: the bill's less the ledger's, in USD and requests."""

    kind: str
    cost: Decimal
    requests: int = 0
    text: str = ""

    @property
    def is_known(self) -> bool:
        """Whether it explains that part, and is not only what is likely."""
        return self.kind in EXPLAINED


@dataclass(slots=True)
class Compared:
    """One day and model: what the bill has, what the ledger has, and the causes that add up to the difference."""

    day: date
    model: str
    bill: BilledSum
    calls: LedgerSum
    is_open: bool
    causes: list[Cause] = field(default_factory=list)

    @property
    def difference(self) -> Decimal:
        """The bill less the ledger, in USD."""
        return self.bill.cost - self.calls.all.cost

    @property
    def explained(self) -> Decimal:
        """The part of the difference that the ledger or the bill explains."""
        return sum((cause.cost for cause in self.causes if cause.is_known), Decimal(0))

    @property
    def requests(self) -> int | None:
        """The requests of the bill less those of the ledger; None where the bill counts none."""
        if self.bill.requests is None and (self.bill.counts or self.bill.cost):
            return None
        return (self.bill.requests or 0) - self.calls.all.requests

    @property
    def tokens(self) -> int | None:
        """The tokens of the bill less those of the ledger; None where the bill counts none."""
        if self.bill.cost and not any(name in self.bill.counts for name in TOKENS):
            return None
        return sum(self.bill.counts.get(name, 0) - self.calls.all.counts.get(name, 0) for name in TOKENS)


def billed(rows: Iterable[Compared]) -> Decimal:
    """Return what the bill has for rows."""
    return sum((row.bill.cost for row in rows), Decimal(0))


def unexplained(rows: Iterable[Compared]) -> Decimal:
    """Return what differs in rows and is not explained."""
    return sum((row.difference - row.explained for row in rows), Decimal(0))
