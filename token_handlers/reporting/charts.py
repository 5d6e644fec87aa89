"""Bars as inline SVG: usage over time, stacked, with a <title> on each; and shares as one bar across."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from token_handlers.reporting.markup import Markup, tag

FEWEST_SLOTS = 12
"""A chart is as wide as so many bars at least, so that a single bar is not a wall."""

_NICE = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
_SLOT, _BAR, _HEIGHT = 10, 8, 100


class Bar(NamedTuple):
    """One bar: its parts from the bottom upwards by their CSS class, what its tooltip says, and its weekday."""

    tooltip: str
    parts: tuple[tuple[str, float], ...]
    is_weekend: bool = False


class Chart(NamedTuple):
    """A picture, and what its full height stands for."""

    picture: Markup
    top: float


def bar_chart(description: str, bars: Sequence[Bar], line: float = 0.0) -> Chart:
    """Return an SVG that fills the width and the height it is given; ``line`` is drawn across it where it is not 0."""
    top = nice_ceiling(max([line, *(sum(part for _, part in bar.parts) for bar in bars)]))
    width = slots(len(bars)) * _SLOT
    heights = [round(_HEIGHT * (1 - value / top), 2) for value in ([line] if line else [])]
    picture = tag(
        "svg",
        *(tag("path", class_="grid", d=f"M0 {y}H{width}") for y in (0, _HEIGHT // 2, _HEIGHT)),
        *(_bar(index * _SLOT, bar, top) for index, bar in enumerate(bars)),
        *(tag("path", class_="budget", d=f"M0 {y}H{width}") for y in heights),
        viewBox=f"0 0 {width} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=description,
    )
    return Chart(picture, top)


def slots(number: int) -> int:
    """Return how many bars a chart of so many has room for."""
    return max(number, FEWEST_SLOTS)


def share_bar(parts: Iterable[tuple[str, float]]) -> Markup:
    """Return an SVG of one horizontal bar, its parts from the left, by their CSS class, as shares of 1."""
    left, drawn = 0.0, []
    for css, share in parts:
        drawn.append(tag("rect", class_=css, x=f"{left:.2f}", width=f"{share * 100:.2f}", height=10))
        left += share * 100
    rest = tag("rect", class_="rest", width=100, height=10)
    return tag(
        "svg", rest, *drawn, class_="share", viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true"
    )


def folded_table(summary: str, name: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Return numbers as a table that a click unfolds and a keyboard can scroll; the first column names the rows."""
    head = tag("tr", *(tag("th", column, scope="col") for column in columns))
    body = [tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in cells)) for first, *cells in rows]
    table = tag("table", tag("thead", head), tag("tbody", *body))
    scrolled = tag("div", table, class_="scroll", role="region", tabindex=0, aria_label=name)
    return tag("details", tag("summary", summary), scrolled)


def nice_ceiling(value: float) -> float:
    """Return a round number that is not much above a value; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(nice * power for nice in _NICE if nice * power >= value or nice == _NICE[-1])


def _bar(left: float, bar: Bar, top: float) -> Markup:
    y, drawn = float(_HEIGHT), []
    for css, part in bar.parts:
        height = part / top * _HEIGHT
        if height:
            y -= height
            drawn.append(tag("rect", class_=css, x=left + 1, y=f"{y:.2f}", width=_BAR, height=f"{height:.2f}"))
    aim = tag("rect", class_="aim weekend" if bar.is_weekend else "aim", x=left, width=_SLOT, height=_HEIGHT)
    return tag("g", tag("title", bar.tooltip), aim, *drawn)
