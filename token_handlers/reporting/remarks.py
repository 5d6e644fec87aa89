"""What to know of a page's figures: how exact they are, what to do about it, and what caching saved."""

from collections.abc import Mapping

from token_handlers.reporting.amounts import counted, dollars, percent
from token_handlers.reporting.charts import folded_table, share_bar
from token_handlers.reporting.contents import Contents
from token_handlers.reporting.markup import Markup, tag
from token_handlers.reporting.savings import cached_tokens, in_words, unknown_in_words
from token_handlers.reporting.text import exactness_notes, most_saving
from token_handlers.usage import UsageTotals

MOST_ROWS = 100
"""Of how many models, sessions or days it is said what their cache saved."""


def savings(contents: Contents) -> Markup:
    """Return what the provider's prompt cache and LangChain's cache saved."""
    lines: list[Markup] = []
    total = contents.total
    if cached_tokens(total):
        text = f"The provider's prompt cache {in_words(total) or 'saved what is not known'}, at list prices"
        rate = f"{percent(total.cache_hit_rate)} of the prompt tokens were read from it"
        lines += [tag("p", tag("span", text), tag("b", rate)), share_bar([("cached", total.cache_hit_rate)])]
        lines += [tag("p", text, class_="soft") for text in unknown_in_words(total)]
        lines += [_by(label, groups) for label, groups in _groups(contents).items()]
    if total.cached_responses:
        answers = counted(total.cached_responses, "answer")
        lines.append(
            tag(
                "p",
                tag("span", f"LangChain's cache saved {dollars(total.saved_cost)}"),
                tag("b", f"{answers}, not sent"),
            )
        )
    return tag("section", tag("h2", "What caching saved"), *lines, class_="shares", id="caching") if lines else Markup()


def _groups(contents: Contents) -> dict[str, Mapping[str, UsageTotals]]:
    """Return the totals by which it is listed what the cache saved: by model, by session and in time."""
    listed: dict[str, Mapping[str, UsageTotals]] = {
        label: contents.groups[label] for label in ("model", "session") if label in contents.groups
    }
    return listed if contents.in_time is None else {**listed, contents.in_time.step: contents.in_time.totals}


def _by(label: str, groups: Mapping[str, UsageTotals]) -> Markup:
    """Return a table of what the cache saved, where several values of a label have cached tokens."""
    rows = [
        (name, dollars(each.cache_saved_cost), percent(each.cache_hit_rate))
        for name, each in most_saving(label, groups)[:MOST_ROWS]
    ]
    title = f"What the prompt cache saved by {label}"
    return (
        folded_table(f"By {label}", title, (label.capitalize(), "Saved", "Read from it"), rows)
        if len(rows) > 1
        else Markup()
    )


def what_if(contents: Contents) -> Markup:
    """Return what the calls would have cost on other models."""
    found = contents.what_if
    if found is None:
        return Markup()
    change = found.total.change_in_words
    text = f"These calls cost {dollars(found.total.actual.cost)}"
    other = f"{found.name}: {dollars(found.total.other.cost)}{f', {change}' if change else ''}"
    named = sorted(found.groups.items(), key=lambda item: (-(item[1].actual.cost or 0), item[0]))
    rows = [(name, dollars(each.actual.cost), dollars(each.other.cost)) for name, each in named[:MOST_ROWS]]
    return tag(
        "section",
        tag("h2", "What if"),
        tag("p", tag("span", text), tag("b", other)),
        *(tag("p", note, class_="soft") for note in found.notes()),
        folded_table("By model", "What they would have cost by model", ("Model", "Cost", found.name), rows),
        class_="shares",
        id="what-if",
    )


def exactness(contents: Contents) -> Markup:
    """Return what is estimated, unpriced or failed, and what to do about it."""
    total = contents.total
    if total == UsageTotals():
        return Markup()
    is_exact = not (total.estimated_requests or total.unpriced_requests)
    items = [
        tag("li", note.text, " ", tag("span", *_with_code(note.remedy), class_="soft"))
        for note in exactness_notes(total)
    ]
    if is_exact:
        items.append(tag("li", "Every request reported its usage and has a price."))
    if contents.prices is not None:
        today = contents.made_at.date()
        items.append(tag("li", *_with_code(f"The {contents.prices.says(today)}.")))
    title = tag("h2", "How exact this is")
    return tag("section", title, tag("ul", *items), class_="exact" if is_exact else "inexact", id="exactness")


def _with_code(text: str) -> list[str]:
    """Return a text in which what stands between backticks is code."""
    return [tag("code", part) if index % 2 else part for index, part in enumerate(text.split("`"))]
