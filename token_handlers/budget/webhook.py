"""Webhook: a budget's alerts as JSON, POSTed to a URL."""

import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

from pydantic import SecretStr

from token_handlers.budget.limits import UNITS, BudgetWarning, text
from token_handlers.lifecycle import BackgroundWriter

logger = logging.getLogger("token_handlers")

CAPACITY = 1_000
"""How many alerts wait at most; later ones are dropped."""

RETRIES = 3
"""How many times a connection that fails is tried again."""

TIMEOUT = 10.0
"""Seconds."""

_SLACK = "slack.com"


class Webhook:
    """Sends alerts from a background thread; no call waits for it. The URL, which may be a secret, is never shown."""

    def __init__(self, url: str) -> None:
        self._url = SecretStr(url)
        self._host = _host_of(url)
        self._writer: BackgroundWriter[BudgetWarning] = BackgroundWriter(
            self._send, name="token_handlers-alerts", capacity=CAPACITY, refused=self._refused
        )

    def __call__(self, warning: BudgetWarning) -> None:
        """Send an alert soon."""
        if not self._writer.put(warning):
            logger.warning("%d alerts to %s wait already: %s is dropped", CAPACITY, self._host, warning)

    def __repr__(self) -> str:
        return f"<Webhook {self._host}>"

    def flush(self, timeout: float | None = None) -> bool:
        """Return whether all alerts are sent; False when the time (seconds) is up."""
        return self._writer.flush(timeout)

    def payload(self, warning: BudgetWarning) -> dict[str, str]:
        """Return the JSON of an alert: names and numbers, or Slack's text where the host is Slack's."""
        if self._host == _SLACK or self._host.endswith("." + _SLACK):
            return {"text": _sentence(warning)}
        return {
            "scope": warning.scope,
            "limit": warning.limit,
            "maximum": text(warning.maximum),
            "spent": text(warning.spent),
            "message": _sentence(warning),
        }

    def _send(self, warnings: Sequence[BudgetWarning]) -> None:
        import httpx

        limits = httpx.Timeout(TIMEOUT).as_dict()
        with httpx.HTTPTransport(retries=RETRIES) as transport:  # a client would log the URL
            for warning in warnings:
                url, payload = self._url.get_secret_value(), self.payload(warning)
                response = transport.handle_request(
                    httpx.Request("POST", url, json=payload, extensions={"timeout": limits})
                )
                response.close()
                if not response.is_success:
                    raise httpx.HTTPError(f"HTTP status {response.status_code}")

    def _refused(self, warning: BudgetWarning, error: Exception) -> None:
        problem = str(error) if str(error).startswith("HTTP status") else type(error).__name__
        logger.warning("an alert was not sent to %s (%s): %s", self._host, problem, _sentence(warning))


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise ValueError("on_warning must be a function of one argument, or a URL such as 'https://example.com/alerts'")
    return host


def _sentence(warning: BudgetWarning) -> str:
    unit = UNITS.get(warning.limit, "")
    spent, maximum = text(warning.spent), text(warning.maximum)
    return f"{warning.scope} has spent {spent} of {warning.limit}={maximum}{unit}"
