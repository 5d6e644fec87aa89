"""The report as one HTML page: no network, no script, readable on a phone and in the dark."""

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from token_handlers.counter.counter import OTHER
from token_handlers.reporting.style import STYLE
from token_handlers.reporting.svg import Bar, Bucket, bar_chart, buckets, share_bar
from token_handlers.reporting.text import arranged, notes_on_exactness, sent
from token_handlers.usage import UsageTotals

_COLUMNS = ("Requests", "Prompt", "Completion", "Embedding", "Cost")
_KINDS = (
    ("prompt", "Prompt"),
    ("cached", "Prompt, cached"),
    ("completion", "Completion"),
    ("reasoning", "Reasoning"),
    ("embedding", "Embedding"),
)


class Contents(NamedTuple):
    """What a page shows; ``step`` is 'hour', 'day' or 'month', by which ``in_time`` is summed, in UTC.

    What is under "(other)" adds up so many other models or sessions.
    """

    total: UsageTotals
    by_model: Mapping[str, UsageTotals]
    by_session: Mapping[str, UsageTotals]
    in_time: Mapping[str, UsageTotals]
    step: str
    title: str
    made_at: datetime
    other_models: int = 0
    other_sessions: int = 0


def page(contents: Contents) -> str:
    """Return the page; every name in it is escaped."""
    total, bars = contents.total, buckets(contents.step, contents.in_time)
    sections = (
        _header(contents, bars),
        _figures(total),
        _cost_chart(contents.step, bars),
        _token_chart(contents.step, bars),
        _shares(total),
        _notes(contents),
        _table("model", contents.by_model, contents.other_models, total),
        _table("session", contents.by_session, contents.other_sessions, total) if contents.by_session else "",
    )
    title = html.escape(f"Token usage: {contents.title}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(filter(None, sections))
        + "\n</main></body></html>\n"
    )


def short_usd(cost: Decimal | None) -> str:
    """Return dollars with as many places as are of interest."""
    if cost is None:
        return "unknown"
    places = 2 if cost == 0 or cost >= 100 else max(4, 2 - cost.adjusted())
    return f"${cost:,.{places}f}"


def _header(contents: Contents, bars: Sequence[Bucket]) -> str:
    used = [bucket.label for bucket in bars if bucket.requests]
    period = " to ".join(dict.fromkeys((_readable(used[0]), _readable(used[-1])))) + " UTC · " if used else ""
    made = f"{contents.made_at:%Y-%m-%d %H:%M} UTC"
    return (
        f"<header><h1>Token usage</h1><p>{html.escape(contents.title)}</p>"
        f"<p>{html.escape(period)}made {made}</p></header>"
    )


def _figures(total: UsageTotals) -> str:
    figures = [
        ("Cost", short_usd(total.cost)),
        ("Requests", f"{sent(total):,}"),
        ("Prompt tokens", f"{total.prompt_tokens:,}"),
        ("Completion tokens", f"{total.completion_tokens:,}"),
    ]
    if total.embedding_tokens:
        figures.append(("Embedding tokens", f"{total.embedding_tokens:,}"))
    cards = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
    return f'<dl class="figures">{cards}</dl>'


def _cost_chart(step: str, bars: Sequence[Bucket]) -> str:
    drawn = [
        Bar(f"{_readable(bar.label)}: {short_usd(bar.cost)}, {bar.requests:,} requests", (("cost", float(bar.cost)),))
        for bar in bars
    ]
    picture, top = bar_chart(f"Cost by {step}", drawn)
    return _figure(f"Cost by {step}", picture, [f"${_short(top)}", f"${_short(top / 2)}"], bars)


