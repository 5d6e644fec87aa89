"""The process: the shared counter, the sinks and budgets of every call, and the frameworks that are tracked.

All of the package's state is here, in `scopes`, and in the table of open calls of `calls`.
"""

import sys
import threading
from collections.abc import Callable

import wrapt

from token_handlers.counter.counter import TokenCounter
from token_handlers.lifecycle import after_fork
from token_handlers.pricing import calculator
from token_handlers.tracking.scopes import Budgets, Sinks

_HOOKS = {
    "langchain.hook": "langchain_core.tracers.context",
    "langchain.owners": "langchain_core.embeddings",
    "llama_index.hook": "llama_index_instrumentation",
}
_watching = threading.RLock()  # a finalizer may open a block of its own while this thread holds it
_resting: list[Callable[[], object]] = []
"""What wakes the handlers that rest, while all else that `watch_frameworks` does is in its place."""


class State:
    """What all calls of the process have in common; ``automatic`` are the frameworks whose every call is recorded.

    ``checked`` is whether there ever was a budget: LlamaIndex's calls are refused by a wrap, which is not free.
    ``watches_http`` is False where `install` was asked for the frameworks' events alone.
    """

    __slots__ = ("automatic", "budgets", "checked", "counter", "sinks", "watched", "watches_http")

    def __init__(self) -> None:
        self.counter = TokenCounter()
        self.sinks: Sinks = ()
        self.budgets: Budgets = ()
        self.automatic: set[str] = set()
        self.watched = False
        self.watches_http = True
        self.checked = False


state = State()


def shared_counter() -> TokenCounter:
    """Return the process-wide counter, which every recorded call reaches."""
    return state.counter


def watch_frameworks() -> None:
    """Attach to LangChain and LlamaIndex, now or when the application imports them, if that is not done."""
    if state.watched:
        return
    with _watching:
        if state.watched:
            return
        if _resting:
            while _resting:
                _resting.pop()()
            state.watched = True
            return
        calculator.load_prices()  # slow, so before the first call rather than inside it
        # By name: this module is below the frameworks' packages and must not import them.
        for hook, module in _HOOKS.items():
            wrapt.register_post_import_hook(f"token_handlers.{hook}:attach", module)
        for watch, _ in (*watchers, *(budget_watchers if state.checked else ())):
            watch()
        state.watched = True


def rest(fall_asleep: Callable[[], object], wake: Callable[[], object], is_needed: Callable[[], bool]) -> None:
    """Have a framework's handlers do nothing, unless they are needed, until `watch_frameworks` is called.

    Whoever begins to track something notes that first, which ``is_needed`` then sees, and asks ``watched`` after it.
    """
    lock = _watching
    if is_needed() or not lock.acquire(blocking=False):  # it can wait, and no call of the application's has to
        return
    try:
        if not (state.watched or _resting):  # they were taken away altogether
            return
        state.watched = False
        _resting[:] = [wake]
        if not is_needed():
            fall_asleep()
            if not state.watched:  # else a finalizer has come between, which wakes only what slept by then
                return
        wake()
        _resting.clear()
        state.watched = True
    finally:
        lock.release()


watchers: list[tuple[Callable[[], object], Callable[[], object]]] = []
"""What else is to be watched while something is tracked, and what leaves it as it was: called with the frameworks."""


budget_watchers: list[tuple[Callable[[], object], Callable[[], object]]] = []
"""What else is to be wrapped from the first budget on, and what takes that off again."""


def check_budgets() -> None:
    """Have LlamaIndex's calls checked against budgets, as LangChain's are anyway."""
    if not state.checked:
        state.checked = True
        for watch, _ in budget_watchers:
            watch()
        hook = sys.modules.get("token_handlers.llama_index.hook")
        if hook is not None:
            hook.check_budgets()


def unwatch_frameworks() -> None:
    """Leave LlamaIndex, the HTTP clients and the SDKs as they were, until something is to be tracked again.

    LangChain's hook can stay: it is a function that LangChain asks.
    """
    hook = sys.modules.get("token_handlers.llama_index.hook")
    with _watching:
        if hook is not None:
            hook.detach()
        for _, unwatch in (*watchers, *budget_watchers):
            unwatch()
        _resting.clear()
        state.watched = False


def _renew() -> None:
    """Replace in a forked child the lock, which a thread of the parent may have held."""
    global _watching  # noqa: PLW0603 (the one that there is)
    _watching = threading.RLock()


after_fork(_renew)
