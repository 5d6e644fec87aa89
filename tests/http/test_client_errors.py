import types

import pytest

from token_handlers.http.client_errors import NEVER_CONNECTED, status_of, was_sent


def error(*names, **attributes):
    """Return an error whose class and bases have these names, the first one its own."""
    kind: type[Exception] = Exception
    for name in reversed(names):
        kind = type(name, (kind,), {})
    made = kind()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("name", [*sorted(NEVER_CONNECTED), "SSLError", "TooManyRedirects"])
def test_errors_of_connecting(name):
    """A client that could not connect has sent nothing, whatever its error is called."""
    assert not was_sent(error(name))
    assert not was_sent(error("APIConnectionError", __cause__=error(name)))


@pytest.mark.parametrize(
    "broken",
    [
        error("ReadTimeout"),
        error("RemoteProtocolError"),
        error("IncompleteReadError"),
        error("DecodingError"),
        error("HTTPClientError", "BotoCoreError"),
        error("ResponseParserError", "BotoCoreError"),
        OSError("connection reset"),
        KeyboardInterrupt(),
    ],
    ids=lambda each: type(each).__name__,
)
def test_errors_after_the_sending(broken):
    """In doubt a request has reached its server."""
    assert was_sent(broken)


@pytest.mark.parametrize("own", [TypeError(), KeyError("a"), ValueError(), RuntimeError(), error("BotoCoreError")])
def test_errors_of_the_clients_own_code(own):
    """An error of a client's own code comes before the sending."""
    assert not was_sent(own)


def test_the_nearest_known_cause_counts():
    """An error is told by the first of its causes that is known: requests has them as arguments, urllib3 as reason."""
    refused = error("NewConnectionError")

    assert not was_sent(error("ConnectionError", args=(error("MaxRetryError", reason=refused),)))
    assert was_sent(error("DecodingError", __cause__=refused))


@pytest.mark.parametrize(
    ("failed", "status"),
    [
        (error("HTTPStatusError", response=types.SimpleNamespace(status_code=429)), 429),
        (error("ClientResponseError", status=503), 503),
        (error("ClientError", response={"ResponseMetadata": {"HTTPStatusCode": 400}}), 400),
        (error("ClientError", response={"Error": {}}), None),
        (error("ConnectionError", response=None), None),
        (error("ClientResponseError", status=0), None),
        (error("Odd", status="503"), None),
    ],
)
def test_the_status_in_an_error(failed, status):
    """The status of an answer is found in the error of any client, None without one."""
    assert status == status_of(failed)
