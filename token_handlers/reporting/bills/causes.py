"""Why a bill and a ledger differ on one day and of one model: what is stated first, then what follows from counts."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal

from token_handlers.reporting.amounts import counted
from token_handlers.reporting.bills.bill import FEES, TOKENS, BilledSum, BillRow, parts_of, summed
from token_handlers.reporting.bills.calls import CallSum, LedgerSum
from token_handlers.reporting.bills.compared import NOISE, Cause, Compared

_ZERO = Decimal(0)
_BESIDE = ("storage", "vector store", "fine-tun", "training", "session usage", "code execution")
"""Words of lines that are billed beside calls."""

_FEES = {
    "web_searches": ("web search", "web searches"),
    "storage_searches": ("file search", "file searches"),
    "container_sessions": ("container session", "container sessions"),
}
_FACTORS = {
    Decimal("0.5"): "batches and flex cost",
    Decimal("1.1"): "a region may cost",
    Decimal(2): "fast and priority may cost",
}


def find_causes(
    compared: Compared, before: LedgerSum, others: Mapping[str, BilledSum], ids: Collection[str]
) -> Iterator[Cause]:
    """Yield the causes of a difference: each takes its part, and they add up to all of it.

    ``before`` are the calls of the day before, ``others`` what the bill has of other accounts, ``ids`` the provider's
    of all calls.
    """
    left = compared.difference
    for cause in _in_turn(compared, before, others, ids):
        left -= cause.cost
        yield cause
    own, ours = _without(compared.bill, others.values()), compared.calls.all
    if abs(left) > NOISE:
        yield Cause("open", left) if compared.is_open else Cause("price", left, 0, _price_text(own, ours, left))


def _in_turn(
    compared: Compared, before: LedgerSum, others: Mapping[str, BilledSum], ids: Collection[str]
) -> Iterator[Cause]:
    left, own, ours = compared.difference, _without(compared.bill, others.values()), CallSum()
    ours.merge(compared.calls.all)
    for account, sums in others.items():
        left -= sums.cost
        yield Cause("account", sums.cost, sums.requests or 0, account)
    if compared.is_open:
        return
    lacked = summed(row for row in own.calls if row.call_id not in ids)
    if lacked.calls and not compared.calls.unidentified:
        left, own = left - lacked.cost, _without(own, [lacked])
        yield Cause("calls", lacked.cost, len(lacked.calls), _named_calls(lacked.calls))
    for across, sign in ((before.across, 1), (compared.calls.across, -1)):
        if across.requests and _brings_closer(own, ours, across, sign):
            ours.merge(across, sign)
            left -= sign * across.cost
            yield Cause("midnight", sign * across.cost, sign * across.requests)
    for find in (_unpriced, _discount, _beside, _fees, _calls, _estimates, _tokens):
        if abs(left) > NOISE and (found := find(compared, own, ours, left)):
            left -= sum(cause.cost for cause in found)
            yield from found


def _unpriced(compared: Compared, own: BilledSum, ours: CallSum, left: Decimal) -> list[Cause]:
    """Calls of which the ledger has the tokens and no cost, at the bill's rates."""
    unpriced = compared.calls.unpriced
    if not unpriced.requests or left < 0:
        return []
    return [Cause("unpriced", min(own.value(unpriced.counts), left), unpriced.requests)]


def _discount(compared: Compared, own: BilledSum, ours: CallSum, left: Decimal) -> list[Cause]:
    """What is billed below the list price that the bill states, unless the ledger's price has it already."""
    discount = own.cost - own.list_cost
    return [Cause("discount", discount)] if discount and abs(left - discount) < abs(left) else []


def _beside(compared: Compared, own: BilledSum, ours: CallSum, left: Decimal) -> list[Cause]:
    """What belongs to no call, and what an export rounded away."""
    if any(word in compared.model.lower() for word in _BESIDE) and not ours.requests:
        return [Cause("beside", left, 0, compared.model)]
    return [Cause("rounded", left)] if abs(left) <= own.rounding else []


def _fees(compared: Compared, own: BilledSum, ours: CallSum, left: Decimal) -> list[Cause]:
    """Searches and the like that one side lacks; a bill that does not count them has at least their money."""
    found: list[Cause] = []
    for kind, (one, several) in _FEES.items():
        gap = own.counts.get(kind, 0) - ours.counts.get(kind, 0)
        cost, what = own.value({kind: gap}), f"{abs(gap):,} {one if abs(gap) == 1 else several}"
        if kind in own.costs and kind not in own.counts and not ours.counts.get(kind):
            gap, cost, what = 1, own.costs[kind], several
        cost = _within(cost, left - sum(cause.cost for cause in found))
        if cost:
            found.append(Cause("fees", cost, 0, f"{what} {_lacked_by(gap)}"))
    return found


