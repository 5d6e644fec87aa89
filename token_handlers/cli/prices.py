"""token-handlers prices: how old the price table is, and a newer one where that is asked for."""

import argparse
from datetime import UTC, datetime

from token_handlers.cli.options import Commands, WrongUsage, add_json, print_json
from token_handlers.errors import TokenHandlersError

ACTIONS = ("update", "forget")


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "prices",
        help="how old the price table is; `prices update` fetches a newer one",
        description="Say which price table is used here, and how old it is by its newest rate. `update` fetches the "
        "one that genai-prices publishes, and keeps it for this user: other commands use it from then on, and programs "
        "with AGENTSIGHT_TOKEN_PRICES=auto or install(update_prices=True). A table that can't be read, is older, or "
        "lacks known models is refused, and nothing changes. `forget` deletes the table that was kept.",
    )
    parser.add_argument("action", nargs="?", choices=ACTIONS, help="fetch a newer table, or delete the kept one")
    parser.add_argument("--url", metavar="URL", help="an https URL of a table in the same form, such as a mirror's")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do what is asked for, and say which table is used."""
    from token_handlers.pricing import updates
    from token_handlers.pricing.freshness import current_table, fetched_at, kept_path

    today = datetime.now(UTC).date()
    if options.url is not None and options.action != "update":
        raise WrongUsage("--url is where a table is fetched from: token-handlers prices update --url URL")
    if options.action == "forget":
        try:
            updates.forget_kept()
        except OSError as error:
            raise TokenHandlersError(f"{kept_path()} can't be deleted: {error.strerror}") from error
    else:
        updates.use_kept()
    before = current_table(today)
    if options.action == "update":
        try:
            updates.update(options.url)
        except ValueError as error:
            raise WrongUsage(str(error)) from None
    table = current_table(today)
    if options.json:
        kept = fetched_at()
        told = {"kept_at": None if kept is None else kept.isoformat(timespec="seconds"), "path": str(kept_path())}
        print_json({**table.as_json(today), "models": table.models, **told})
        return 0
    if options.action == "update":
        print(f"{table.models:,} models ({before.models:,} before), kept in {kept_path()}")
    print(f"{table.says(today)}.")
    return 0
