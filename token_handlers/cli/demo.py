"""token-handlers demo: real clients against an embedded server."""

import argparse
import os

from pydantic import SecretStr

from token_handlers.cli.options import Commands, WrongUsage, add_json, quiet_log


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("demo", help="real clients against an embedded server, beside what it billed")
    parser.add_argument("--live", action="store_true", help="against OpenAI, with the key in OPENAI_API_KEY")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo."""
    from token_handlers.demo.run import run_demo

    key = os.environ.get("OPENAI_API_KEY") if options.live else None
    if options.live and not key:
        raise WrongUsage("demo --live needs an OpenAI key: set OPENAI_API_KEY")
    with quiet_log() as warnings:
        return run_demo(warnings, SecretStr(key) if key else None, as_json=options.json)
