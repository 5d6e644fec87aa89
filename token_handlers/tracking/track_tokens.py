"""track_tokens(): count what the calls inside a block use and cost."""

import contextlib
import functools
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from types import FrameType, TracebackType
from typing import Any, TypeVar, cast

from token_handlers.budget.budget import Budget, check_budget
from token_handlers.counter.counter import TokenCounter
from token_handlers.counter.totals import BARE
from token_handlers.errors import NoLangChainHandler
from token_handlers.pricing.sellers import NO_STAND_INS, checked_stand_ins
from token_handlers.tracking import gates as _gates  # noqa: F401 (they register themselves)
from token_handlers.tracking import threads as _threads  # noqa: F401 (as above)
from token_handlers.tracking.recorder import show_open
from token_handlers.tracking.scopes import (
    NO_LABELS,
    NOTHING_GIVEN,
    Block,
    Labels,
    Scope,
    Sinks,
    active,
    active_scopes,
    enter,
    is_entered_here,
    leave,
    unusual,
)
from token_handlers.tracking.state import check_budgets, state, watch_frameworks
from token_handlers.usage import UsageRecord, new_tuple

RESERVED = ("model", "session", "user", "langgraph_node", "tag", "provider", "operation", "day", "hour")
"""What counters and ledgers group by themselves, which no tag may be called."""

F = TypeVar("F", bound=Callable[..., Any])


class track_tokens:  # noqa: N801 (used like a function, as contextlib's own context managers are)
    """Count every LangChain, LlamaIndex and SDK call that starts inside the block: `with`, `async with` or decorator.

    Yields a TokenCounter. Blocks nest, and each counts. ``session``, ``user`` and ``tags`` (a mapping, or names) label
    the records made inside, merged with those of the blocks around; ids may be of any type, and an empty one is none.
    ``budget`` is what a call that starts inside is checked against before it is sent, like those of the blocks around.
    ``counter`` enters a counter again with all that its block had, e.g. in a thread of one's own; entered twice it
    still counts once. ``sinks`` are callables of one UsageRecord. Calls that the providers' own SDKs make inside count
    as well, unless ``sdk_calls`` is false. ``price_as`` prices what is counted under a name as another model, and
    counts its texts by that one's tokenizer: {"MockLLM": "gpt-4o-mini"} foresees what LlamaIndex's mocks stand for.

    As a decorator it puts a block around each call of the function; give it a ``counter`` to read what they used.
    """

    # Class attributes are the defaults: a block is made in the application's time, and most of them stay as they are.
    _given = NOTHING_GIVEN
    _counter: TokenCounter | None = None

    run_inline = raise_error = NoLangChainHandler()

    def __init__(
        self,
        *,
        session: object = None,
        user: object = None,
        tags: Mapping[str, object] | Iterable[str] | None = None,
        budget: Budget | None = None,
        counter: TokenCounter | None = None,
        sinks: Iterable[Callable[[UsageRecord], object]] = (),
        sdk_calls: bool = True,
        price_as: Mapping[str, str] | None = None,
    ) -> None:
        labels = NO_LABELS
        if session is not None or user is not None or tags:
            # An id may be a number or a UUID, and an empty one is none.
            session = None if session is None else str(session) or None
            user = None if user is None else str(user) or None
            labels = new_tuple(Labels, (session, user, {} if tags is None else _tags(tags)))
        if budget is not None:
            check_budget(budget)
            check_budgets()
        if labels is not NO_LABELS or budget is not None or sinks or price_as is not None or not sdk_calls:
            kept: Sinks = ()
            if sinks and (callable(sinks) or not all(map(callable, kept := tuple(sinks)))):
                raise TypeError(
                    f"sinks must be a list of callables of one UsageRecord, not {sinks!r}: write sinks=[...]"
                )
            budgets = () if budget is None else (budget,)
            stand_ins = NO_STAND_INS if price_as is None else checked_stand_ins(price_as)
            self._given = new_tuple(Block, (labels, kept, budgets, stand_ins, sdk_calls, ()))
        if counter is not None:
            if not isinstance(counter, TokenCounter):
                raise TypeError(f"counter must be a TokenCounter, not {counter!r}")
            self._counter = counter
        self._entered: list[Scope] = []

    def __enter__(self, caller: FrameType | None = None) -> TokenCounter:
        # A generator's block is remembered by its frame: the caller's, unless that enters it for another.
        if caller is None:
            caller = sys._getframe(1)  # noqa: SLF001 (there is no public way)
        if not state.watched:
            watch_frameworks()
        counter = self._counter
        if counter is None:
            counter = TokenCounter()
        given, outer, before = self._given, active_scopes() if unusual else active.get(), counter.block
        if outer:
            given = Block(*given[:5], outer)
        if before is None:
            counter.block = given
        elif isinstance(before, Block):
            given = before.again(given)
        scope, shared = Scope(), state.counter
        scope.counter = counter
        scope.own, scope.counters = ((), (shared,)) if counter is shared else ((counter,), (shared, counter))
        if given is not NOTHING_GIVEN:
            scope.labels, scope.sinks, scope.budgets, scope.stand_ins, scope.sdk_calls, scope.outer = given
        self._entered.append(scope)
        enter(scope, caller)
        if not state.watched:  # a framework's handlers began to rest before they could know of this block
            watch_frameworks()
        return counter

    async def __aenter__(self) -> TokenCounter:
        return self.__enter__(sys._getframe(1))  # noqa: SLF001 (as above: the frame that awaits)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # One object may be entered by several threads or tasks at once; each leaves its own scope.
        entered = self._entered
        if len(entered) == 1:
            scope = entered.pop(0)
        else:
            scope = next((other for other in reversed(entered) if is_entered_here(other)), entered[-1])
            entered.remove(scope)
        leave(scope)
        counter = scope.counter
        if counter.open_calls and counter is not state.counter:
            show_open(counter)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Return the function, with a block of these settings around each of its calls."""
        return cast("F", functools.wraps(function)(_wrap(function, self._again)))

    def _again(self) -> "track_tokens":
        block = track_tokens(counter=self._counter)
        block._given = self._given
        return block


def _wrap(function: Callable[..., Any], block: Callable[[], track_tokens]) -> Callable[..., object]:
    async def stepped_async(*args: Any, **kwargs: Any) -> AsyncIterator[object]:
        with block():
            async with contextlib.aclosing(function(*args, **kwargs)) as items:
                async for item in items:
                    yield item

    async def awaited(*args: Any, **kwargs: Any) -> object:
        with block():
            return await function(*args, **kwargs)

    def stepped(*args: Any, **kwargs: Any) -> Generator[object, Any, object]:
        with block():
            return (yield from function(*args, **kwargs))

    def called(*args: Any, **kwargs: Any) -> object:
        with block():
            return function(*args, **kwargs)

    if inspect.isasyncgenfunction(function):
        return stepped_async
    if inspect.iscoroutinefunction(function):
        return awaited
    return stepped if inspect.isgeneratorfunction(function) else called


def _tags(tags: Mapping[str, object] | Iterable[str]) -> Mapping[str, str]:
    if isinstance(tags, str):
        raise TypeError(f"tags must be a mapping or a list of names, not the string {tags!r}: write tags=[{tags!r}]")
    named = dict(tags) if isinstance(tags, Mapping) else dict.fromkeys(tags, BARE)
    for name in named:
        if not isinstance(name, str) or not name:
            raise ValueError(f"a tag's name must be a non-empty string, not {name!r}")
        if name in RESERVED:
            raise ValueError(f"a tag may not be called {name!r}: totals are grouped by that already")
    return {name: str(value) for name, value in named.items()}
