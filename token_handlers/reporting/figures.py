"""The head of a page: its title, what it cost beside the time before, the month's end, and the budget."""

from decimal import Decimal

from token_handlers.reporting.amounts import counted, dollars, percent
from token_handlers.reporting.charts import share_bar
from token_handlers.reporting.contents import Contents
from token_handlers.reporting.markup import Markup, join, tag
from token_handlers.reporting.period import in_words
from token_handlers.reporting.projection import Projection, basis
from token_handlers.reporting.text import sent

_UP, _DOWN = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}"


def header(contents: Contents) -> Markup:
    """Return the title, the period, and when the page was made."""
    period = f"{in_words(contents.period)} · " if contents.period else ""
    made = tag(
        "time", f"{contents.made_at:%Y-%m-%d %H:%M} UTC", datetime=contents.made_at.isoformat(timespec="seconds")
    )
    return tag("header", tag("h1", contents.title), tag("p", period, "made ", made))


def figures(contents: Contents) -> Markup:
    """Return what it cost, how that compares, what a day and this month cost, requests and tokens."""
    total, period = contents.total, contents.period
    cards = [_card("Cost", dollars(total.cost), *_remarks_on_cost(contents))]
    if period is not None and period.days >= 2 and total.cost:
        cards.append(_card("Average a day", dollars(total.cost / Decimal(period.days)), f"over {_length(period.days)}"))
    if contents.projection is not None:
        cards.append(_projection_card(contents.projection))
    counts = [_card("Requests", f"{sent(total):,}")]
    for name, number in (
        ("Prompt tokens", total.prompt_tokens),
        ("Completion tokens", total.completion_tokens),
        ("Embedding tokens", total.embedding_tokens),
    ):
        if number:
            counts.append(_card(name, f"{number:,}"))
    return join((tag("dl", *cards, class_="figures"), tag("dl", *counts, class_="figures counts")))


def budget(contents: Contents) -> Markup:
    """Return how much of the budget is spent, and will be at the month's end."""
    state = contents.budget
    if state is None:
        return Markup()
    line, share = state.line, state.share
    text = f"{dollars(state.spent)} of {dollars(line.amount)} this {line.window}: {percent(share)}"
    lines = [tag("p", tag("span", text), tag("b", _verdict(state.spent, line.amount, "spent")))]
    parts = [("over" if share > 1 else "cost", min(share, 1.0))]
    projection = contents.projection
    if line.window == "month" and projection is not None:
        rest = min(float(projection.expected / line.amount), 1.0) - parts[0][1]
        parts.append(("projected", max(rest, 0.0)))
        expected = f"By the end of {projection.month_name} about {dollars(projection.expected)}"
        lines.append(tag("p", tag("span", expected), tag("b", _verdict(projection.expected, line.amount, "projected"))))
    return tag("section", tag("h2", "Budget"), *lines, share_bar(parts), class_="shares", id="budget")


def _remarks_on_cost(contents: Contents) -> list[str]:
    total = contents.total
    remarks = _change(contents)
    for number, what in ((total.estimated_requests, "estimated"), (total.unpriced_requests, "without a price")):
        if number:
            remarks.append(f"{counted(number, 'request')} {what}")
    return remarks


def _change(contents: Contents) -> list[str]:
    before, cost, period = contents.before, contents.total.cost, contents.period
    if before is None or not before.cost or cost is None or period is None:
        return []
    share = float(cost / before.cost) - 1
    if share == 0:
        change = "as much as"
    elif share > 9:
        change = f"{_UP} {cost / before.cost:,.1f} times"
    else:
        change = f"{_UP if share > 0 else _DOWN} {percent(abs(share))} {'more' if share > 0 else 'less'} than"
    return [f"{change} the {dollars(before.cost)} of the {_length(period.days)} before"]


def _length(days: float) -> str:
    if days >= 2:
        return f"{days:.3g} days"
    return counted(max(round(days * 24), 1), "hour")


def _projection_card(projection: Projection) -> Markup:
    remarks = [f"{dollars(projection.so_far)} so far"]
    if projection.low is not None and projection.high is not None:
        remarks.append(f"{dollars(projection.low)} to {dollars(projection.high)} in four of five cases")
    remarks.append(f"from {basis(projection)}")
    return _card(f"By the end of {projection.month:%B}", f"≈ {dollars(projection.expected)}", *remarks)


def _card(name: str, value: str, *remarks: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value), *(tag("dd", remark, class_="remark") for remark in remarks))


def _verdict(amount: Decimal, limit: Decimal, what: str) -> str:
    if amount > limit:
        return f"over by {dollars(amount - limit)}"
    return f"{dollars(limit - amount)} left" if what == "spent" else "within the budget"
