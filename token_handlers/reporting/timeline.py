"""Usage over time: charts of cost, stacked by model, and of tokens, each with its numbers as a table."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from token_handlers.counter.totals import OTHER
from token_handlers.reporting.amounts import counted, dollars, short
from token_handlers.reporting.budget_line import BudgetMeter
from token_handlers.reporting.charts import Bar, bar_chart, folded_table, slots
from token_handlers.reporting.contents import InTime
from token_handlers.reporting.markup import Markup, tag
from token_handlers.reporting.period import Step, in_figures, moment_of
from token_handlers.reporting.text import sent
from token_handlers.usage import UsageTotals

FEWEST_BARS = 2
"""A chart of one bar says nothing that the figures above it do not."""

KINDS = (
    ("cached", "Prompt, cached"),
    ("prompt", "Prompt"),
    ("reasoning", "Reasoning"),
    ("completion", "Completion"),
    ("embedding", "Embedding"),
)
"""CSS classes of kinds of tokens and what people call them, from the bottom of a bar upwards."""

_HIGHEST_LINE = 3
"""A budget line is drawn up to so many times above the highest bar; above that it would flatten the bars."""


def cost_chart(in_time: InTime | None, state: BudgetMeter | None = None) -> Markup:
    """Return cost over time, stacked by model."""
    if in_time is None or len(in_time.totals) < FEWEST_BARS or not any(each.cost for each in in_time.totals.values()):
        return Markup()
    classes = {name: "model-other" if name == OTHER else f"model-{index}" for index, name in enumerate(in_time.models)}
    bars = [
        Bar(
            _cost_tooltip(in_time, label, totals),
            tuple((classes[name], float(costs.get(label, 0))) for name, costs in in_time.models.items()),
            _is_weekend(in_time.step, label),
        )
        for label, totals in in_time.totals.items()
    ]
    entries = [
        (css, f"{_other(name, 'models')} {dollars(sum(in_time.models[name].values(), Decimal(0)))}")
        for name, css in classes.items()
    ]
    highest = max(sum(part for _, part in bar.parts) for bar in bars)
    line = state.line.each(in_time.step) if state else Decimal(0)
    is_drawn = 0 < line <= _HIGHEST_LINE * highest
    if state:
        where = "" if is_drawn else ", above the chart"
        entries.append(
            ("budget", f"budget: {dollars(line)} {'an' if in_time.step == 'hour' else 'a'} {in_time.step}{where}")
        )
    chart = bar_chart(_cost_description(in_time), bars, float(line) if is_drawn else 0.0)
    columns = [_other(name, "models") for name in in_time.models] if len(in_time.models) > 1 else []
    rows = [
        (
            dollars(totals.cost),
            *(dollars(in_time.models[name].get(label, Decimal(0))) for name in in_time.models if columns),
        )
        for label, totals in in_time.totals.items()
    ]
    return _chart(
        "Cost", in_time, chart.picture, [f"${short(chart.top)}", f"${short(chart.top / 2)}", "0"],
        entries, ("Cost", *columns), rows,
    )  # fmt: skip


def token_chart(in_time: InTime | None) -> Markup:
    """Return tokens over time, stacked by what they were."""
    if in_time is None or len(in_time.totals) < FEWEST_BARS:
        return Markup()
    numbers = {label: by_kind(totals) for label, totals in in_time.totals.items()}
    kinds = [(css, name) for css, name in KINDS if any(each[css] for each in numbers.values())]
    if not kinds:
        return Markup()
    bars = [
        Bar(
            _token_tooltip(in_time.step, label, each),
            tuple((css, float(each[css])) for css, _ in kinds),
            _is_weekend(in_time.step, label),
        )
        for label, each in numbers.items()
    ]
    rows = [
        (f"{sent(in_time.totals[label]):,}", *(f"{each[css]:,}" for css, _ in kinds)) for label, each in numbers.items()
    ]
    total = sum(sum(each.values()) for each in numbers.values())
    chart = bar_chart(f"Tokens by {in_time.step}: {total:,} in all.", bars)
    return _chart(
        "Tokens", in_time, chart.picture, [short(chart.top), short(chart.top / 2), "0"],
        kinds, ("Requests", *(name for _, name in kinds)), rows,
    )  # fmt: skip


def legend(entries: Iterable[tuple[str, str]]) -> Markup:
    """Return what the colours of a chart stand for: names by their CSS class."""
    return tag("ul", *(tag("li", _swatch(css), name) for css, name in entries), class_="legend")


def by_kind(totals: UsageTotals) -> dict[str, int]:
    """Return tokens by kind, the parts of a whole taken out of it, so that they can be stacked."""
    return {
        "prompt": totals.prompt_tokens - totals.prompt_tokens_cached,
        "cached": totals.prompt_tokens_cached,
        "completion": totals.completion_tokens - totals.reasoning_tokens,
        "reasoning": totals.reasoning_tokens,
        "embedding": totals.embedding_tokens,
    }


def axis(step: Step, names: Sequence[str]) -> list[str]:
    """Return what stands below each bar: a date or a time below few of them, nothing below the others."""
    number = len(names)
    moments = [moment_of(step, name) for name in names]
    if step == "day" and number > 10:
        weeks = -(-number // 42)
        first = next(index for index, moment in enumerate(moments) if moment.weekday() == 0)
        shown = range(first, number, 7 * weeks)
    elif step == "hour":
        every = next(hours for hours in (1, 2, 3, 4, 6, 8, 12) if number <= 6 * hours or hours == 12)
        first = next((index for index, moment in enumerate(moments) if moment.hour % every == 0), 0)
        shown = range(first, number, every)
    else:
        shown = range(0, number, -(-number // 5))
    ticks = [_tick(step, moment) if index in shown else "" for index, moment in enumerate(moments)]
    return ticks + [""] * (slots(number) - number)


def in_full(step: Step, label: str) -> str:
    """Return an hour, a day or a month as people write it."""
    moment = moment_of(step, label)
    if step == "month":
        return f"{moment:%B %Y}"
    return f"{moment:%a} {in_figures(moment)}{f' {moment:%H:%M}' if step == 'hour' else ''}"


def _chart(
    what: str,
    in_time: InTime,
    picture: Markup,
    scale: Sequence[str],
    entries: Iterable[tuple[str, str]],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> Markup:
    step, names = in_time.step, list(in_time.totals)
    title = f"{what} by {step}" + (f", the last {len(names)} {step}s" if in_time.is_cut else "")
    marks = tag("div", *(tag("span", mark) for mark in scale), class_="scale", aria_hidden="true")
    ticks = [tag("span", tick) for tick in axis(step, names)]
    axis_line = tag("div", *ticks, class_="axis", aria_hidden="true")
    lines = [(in_full(step, label), *cells) for label, cells in zip(names, rows, strict=True)]
    return tag(
        "section",
        tag("h2", title),
        tag("div", marks, picture, axis_line, class_="chart"),
        legend(entries),
        folded_table("As a table", f"{title}, as a table", (step.capitalize(), *columns), lines),
    )


def _tick(step: Step, moment: datetime) -> str:
    if step == "hour":
        return f"{moment:%H:%M}"
    return f"{moment.day} {moment:%b}" if step == "day" else f"{moment:%Y-%m}"


def _is_weekend(step: Step, label: str) -> bool:
    return step == "day" and moment_of(step, label).weekday() >= 5


def _cost_tooltip(in_time: InTime, label: str, totals: UsageTotals) -> str:
    costs = [(name, costs[label]) for name, costs in in_time.models.items() if label in costs]
    parts = [f"{_other(name, 'models')} {dollars(cost)}" for name, cost in costs] if len(costs) > 1 else []
    lines = [f"{in_full(in_time.step, label)}: {dollars(totals.cost)}, {counted(sent(totals), 'request')}", *parts]
    return "\n".join(lines)


def _cost_description(in_time: InTime) -> str:
    costs = {label: totals.cost or Decimal(0) for label, totals in in_time.totals.items()}
    highest = max(costs, key=lambda label: costs[label])
    return (
        f"Cost by {in_time.step}: {dollars(sum(costs.values(), Decimal(0)))} in all, "
        f"most on {in_full(in_time.step, highest)}: {dollars(costs[highest])}."
    )


def _token_tooltip(step: Step, label: str, numbers: Mapping[str, int]) -> str:
    parts = [f"{numbers[css]:,} {name.lower()}" for css, name in KINDS if numbers[css]]
    return f"{in_full(step, label)}: {'; '.join(parts) or 'nothing'}"


def _other(name: str, what: str) -> str:
    return f"other {what}" if name == OTHER else name


def _swatch(css: str) -> Markup:
    """Return the colour of a legend's entry: a line for a budget, else a square."""
    shape = tag("path", class_=css, d="M0 5H10") if css == "budget" else tag("rect", class_=css, width=10, height=10)
    return tag("svg", shape, viewBox="0 0 10 10", aria_hidden="true")
