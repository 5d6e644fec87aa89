import asyncio

import httpx
import openai
import pytest

from token_handlers.errors import BudgetExceeded
from token_handlers.tracking.failures import was_rejected, was_stopped

REQUEST = httpx.Request("POST", "http://127.0.0.1")


def openai_error(kind, cause):
    """Return an SDK's error, raised from another one."""
    error = kind(request=REQUEST)
    error.__cause__ = cause
    return error


class BotocoreError(Exception):
    """An error as botocore makes it."""

    response = {"ResponseMetadata": {"HTTPStatusCode": 429}}  # noqa: RUF012


class StatusError(Exception):
    """An error that has a status, as most SDKs' have."""

    status_code = 503


def _get_request_payload():
    raise ValueError("no such message")


def _parse_response():
    raise ValueError("no such field")


def raised(function):
    """Return the error that a function raises, with its traceback."""
    try:
        function()
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        openai.RateLimitError("", response=httpx.Response(429, request=REQUEST), body=None),
        StatusError(),
        BotocoreError(),
        httpx.ConnectError("refused"),
        openai_error(openai.APIConnectionError, httpx.ConnectError("refused")),
        openai_error(openai.APITimeoutError, httpx.ConnectTimeout("no answer")),
        ConnectionRefusedError(),
        TypeError("create() got an unexpected keyword argument 'colour'"),
        NotImplementedError(),
        raised(_get_request_payload),
    ],
    ids=repr,
)
def test_rejected(error):
    """A status of 4xx or 5xx, a connection that never stood, and an error while the request was made."""
    assert was_rejected(error)


@pytest.mark.parametrize(
    "error",
    [
        GeneratorExit(),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        TimeoutError(),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("dropped"),
        openai_error(openai.APITimeoutError, httpx.ReadTimeout("slow")),
        openai_error(openai.APIConnectionError, httpx.RemoteProtocolError("dropped")),
        raised(_parse_response),
        ValueError("out of nowhere"),
    ],
    ids=repr,
)
def test_interrupted(error):
    """A stop, a time-out, a dropped connection, and an answer that the client does not understand, are billed."""
    assert not was_rejected(error)


def test_errors_in_a_circle():
    """Errors that are each other's cause end."""
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one

    assert not was_rejected(one)


def on_event_start():
    """Fail as a user's callback handler does."""
    raise ValueError("no")


def test_stopped():
    """A budget, or a handler that raises where an event starts, keeps a call from being sent; what fails later not."""
    stopped = BudgetExceeded("no"), raised(on_event_start)

    assert (True, True) == tuple(map(was_stopped, stopped))
    assert (False, False, False) == tuple(map(was_stopped, (None, raised(_parse_response), ValueError())))
