"""The price of a call, and the warnings of those without a certain one, each given once."""

import logging
import threading
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple, Protocol

from token_handlers.errors import WHY
from token_handlers.usage import CostPart

logger = logging.getLogger("token_handlers")

Context = tuple[tuple[str, str], ...]
PlanKey = tuple[str | None, str | None, str | None, str | None, str | None, Context]
"""What a plan is found by: model, provider, base URL, service tier, requested model, and the context, sorted."""

# counts that contradict each other or are no numbers, a time out of range, a context that is no mapping
JUNK = ValueError, OverflowError, OSError, TypeError, AttributeError
_WARNINGS_KEPT = 1024

_lock = threading.RLock()  # the garbage collector may end a call, and so price one, in the middle of it
_warned: set[tuple[str | None, ...]] = set()


class Itemised(Protocol):
    """A plan, which knows what each unit of a call cost."""

    def parts(self, counts: Mapping[str, int], model: str | None) -> tuple[CostPart, ...]:
        """Return what each counted unit cost and by which rate."""


class Price(NamedTuple):
    """USD, whose price it is, and why the cost is an estimate, if it is.

    ``source`` is "user" for `set_price`, "genai-prices", or "token_handlers" where the rates are our own. ``priced``
    has what was priced by which plan: (plan, counts, the model where that is another one). ``cache_saved`` is what
    tokens that were read from the provider's prompt cache did not cost, less what those written to it cost more; None
    where there are none.
    """

    cost: Decimal
    source: str
    doubts: tuple[str, ...] = ()
    priced: tuple[tuple[Itemised, Mapping[str, int], str | None], ...] = ()
    cache_saved: Decimal | None = None

    def __eq__(self, other: object) -> bool:
        """Whether it is the same price, whatever was priced."""
        return isinstance(other, Price) and self[:3] == other[:3]

    def __hash__(self) -> int:
        """Of what makes it equal."""
        return hash(self[:3])

    @property
    def parts(self) -> tuple[CostPart, ...]:
        """What each unit cost and by which rate; together that is the cost, but for one that a provider stated."""
        return tuple([part for plan, counts, model in self.priced for part in plan.parts(counts, model)])


def warn_unpriced(model: str | None, provider: str | None, why: str) -> None:
    """Say that what a call used has no price, and why."""
    _warn_once(("counts", provider, model), "a call of %r (provider %r) is unpriced: %s", model, provider, why)


def warn_of_doubts(model: str | None, provider: str | None, doubts: Sequence[str]) -> None:
    """Say why a call's cost is an estimate."""
    for doubt in doubts:
        _warn_once(
            ("doubt", provider, model, doubt), "the cost of %r (provider %r) is an estimate: %s", model, provider, doubt
        )


def warn_no_price(model: str | None, requested: str | None, provider: str | None) -> None:
    """Say that a model has no price, and how to set one."""
    names = list(dict.fromkeys(name for name in (model, requested) if name))
    if not names:
        _warn_once(("name", provider), "calls through %r state no model, and count as unpriced", provider)
        return
    _warn_once(
        ("price", provider, names[0]),
        "no price for %s (provider %r), its calls count as unpriced: set one with "
        "token_handlers.set_price(%r, input_mtok=..., output_mtok=...), 0 where it costs nothing, "
        "or with alias_of=... where it is another name, a deployment or a fine-tune of a model with a price",
        " or ".join(map(repr, names)),
        provider,
        names[-1],
    )


def _warn_once(key: tuple[str | None, ...], message: str, *args: object) -> None:
    if key in _warned:
        return
    with _lock:
        if key in _warned or len(_warned) >= _WARNINGS_KEPT:
            return
        _warned.add(key)
        last = len(_warned) == _WARNINGS_KEPT
    logger.warning("%s (%s)", message % args, WHY)
    if last:
        logger.warning("this was warning %d about prices: further models are not named", _WARNINGS_KEPT)


def forget_warnings() -> None:
    """Give every warning again."""
    with _lock:
        _warned.clear()