def _token_chart(step: str, bars: Sequence[Bucket]) -> str:
    drawn = [Bar(_tooltip(bar), tuple((kind, float(getattr(bar, kind))) for kind, _ in _KINDS)) for bar in bars]
    picture, top = bar_chart(f"Tokens by {step}", drawn)
    kinds = [(kind, name) for kind, name in _KINDS if any(getattr(bar, kind) for bar in bars)]
    legend = "".join(f'<li><i class="{kind}"></i>{name}</li>' for kind, name in kinds)
    figure = _figure(f"Tokens by {step}", picture, [_short(top), _short(top / 2)], bars)
    return figure.replace("</section>", f'<ul class="legend">{legend}</ul></section>')


def _tooltip(bar: Bucket) -> str:
    parts = [f"{getattr(bar, kind):,} {name.lower()}" for kind, name in _KINDS if getattr(bar, kind)]
    return f"{_readable(bar.label)}: {'; '.join(parts) or 'nothing'}"


def _figure(title: str, picture: str, scale: Iterable[str], bars: Sequence[Bucket]) -> str:
    if not bars:
        return ""
    marks = "".join(f"<span>{mark}</span>" for mark in (*scale, "0"))
    ends = (bars[0].label, bars[len(bars) // 2].label, bars[-1].label)
    axis = "".join(f"<span>{html.escape(_readable(label))}</span>" for label in ends)
    return (
        f'<section><h2>{title}</h2><div class="chart"><div class="scale">{marks}</div>{picture}'
        f'<div class="axis">{axis}</div></div></section>'
    )


def _shares(total: UsageTotals) -> str:
    shares = (
        ("cached", "Prompt tokens read from the cache", total.prompt_tokens_cached, total.prompt_tokens),
        ("reasoning", "Completion tokens that were reasoning", total.reasoning_tokens, total.completion_tokens),
    )
    lines = "".join(
        f"<p><span>{text}</span><b>{part / whole:.1%}</b></p>{share_bar([(kind, part / whole)])}"
        for kind, text, part, whole in shares
        if whole
    )
    return f'<section class="shares"><h2>Shares</h2>{lines}</section>' if lines else ""


def _notes(contents: Contents) -> str:
    notes = notes_on_exactness(contents.total)
    exact = not (contents.total.estimated_requests or contents.total.unpriced_requests)
    if exact:
        notes.append("Every request reported its usage and has a price.")
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<section class="{"exact" if exact else "inexact"}"><h2>How exact this is</h2><ul>{items}</ul></section>'


def _table(label: str, groups: Mapping[str, UsageTotals], others: int, total: UsageTotals) -> str:
    names = {OTHER: f"{others:,} more"} if others else {}
    rows = "".join(_row(names.get(name, name), each, total) for name, each in arranged(label, groups))
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS if name != "Embedding" or total.embedding_tokens)
    return (
        f"<section><h2>By {label}</h2><table><thead><tr><th>{label.capitalize()}</th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></section>"
    )


def _row(name: str, totals: UsageTotals, total: UsageTotals) -> str:
    share = float((totals.cost or 0) / total.cost) if total.cost else 0.0
    flags = "".join(
        f'<span class="flag">{number:,} {what}</span>'
        for number, what in (
            (totals.estimated_requests, "estimated"),
            (totals.unpriced_requests, "unpriced"),
            (totals.failed_requests, "rejected"),
        )
        if number
    )
    numbers = [sent(totals), totals.prompt_tokens, totals.completion_tokens]
    if total.embedding_tokens:
        numbers.append(totals.embedding_tokens)
    cells = "".join(
        f'<td data-name="{column}">{number:,}</td>' for column, number in zip(_COLUMNS, numbers, strict=False)
    )
    cost = f'<td class="cost" data-name="Cost">{short_usd(totals.cost)}{share_bar([("cost", share)])}</td>'
    return f'<tr><th scope="row"><span class="name">{html.escape(name)}</span>{flags}</th>{cells}{cost}</tr>'


def _readable(label: str) -> str:
    """Return an hour as people write it; days and months already are."""
    return label.replace("T", " ").removesuffix("Z")


def _short(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:.10f}".rstrip("0").rstrip(".")
