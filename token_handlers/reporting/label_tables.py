"""What was used by the values of a label, as a table that the page's script sorts, filters and folds."""

from token_handlers.counter.totals import OTHER
from token_handlers.reporting.amounts import counted, dollars, percent
from token_handlers.reporting.charts import share_bar
from token_handlers.reporting.markup import Markup, tag
from token_handlers.reporting.text import arranged, sent
from token_handlers.sinks.sql.groups import Groups
from token_handlers.usage import UsageTotals

NAMES = {"langgraph_node": "node"}
"""Labels that people know by another name."""


def label_section(label: str, groups: Groups, total: UsageTotals, *, scripted: bool = True) -> Markup:
    """Return the values of a label, the most expensive first; ``scripted`` on a page with the script."""
    if not groups:
        return Markup()
    name = NAMES.get(label, label)
    title = tag("h2", f"By {name}", id=f"by-{name}" if scripted else "")
    unlabelled = sent(total) - sum(map(sent, groups.values()))
    without = f"{counted(unlabelled, 'request')} without a {name}." if unlabelled > 0 and label != "tag" else ""
    return tag(
        "section",
        tag("div", title, _filter(name), class_="head") if scripted else title,
        _table(name, label, groups, total),
        tag("button", type="button", class_="more", hidden=True) if scripted else "",
        tag("p", without, class_="soft") if without else "",
        class_="by-label",
    )


def _table(name: str, label: str, groups: Groups, total: UsageTotals) -> Markup:
    rows = [_row(each, totals, total) for each, totals in arranged(label, groups) if not _is_rest(each, groups)]
    rest = [_row(f"{groups.others:,} more", groups[OTHER], total)] if groups.others else []
    last = tag("tfoot", *rest, _row("Total", total, total)) if len(groups) > 1 else ""
    head = tag("tr", *(_head(column) for column in (name.capitalize(), *_columns(total))))
    return tag("table", tag("thead", head), tag("tbody", *rows), last, aria_label=f"By {name}")


def _columns(total: UsageTotals) -> list[str]:
    return ["Requests", "Prompt", "Completion", *(["Embedding"] if total.embedding_tokens else []), "Cost"]


def _head(name: str) -> Markup:
    """Return the head of a column; the page's script makes a button of it that sorts."""
    sort = "descending" if name == "Cost" else False
    return tag("th", tag("span", name), scope="col", aria_sort=sort)


def _filter(name: str) -> Markup:
    """Return the field by which the page's script filters, hidden until that runs."""
    field = tag(
        "input", type="search", placeholder=f"Filter by {name}", aria_label=f"Filter by {name}", autocomplete="off"
    )
    return tag("div", field, tag("span", class_="found", role="status"), class_="filter", hidden=True)


def _row(name: str, totals: UsageTotals, total: UsageTotals) -> Markup:
    numbers = [sent(totals), totals.prompt_tokens, totals.completion_tokens]
    if total.embedding_tokens:
        numbers.append(totals.embedding_tokens)
    cells = [
        tag("td", f"{number:,}", data_name=column) for column, number in zip(_columns(total), numbers, strict=False)
    ]
    share = float((totals.cost or 0) / total.cost) if total.cost else 0.0
    exact = "-1" if totals.cost is None else f"{totals.cost:f}"
    known = f" · {percent(share)}" if totals.cost is not None and total.cost else ""
    cost = tag("data", dollars(totals.cost), value=exact)
    cells.append(tag("td", cost, tag("small", known), share_bar([("cost", share)]), class_="cost", data_name="Cost"))
    return tag("tr", tag("th", tag("span", name, class_="name"), *_flags(totals), scope="row"), *cells)


def _flags(totals: UsageTotals) -> list[Markup]:
    flags = (
        (totals.estimated_requests, "estimated"),
        (totals.unpriced_requests, "unpriced"),
        (totals.failed_requests, "rejected"),
    )
    return [tag("span", f"{number:,} {what}", class_="flag") for number, what in flags if number]


def _is_rest(name: str, groups: Groups) -> bool:
    return name == OTHER and groups.others > 0
