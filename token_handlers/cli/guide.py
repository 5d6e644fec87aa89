"""token-handlers guide: the pages that the warnings point to, the recipes, and a Grafana dashboard."""

import argparse
import re
import shutil
import sys
import textwrap

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
    text = guide.page(options.page)
    if options.page in guide.PAGES and sys.stdout.isatty():
        text = _folded(text, shutil.get_terminal_size().columns)
    print(text)
    return 0


_ITEM = re.compile(r"[-*] |\d+\. ")
_AS_IT_IS = "#", "|", "```"  # a heading, a table's row, the two ends of code


def _folded(page: str, columns: int) -> str:
    """Return a page with its paragraphs in lines of so many columns; headings, tables and code stay as they are."""
    lines: list[str] = []
    paragraph: list[str] = []
    is_code = False
    for line in [*page.splitlines(), ""]:
        text = line.strip()
        is_code ^= text.startswith("```")
        is_apart = is_code or not text or text.startswith(_AS_IT_IS)
        if is_apart or _ITEM.match(text):
            lines += _filled(paragraph, columns)
            paragraph = []
        (lines if is_apart else paragraph).append(line)
    return "\n".join(lines)


def _filled(paragraph: list[str], columns: int) -> list[str]:
    """Return a paragraph's lines, those of a list's item below its text."""
    text = " ".join(line.strip() for line in paragraph)
    first = "".join(paragraph[:1])
    margin, item = " " * (len(first) - len(first.lstrip())), _ITEM.match(text)
    hanging = " " * len(item[0]) if item else ""
    return textwrap.wrap(
        text,
        columns,
        initial_indent=margin,
        subsequent_indent=margin + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
