"""The sinks that the environment names: AGENTSIGHT_TOKEN_LEDGER's ledger and AGENTSIGHT_TOKEN_REDIS_URL's fleet."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from token_handlers.settings import Settings
from token_handlers.tracking import recorder
from token_handlers.usage import UsageRecord, UsageTotals

if TYPE_CHECKING:
    from token_handlers.sinks.redis.counter import RedisCounter
    from token_handlers.sinks.sql.ledger import SQLSink

URL_SCHEMES = ("postgresql", "postgres")


@runtime_checkable
class Ledger(Protocol):
    """A sink that lasts, and can be asked about a session."""

    @property
    def place(self) -> str:
        """Return where it is, without a password."""

    def __call__(self, record: UsageRecord) -> object:
        """Take a record."""

    def flush(self, timeout: float | None = None) -> bool:
        """Return whether everything is on disk."""

    def by_session_model(self, session: str) -> Mapping[tuple[str | None, str, str], UsageTotals]:
        """Return a session's totals by provider, model and operation."""


def is_url(name: str) -> bool:
    """Return whether a ledger's name is the URL of a server; it may have a password."""
    scheme, separator, _ = name.partition("://")
    if separator and scheme not in URL_SCHEMES:
        raise ValueError(f"a ledger is a file's path, or a postgresql:// URL, not a {scheme}:// URL: write usage.db")
    return bool(separator)


def ledger_at(name: str, *, read_only: bool = False) -> "SQLSink":
    """Return the ledger in a file or on a server; what it takes to have one is imported only here."""
    if is_url(name):
        from token_handlers.sinks.postgres.ledger import SQLLedger

        return SQLLedger(name, read_only=read_only)
    from token_handlers.sinks.sqlite.ledger import SQLiteLedger

    return SQLiteLedger(Path(name).expanduser().absolute(), read_only=read_only)


_ledgers: dict[str, Ledger] = {}
_fleets: "dict[str, RedisCounter]" = {}
_configuring = threading.Lock()


def add_configured_sinks(settings: Settings | None = None) -> None:
    """Make the ledger and the fleet that the environment names sinks of every record, each once."""
    settings = settings or Settings()
    configured_ledger(settings)
    configured_fleet(settings)


def configured_ledger(settings: Settings | None = None) -> Ledger | None:
    """Return the process-wide ledger that AGENTSIGHT_TOKEN_LEDGER names, from now on a sink of every record."""
    name = ((settings or Settings()).token_ledger or "").strip()
    if not name:
        return None
    key = name if is_url(name) else str(Path(name).expanduser().absolute())
    with _configuring:
        if key not in _ledgers:
            _ledgers[key] = ledger_at(key)
            recorder.add_sink(_ledgers[key])
        return _ledgers[key]


def configured_fleet(settings: Settings | None = None) -> "RedisCounter | None":
    """Return the counter on the server that AGENTSIGHT_TOKEN_REDIS_URL names, from now on a sink of every record."""
    secret = (settings or Settings()).token_redis_url
    url = secret.get_secret_value().strip() if secret is not None else ""
    if not url:
        return None
    from token_handlers.sinks.redis.counter import RedisCounter  # redis is for those who have a server

    with _configuring:
        if url not in _fleets:
            _fleets[url] = RedisCounter(url)
            recorder.add_sink(_fleets[url])
        return _fleets[url]
