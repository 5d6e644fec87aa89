"""The pytest plugin: the fixture ``token_usage`` and the marker ``token_ceiling``, there once the package is installed.

::

    def test_an_answer(token_usage):
        answer("How much is it?")
        assert token_usage.successful_requests == 1


    @pytest.mark.token_ceiling(max_cost=0.01, max_tokens=2_000, max_requests=3)
    def test_an_answer_is_cheap():
        answer("How much is it?")

Both count the calls of the test function and of its fixtures of function scope. What fixtures of a wider scope call is
no single test's, and is not counted; nor is what a thread of one's own calls outside of
``with track_tokens(counter=token_usage)``.
"""

import sys
from collections.abc import Generator, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, TypeVar

try:
    import pytest
except ImportError as error:
    from token_handlers.errors import MissingDependency

    raise MissingDependency("pytest", "pytest") from error

# All else of the package is imported by the first test that uses the fixture or the marker: pytest loads this plugin in
# every project of the environment.
if TYPE_CHECKING:
    from token_handlers.counter.counter import TokenCounter
    from token_handlers.usage import UsageTotals

T = TypeVar("T")

_MARKER = (
    "token_ceiling(max_cost=None, max_tokens=None, max_requests=None): fail the test where its LangChain and "
    "LlamaIndex calls cost more USD, use more tokens (embeddings included) or make more requests."
)
_MODELS_NAMED = 3
_counter = pytest.StashKey["TokenCounter"]()
_ceilings = pytest.StashKey[dict[str, Decimal]]()


@pytest.fixture
def token_usage(request: pytest.FixtureRequest) -> "Iterator[TokenCounter]":
    """What the LLM and embedding calls of this test use and cost: a token_handlers.TokenCounter."""
    from token_handlers import TokenCounter, track_tokens

    counter = request.node.stash.setdefault(_counter, TokenCounter())
    with track_tokens(counter=counter):
        yield counter


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give a counter to a test that has a ceiling or asks for the fixture, before its fixtures are made."""
    if not isinstance(item, pytest.Function):
        return
    ceilings = _read_ceilings(item)
    if ceilings or "token_usage" in item.fixturenames:
        from token_handlers import TokenCounter

        item.stash[_counter] = TokenCounter()
        item.stash[_ceilings] = ceilings


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[T], request: pytest.FixtureRequest
) -> Generator[None, T | None, T | None]:
    """Count what a fixture of function scope calls, wherever it stands among the test's arguments."""
    counter = request.node.stash.get(_counter, None) if fixturedef.scope == "function" else None
    if counter is None:
        return (yield)
    from token_handlers import track_tokens

    with track_tokens(counter=counter):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, T, T]:
    """Count what the test calls, and fail it where that is above its ceiling."""
    counter = item.stash.get(_counter, None)
    if counter is None or not isinstance(item, pytest.Function):
        return (yield)
    try:
        with pytest.MonkeyPatch.context() as patch:
            _count_inside(item, counter, patch)
            result = yield
    finally:
        if counter.by_model:
            from token_handlers.counter.tables import usage_table

            item.add_report_section("call", "token_usage", f"{counter!r}\n{usage_table(counter.by_model)}")
    ceilings = item.stash[_ceilings]
    problems = _passed(ceilings, counter.snapshot())
    if problems:
        pytest.fail(f"token_ceiling: {'; '.join(problems)}\n{_most_expensive(counter.by_model)}", pytrace=False)
    return result


def _count_inside(item: pytest.Function, counter: "TokenCounter", patch: pytest.MonkeyPatch) -> None:
    """Put a block into the test function itself, as some runners of coroutines have a context of their own."""
    from token_handlers import track_tokens

    counted = track_tokens(counter=counter)(item.obj)
    patch.setattr(item, "obj", counted)
    unittest = sys.modules.get("unittest")  # which runs its coroutines itself, by their name
    if unittest is not None and isinstance(item.instance, unittest.TestCase) and iscoroutinefunction(counted):
        patch.setattr(item.instance, item.name, counted)


def _read_ceilings(item: pytest.Item) -> dict[str, Decimal]:
    """Return the limits of the test's markers; of two for one limit, that which is nearer to the test."""
    found: dict[str, Decimal] = {}
    for mark in item.iter_markers("token_ceiling"):
        from token_handlers.budget.limits import LIMITS

        if mark.args or not mark.kwargs or not set(mark.kwargs) <= set(LIMITS):
            given = ", ".join([*map(repr, mark.args), *mark.kwargs])
            pytest.fail(f"token_ceiling takes {', '.join(LIMITS)}, by name, not ({given})", pytrace=False)
        for name, value in mark.kwargs.items():
            found.setdefault(name, _limit(name, value))
    return found


def _limit(name: str, value: object) -> Decimal:
    try:
        limit = Decimal(str(value))
    except InvalidOperation:
        limit = Decimal("NaN")
    if isinstance(value, bool) or not limit.is_finite() or limit < 0 or (name != "max_cost" and limit % 1):
        kind = "USD" if name == "max_cost" else "a whole number"
        pytest.fail(f"token_ceiling: {name} must be {kind}, 0 or more, not {value!r}", pytrace=False)
    return limit


def _passed(ceilings: Mapping[str, Decimal], totals: "UsageTotals") -> list[str]:
    """Return what was spent beside each limit that it passes, or of which nobody can tell whether it does."""
    tokens = totals.total_tokens + totals.embedding_tokens
    spent = {"max_cost": totals.cost or 0, "max_tokens": tokens, "max_requests": totals.successful_requests}
    problems = [
        f"{name.removeprefix('max_')} {_amount(name, Decimal(spent[name]))} > {name} {_amount(name, limit)}"
        for name, limit in ceilings.items()
        if spent[name] > limit
    ]
    if "max_cost" in ceilings and totals.unpriced_requests:
        problems.append(
            f"max_cost can't be checked, as {totals.unpriced_requests} of {totals.successful_requests} requests "
            "have no known price: set one with token_handlers.set_price"
        )
    if problems and totals.estimated_requests:
        problems.append(f"{totals.estimated_requests} of the requests are estimates")
    return problems


def _amount(name: str, amount: Decimal) -> str:
    from token_handlers.counter.tables import money

    return f"{money(amount)} USD" if name == "max_cost" else money(amount)


def _most_expensive(by_model: "Mapping[str, UsageTotals]") -> str:
    from token_handlers.counter.tables import usd

    ranked = sorted(by_model.items(), key=lambda item: (-(item[1].cost or 0), -item[1].total_tokens, item[0]))
    named = [
        f"{model} ({'price unknown' if totals.cost is None else f'{usd(totals.cost)} USD'}, "
        f"{totals.total_tokens + totals.embedding_tokens} tokens, requests: {totals.successful_requests})"
        for model, totals in ranked[:_MODELS_NAMED]
    ]
    return f"most expensive: {', '.join(named)}"
