"""Budgets in front of the providers' SDKs: what no framework has checked is checked above an SDK's own retries.

A refusal below them would be taken for a lost connection, and sent again. They are wrapped from the first budget on.
"""

import functools
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import isawaitable
from types import ModuleType
from typing import Any, NamedTuple

import wrapt

from token_handlers.errors import BudgetExceeded, shielded
from token_handlers.http import read_parameters
from token_handlers.tracking import recorder
from token_handlers.tracking.answers import gated, owner_of_request
from token_handlers.tracking.call import current_context
from token_handlers.tracking.failures import causes, was_rejected
from token_handlers.tracking.replacements import Replacements
from token_handlers.tracking.result import FAILED, Incomplete
from token_handlers.tracking.sdk_calls import SDKCall
from token_handlers.tracking.state import budget_watchers, state

Sent = tuple[str, str, object]
"""The server's URL, the path there, and the body before it is JSON."""

Read = Callable[[Any, tuple[Any, ...], dict[str, Any]], Sent]


class Gate(NamedTuple):
    """A method of an SDK's class through which every request goes before it is tried, and what reads the request."""

    module: str
    owner: str
    method: str
    read: Read


def _stainless(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sent:
    options = kwargs.get("options", args[1] if len(args) > 1 else None)
    return str(client.base_url), getattr(options, "url", ""), getattr(options, "json_data", None)


def _google(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sent:
    request = kwargs.get("http_request", args[0] if args else None)
    return "", str(getattr(request, "url", "")), getattr(request, "data", None)


GATES = (
    *(
        Gate(f"{sdk}._base_client", client, "request", _stainless)
        for sdk in ("openai", "anthropic", "groq")
        for client in ("SyncAPIClient", "AsyncAPIClient")
    ),
    *(
        Gate("google.genai._api_client", "BaseApiClient", method, _google)
        for method in ("_request", "_async_request")  # above them a stream is a generator, which does nothing yet
    ),
)


# LiteLLM takes whatever its clients raise for an error of the provider's: a refusal is taken out of that again.
_LITELLM = ("completion", "text_completion", "embedding", "responses", "rerank")
_LITELLM_NAMES = (*_LITELLM, *(f"a{name}" for name in _LITELLM))


def watch() -> None:
    """Wrap the SDKs that are imported, and those that will be, once."""
    for module in (*dict.fromkeys(gate.module for gate in GATES), "litellm"):
        if module not in _watched:
            _watched.add(module)
            wrapt.register_post_import_hook(_wrap, module)


_watched: set[str] = set()
_replaced = Replacements()


def restore() -> None:
    """Give the SDKs their own methods back; a wrap that someone else has wrapped in turn stays, and does nothing."""
    _replaced.restore()
    for module in tuple(_watched):
        if module in sys.modules:
            _watched.discard(module)


def _wrap(module: ModuleType) -> None:
    for gate in GATES:
        owner = getattr(module, gate.owner, None) if gate.module == module.__name__ else None
        original = None if owner is None else owner.__dict__.get(gate.method)
        if owner is not None and original is not None:
            _replaced.put(owner, gate.method, _gated(original, gate.read))
    for name in _LITELLM_NAMES if module.__name__ == "litellm" else ():
        function = module.__dict__.get(name)
        if function is not None:
            _replaced.put(module, name, _unhiding(function))


def _unhiding(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that raises the BudgetExceeded which the function's own error stands for."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _refusal_alone():
            answer = function(*args, **kwargs)
        return _unhidden(answer) if isawaitable(answer) else answer

    return call


async def _unhidden(answer: Awaitable[Any]) -> Any:
    with _refusal_alone():
        return await answer


@contextmanager
def _refusal_alone() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        refusal = next((cause for cause in causes(error) if isinstance(cause, BudgetExceeded)), None)
        if refusal is None or refusal is error:
            raise
        raise refusal from None


def _gated(original: Callable[..., Any], read: Read) -> Callable[..., Any]:
    def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = original.__get__(self, type(self))  # another wrap may stand here, which has to see whose method it is
        call = _open(self, args, kwargs, read) if state.checked and gated.get() is None else None
        if call is None:
            return bound(*args, **kwargs)
        with _passing(call):
            answer = bound(*args, **kwargs)
        return _awaited(call, answer) if isawaitable(answer) else answer

    return request


async def _awaited(call: SDKCall, answer: Awaitable[Any]) -> Any:
    with _passing(call):
        return await answer


@contextmanager
def _passing(call: SDKCall) -> Any:
    """Let the requests below belong to a call, and end it where they all have failed."""
    token = gated.set(call)
    try:
        yield
    except BaseException as error:
        recorder.finish(call, FAILED if was_rejected(error) else Incomplete())
        raise
    finally:
        gated.reset(token)


def make_way() -> None:
    """Forget the call that a gate above has opened for the request that is sent here: a framework's call is made of it.

    Whichever of two wraps was put there first, they may stand in either order.
    """
    call = gated.get()
    if call is not None:
        recorder.discard(call)


@shielded
def _open(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], read: Read) -> SDKCall | None:
    """Return a call with budgets that no framework's call makes, reserved; raises BudgetExceeded."""
    context = current_context()
    if not (context.budgets or state.budgets):
        return None
    base_url, path, body = read(client, args, kwargs)
    if not isinstance(body, Mapping):
        return None
    request = read_parameters(base_url, path, body, seeks_marks=False)  # the request below says them
    if request is None:
        return None
    call = owner_of_request(request)
    if not isinstance(call, SDKCall) or call.reservations is not None:
        return None
    call.is_gated = True
    call.note_body(body)
    recorder.reserve(call)
    return call


budget_watchers.append((watch, restore))
