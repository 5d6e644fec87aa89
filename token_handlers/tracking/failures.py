"""Telling a call that the provider rejected, which costs nothing, from one that was broken off, which is billed."""

import asyncio
import re
import traceback
from collections.abc import Iterator
from types import SimpleNamespace

from token_handlers.errors import BudgetExceeded
from token_handlers.http import NEVER_CONNECTED

# What clients call the functions in which they make a request of messages; an error in one is before the sending,
# unless the function reads an answer.
_BEFORE_SENDING = re.compile(r"payload|convert_(to_|message)|format_message|_to_dict|build_request|token_ids")
_READING = re.compile(r"parse|response|decode")


def was_rejected(error: BaseException) -> bool:
    """Return whether a call that received nothing was rejected or never sent, as opposed to interrupted.

    Without evidence it was not: a client that stumbles over an answer has been billed for it.
    """
    if isinstance(error, (GeneratorExit, asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
        return False
    chain = list(causes(error))
    if any(_status(cause) is not None or _is(cause, NEVER_CONNECTED) for cause in chain):
        return True
    return any(map(_was_before_sending, chain))


def was_stopped(error: BaseException | None) -> bool:
    """Return whether a LlamaIndex callback kept a call from being sent: a budget, or a handler of the user's that
    raised as the call's event started.
    """
    if error is None or isinstance(error, BudgetExceeded):
        return error is not None
    return any(frame.f_code.co_name == "on_event_start" for frame, _ in traceback.walk_tb(error.__traceback__))


def _was_before_sending(error: BaseException) -> bool:
    if isinstance(error, NotImplementedError) or (isinstance(error, TypeError) and "keyword argument" in str(error)):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    names = [frame.f_code.co_name for frame, _ in frames]
    return any(map(_BEFORE_SENDING.search, names)) and not any(map(_READING.search, names))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from, or in the handling of."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an SDK's error carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        response = SimpleNamespace(status_code=response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    for holder in (error, response):
        for name in ("status_code", "http_status", "code"):
            status = getattr(holder, name, None)
            if isinstance(status, int) and 400 <= status < 600:
                return status
    return None


def _is(error: BaseException, names: frozenset[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)
