"""How numbers are written for people: the same amount looks the same in a table, in a sentence and on a page."""

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal

DIGITS = 4
"""How many significant digits of an amount of USD people see; JSON and CSV have all of them."""

UNKNOWN = "unknown"
_ROUNDING = Context(prec=60, rounding=ROUND_HALF_EVEN)
_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def usd(cost: Decimal | None) -> str:
    """Return USD with four significant digits: 0.003188, 12.35, 1,234.50, and "unknown" for None.

    Never with an exponent, never with fewer than two places, and no digit before the point is rounded away.
    """
    if cost is None:
        return UNKNOWN
    places = max(2, DIGITS - 1 - cost.adjusted()) if cost else 2
    rounded = _ROUNDING.quantize(cost, Decimal(1).scaleb(-places))
    whole, _, fraction = f"{rounded:,f}".partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def dollars(cost: Decimal | None) -> str:
    """Return what `usd` does, after a dollar sign where the amount is known."""
    return UNKNOWN if cost is None else f"{'-' if cost < 0 else ''}${usd(abs(cost))}"


def usd_column(costs: Sequence[Decimal | None]) -> list[str]:
    """Return what `usd` does for each, padded to one width so that the decimal points stand below each other."""
    parts = [usd(cost).partition(".") for cost in costs]
    whole = max((len(part[0]) for part in parts if part[1]), default=0)
    fraction = max((len(part[2]) for part in parts), default=0)
    texts = [before.rjust(whole) + point + after.ljust(fraction) if point else before for before, point, after in parts]
    width = max(map(len, texts), default=0)
    return [text.ljust(width) for text in texts]


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
