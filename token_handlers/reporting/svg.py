"""Usage over time as inline SVG bars, with a <title> on each."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from token_handlers.usage import UsageTotals

MOST_DAYS = 92
"""Beyond this many days a chart has a bar for each month."""

FEWEST = {"hour": 24, "day": 14, "month": 6}
"""A chart has at least this many bars: what is missing is added before the first."""

_FORMATS = {"hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}
_STEPS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
_NICE = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
_SLOT, _BAR, _HEIGHT = 10, 8, 100


class Bucket(NamedTuple):
    """What was used in an hour, a day or a month."""

    label: str
    requests: int = 0
    cost: Decimal = Decimal(0)
    cached: int = 0
    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    embedding: int = 0


class Bar(NamedTuple):
    """One bar: its parts from the bottom upwards by their CSS class, and what its tooltip says."""

    tooltip: str
    parts: tuple[tuple[str, float], ...]


def buckets(step: str, groups: Mapping[str, UsageTotals]) -> list[Bucket]:
    """Return the totals by 'hour', 'day' or 'month' without gaps, the parts of a whole taken out of it."""
    if not groups:
        return []
    sums = {label: Bucket(label) for label in _labels(step, min(groups), max(groups))}
    for label, totals in groups.items():
        sums[label] = _bucket(label, totals)
    return list(sums.values())


def by_month(days: Mapping[str, UsageTotals]) -> dict[str, UsageTotals]:
    """Return totals by month of those by day."""
    months: dict[str, UsageTotals] = {}
    for day, totals in days.items():
        month = day[:7]
        months[month] = totals if month not in months else _sum(months[month], totals)
    return months


def bar_chart(name: str, bars: Sequence[Bar]) -> tuple[str, float]:
    """Return an SVG that fills the width and the height it is given, and what its full height stands for."""
    top = nice_ceiling(max((sum(part for _, part in bar.parts) for bar in bars), default=0))
    drawn = "".join(_bar(index * _SLOT, bar, top) for index, bar in enumerate(bars))
    lines = "".join(f'<path class="grid" d="M0 {y}H{len(bars) * _SLOT}"/>' for y in (0, _HEIGHT // 2, _HEIGHT))
    picture = (
        f'<svg viewBox="0 0 {len(bars) * _SLOT} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(name)}">{lines}{drawn}</svg>'
    )
    return picture, top


def share_bar(parts: Iterable[tuple[str, float]]) -> str:
    """Return an SVG of one horizontal bar, its parts from the left as shares of 1."""
    left, drawn = 0.0, ""
    for css, share in parts:
        drawn += f'<rect class="{css}" x="{left:.2f}" y="0" width="{share * 100:.2f}" height="10"/>'
        left += share * 100
    return (
        '<svg class="share" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rest" width="100" height="10"/>{drawn}</svg>'
    )


def nice_ceiling(value: float) -> float:
    """Return a round number that is not much above a value; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(nice * power for nice in _NICE if nice * power >= value or nice == _NICE[-1])


def _bar(left: float, bar: Bar, top: float) -> str:
    y, drawn = float(_HEIGHT), ""
    for css, part in bar.parts:
        height = part / top * _HEIGHT
        if height:
            y -= height
            drawn += f'<rect class="{css}" x="{left + 1}" y="{y:.2f}" width="{_BAR}" height="{height:.2f}"/>'
    aim = f'<rect class="aim" x="{left}" y="0" width="{_SLOT}" height="{_HEIGHT}"/>'
    return f"<g><title>{html.escape(bar.tooltip)}</title>{aim}{drawn}</g>"


def _bucket(label: str, totals: UsageTotals) -> Bucket:
    return Bucket(
        label,
        totals.successful_requests,
        totals.cost or Decimal(0),
        totals.prompt_tokens_cached,
        totals.prompt_tokens - totals.prompt_tokens_cached,
        totals.completion_tokens - totals.reasoning_tokens,
        totals.reasoning_tokens,
        totals.embedding_tokens,
    )


def _labels(step: str, first: str, last: str) -> list[str]:
    moment, end = (datetime.strptime(label, _FORMATS[step]).replace(tzinfo=UTC) for label in (first, last))
    labels: list[str] = []
    back = end
    while back >= moment or len(labels) < FEWEST[step]:
        labels.append(back.strftime(_FORMATS[step]))
        back = back - _STEPS[step] if step in _STEPS else (back - timedelta(days=1)).replace(day=1)
    return labels[::-1]


def _sum(one: UsageTotals, other: UsageTotals) -> UsageTotals:
    names = [name for name in UsageTotals.model_fields if name != "cost"]
    sums = {name: getattr(one, name) + getattr(other, name) for name in names}
    known = [totals.cost for totals in (one, other) if totals.cost is not None]
    return UsageTotals(**sums, cost=sum(known, Decimal(0)) if known else None)
