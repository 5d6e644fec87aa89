"""token-handlers doctor: what is installed, what is tracked, where records go, and why a count may be zero."""

import argparse
import textwrap

from token_handlers.cli.options import Commands, add_json, add_ledger, print_json
from token_handlers.errors import WHY

REASONS = (
    "Nothing is tracked: no `with track_tokens()`, no handler in a callbacks list, and not `token-handlers run`.",
    "AGENTSIGHT_TOKEN_HANDLER_TYPE is set, but nothing reads it: `import token_handlers.auto` does.",
    "The calls go past LangChain, LlamaIndex and HTTP, such as by gRPC, by a websocket or to a model in the process.",
    "The calls are made in another process, which a block does not count: `token-handlers run` does.",
    "The calls began before the block was entered, or in a thread that was started before it.",
)


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor", help="what is installed and tracked, where records go, and why a count may be zero"
    )
    add_ledger(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what is found, and return 1 if there is a problem."""
    from token_handlers.cli import findings

    name = findings.ledger_name(options.ledger)
    versions, seen = findings.versions(), findings.environment()
    found = [
        *findings.on_frameworks(versions),
        *findings.on_trials(versions),
        *findings.on_answers(),
        *findings.on_unseen(),
        *findings.on_tracking(versions),
        *findings.on_prices(),
        *findings.on_ledger(name),
        *findings.on_fleet(),
    ]
    problems = [text for problem, text in found if problem]
    notes = [text for problem, text in found if not problem]
    if options.json:
        print_json({"versions": versions, "environment": seen, "notes": notes, "problems": problems})
    else:
        _print(versions, seen, notes, problems)
    return 1 if problems else 0


def _print(versions: dict[str, str | None], seen: dict[str, str], notes: list[str], problems: list[str]) -> None:
    width = max(map(len, versions))
    _print_part("Installed", [f"{name.ljust(width)}  {version or '-'}" for name, version in versions.items()])
    _print_part("Environment", [f"{name}={value}" for name, value in seen.items()] or ["no variable of ours is set"])
    _print_part("Tracking and records", notes)
    _print_part("Problems", problems or ["none"])
    _print_part("Why a count may be zero", [*(f"- {reason}" for reason in REASONS), f"All causes and remedies: {WHY}"])


def _print_part(title: str, lines: list[str]) -> None:
    print(f"{title}\n" + "".join(f"  {part}\n" for line in lines for part in _folded(line)))


def _folded(line: str) -> list[str]:
    return textwrap.wrap(line, 78, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
