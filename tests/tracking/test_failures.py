import asyncio

import aiohttp
import botocore.config
import botocore.session
import httpx
import httpx2
import openai
import pytest
import requests

from tests.support.answer_server import Reply
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


def _parse_payload():
    raise ValueError("no such message")


def _parse_dict_to_message():
    _get_request_payload()


@pytest.mark.parametrize("read", [_parse_payload, _parse_dict_to_message], ids=lambda function: function.__name__)
def test_what_reads_an_answer_is_after_the_sending(read):
    """A function that parses is not taken for one that makes a request, whatever is in its name or below it."""
    assert not was_rejected(raised(read))


def ask_by_httpx(url):
    """Ask by httpx."""
    httpx.post(url, json={})


def ask_by_httpx2(url):
    """Ask by httpx2."""
    httpx2.post(url, json={})


def ask_by_requests(url):
    """Ask by requests."""
    requests.post(url, json={}, timeout=5)


def ask_by_aiohttp(url):
    """Ask by aiohttp."""

    async def ask():
        async with aiohttp.ClientSession() as session:
            await session.post(url, json={})

    asyncio.run(ask())


def ask_by_botocore(url):
    """Ask by botocore."""
    client = botocore.session.get_session().create_client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=botocore.config.Config(retries={"max_attempts": 0}),
    )
    client.invoke_model(modelId="amazon.titan", body=b"{}")


CLIENTS = pytest.mark.parametrize(
    "ask",
    [ask_by_httpx, ask_by_httpx2, ask_by_requests, ask_by_aiohttp, ask_by_botocore],
    ids=lambda function: function.__name__,
)


def failing(function, url):
    """Return what a client raises."""
    try:
        function(url)
    except Exception as error:  # noqa: BLE001 - each client has errors of its own
        return error
    raise AssertionError("it was answered")


@CLIENTS
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://no.such.name.invalid"], ids=["refused", "unresolvable"])
def test_connections_that_never_stood(ask, url):
    """A refused connection and a name that nobody has are free, whichever client tried."""
    assert was_rejected(failing(ask, url))


@CLIENTS
def test_connections_that_were_dropped(ask, answers):
    """What was sent and never answered may have been billed, whichever client sent it."""
    answers.answer(Reply([], drops_at_once=True))

    assert not was_rejected(failing(ask, answers.url))


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
