"""track_tokens(): which counters are active where a call starts.

A scope is a counter in a ContextVar, with labels. Three things differ from a plain ContextVar:

- A block in a generator's body is remembered by that frame as well, because a web framework may step the generator in a
  fresh context each time, where the variable is not set. Its calls are those made from the body, or from tasks and
  threads that the body started; the consumer's calls between two steps are not.
- A generator that serves as a context manager or a fixture (contextlib, pytest) is the other way round: the calls are
  those made between its two steps, so its block is an ordinary one.
- Leaving a block in another context than it was entered in closes the scope, as the variable can't be reset there.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from types import FrameType
from typing import Any, NamedTuple
from weakref import ref

from token_handlers.budget.budget import Budget
from token_handlers.counter.counter import TokenCounter
from token_handlers.pricing.sellers import NO_STAND_INS, Sold
from token_handlers.tracking.frames import callers
from token_handlers.usage import UsageRecord

_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
Sinks = tuple[Callable[[UsageRecord], object], ...]
Budgets = tuple[Budget, ...]

_FIXTURE_DRIVERS = ("contextlib", "_pytest", "pytest", "pluggy", "anyio")


class Labels(NamedTuple):
    """What a call is labelled with by the blocks around it."""

    session: str | None = None
    user: str | None = None
    tags: Mapping[str, str] = {}

    def merged(self, inner: "Labels") -> "Labels":
        """Return these labels overridden by those of a block inside."""
        session = self.session if inner.session is None else inner.session
        user = self.user if inner.user is None else inner.user
        return Labels(session, user, {**self.tags, **inner.tags} if inner.tags else self.tags)


NO_LABELS = Labels()


class Block(NamedTuple):
    """What a block was given, and the scopes around it: what track_tokens(counter=...) enters again."""

    labels: Labels = NO_LABELS
    sinks: Sinks = ()
    budgets: Budgets = ()
    stand_ins: Mapping[str, Sold] = NO_STAND_INS
    sdk_calls: bool = True
    outer: "tuple[Scope, ...]" = ()

    def again(self, block: "Block") -> "Block":
        """Return what a block has that enters this one's counter again."""
        others = (scope for scope in self.outer if scope not in block.outer and scope.token is not None)
        return Block(
            self.labels.merged(block.labels),
            (*self.sinks, *block.sinks),
            tuple(dict.fromkeys((*self.budgets, *block.budgets))),
            {**self.stand_ins, **block.stand_ins},
            block.sdk_calls,
            (*block.outer, *others),
        )


NOTHING_GIVEN = Block()


class CallContext:
    """The counters, labels, sinks, budgets and stand-ins of the calls that start in the same blocks.

    ``counters`` are the shared one and after it ``own``, those of the blocks and handlers.
    """

    # Class attributes are the defaults: a block is opened in the application's time, and most of them stay as they are.
    counters: tuple[TokenCounter, ...]
    own: tuple[TokenCounter, ...] = ()
    labels = NO_LABELS
    sinks: Sinks = ()
    budgets: Budgets = ()
    stand_ins: Mapping[str, Sold] = NO_STAND_INS
    in_blocks = True

    @property
    def scopes(self) -> "tuple[Scope, ...]":
        """The blocks, outermost first."""
        raise NotImplementedError

    def plus(self, counter: TokenCounter) -> "CallContext":
        """Return the context of calls that one more counter counts."""
        if counter in self.counters:
            return self
        return JointContext(self.counters[0], self.scopes, *self.own, counter)


class Scope(CallContext):
    """One entered block, which is the context of the calls that start in it alone."""

    counter: TokenCounter
    sdk_calls = True
    outer: "tuple[Scope, ...]" = ()
    joint: "JointContext | None" = None  # of calls that start in this block and others around it; made with the first
    recorder: Any = None  # a framework's own handler for this block, which the framework's package alone knows
    left_in: tuple[int, int | None] | None = None
    closed = False
    frame: FrameType | None = None
    flow: tuple[int, int | None] | None = None
    token: "Token[tuple[Scope, ...]] | None" = None  # while it is entered

    @property
    def scopes(self) -> "tuple[Scope, ...]":
        """This block alone."""
        return (self,)


