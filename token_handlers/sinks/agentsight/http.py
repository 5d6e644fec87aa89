"""POST requests to AgentSight's HTTP API, with retries and errors that say what to do."""

import contextlib
import email.utils
import functools
import json
import random
import re
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import SecretStr

from token_handlers.errors import TokenHandlersError
from token_handlers.sinks.agentsight.deadline import TimedExchange, limit

if TYPE_CHECKING:
    import ssl

    import httpx

MAX_WAIT = 30.0
"""Seconds that one send waits at most between two attempts; a server that asks for more is asked by the next send."""

MAX_BODY = 2**20
"""Bytes of an answer that are read; AgentSight's have a hundred."""

_KEY = re.compile(r"ags_[0-9a-f]{32}_[0-9a-f]{6}", re.IGNORECASE)
_ENDPOINT = re.compile(r"https?://(\[[0-9a-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?(/[!-~]*)?", re.IGNORECASE)
_REMEDIES = {401: "check the API key", 403: "check the API key", 404: "check the endpoint"}
_MAX_DETAIL = 200


class SendFailed(TokenHandlersError):
    """Counts were not delivered; they are kept, and the next send delivers them.

    ``status`` is the HTTP status, None where there was no answer; ``retry_after`` is in seconds, where the server says.
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def checked_key(api_key: str | SecretStr, name: str = "api_key") -> SecretStr:
    """Return an API key, or raise an error that does not show it."""
    key = SecretStr(api_key) if isinstance(api_key, str) else api_key
    if not isinstance(key, SecretStr):
        raise TypeError(f"{name} must be a string, not {type(api_key).__name__}")
    if _KEY.fullmatch(key.get_secret_value()) is None:
        raise ValueError(f"{name} is no AgentSight API key: one is 'ags_', 32 hex digits, '_' and 6 hex digits")
    return key


def checked_endpoint(endpoint: str, name: str = "endpoint") -> str:
    """Return the address under which the API's paths are, without a slash at its end."""
    if not isinstance(endpoint, str):
        raise TypeError(f"{name} must be a string, not {endpoint!r}")
    if "@" in endpoint:
        raise ValueError(f"{name} must not hold a user name or a password")
    if _ENDPOINT.fullmatch(endpoint) is None:
        raise ValueError(f"{name} must be an address such as 'https://api.agentsight.io', not {endpoint!r}")
    return endpoint.rstrip("/")


class Wire:
    """The API at one endpoint, for one key."""

    def __init__(self, key: SecretStr, endpoint: str, timeout: float, retries: int, backoff: float) -> None:
        self._key = key
        self._endpoint = endpoint
        self._timeout = timeout
        self._retries = retries
        self._backoff = backoff
        self._exchanges: weakref.WeakKeyDictionary[httpx.Client, TimedExchange] = weakref.WeakKeyDictionary()

    def connect(self) -> "httpx.Client":
        """Return a client for one send: no connection outlives it, or is shared with a forked process."""
        import httpx  # slow to import, and few processes send

        headers = {"Authorization": f"Api-Key {self._key.get_secret_value()}", "Content-Type": "application/json"}
        headers["Accept-Encoding"] = "identity"  # what is packed may be of any size
        return httpx.Client(headers=headers, timeout=self._timeout, verify=_certificates())

    def post(
        self,
        http: "httpx.Client",
        path: str,
        body: Mapping[str, object],
        event_id: str | None = None,
        end: float | None = None,
    ) -> Mapping[str, object]:
        """Return what the server answers, or raise SendFailed.

        429, 5xx and dropped connections are tried again; a time-out is not, as it has taken its time. Each exchange,
        from connecting to the last byte, has ``timeout`` seconds, and none goes on after ``end`` (time.monotonic).
        """
        headers = {"Idempotency-Key": event_id} if event_id is not None else {}
        attempt = 0
        while True:
            request = http.build_request("POST", self._endpoint + path, json=body, headers=headers)
            answer = self._once(http, request, end)
            if not isinstance(answer, SendFailed):
                return answer
            wait = answer.retry_after
            if wait is None:
                wait = self._backoff * 2**attempt * random.uniform(0.75, 1.25)  # noqa: S311 (spreads clients)
            too_late = end is not None and time.monotonic() + wait >= end
            if attempt >= self._retries or wait > MAX_WAIT or too_late or not _worth_a_retry(answer):
                raise answer
            time.sleep(wait)
            attempt += 1

    def created(self, answer: Mapping[str, object]) -> int:
        """Return the id in an answer."""
        number = answer.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise SendFailed(f"{self._endpoint} gave the conversation no id: check the endpoint; {_KEPT}", status=200)
        return number

    def _once(
        self, http: "httpx.Client", request: "httpx.Request", end: float | None
    ) -> "Mapping[str, object] | SendFailed":
        import httpx

        exchange = self._exchange(http)
        exchange.end = time.monotonic() + self._timeout
        if end is not None:
            exchange.end = min(exchange.end, end)
        try:
            response = http.send(request, stream=True)
            with contextlib.closing(response):
                body = exchange.read_body(response, MAX_BODY)
        except httpx.RequestError as error:
            failure = SendFailed(f"{self._endpoint} cannot be reached ({_reason(error)}): {_KEPT}")
            failure.__cause__ = error
            return failure
        return self._answer(response, body) if response.is_success else self._refusal(response, body)

    def _answer(self, response: "httpx.Response", body: bytes | None) -> "Mapping[str, object] | SendFailed":
        """Return what is in an answer; one that AgentSight does not give is a failure, such as a login page's."""
        answer = {} if body == b"" else _json(body)
        if isinstance(answer, Mapping):
            return answer
        message = f"{self._endpoint} did not answer as AgentSight does: check the endpoint; {_KEPT}"
        return SendFailed(message, status=response.status_code)

    def _exchange(self, http: "httpx.Client") -> TimedExchange:
        exchange = self._exchanges.get(http)
        if exchange is None:
            exchange = self._exchanges[http] = limit(http)
        return exchange

    def _refusal(self, response: "httpx.Response", body: bytes | None) -> SendFailed:
        status, wait = response.status_code, retry_after(response.headers.get("Retry-After"))
        remedy = _REMEDIES.get(status, "" if wait is None else f"asks to wait {wait:.0f} s")
        parts = f"{self._endpoint} answered {status}", self._detail(body), remedy, _KEPT
        return SendFailed("; ".join(filter(None, parts)), status=status, retry_after=wait)

    def _detail(self, body: bytes | None) -> str:
        answer = _json(body)
        if not isinstance(answer, Mapping):
            return ""
        detail = answer.get("detail", answer)
        text = str(detail).replace(self._key.get_secret_value(), "(the API key)")
        return text[:_MAX_DETAIL]


_KEPT = "the counts are kept for the next send"


@functools.cache
def _certificates() -> "ssl.SSLContext":
    import httpx

    return httpx.create_ssl_context()


def _worth_a_retry(failure: SendFailed) -> bool:
    import httpx

    if failure.status is None:
        return not isinstance(failure.__cause__, httpx.TimeoutException)
    return failure.status == 429 or failure.status >= 500


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _json(body: bytes | None) -> object:
    try:
        answer: object = json.loads(body or b"")
        repr(answer)  # which nests as deep
    except (ValueError, RecursionError):
        return None
    return answer


def retry_after(value: str | None) -> float | None:
    """Return the seconds that the header says, which is a number or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
