"""Wraps the methods of HTTP clients, at once or when a library is imported, and unwraps them again.

A wrap is a plain function without the attributes of what it wraps: other instrumentations mark a function as theirs
by an attribute, and would take ours for it. A wrap that somebody has wrapped in turn stays there and does nothing.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import wrapt

from token_handlers.errors import shielded
from token_handlers.http import clients
from token_handlers.http.exchange import Observer, set_observer
from token_handlers.lifecycle import after_fork


class Tap(NamedTuple):
    """A method of a library's class, and the function that wraps it."""

    module: str
    owner: str
    method: str
    watch: Callable[..., Callable[..., Any]]


TAPS = (
    Tap("httpx", "Client", "send", clients.watch_httpx),
    Tap("httpx", "AsyncClient", "send", clients.watch_async_httpx),
    Tap("httpx2", "Client", "send", clients.watch_httpx),
    Tap("httpx2", "AsyncClient", "send", clients.watch_async_httpx),
    Tap("requests.sessions", "Session", "send", clients.watch_requests),
    Tap("aiohttp.client", "ClientSession", "_request", clients.watch_aiohttp),
    Tap("botocore.client", "BaseClient", "_make_api_call", clients.watch_botocore),
    Tap("botocore.httpsession", "URLLib3Session", "send", clients.watch_attempts),
    Tap("aiobotocore.client", "AioBaseClient", "_make_api_call", clients.watch_aiobotocore),
    Tap("aiobotocore.httpsession", "AIOHTTPSession", "send", clients.watch_async_attempts),
)


class _Attached(NamedTuple):
    owner: type
    original: Callable[..., Any]
    watched: Callable[..., Any]


_lock = threading.RLock()
_attached: dict[Tap, _Attached] = {}
_hooked: set[Tap] = set()
_is_attached = False


def attach(observer: Observer) -> None:
    """Give an observer every provider's request and answer, of all clients that are or will be imported.

    There is one observer: a new one replaces it. Nothing is wrapped twice.
    """
    global _is_attached  # noqa: PLW0603 (there is one place for each wrap in a process)
    with _lock:
        set_observer(observer)
        _is_attached = True
        for tap in _hooked:
            if tap.module in sys.modules:
                _put(tap)
        unhooked = [tap for tap in TAPS if tap not in _hooked]
        _hooked.update(unhooked)
    for tap in unhooked:  # not under the lock, which a thread that is importing a library may wait for
        wrapt.register_post_import_hook(_when_imported(tap), tap.module)


def detach() -> None:
    """Unwrap every method. The observer still gets the answers to requests that have been sent."""
    global _is_attached  # noqa: PLW0603 (as above)
    with _lock:
        set_observer(None)
        _is_attached = False
        for tap, (owner, original, watched) in tuple(_attached.items()):
            if owner.__dict__.get(tap.method) is watched:
                setattr(owner, tap.method, original)
            del _attached[tap]


def tapped() -> list[str]:
    """Return the methods that are wrapped, such as "httpx.Client.send"."""
    with _lock:
        return [f"{tap.module}.{tap.owner}.{tap.method}" for tap in TAPS if tap in _attached]


def _when_imported(tap: Tap) -> Callable[[object], None]:
    @shielded
    def imported(module: object) -> None:
        with _lock:
            if _is_attached:
                _put(tap)

    return imported


def _put(tap: Tap) -> None:
    """Wrap a method, unless it is wrapped already, or this release of the library has none."""
    module = sys.modules[tap.module]
    owner = getattr(module, tap.owner, None)
    original = None if owner is None else owner.__dict__.get(tap.method)
    if owner is None or original is None or (tap in _attached and original is _attached[tap].watched):
        return
    watched = tap.watch(original, module)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(watched, name, getattr(original, name, None))
    setattr(owner, tap.method, watched)
    _attached[tap] = _Attached(owner, original, watched)


def _renew() -> None:
    global _lock  # noqa: PLW0603 (a thread that held it does not exist in a forked child)
    _lock = threading.RLock()


after_fork(_renew)
