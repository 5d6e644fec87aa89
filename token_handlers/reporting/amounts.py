"""How numbers are written for people: the same amount looks the same in a table, in a sentence and on a page."""

from decimal import Decimal

from token_handlers.counter.tables import UNKNOWN, usd

_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def dollars(cost: Decimal | None) -> str:
    """Return what `usd` does, after a dollar sign where the amount is known."""
    return UNKNOWN if cost is None else f"{'-' if cost < 0 else ''}${usd(abs(cost))}"


def percent(share: float) -> str:
    """Return a share of 1 in percent: "12%", "0.4%", "<0.1%"; a part that is not all is never "100%"."""
    value = share * 100
    if 0 < value < 0.1:
        return "<0.1%"
    if 99.5 <= value < 100:
        return ">99%"
    return f"{value:.1f}%" if 0 < value < 9.95 else f"{value:.0f}%"


def counted(number: int, noun: str) -> str:
    """Return a number and its noun: "1 request", "1,200 requests"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short(number: float) -> str:
    """Return a round number of an axis in few characters: 1.5M, 200k, 0.002."""
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.10g}{unit}"
    return f"{number:.15f}".rstrip("0").rstrip(".")
