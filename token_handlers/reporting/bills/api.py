"""A provider's API for costs and usage: pages by GET, bounded in time and size, with retries and no key in any text."""

import contextlib
import json
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from token_handlers.errors import TokenHandlersError
from token_handlers.reporting.bills.bill import fields_of
from token_handlers.sinks.agentsight.deadline import TimedExchange, limit
from token_handlers.sinks.agentsight.http import retry_after

if TYPE_CHECKING:
    import httpx

MAX_BODY = 16 * 2**20
"""Bytes of one answer that are read."""

MAX_PAGES = 1_000
"""How many pages one report may have."""

ANSWER_SECONDS, ALL_SECONDS = 60.0, 600.0
"""How long one answer may take, from connecting to the last byte, and all of them together."""

ATTEMPTS, BACKOFF, MAX_WAIT = 4, 0.5, 60.0
"""How often a request is made, how many seconds lie between the first two, and how long a server may ask to wait."""

Params = Sequence[tuple[str, str | int]]

_LOOPBACK = re.compile(r"localhost|127(?:\.\d+){3}|::1")
_MAX_DETAIL = 200


class BillUnavailable(TokenHandlersError):
    """The provider gave no bill; the message says why and what to do, and never shows the key.

    ``status`` is the HTTP status, None where there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class AdminKey:
    """The kind of key that a provider's bill needs: its name, its variable, how one begins, and where it is made."""

    name: str
    variable: str
    prefix: str
    made_at: str

    def remedy(self, key: SecretStr | None) -> str:
        """Return what to do where there is none, or another one."""
        needed = f"it needs {self.name}, made at {self.made_at}: set {self.variable}"
        if key is not None and not key.get_secret_value().startswith(self.prefix):
            return f"{self.variable} does not begin with {self.prefix}, so that it is another kind of key; {needed}"
        return needed


class BillAPI:
    """One provider's API, for one report."""

    def __init__(self, base_url: str, key: SecretStr, kind: AdminKey, headers: Mapping[str, str]) -> None:
        self._base_url = _checked_url(base_url)
        self._key, self._kind = key, kind
        self._headers = {"Accept-Encoding": "identity", **headers}  # what is packed may be of any size
        self._end = time.monotonic() + ALL_SECONDS

    def pages(self, path: str, params: Params, headers: Mapping[str, str] | None = None) -> Iterator[dict[str, object]]:
        """Yield the pages of a report, each of which names the next one."""
        with self._client(headers or {}) as (http, exchange):
            seen: set[str] = set()
            after: Params = ()
            while True:
                page = self._get(http, exchange, path, [*params, *after])
                yield page
                cursor = page.get("next_page")
                if not cursor or page.get("has_more") is False:
                    return
                if str(cursor) in seen or len(seen) >= MAX_PAGES:
                    raise BillUnavailable(f"{self._base_url} has pages without end: ask for fewer days with --since")
                seen.add(str(cursor))
                after = (("page", str(cursor)),)

    @contextlib.contextmanager
    def _client(self, headers: Mapping[str, str]) -> "Iterator[tuple[httpx.Client, TimedExchange]]":
        import httpx

        with httpx.Client(headers={**self._headers, **headers}, timeout=ANSWER_SECONDS) as http:
            yield http, limit(http)

    def _get(self, http: "httpx.Client", exchange: TimedExchange, path: str, params: Params) -> dict[str, object]:
        attempt = 0
        while True:
            attempt += 1
            exchange.end = min(time.monotonic() + ANSWER_SECONDS, self._end)
            answer = self._once(http, exchange, http.build_request("GET", self._base_url + path, params=list(params)))
            if not isinstance(answer, _Failure):
                return answer
            wait = answer.wait
            if wait is None:
                wait = BACKOFF * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)  # noqa: S311 (spreads clients)
            out_of_time = time.monotonic() + wait >= self._end
            if not answer.is_worth_a_retry or attempt == ATTEMPTS or wait > MAX_WAIT or out_of_time:
                raise BillUnavailable(answer.message, status=answer.status)
            time.sleep(wait)

    def _once(
        self, http: "httpx.Client", exchange: TimedExchange, request: "httpx.Request"
    ) -> "dict[str, object] | _Failure":
        import httpx

        try:
            response = http.send(request, stream=True)
            with contextlib.closing(response):
                body = exchange.read_body(response, MAX_BODY)
        except httpx.TimeoutException:
            return _Failure(f"{self._base_url} gave no whole answer within {ANSWER_SECONDS:g} s: try again later")
        except httpx.RequestError as error:
            reason = self._redacted(str(error)) or type(error).__name__
            return _Failure(f"{self._base_url} cannot be reached ({reason})", is_worth_a_retry=True)
        if response.is_success:
            return self._page(body)
        return self._refusal(response, body)

    def _page(self, body: bytes | None) -> "dict[str, object] | _Failure":
        if body is None:
            return _Failure(f"{self._base_url} sent more than {MAX_BODY // 2**20} MiB: ask for fewer days with --since")
        try:
            return dict(fields_of(json.loads(body, parse_float=Decimal), "the answer"))
        except (ValueError, RecursionError, TokenHandlersError):
            return _Failure(f"{self._base_url} did not answer with a page of a bill: check --base-url")

    def _refusal(self, response: "httpx.Response", body: bytes | None) -> "_Failure":
        status, wait = response.status_code, retry_after(response.headers.get("Retry-After"))
        told = f"{self._base_url} answered {status}"
        if status in (401, 403):  # what these say may show a part of the key
            return _Failure(f"{told}, so that the key is refused: {self._kind.remedy(self._key)}", status)
        if status == 429 or status >= 500:
            asked = "" if wait is None else f" and asks to wait {wait:.0f} s"
            return _Failure(f"{told}{asked}: try again later", status, wait, is_worth_a_retry=True)
        detail = self._redacted(_detail(body))
        return _Failure("; ".join(filter(None, (told, detail, "check --base-url and the dates"))), status)

    def _redacted(self, text: str) -> str:
        return text.replace(self._key.get_secret_value(), "(the key)")[:_MAX_DETAIL]


@dataclass(frozen=True, slots=True)
class _Failure:
    message: str
    status: int | None = None
    wait: float | None = None
    is_worth_a_retry: bool = False


def checked_key(key: SecretStr | None, kind: AdminKey, provider: str) -> SecretStr:
    """Return the key, or raise an error that names the one which is needed and shows none."""
    text = key.get_secret_value().strip() if key is not None else ""
    if not text:
        raise BillUnavailable(f"{provider}'s bill can't be read: {kind.remedy(None)}; or name an export with --file")
    if re.fullmatch(r"[!-~]+", text) is None:
        raise BillUnavailable(f"{kind.variable} holds a blank or a character that no key has: set it again")
    return SecretStr(text)


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise BillUnavailable("--base-url must be an address such as https://api.openai.com/v1, without a user name")
    if parts.scheme == "http" and _LOOPBACK.fullmatch(parts.hostname) is None:
        raise BillUnavailable(f"an admin key is not sent to {parts.hostname} unencrypted: write https://")
    return url.rstrip("/")


def _detail(body: bytes | None) -> str:
    """Return what an error's body says: OpenAI, Anthropic and OpenRouter have it at the same place."""
    try:
        error = json.loads(body or b"")["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
