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
from token_handlers.pricing.sellers import NO_STAND_INS, Sold, checked_stand_ins
from token_handlers.tracking import gates as _gates  # noqa: F401 (they register themselves)
from token_handlers.tracking import threads as _threads  # noqa: F401 (as above)
from token_handlers.tracking.recorder import show_open
from token_handlers.tracking.scopes import (
    NO_LABELS,
    Budgets,
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
from token_handlers.usage import UsageRecord

RESERVED = ("model", "session", "user", "langgraph_node", "tag", "provider", "operation", "day", "hour")
"""What counters and ledgers group by themselves, which no tag may be called."""

F = TypeVar("F", bound=Callable[..., Any])


class Block(tuple[Labels, Sinks, Budgets, tuple[Scope, ...], Mapping[str, Sold]]):
    """What a counter's block had, and the scopes around it, for track_tokens(counter=...) to enter again."""

    __slots__ = ()


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

    __slots__ = ("_budgets", "_counter", "_labels", "_recorder", "_scopes", "_sdk_calls", "_sinks", "_stand_ins")

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
        if session is None and user is None and not tags:
            self._labels = NO_LABELS
        else:
            self._labels = Labels(_name(session), _name(user), _tags(tags))
        if counter is not None and not isinstance(counter, TokenCounter):
            raise TypeError(f"counter must be a TokenCounter, not {counter!r}")
        if budget is not None:
            check_budget(budget)
        self._budgets = (budget,) if budget is not None else ()
        self._counter = counter
        self._sinks = tuple(sinks)
        self._sdk_calls = sdk_calls
        self._stand_ins = NO_STAND_INS if price_as is None else checked_stand_ins(price_as)
        self._recorder: object = None
        self._scopes: list[Scope] = []

    def __enter__(self) -> TokenCounter:
        return self._enter(sys._getframe(1))  # noqa: SLF001 (a generator's block is remembered by its frame)

    async def __aenter__(self) -> TokenCounter:
        return self._enter(sys._getframe(1))  # noqa: SLF001 (as above: the frame that awaits)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def __call__(self, function: F) -> F:
        """Return the function, with a block of these settings around each of its calls."""
        return cast("F", functools.wraps(function)(_wrap(function, self._again)))

    def _again(self) -> "track_tokens":
        block = track_tokens(counter=self._counter, sinks=self._sinks, sdk_calls=self._sdk_calls)
        block._labels, block._budgets, block._stand_ins = self._labels, self._budgets, self._stand_ins
        return block

    def _enter(self, caller: FrameType) -> TokenCounter:
        if not state.watched:
            watch_frameworks()
        outer = active_scopes() if unusual else active.get()
        labels, sinks, budgets, counter = self._labels, self._sinks, self._budgets, self._counter
        stand_ins = self._stand_ins
        if counter is None:
            counter = TokenCounter()
        if counter.block is None:
            counter.block = Block((labels, sinks, budgets, outer, stand_ins))
        elif isinstance(counter.block, Block):
            before, other_sinks, other_budgets, others, other_stand_ins = counter.block
            labels, sinks, budgets = before.merged(labels), (*other_sinks, *sinks), (*other_budgets, *budgets)
            stand_ins = {**other_stand_ins, **stand_ins}
            outer = (*outer, *(scope for scope in others if scope not in outer and not scope.left))
        if budgets and not state.checked:
            check_budgets()
        scope = Scope(counter, labels, sinks, budgets, outer)
        scope.recorder = self._recorder
        scope.sdk_calls, scope.stand_ins = self._sdk_calls, stand_ins
        self._scopes.append(scope)
        enter(scope, caller)
        return counter

    def _leave(self) -> None:
        # One object may be entered by several threads or tasks at once; each leaves its own scope.
        entered = self._scopes
        if len(entered) == 1:
            scope = entered[0]
        else:
            scope = next((other for other in reversed(entered) if is_entered_here(other)), entered[-1])
        entered.remove(scope)
        leave(scope)
        counter = scope.counter
        if counter.open_calls and counter is not state.counter:
            show_open(counter)


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


def _name(value: object) -> str | None:
    """Return a label's text, None where there is none: an id may be a number or a UUID."""
    return None if value is None else str(value) or None


def _tags(tags: Mapping[str, object] | Iterable[str] | None) -> Mapping[str, str]:
    if tags is None:
        return {}
    if isinstance(tags, str):
        raise TypeError(f"tags must be a mapping or a list of names, not the string {tags!r}: write tags=[{tags!r}]")
    named = dict(tags) if isinstance(tags, Mapping) else dict.fromkeys(tags, BARE)
    for name in named:
        if not isinstance(name, str) or not name:
            raise ValueError(f"a tag's name must be a non-empty string, not {name!r}")
        if name in RESERVED:
            raise ValueError(f"a tag may not be called {name!r}: totals are grouped by that already")
    return {name: str(value) for name, value in named.items()}
