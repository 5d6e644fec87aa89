"""What the tests of the guide and the README have in common: the pages' headings, blocks and tables."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "token_handlers" / "guide"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(text, kind="python"):
    """Return the code blocks of one language."""
    return [code for language, code in _BLOCK.findall(text) if language == kind]


def sections(text):
    """Return the text under each heading of the second level or below, up to the next heading."""
    parts = re.split(r"^##+ (.*)\n", _without_code(text), flags=re.MULTILINE)
    return dict(zip(parts[1::2], (_with_code(part) for part in parts[2::2]), strict=True))


def rows(text):
    """Return a table's rows, each a list of cells without the blanks around them; the header is the first."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cells[0], *cells[2:]]


def _without_code(text):
    # a comment in a code block is no heading
    return _BLOCK.sub(lambda match: match[0].replace("\n#", "\n\0#"), text)


def _with_code(text):
    return text.replace("\0", "")
