import re
from decimal import Decimal

import pytest

from token_handlers import Budget, install, track_tokens
from token_handlers.sinks.redis import RedisCounter


@pytest.mark.parametrize("name", ["max_cost", "max_tokens", "max_requests"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "", "much", b"1", [1], object])
def test_what_is_no_limit(name, value):
    """Zero, negatives, NaN, infinities, bools and what is no number are refused by name, and nothing changes."""
    budget = Budget(max_cost=1, max_tokens=2, max_requests=3)
    message = f"{name} must be .*, more than 0, not {re.escape(repr(value))}$"
    with pytest.raises(ValueError, match=message):
        Budget(**{name: value})
    with pytest.raises(ValueError, match=message):
        budget.set_limits(**{"max_cost": 9, "max_tokens": 9, "max_requests": 9, name: value})

    assert {"max_cost": 1, "max_tokens": 2, "max_requests": 3} == budget.limits


@pytest.mark.parametrize("name", ["max_tokens", "max_requests"])
@pytest.mark.parametrize("value", [1.0, 2.5, "3", Decimal(4)])
def test_counts_are_whole(name, value):
    """Tokens and requests are ints; a float or a string is refused."""
    with pytest.raises(ValueError, match=f"{name} must be a whole number, more than 0, not {re.escape(repr(value))}"):
        Budget(**{name: value})


@pytest.mark.parametrize("value", ["-0.1", "1e400", "sNaN", "0.0", Decimal("-Infinity"), 10**400])
def test_what_is_no_money(value):
    """A cost is a finite number of USD above 0."""
    with pytest.raises(ValueError, match="max_cost must be USD, more than 0, not"):
        Budget(max_cost=value)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({}, ValueError, "a Budget needs a limit: max_cost, max_tokens, max_requests or max_cost_per_minute"),
        ({"warn_at": 0}, ValueError, "warn_at is a share of the limit, more than 0 and at most 1, not 0"),
        ({"warn_at": 1.1}, ValueError, "warn_at is a share .* not 1.1"),
        ({"warn_at": -0.5}, ValueError, "warn_at is a share .* not -0.5"),
        ({"warn_at": float("nan")}, ValueError, "warn_at is a share .* not nan"),
        ({"warn_at": Decimal("NaN")}, ValueError, "warn_at is a share .* not Decimal"),
        ({"warn_at": True}, ValueError, "warn_at is a share .* not True"),
        ({"warn_at": "0.8"}, ValueError, "warn_at is a share .* not '0.8'"),
        ({"per": "week"}, ValueError, "per is one of None, 'hour', 'day', 'month', not 'week'"),
        ({"per": ["day"]}, ValueError, "per is one of"),
        ({"each": ""}, ValueError, "each must be 'session', 'user' or the name of a tag, not ''"),
        ({"each": 7}, ValueError, "each must be .* not 7"),
        ({"warn_at": (0.5, 1.5)}, ValueError, "warn_at is a share .* not 1.5"),
        ({"warn_at": "0.5"}, ValueError, "warn_at is a share .* not '0.5'"),
        ({"max_cost_per_minute": 0}, ValueError, "max_cost_per_minute must be USD, more than 0, not 0"),
        ({"unpriced": "free"}, ValueError, "unpriced is one of 'warn', 'allow', 'refuse', not 'free'"),
        ({"scope": ""}, ValueError, "scope must be a non-empty string, not ''"),
        ({"scope": 7}, ValueError, "scope must be a non-empty string, not 7"),
        ({"on_outage": "fail_open"}, ValueError, "on_outage is for a budget with a store"),
        ({"store": "redis://localhost"}, TypeError, "store must be a RedisCounter, not 'redis://localhost'"),
        ({"on_warning": "print"}, ValueError, "on_warning must be a function of one argument, or a URL such as"),
        ({"on_warning": "ftp://example.com"}, ValueError, "on_warning must be a function .* or a URL"),
        ({"on_warning": 7}, TypeError, "on_warning must be an ordinary function of one argument, not 7"),
    ],
)
def test_bad_settings(settings, kind, message):
    """A wrong setting is one error that names it, its value, and what it may be."""
    with pytest.raises(kind, match=message):
        Budget(**({"max_requests": 1, **settings} if settings else {}))


async def _asynchronous(event):
    """Return what cannot be awaited where budgets are checked."""


class _Asynchronous:
    async def __call__(self, event): ...


@pytest.mark.parametrize("name", ["on_warning", "on_exceeded"])
@pytest.mark.parametrize("callback", [_asynchronous, _Asynchronous()])
def test_callbacks_are_not_asynchronous(name, callback):
    """A coroutine function is refused: its coroutine would be true, and never run."""
    with pytest.raises(TypeError, match=f"{name} must be an ordinary function of one argument, not "):
        Budget(max_requests=1, **{name: callback})


@pytest.fixture
def nowhere():
    """A store whose server is not there."""
    store = RedisCounter("redis://127.0.0.1:1", "nobody", timeout=0.1)
    yield store
    store.close(0)


@pytest.mark.parametrize("missing", ["scope", "on_outage"])
def test_a_store_needs_to_be_told(nowhere, missing):
    """A budget in a store needs its name there, and what to do in an outage; there is no default."""
    settings = {"scope": "team", "on_outage": "fail_closed"}
    del settings[missing]
    with pytest.raises(ValueError, match="a budget with a store needs a scope, its name there, and on_outage="):
        Budget(max_requests=1, store=nowhere, **settings)


def test_what_is_given_as_a_budget():
    """What is no Budget is refused where it is given, with the remedy."""
    for give in (lambda: track_tokens(budget="0.50"), lambda: install("auto", budget=0.5)):
        with pytest.raises(TypeError, match=r"budget must be a Budget, not .*: write Budget\(max_cost=...\)"):
            give()
