"""JSON bodies, decoded in as few steps as there are: a request and an answer of each call pass here."""

import json
from json.scanner import make_scanner

_SPACES = " \t\n\r"
_value_at = make_scanner(json.JSONDecoder())  # type: ignore[arg-type] # what `json.loads` comes to, by three calls


def load(data: bytes | bytearray) -> object:
    """Return the value that a body is, which is in UTF-8; None where it is no JSON."""
    try:
        text = data.decode().strip(_SPACES)
        value, end = _value_at(text, 0)
    except (ValueError, RecursionError, StopIteration):
        return None
    return value if end == len(text) else None
