"""What to know of a page's figures: how exact they are, what to do about it, and what caching saved."""

from token_handlers.reporting.amounts import counted, dollars, percent
from token_handlers.reporting.charts import folded_table, share_bar
from token_handlers.reporting.contents import Contents
from token_handlers.reporting.markup import Markup, tag
from token_handlers.reporting.savings import CacheSavings
from token_handlers.reporting.text import exactness_notes
from token_handlers.usage import UsageTotals

MOST_MODELS = 100
"""Of how many models it is said what their cache saved."""


def savings(contents: Contents) -> Markup:
    """Return what the provider's prompt cache and LangChain's cache saved."""
    lines: list[Markup] = []
    cache, total = contents.savings, contents.total
    if cache is not None:
        amount = dollars(abs(cache.saved))
        verb = f"saved {amount}" if cache.saved >= 0 else f"cost {amount} more than it saved"
        text = f"The provider's prompt cache {verb}, at list prices"
        lines += [
            tag("p", tag("span", text), tag("b", f"{percent(cache.hit_rate)} of the prompt tokens were read from it")),
            share_bar([("cached", cache.hit_rate)]),
        ]
        if cache.unknown_tokens:
            unknown = counted(cache.unknown_tokens, "token")
            lines.append(
                tag("p", f"Not in it: {unknown} read or written by models whose prices are not known.", class_="soft")
            )
        lines += _by_model(cache)
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


def _by_model(cache: CacheSavings) -> list[Markup]:
    """Return a table of the models that saved most, where there are several."""
    if len(cache.models) < 2:
        return []
    most = sorted(cache.models.items(), key=lambda item: (-(item[1].saved or 0), -item[1].read_tokens, item[0]))
    rows = [(name, dollars(each.saved), percent(each.hit_rate)) for name, each in most[:MOST_MODELS]]
    return [folded_table("By model", "What the prompt cache saved by model", ("Model", "Saved", "Read from it"), rows)]


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