def _calls(compared: Compared, own: BilledSum, ours: CallSum, left: Decimal) -> list[Cause]:
    """Requests that one side lacks: worth the tokens that it lacks too, or what a request costs on average."""
    if not ours.requests:
        number = counted(own.requests, "request") if own.requests else ""
        text = f"{number} that the ledger lacks" if number else "no call of it is in the ledger"
        return [Cause("calls", left, own.requests or 0, text)]
    if not own.requests and not own.cost:
        hosts = ", ".join(sorted(compared.calls.hosts))
        text = f"{counted(ours.requests, 'request')} that the bill lacks" + (f", answered by {hosts}" if hosts else "")
        return [Cause("extra", left, -ours.requests, text)]
    gap = own.requests - ours.requests if own.requests else 0
    if not own.requests or not gap:
        return []
    value = own.value(_gaps(own, ours))
    if compared.calls.estimated.requests or not value:
        value = round(own.cost / own.requests * gap, 12)
    kind, text = "calls" if gap > 0 else "extra", f"{counted(abs(gap), 'request')} {_lacked_by(gap)}"
    return [Cause(kind, _within(value, left), gap, text)]


def _estimates(compared: Compared, own: BilledSum, ours: CallSum, left: Decimal) -> list[Cause]:
    """What estimates are off by: at most as much again as they cost."""
    estimated = compared.calls.estimated
    if not estimated.requests:
        return []
    return [Cause("estimated", max(-estimated.cost, min(estimated.cost, left)), estimated.requests)]


def _tokens(compared: Compared, own: BilledSum, ours: CallSum, left: Decimal) -> list[Cause]:
    """Tokens that one side lacks, of as many requests."""
    cost = _within(own.value(_gaps(own, ours)), left)
    gap = sum(_gaps(own, ours).get(name, 0) for name in TOKENS)
    if not cost or own.requests != ours.requests:
        return []
    return [Cause("tokens", cost, 0, f"{counted(abs(gap), 'token')} {_lacked_by(gap)}")]


def _price_text(own: BilledSum, ours: CallSum, left: Decimal) -> str:
    if not own.counts or not ours.cost or any(_gaps(own, ours).values()):
        return "of unknown cause"
    factor = (ours.cost + left) / ours.cost
    likely = next((f", as {what}" for each, what in _FACTORS.items() if abs(factor - each) < each / 200), "")
    return f"the tokens are the same, and the price is {factor:.4g} times the ledger's{likely}"


def _named_calls(rows: Sequence[BillRow]) -> str:
    named = ", ".join(str(row.call_id) for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
    return f"{counted(len(rows), 'request')} that the ledger lacks: {named}"


def _lacked_by(gap: int) -> str:
    return "that the ledger lacks" if gap > 0 else "that the bill lacks"


def _within(cost: Decimal, left: Decimal) -> Decimal:
    """Return a cost, at most all that is left of a difference in its direction."""
    return min(max(cost, _ZERO), left) if left > 0 else max(min(cost, _ZERO), left)


def _without(bill: BilledSum, others: Collection[BilledSum]) -> BilledSum:
    """Return a bill less parts of it."""
    theirs = {row.call_id for other in others for row in other.calls}
    calls = [row for row in bill.calls if row.call_id not in theirs]
    own = BilledSum(bill.cost, bill.list_cost, bill.rounding, dict(bill.costs), dict(bill.counts), bill.requests, calls)
    for other in others:
        own.cost -= other.cost
        own.list_cost -= other.list_cost
        own.rounding -= other.rounding
        own.costs = {kind: cost - other.costs.get(kind, _ZERO) for kind, cost in own.costs.items()}
        own.counts = {name: number - other.counts.get(name, 0) for name, number in own.counts.items()}
        if own.requests is not None:
            own.requests -= other.requests or 0
    return own


def _gaps(bill: BilledSum, ours: CallSum) -> dict[str, int]:
    """Return the counts of the bill, as far as it states any, less those of the ledger; fees are apart."""
    return {name: number - ours.counts.get(name, 0) for name, number in bill.counts.items() if name not in FEES}


def _brings_closer(bill: BilledSum, ours: CallSum, moved: CallSum, sign: int) -> bool:
    """Return whether the two sides are closer where calls are moved from one day to another."""
    if not bill.counts:
        left = bill.cost - ours.cost
        return abs(left - sign * moved.cost) < abs(left)
    then = CallSum()
    then.merge(ours)
    then.merge(moved, sign)
    return _distance(bill, then) < _distance(bill, ours)


def _distance(bill: BilledSum, ours: CallSum) -> int:
    return sum(abs(gap) for gap in parts_of(_gaps(bill, ours), bill.counts).values())
