"""Text that a store can't hold, as text that it can, and back.

A NUL ends a text in SQLite, and half of a surrogate pair is no UTF-8: such a character is written as the escape
character and four hexadecimal digits, and so is the escape character itself. Labels that differ stay different.
"""

import re

ESCAPE = "\u241b"  # the symbol for escape

_UNSTORABLE = re.compile(f"[\0\ud800-\udfff{ESCAPE}]")
_ESCAPED = re.compile(f"{ESCAPE}([0-9a-f]{{4}})")


def escaped(text: str) -> str:
    """Return a text as a store holds it."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub(lambda found: f"{ESCAPE}{ord(found[0]):04x}", text)


def unescaped(text: str) -> str:
    """Return a text as it was before `escaped`."""
    return text if text.isascii() else _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
