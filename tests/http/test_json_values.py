import json

import pytest

from token_handlers.http.json_values import load


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "é"]}, [], "text", 7, None])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_the_value_of_a_body(value, kind):
    """A body is its JSON value, with or without blanks around it."""
    body = json.dumps(value, ensure_ascii=False).encode()

    assert value == load(kind(body)) == load(kind(b" \r\n\t" + body + b"\n"))


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b"<html>", b"{} {}", b"[1,]", b'{"a": 1}x', b"\xff", b"\xef\xbb\xbf{}", b"[" * 100_000],
    ids=["empty", "blank", "cut", "html", "two", "comma", "rest", "not UTF-8", "BOM", "deep"],
)
def test_what_is_no_json(body):
    """A body that is not one JSON value is None."""
    assert None is load(body)
