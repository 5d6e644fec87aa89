"""Telling a call that the provider rejected, which costs nothing, from one that was broken off, which is billed."""

import asyncio
from collections.abc import Iterator

# By name: httpx, httpx2, requests, aiohttp and botocore each have their own.
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ConnectionRefusedError", "EndpointConnectionError")
_BROKEN = ("ReadError", "RemoteProtocolError", "IncompleteRead", "APIConnectionError", "ConnectionResetError")


def was_rejected(error: BaseException) -> bool:
    """Return whether a call that received nothing was rejected or never sent, as opposed to interrupted."""
    if isinstance(error, (GeneratorExit, asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
        return False
    chain = list(_causes(error))
    if any(_status(cause) is not None or _is(cause, _NEVER_SENT) for cause in chain):
        return True
    return not any(
        isinstance(cause, TimeoutError) or "Timeout" in _names(cause) or _is(cause, _BROKEN) for cause in chain
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an SDK's error carries."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "http_status", "code"):
            status = getattr(holder, name, None)
            if isinstance(status, int) and 400 <= status < 600:
                return status
    return None


def _is(error: BaseException, names: tuple[str, ...]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _names(error: BaseException) -> str:
    return " ".join(kind.__name__ for kind in type(error).__mro__)
