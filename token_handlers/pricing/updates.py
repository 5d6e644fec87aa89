"""Newer price tables from the network, where they are asked for: checked before use, the last good one kept on disk.

Importing this imports genai-prices, about 0.2 s, of which it uses the updater and its published table.
"""

import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from genai_prices import update_prices
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from genai_prices.types import Provider, _providers_from_raw
from genai_prices.update_prices import DEFAULT_UPDATE_URL, UpdatePrices

from token_handlers.errors import WHY, TokenHandlersError
from token_handlers.lifecycle import after_fork
from token_handlers.pricing.freshness import fetched_at, kept_path, newest_rate

logger = logging.getLogger("token_handlers")

INTERVAL_SECONDS = 6 * 3600.0
"""How often a process that asked for updates looks for a newer table."""

MOST_BYTES = 50_000_000
MOST_SECONDS = 60.0
"""How large a table may be, and how long all of it may take."""

TIMEOUT = httpx.Timeout(10, connect=5)

MOST_LOST = 0.1
"""Which share of the known models a newer table may lack: some are retired with each, many only by mistake."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class PriceUpdateFailed(TokenHandlersError):
    """A price table was not fetched, or not taken; the message says why. The table in use stays."""


class CheckedUpdates(UpdatePrices):
    """genai-prices' updater, which takes a table only where `check` finds nothing against it, and keeps it on disk."""

    def fetch(self) -> DataSnapshot:
        """Return a newer table; raises PriceUpdateFailed."""
        content = _download(self.url)
        snapshot = parse(content)
        check(snapshot.providers, get_snapshot().providers)
        try:
            keep(content)
        except OSError as error:
            message = "the new price table is used, but was not kept at %s: %s (%s)"
            logger.warning(message, kept_path(), error.strerror, WHY)
        return snapshot


def update(url: str | None = None) -> DataSnapshot:
    """Fetch a newer table, use it in this process, and keep it for others; raises PriceUpdateFailed."""
    snapshot = CheckedUpdates(url=checked_url(url or DEFAULT_UPDATE_URL)).fetch()
    set_custom_snapshot(snapshot)
    return snapshot


_running: list[CheckedUpdates] = []


def start_updates(url: str | None = None) -> None:
    """Use the table that was kept, and look for newer ones in the background, once in a process."""
    use_kept()
    if not _running:
        _running.append(CheckedUpdates(url=checked_url(url or DEFAULT_UPDATE_URL), update_interval=INTERVAL_SECONDS))
        _running[0].start()


def stop_updates() -> None:
    """Look for newer tables no more; the one in use stays."""
    while _running:
        _running.pop().stop()  # type: ignore[no-untyped-call]


def _after_fork() -> None:
    """Start again in a forked child, which has no thread of its parent's."""
    if _running:
        url = _running.pop().url
        update_prices._shared_updater.__init__()  # type: ignore[misc]  # noqa: SLF001 (no other way)
        start_updates(url)


after_fork(_after_fork)


def use_kept() -> bool:
    """Use the table that was kept, where it is newer than the one that comes with genai-prices; return whether it is.

    What is wrong with the file is logged, and nothing else changes then.
    """
    path, bundled = kept_path(), get_snapshot()
    if bundled.from_auto_update or not path.exists():
        return bundled.from_auto_update
    try:
        snapshot = parse(_read(path))
        if not _is_newer(snapshot, bundled):
            return False
        check(snapshot.providers, bundled.providers)
    except (OSError, PriceUpdateFailed) as error:
        logger.warning("the price table at %s is not used: %s (%s)", path, error, WHY)
        return False
    set_custom_snapshot(snapshot)
    return True


def _is_newer(kept: DataSnapshot, bundled: DataSnapshot) -> bool:
    """Return whether a kept table is newer than the installed one; with equal dates, by when each came here."""
    ours, theirs = newest_rate(kept.providers) or date.min, newest_rate(bundled.providers) or date.min
    if ours != theirs:
        return ours > theirs
    fetched, installed = fetched_at(), Path(update_prices.__file__).stat().st_mtime
    return fetched is not None and fetched.timestamp() > installed


def forget_kept() -> bool:
    """Delete the table that was kept, and return whether there was one."""
    try:
        kept_path().unlink()
    except FileNotFoundError:
        return False
    return True


def keep(content: bytes) -> None:
    """Write a table in one step, readable by this user alone."""
    path = kept_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".prices-")  # with mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def parse(content: bytes) -> DataSnapshot:
    """Return a table in genai-prices' published form; raises PriceUpdateFailed where it is none."""
    try:
        raw = json.loads(content)
        providers = _providers_from_raw(raw) if isinstance(raw, list) else []
    except (ValueError, TypeError, LookupError, RecursionError, AttributeError) as error:
        raise PriceUpdateFailed(f"it is no price table: {type(error).__name__}") from error
    if not any(provider.models for provider in providers):
        raise PriceUpdateFailed("it is no price table: it has no model")
    return DataSnapshot(providers, from_auto_update=True)


def check(new: Sequence[Provider], known: Sequence[Provider], today: date | None = None) -> None:
    """Raise PriceUpdateFailed where a table is older than the known one, or lacks more of its models than some."""
    newest, before = newest_rate(new, today), newest_rate(known, today)
    if before is not None and (newest is None or newest < before):
        raise PriceUpdateFailed(f"its newest rate is of {newest}, that of the table in use of {before}")
    names = _names(known)
    lost = names - _names(new)
    if len(lost) > MOST_LOST * len(names):
        examples = ", ".join(sorted(lost)[:3])
        raise PriceUpdateFailed(f"it lacks {len(lost):,} of {len(names):,} known models, such as {examples}")


def checked_url(url: str) -> str:
    """Return a URL from which prices may come: nobody on the way can change what HTTPS brings."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError(f"prices come from an https URL, not one of {parts.scheme or 'no scheme'!r}")
    return url


def _names(providers: Sequence[Provider]) -> set[str]:
    return {f"{provider.id}/{model.id}" for provider in providers for model in provider.models}


def _download(url: str) -> bytes:
    content, end, host = bytearray(), time.monotonic() + MOST_SECONDS, urlsplit(url).hostname  # a path may be a secret
    try:
        with httpx.stream("GET", url, timeout=TIMEOUT) as response:
            if response.status_code != 200:
                raise PriceUpdateFailed(f"{host} answered with HTTP status {response.status_code}")
            for piece in response.iter_bytes():
                content += piece
                if len(content) > MOST_BYTES:
                    raise PriceUpdateFailed(f"{host} sent more than {MOST_BYTES:,} bytes")
                if time.monotonic() > end:
                    raise PriceUpdateFailed(f"{host} took longer than {MOST_SECONDS:g} s")
    except httpx.HTTPError as error:
        raise PriceUpdateFailed(f"{host} can't be read: {type(error).__name__}") from error
    return bytes(content)


def _read(path: Path) -> bytes:
    """Return a file's content; one that another user could have written is refused."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            raise PriceUpdateFailed("other users can write it: delete it")
        return file.read(MOST_BYTES + 1)