class JointContext(CallContext):
    """The context of calls that start in no block, in several, or that a handler counts as well."""

    def __init__(self, shared: TokenCounter, scopes: tuple[Scope, ...], *more: TokenCounter) -> None:
        counters = dict.fromkeys((*(scope.counter for scope in scopes), *more))
        counters.pop(shared, None)
        self.own = tuple(counters)
        self.counters = (shared, *self.own)
        self.in_blocks = bool(scopes)
        if scopes:
            self.labels = scopes[-1].labels
            self.sinks = tuple(sink for scope in scopes for sink in scope.sinks)
            self.budgets = tuple(dict.fromkeys(budget for scope in scopes for budget in scope.budgets))
            self.stand_ins = {name: sold for scope in scopes for name, sold in scope.stand_ins.items()}
        self._scopes = scopes
        self._extended: JointContext | None = None

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The blocks, outermost first."""
        return self._scopes

    def plus(self, counter: TokenCounter) -> CallContext:
        """Return the context of calls that one more counter counts, the same one each time."""
        if counter in self.counters:
            return self
        if self._extended is None or self._extended.own[-1] is not counter:
            self._extended = JointContext(self.counters[0], self._scopes, *self.own, counter)
        return self._extended

    def is_of(self, scopes: tuple[Scope, ...]) -> bool:
        """Return whether it is the context of these blocks."""
        return self._scopes is scopes or self._scopes == scopes


active: ContextVar[tuple[Scope, ...]] = ContextVar("token_handlers_scopes", default=())
"""The scopes entered in this context; who starts a call asks `active_scopes`, or this where nothing is ``unusual``."""

unusual: set[object] = set()
"""The scopes of generators that are entered, and _CLOSED once a scope was left in another context: with any,
`active_scopes` has to look. Most programs never have one, and are spared the search.
"""

_CLOSED = "closed"

_in_generators: dict[FrameType, list[Scope]] = {}
_living: set[ref[Scope]] = set()
"""The scopes that are entered, or that the context of a task or thread still has, whose calls belong to them."""


def any_living() -> bool:
    """Return whether a call may belong to a block anywhere in the process; from the entry of each on."""
    return bool(_living)


def any_entered() -> bool:
    """Return whether any block is entered anywhere in the process."""
    return any(scope.token is not None for living in [*_living] if (scope := living()) is not None)


def any_scope() -> bool:
    """Return whether a call that starts here may belong to a scope; cheap, for gates."""
    return bool(active.get() if not unusual else _in_generators or active_scopes())


def active_scopes() -> tuple[Scope, ...]:
    """Return the scopes that a call starting here belongs to, outermost first; a counter may be in it twice."""
    scopes = active.get()
    if not unusual:
        return scopes
    if _in_generators:
        scopes = _with_generators(scopes)
    return tuple(scope for scope in scopes if not scope.closed)


def is_entered_here(scope: Scope) -> bool:
    """Return whether a scope is active in this context."""
    return scope in active.get()


def enter(scope: Scope, caller: FrameType) -> None:
    """Make a scope active in this context, and in the caller's frame where that is a generator's."""
    if caller.f_code.co_flags & _GENERATOR:
        frame = _stepped_generator(caller)
        if frame is not None:
            scope.frame, scope.flow = frame, _flow()
            _in_generators.setdefault(frame, []).append(scope)
            unusual.add(scope)
    scopes: tuple[Scope, ...] = (scope,)
    if scope.outer:
        scope.labels = scope.outer[-1].labels.merged(scope.labels)
        scopes = (*scope.outer, scope)
    _living.add(ref(scope, _living.discard))  # a method in C: it may be called at any time, and takes none
    scope.token = active.set(scopes)


def leave(scope: Scope) -> None:
    """Undo `enter`, in whatever order and context the blocks are left."""
    scope.joint = None
    if scope.frame is not None:
        _forget_frame(scope, scope.frame)
        unusual.discard(scope)
    current, token = active.get(), scope.token
    scope.token = None
    try:
        active.reset(token)  # type: ignore[arg-type]  # set by enter
    except ValueError:
        scope.closed = True
        unusual.add(_CLOSED)
        return
    if current and current[-1] is scope:
        rest = active.get()
    else:
        # Left out of order: what was entered later stays, and will not bring this one back when it is left.
        scope.left_in = _flow()
        rest = tuple(other for other in current if other is not scope)
        active.set(rest)
    if rest and any(other.left_in for other in rest):
        here = _flow()
        active.set(tuple(other for other in rest if other.left_in != here))


def _forget_frame(scope: Scope, frame: FrameType) -> None:
    scopes = _in_generators[frame]
    scopes.remove(scope)
    if not scopes:
        del _in_generators[frame]
    scope.frame = None


def _stepped_generator(frame: FrameType | None) -> FrameType | None:
    """Return the generator in whose body the block is, unless that generator is a context manager or a fixture.

    Then the block is as good as written where the context manager is entered, which may be in another generator.
    """
    while frame is not None and frame.f_code.co_flags & _GENERATOR:
        driver = frame.f_back
        if not _drives_fixtures(driver):
            return frame
        while _drives_fixtures(driver):
            driver = driver.f_back  # type: ignore[union-attr]
        frame = driver
    return None


def _drives_fixtures(driver: FrameType | None) -> bool:
    name = driver.f_globals.get("__name__") if driver is not None else None
    return isinstance(name, str) and name.startswith(_FIXTURE_DRIVERS)


def _with_generators(scopes: tuple[Scope, ...]) -> tuple[Scope, ...]:
    here = _flow()
    on_stack = _on_stack()
    kept = [scope for scope in scopes if scope.frame is None or scope in on_stack or scope.flow != here]
    for found in reversed(on_stack):
        kept.extend(scope for scope in (*found.outer, found) if scope not in kept)
    return tuple(kept)


def _on_stack() -> list[Scope]:
    """Return the generators' scopes whose frames are being executed here, innermost first."""
    found: list[Scope] = []
    for frame in callers():
        scopes = _in_generators.get(frame)
        if scopes:
            found.extend(reversed(scopes))
    return found


def _flow() -> tuple[int, int | None]:
    """Return what tells this thread and asyncio task from others."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), id(task) if task is not None else None
