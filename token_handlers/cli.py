"""The command line: token-handlers demo."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pydantic import SecretStr

from token_handlers.errors import TokenHandlersError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 where it says so, 2 for wrong usage; an error is one line."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except TokenHandlersError as error:
        print(f"token-handlers: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="token-handlers", description="What LangChain and LlamaIndex calls used and cost."
    )
    parser.add_argument("--version", action="version", version=f"token-handlers {version('token-handlers')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo = commands.add_parser("demo", help="real clients against an embedded server, beside what it billed")
    demo.add_argument("--live", action="store_true", help="against OpenAI, with the key in OPENAI_API_KEY")
    demo.set_defaults(run=_demo)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from token_handlers.demo.run import run_demo

    if not options.live:
        return run_demo()
    key = os.environ.get("OPENAI_API_KEY")
    if not key:
        print("token-handlers: demo --live needs an OpenAI key: set OPENAI_API_KEY", file=sys.stderr)
        return 2
    return run_demo(SecretStr(key))
