"""token-handlers demo: real clients against an embedded server."""

import argparse
import os

from pydantic import SecretStr

from token_handlers.cli.options import Commands, WrongUsage, add_json


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("demo", help="real clients against an embedded server, beside what it billed")
    parser.add_argument("--live", action="store_true", help="against OpenAI, with the key in OPENAI_API_KEY")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo."""
    from token_handlers.demo.run import run_demo

    if not options.live:
        return run_demo(as_json=options.json)
    key = os.environ.get("OPENAI_API_KEY")
    if not key:
        raise WrongUsage("demo --live needs an OpenAI key: set OPENAI_API_KEY")
    return run_demo(SecretStr(key), as_json=options.json)
