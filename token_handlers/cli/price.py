"""token-handlers price: what a model costs, or what a call of it would."""

import argparse
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from token_handlers.cli.options import Commands, add_json, print_json, print_table, quiet_log
from token_handlers.counter.tables import money
from token_handlers.errors import TokenHandlersError
from token_handlers.pricing.calculator import Price, price_call

COUNTS = {
    "input": ("input_tokens", "prompt tokens, with the cached ones"),
    "output": ("output_tokens", "completion tokens, with reasoning"),
    "cached": ("cache_read_tokens", "prompt tokens read from the cache"),
    "cache-write": ("cache_write_tokens", "prompt tokens written into the cache"),
    "reasoning": ("reasoning_tokens", "completion tokens that are reasoning"),
    "input-audio": ("input_audio_tokens", "prompt tokens that are audio"),
    "output-audio": ("output_audio_tokens", "completion tokens that are audio"),
}
"""Option -> what it counts."""

SAMPLE = 1000
"""Tokens by which a price per million is found: few enough for the lowest tier."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "price",
        help="what a model costs",
        description="USD per million tokens, or, with numbers of tokens, what a call costs.",
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--provider", metavar="NAME", help="whose model it is, where that is not plain")
    parser.add_argument("--tier", metavar="NAME", help="the service tier, such as batch, flex or priority")
    parser.add_argument("--at", type=_date, metavar="DATE", help="as of a day (default: today)")
    for option, (name, text) in COUNTS.items():
        parser.add_argument(f"--{option}", dest=name, type=_count, metavar="N", help=text)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the price."""
    counts = {name: number for name, _ in COUNTS.values() if (number := getattr(options, name)) is not None}
    _check(counts)
    found = {"model": options.model, "provider": options.provider}
    if counts:
        price = _price(options, counts)
        if options.json:
            print_json({**found, "cost": money(price.cost), "source": price.source})
        else:
            print_table(("Model", "Cost (USD)", "According to"), [(options.model, money(price.cost), price.source)])
        return 0
    prices = {name: money(cost) for name, cost in _per_million(options).items()}
    if options.json:
        print_json({**found, "usd_per_million_tokens": prices})
    else:
        print_table((options.model, "USD per million tokens"), list(prices.items()))
    return 0


def _per_million(options: argparse.Namespace) -> dict[str, Decimal]:
    """Return the prices that differ from that of the whole which a token belongs to."""
    prices = {"input": _sample(options, input_tokens=SAMPLE), "output": _sample(options, output_tokens=SAMPLE)}
    for option in ("cached", "cache-write", "reasoning", "input-audio", "output-audio"):
        whole = "output" if option in ("reasoning", "output-audio") else "input"
        price = _sample(options, **{f"{whole}_tokens": SAMPLE, COUNTS[option][0]: SAMPLE})
        if price != prices[whole]:
            prices[option] = price
    return prices


def _sample(options: argparse.Namespace, **counts: int) -> Decimal:
    return _price(options, counts).cost * (10**6 // SAMPLE)


def _price(options: argparse.Namespace, counts: Mapping[str, int]) -> Price:
    with quiet_log() as warnings:
        price = price_call(
            counts,
            options.model,
            options.provider,
            service_tier=options.tier,
            at=None if options.at is None else options.at.timestamp(),
        )
    if price is None:
        provider = f" of {options.provider}" if options.provider else ""
        raise TokenHandlersError(
            f"no price is known for {options.model!r}{provider}: check the name, or name its provider with --provider"
        )
    for warning in warnings:
        print(f"token-handlers: {warning}", file=sys.stderr)
    return price


def _check(counts: Mapping[str, int]) -> None:
    from pydantic import ValidationError

    from token_handlers.usage import Usage

    try:
        Usage(**counts)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise TokenHandlersError(f"these numbers can't be: {reason}") from None


def _count(text: str) -> int:
    digits = text.replace(",", "").replace("_", "")
    if not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"a number of tokens, such as 1500, is not {text!r}")
    return int(digits)


def _date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a day, such as 2026-01-31, is not {text!r}") from None
