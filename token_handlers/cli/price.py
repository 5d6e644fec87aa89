"""token-handlers price: what a model costs, or what a call of it would, and by which rates."""

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from token_handlers.cli.options import (
    Commands,
    WrongUsage,
    add_json,
    count,
    print_json,
    print_table,
    quiet_log,
    use_newest_prices,
)
from token_handlers.counter.tables import money
from token_handlers.errors import TokenHandlersError
from token_handlers.pricing.calculator import price_call
from token_handlers.pricing.price import Price
from token_handlers.pricing.providers import provider_id
from token_handlers.pricing.sellers import Sold, find_seller

if TYPE_CHECKING:
    from token_handlers.pricing.plans import Plan

COUNTS = {
    "input": ("input_tokens", "prompt tokens, with the cached ones"),
    "output": ("output_tokens", "completion tokens, with reasoning"),
    "cached": ("cache_read_tokens", "prompt tokens read from the cache"),
    "cache-write": ("cache_write_tokens", "prompt tokens written into the cache"),
    "cache-write-1h": ("cache_write_1h_tokens", "those of them that are kept for an hour"),
    "reasoning": ("reasoning_tokens", "completion tokens that are reasoning"),
    "input-audio": ("input_audio_tokens", "prompt tokens that are audio"),
    "output-audio": ("output_audio_tokens", "completion tokens that are audio"),
    "input-image": ("input_image_tokens", "prompt tokens that are images"),
    "output-image": ("output_image_tokens", "completion tokens that are images"),
    "web-searches": ("web_searches", "web searches that the provider makes"),
    "file-searches": ("storage_searches", "searches of files that the provider stores"),
    "code-executions": ("code_executions", "code executions that the provider makes"),
    "containers": ("container_sessions", "sessions of containers in which the provider runs code"),
    "rerank-searches": ("rerank_searches", "search units of a reranker"),
}
"""Option -> what it counts."""

PARTS = ("cached", "cache-write", "cache-write-1h", "reasoning", "input-audio", "output-audio", "output-image")
"""Options of tokens that may cost something else than the whole they are a part of."""

SAMPLE = 1000
"""Tokens by which a price per million is found: few enough for the lowest tier."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "price",
        help="what a model costs",
        description="USD per million tokens, or, with numbers of tokens, what a call costs.",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="its name, or PROVIDER/NAME")
    parser.add_argument("--provider", metavar="NAME", help="whose model it is, where that is not plain")
    parser.add_argument("--tier", metavar="NAME", help="the service tier, such as batch, flex or priority")
    parser.add_argument("--at", type=_date, metavar="DATE", help="as of a day (default: today)")
    parser.add_argument("--base-url", metavar="URL", help="the server, such as https://eu.api.openai.com/v1")
    parser.add_argument(
        "--context",
        type=_pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what else was served, such as speed=fast, inference_geo=us, region=us-central1, "
        "search_context_size=high or web_search_tool=web_search_preview; more than once",
    )
    for option, (name, text) in COUNTS.items():
        parser.add_argument(f"--{option}", dest=name, type=count, metavar="N", help=text)
    parser.add_argument("--explain", action="store_true", help="by which rate each part is billed, and since when")
    parser.add_argument(
        "--corrections", action="store_true", help="where our rates differ from genai-prices', or add to them"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the price."""
    use_newest_prices()
    if options.corrections:
        return _print_corrections(options)
    if options.model is None:
        raise WrongUsage("name a model, such as gpt-4o-mini, or list what is corrected with --corrections")
    counts = {name: number for name, _ in COUNTS.values() if (number := getattr(options, name)) is not None}
    _check(counts)
    sold, plan = find_seller(
        options.model,
        options.provider,
        base_url=options.base_url,
        service_tier=options.tier,
        at=_epoch(options),
        context=dict(options.context),
    )
    if counts:
        _print_call(options, sold, counts)
    elif options.explain:
        _print_rates(options, plan)
    else:
        _print_prices(options, sold, plan)
    return 0


def _print_call(options: argparse.Namespace, sold: Sold, counts: Mapping[str, int]) -> None:
    price = _price(options, sold, counts)
    if options.json:
        told = {**_named(options), "cost": money(price.cost), "source": price.source, "doubts": price.doubts}
        parts = [part._asdict() | {"rate": money(part.rate), "cost": money(part.cost)} for part in price.parts]
        print_json(told | ({"parts": parts} if options.explain else {}))
    elif options.explain:
        rows = [
            (part.unit, part.number, f"{money(part.rate)} per {part.per:,}", money(part.cost)) for part in price.parts
        ]
        print_table(("Unit", "Number", "Rate (USD)", "Cost (USD)"), rows)
        _print_notes({part.unit: part.note for part in price.parts})
        print(f"Together {money(price.cost)} USD, according to {price.source}.")
    else:
        print_table(("Model", "Cost (USD)", "According to"), [(options.model, money(price.cost), price.source)])
    _print_doubts(price.doubts)


def _print_rates(options: argparse.Namespace, plan: "Plan") -> None:
    rows = list(plan.rows())
    since, until = _day(plan.start), _day(plan.end)
    if options.json:
        rates = [row._asdict() | {"rate": money(row.rate)} for row in rows]
        told = {**_named(options), "source": plan.source, "since": since, "until": until}
        print_json({**told, "rates": rates, "doubts": plan.doubts})
    else:
        table = [
            (
                row.unit,
                f"{money(row.rate)} per {row.per:,}",
                f"{row.above_input_tokens:,}" if row.above_input_tokens else "",
            )
            for row in rows
        ]
        print_table(("Unit", "Rate (USD)", "Above input tokens"), table)
        _print_notes({row.unit: ". An estimate: ".join(filter(None, (row.note, row.doubt))) for row in rows})
        print(f"From {since or 'the beginning'} until {until or 'further notice'}, according to {plan.source}.")
    _print_doubts(plan.doubts)


