"""The command line: token-handlers and its commands, each a module of its own."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import NoReturn

from token_handlers.cli.options import WrongUsage, check_window
from token_handlers.errors import TokenHandlersError

COMMANDS = (
    *("run", "report", "sessions", "reconcile", "price", "prices", "estimate", "ingest", "export", "reprice"),
    *("doctor", "guide", "demo"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 where it says so, 2 for wrong usage; an error is one line."""
    options = _parser().parse_args(arguments)
    try:
        if hasattr(options, "since"):
            check_window(options)
        status = int(options.run(options))
        sys.stdout.flush()
    except TokenHandlersError as error:
        print(f"token-handlers: {error}", file=sys.stderr)
        return 2 if isinstance(error, WrongUsage) else 1
    except BrokenPipeError:  # `| head` has seen enough; what Python would flush at the end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        sys.excepthook = _say_nothing  # the interpreter ends the process as SIGINT does, without a traceback
        raise
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="token-handlers", description="What LangChain and LlamaIndex calls used and cost.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version, and end")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"token_handlers.cli.{name}").add_parser(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser that asks "did you mean" where a command, a choice or an option is misspelt."""

    def error(self, message: str) -> NoReturn:
        options = self._all_options()
        typed = [word for word in re.findall(r"--[\w-]+", message) if word not in options]
        choice = re.search(r"invalid choice: '(?P<typed>[^']*)' \(choose from (?P<known>.*)\)", message)
        if choice is not None:
            typed, options = [choice["typed"]], re.findall(r"\w[\w-]*", choice["known"])
        close = [match for word in typed for match in difflib.get_close_matches(word, options, n=1)]
        super().error(f"{message}; did you mean {' or '.join(close)}?" if close else message)

    def _all_options(self) -> list[str]:
        """Return the long options of this parser and its commands."""
        parsers = [self, *(parser for action in self._actions for parser in _commands(action))]
        return [name for parser in parsers for name in parser._option_string_actions if name.startswith("--")]  # noqa: SLF001


def _commands(action: argparse.Action) -> list[argparse.ArgumentParser]:
    return list(action.choices.values()) if isinstance(action.choices, dict) else []


class _Version(argparse.Action):
    """Look the version up where it is asked for: the metadata takes time to read, and not everybody may."""

    def __call__(self, parser: argparse.ArgumentParser, *told: object) -> NoReturn:
        print(f"token-handlers {version('token-handlers')}")
        parser.exit()


def _say_nothing(*error: object) -> None:
    return
