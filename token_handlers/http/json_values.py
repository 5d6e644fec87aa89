"""JSON bodies, decoded in as few steps as possible: each call has one of a request and one of an answer."""

import json
from json.scanner import make_scanner

_SPACES = " \t\n\r"
_value_at = make_scanner(json.JSONDecoder())  # type: ignore[arg-type] # what `json.loads` calls in the end


def load(data: bytes | bytearray) -> object:
    """Return the value of a JSON body in UTF-8; None where it is not JSON, or is null."""
    try:
        text = data.decode().strip(_SPACES)
        value, end = _value_at(text, 0)
    except (ValueError, RecursionError, StopIteration):
        return None
    return value if end == len(text) else None
