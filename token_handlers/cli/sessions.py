"""token-handlers sessions: what each session used and cost."""

from token_handlers.cli import report
from token_handlers.cli.options import Commands, add_json, add_ledger, add_top, add_window


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("sessions", help="what each session used and cost, the most expensive first")
    add_ledger(parser)
    add_window(parser)
    add_top(parser, "sessions")
    report.add_cache(parser)
    add_json(parser)
    parser.set_defaults(run=report.run, by="session", html=None)
