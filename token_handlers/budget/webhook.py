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
"""How many times an alert is sent again after a lost connection, or a server's answer that it can't take it now."""

_LATER = (408, 425, 429)
"""HTTP statuses below 500 that ask for another try."""

TIMEOUT = 10.0
"""Seconds."""

_SLACK = "slack.com"


class AlertRejected(Exception):
    """A server did not take an alert."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


class Webhook:
    """Sends alerts from a background thread; no call waits for it. The URL, which may be a secret, is never shown."""

    def __init__(self, url: str) -> None:
        self._url = SecretStr(url)
        self._host = _host_of(url)
        self._tries = 0
        self._writer: BackgroundWriter[BudgetWarning] = BackgroundWriter(
            self._send,
            name="token_handlers-alerts",
            capacity=CAPACITY,
            refused=self._refused,
            passes=self._may_be_sent_again,
        )

    def __call__(self, warning: BudgetWarning) -> None:
        """Send an alert soon."""
        if not self._writer.put(warning):
            logger.warning("%d alerts to %s wait already: %s is dropped", CAPACITY, self._host, warning)

    def __repr__(self) -> str:
        return f"<Webhook {self._host}>"

    def flush(self, timeout: float | None = None) -> bool:
        """Return whether all alerts are sent; False when the time (seconds) is up."""
        return self._writer.flush(timeout, patient=True)

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

        self._tries += 1
        limits = httpx.Timeout(TIMEOUT).as_dict()
        with httpx.HTTPTransport() as transport:  # a client would log the URL
            for warning in warnings:
                url, payload = self._url.get_secret_value(), self.payload(warning)
                response = transport.handle_request(
                    httpx.Request("POST", url, json=payload, extensions={"timeout": limits})
                )
                response.close()
                if not response.is_success:
                    raise AlertRejected(response.status_code)
        self._tries = 0

    def _may_be_sent_again(self, error: Exception) -> bool:
        import httpx

        if isinstance(error, AlertRejected):
            passes = error.status >= 500 or error.status in _LATER
        else:
            passes = isinstance(error, httpx.TransportError)
        return passes and self._tries <= RETRIES

    def _refused(self, warning: BudgetWarning, error: Exception) -> None:
        self._tries = 0
        problem = str(error) if isinstance(error, AlertRejected) else type(error).__name__
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
