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


@runtime_checkable
class Ledger(Protocol):
    """A sink on disk that can be asked about a session."""

    path: Path

    def __call__(self, record: UsageRecord) -> object:
        """Take a record."""

    def flush(self, timeout: float | None = None) -> bool:
        """Return whether everything is on disk."""

    def by_session_model(self, session: str) -> Mapping[tuple[str | None, str, str], UsageTotals]:
        """Return a session's totals by provider, model and operation."""


_ledgers: dict[Path, Ledger] = {}
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
    if "://" in name:
        raise ValueError(f"AGENTSIGHT_TOKEN_LEDGER is a file's path, not a URL such as {name}: write usage.db")
    from token_handlers.sinks.sqlite.ledger import SQLiteLedger  # sqlite3 is for those who have a ledger

    path = Path(name).expanduser().absolute()
    with _configuring:
        if path not in _ledgers:
            _ledgers[path] = SQLiteLedger(path)
            recorder.add_sink(_ledgers[path])
        return _ledgers[path]


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
