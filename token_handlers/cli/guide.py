"""token-handlers guide: the pages that the warnings point to, and the recipes."""

import argparse

from token_handlers import guide
from token_handlers.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("guide", help="why a count is zero, estimated or different; and recipes")
    parser.add_argument(
        "page", nargs="?", default="why", choices=guide.PAGES, help="%(choices)s (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a page."""
    print(guide.page(options.page))
    return 0
