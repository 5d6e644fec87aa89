"""token-handlers guide: the pages that the warnings point to, the recipes, and a Grafana dashboard."""

import argparse

from token_handlers import guide
from token_handlers.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("guide", help="why a count is zero, estimated or different; recipes; a dashboard")
    parser.add_argument(
        "page",
        nargs="?",
        default="why",
        choices=(*guide.PAGES, *guide.DASHBOARDS),
        help="%(choices)s, which is a dashboard as JSON (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a page."""
    print(guide.page(options.page))
    return 0
