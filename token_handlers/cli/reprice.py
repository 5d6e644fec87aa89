"""token-handlers reprice: today's prices, or one's own, for the calls of the past."""

import argparse
import itertools
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from token_handlers.cli.options import (
    Commands,
    add_json,
    add_ledger,
    add_window,
    open_ledger,
    print_json,
    shown,
    use_newest_prices,
)
from token_handlers.counter.tables import money
from token_handlers.errors import TokenHandlersError
from token_handlers.pricing.calculator import set_price
from token_handlers.pricing.price import Price
from token_handlers.pricing.recorded import price_again
from token_handlers.reporting.amounts import counted
from token_handlers.usage import UsageRecord

if TYPE_CHECKING:
    from token_handlers.sinks.sql.ledger import SQLSink


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "reprice",
        help="price the calls in the ledger again",
        description="Price past calls by the table of prices that is installed, as of the day of each call, or by "
        "prices of your own, each at the tier, place, speed and fees at which it was served. What the provider "
        "reported stays, and what has no price stays as it is. What the prompt cache saved is worked out again too.",
    )
    add_ledger(parser)
    add_window(parser)
    parser.add_argument("--prices", metavar="FILE", type=Path, help='JSON: {"MODEL": {"input_mtok": 1, ...}, ...}')
    parser.add_argument("--unpriced", action="store_true", help="only calls whose cost is unknown")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Price the calls again, and print what that changed."""
    use_newest_prices()
    if options.prices is not None:
        _set_prices(options.prices)
    window = {"since": options.since, "until": options.until}
    with open_ledger(options, read_only=options.dry_run) as ledger:
        before = ledger.totals(**window).cost
        if options.dry_run:
            seen, changed, after = _try(ledger, options)
        else:
            seen, changed = ledger.update_costs(_pricer(options), **window)
            after = ledger.totals(**window).cost
    if options.json:
        costs = {"cost_before": _json_money(before), "cost_after": _json_money(after)}
        print_json({"seen": seen, "changed": changed, "dry_run": options.dry_run, **costs})
    else:
        change = "would change" if options.dry_run else "changed"
        print(f"{counted(seen, 'call')} seen, {changed:,} {change}: {money(before)} USD -> {money(after)} USD.")
    return 0


def _pricer(options: argparse.Namespace) -> Callable[[UsageRecord], Price | None]:
    ticks = shown(itertools.repeat(None), "calls")

    def price(record: UsageRecord) -> Price | None:
        next(ticks)
        return None if options.unpriced and _cost_of(record) is not None else price_again(record)

    return price


def _try(ledger: "SQLSink", options: argparse.Namespace) -> tuple[int, int, Decimal | None]:
    """Return what `update_costs` would: the calls seen, how many would change, and the sum after that."""
    from token_handlers.sinks.sql.rows import repriced, usd

    price, seen, changed = _pricer(options), 0, 0
    after = ledger.totals(since=options.since, until=options.until).cost
    for record in ledger.records(since=options.since, until=options.until):
        seen += 1
        change = repriced(record, price(record))
        changed += bool(change)
        if "cost_nano" in change:
            cost = usd(int(change["cost_nano"] or 0), int(change["cost_atto"] or 0))
            after = (after or Decimal(0)) - (record.cost or Decimal(0)) + cost
    return seen, changed, after


def _cost_of(record: UsageRecord) -> Decimal | None:
    return record.saved_cost if record.outcome == "cached" else record.cost


def _set_prices(path: Path) -> None:
    try:
        table = json.loads(path.read_text("utf-8"), parse_float=Decimal)
        for model, prices in table.items():
            set_price(model, **prices)
    except OSError as error:
        raise TokenHandlersError(f"can't read {path}: {error.strerror}: name a file with --prices") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise TokenHandlersError(
            f'{path} has no prices: {error}: write {{"MODEL": {{"input_mtok": 0.5, "output_mtok": 1.5}}}}'
        ) from None


def _json_money(cost: Decimal | None) -> str | None:
    return None if cost is None else money(cost)