def _print_prices(options: argparse.Namespace, sold: Sold, plan: "Plan") -> None:
    prices = {name: money(cost) for name, cost in _per_million(options, sold).items()}
    if options.json:
        print_json({**_named(options), "usd_per_million_tokens": prices, "doubts": plan.doubts})
    else:
        print_table((options.model, "USD per million tokens"), list(prices.items()))
    _print_doubts(plan.doubts)


def _print_notes(notes: Mapping[str, str]) -> None:
    for unit, note in notes.items():
        if note:
            print(f"{unit}: {note}.")


def _print_doubts(doubts: Sequence[str]) -> None:
    for doubt in doubts:
        print(f"token-handlers: this is an estimate: {doubt}", file=sys.stderr)


def _print_corrections(options: argparse.Namespace) -> int:
    rules = [rule for rule in _rules() if options.model is None or re.search(rule["models"], options.model.lower())]
    if options.provider:
        rules = [rule for rule in rules if rule["provider"] == provider_id(options.provider)]
    if options.json:
        print_json(rules)
        return 0
    for rule in rules:
        dates = "".join(f", {word} {rule[word]}" for word in ("from", "until") if rule[word])
        doubt = f" An estimate: {rule['doubt']}." if rule["doubt"] else ""
        print(f"{rule['provider']} {rule['models'] or 'any model'}: {rule['says']}{dates}. {rule['source']}.{doubt}")
    return 0


def _rules() -> list[dict[str, str]]:
    """Return what differs from genai-prices, or is added to it: rows, models, tiers and fees."""
    from token_handlers.pricing.adjustments import TIER_FACTORS
    from token_handlers.pricing.corrections import ADDITIONS, CORRECTIONS
    from token_handlers.pricing.fees import FEES

    def rule(provider: str, models: str, says: str, source: str, doubt: str = "", *days: date | None) -> dict[str, str]:
        since, until = (*map(_iso, days), "", "")[:2]
        told = {"provider": provider, "models": models, "says": says, "source": source, "doubt": doubt}
        return told | {"from": since, "until": until}

    return [
        *(
            rule(each.maker, each.models, each.says, each.source, each.doubt, each.since, each.until)
            for each in CORRECTIONS
        ),
        *(rule(each.seller, each.models, each.says, each.source) for each in ADDITIONS),
        *(rule(each.seller, each.models, each.says, each.source, each.doubt, each.since) for each in TIER_FACTORS),
        *(rule(each.seller, each.models, each.says, each.source, each.doubt, each.since, each.until) for each in FEES),
    ]


def _iso(day: date | None) -> str:
    return day.isoformat() if day else ""


def _named(options: argparse.Namespace) -> dict[str, object]:
    return {"model": options.model, "provider": options.provider}


def _per_million(options: argparse.Namespace, sold: Sold) -> dict[str, Decimal]:
    """Return the prices that differ from that of the whole which a token belongs to."""
    prices = {name: _sample(options, sold, **{f"{name}_tokens": SAMPLE}) for name in ("input", "output")}
    for option in PARTS:
        counts = {COUNTS[option][0]: SAMPLE}
        whole = "output" if "output" in option or option == "reasoning" else "input"
        counts[f"{whole}_tokens"] = SAMPLE
        if option == "cache-write-1h":
            whole = "cache-write"
            counts["cache_write_tokens"] = SAMPLE
        price = _sample(options, sold, **counts)
        if price != prices.get(whole, prices["input"]):
            prices[option] = price
    return prices


def _sample(options: argparse.Namespace, sold: Sold, **counts: int) -> Decimal:
    request = _price(options, sold, {"input_tokens": 0}).cost  # where it has a fee
    return (_price(options, sold, counts).cost - request) * (10**6 // SAMPLE)


def _price(options: argparse.Namespace, sold: Sold, counts: Mapping[str, int]) -> Price:
    with quiet_log() as warnings:
        price = price_call(
            counts,
            sold.model,
            sold.provider,
            base_url=options.base_url,
            service_tier=options.tier,
            at=_epoch(options),
            context=dict(options.context),
        )
    if price is None:
        raise TokenHandlersError(warnings[0] if warnings else f"no price is known for {options.model!r}")
    return price


def _epoch(options: argparse.Namespace) -> float | None:
    return None if options.at is None else options.at.timestamp()


def _check(counts: Mapping[str, int]) -> None:
    from pydantic import ValidationError

    from token_handlers.usage import Usage

    try:
        Usage(**counts)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise TokenHandlersError(f"these numbers can't be: {reason}") from None


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"KEY=VALUE, such as speed=fast, is not {text!r}")
    return key, value


def _date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a day, such as 2026-01-31, is not {text!r}") from None


def _day(epoch: float) -> str | None:
    if math.isinf(epoch):
        return None
    moment = datetime.fromtimestamp(epoch, UTC)
    return f"{moment:%Y-%m-%d}" if moment.hour == moment.minute == 0 else f"{moment:%Y-%m-%d %H:%M} UTC"
