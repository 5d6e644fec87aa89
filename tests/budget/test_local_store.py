import os
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

import pytest

from tests.support.reservations import request, reserve, spend
from token_handlers import Budget, BudgetExceeded
from token_handlers.budget import Amounts, BudgetWarning, local_store, shelf
from token_handlers.budget.local_store import LocalStore

NOTHING = Amounts()


@pytest.fixture
def clock(monkeypatch):
    """Return what sets the time that says which window it is."""

    def set_to(year, month, day, hour=0, minute=0):
        time = datetime(year, month, day, hour, minute, tzinfo=UTC)
        monkeypatch.setattr(local_store, "now", lambda: time)

    set_to(2026, 3, 31, 23, 59)
    return set_to


@pytest.mark.parametrize(
    ("per", "later", "fresh"),
    [
        ("hour", (2026, 3, 31, 23, 0), False),
        ("hour", (2026, 4, 1, 0, 0), True),
        ("day", (2026, 4, 1, 0, 0), True),
        ("month", (2026, 4, 1, 0, 0), True),
        ("month", (2027, 3, 31, 23, 59), True),
        (None, (2036, 3, 31), False),
    ],
)
def test_windows(clock, per, later, fresh):
    """A limit holds in each hour, day or month, UTC; without a window for good."""
    budget = Budget(max_requests=1, per=per)
    spend(budget, 10, 1)
    clock(*later)

    assert (NOTHING if fresh else Amounts(Decimal(1), 10, 1)) == budget.spent()
    if fresh:
        spend(budget)
    with pytest.raises(BudgetExceeded):
        spend(budget)


def test_a_call_over_the_end_of_a_window(clock):
    """A call is booked where it ends, and what it holds goes with it into the next window."""
    budget = Budget(max_tokens=100, per="day")
    reservation = reserve(budget, request(80))
    clock(2026, 4, 1, 0, 0)
    with pytest.raises(BudgetExceeded):
        reserve(budget, request(30))
    budget.settle(reservation, Amounts(Decimal(0), 50, 1))

    assert (50, NOTHING) == (budget.spent().tokens, budget.held())


def test_on_warning_in_each_window(clock):
    """It is called once for each limit, window and account; raised limits are warned of anew."""
    warnings = []
    budget = Budget(max_requests=2, per="day", each="user", warn_at=1, on_warning=warnings.append)
    for day in (1, 2):
        clock(2026, 4, day)
        for user in ("ada", "ada", "ben", "ben"):
            spend(budget, user=user)
    assert 4 == len(warnings)

    budget.set_limits(max_requests=3)
    spend(budget, user="ada")
    assert BudgetWarning("the budget of user 'ada' per day", "max_requests", 3, 3) == warnings[4]


def test_many_sessions(monkeypatch):
    """Each session has an account of its own, however many there are: nobody is refused for what others spent."""
    monkeypatch.setattr(local_store, "MAX_ACCOUNTS", 3)
    budget = Budget(max_requests=2, each="session", warn_at=None)
    for _ in range(2):
        for number in range(50):
            spend(budget, 10, "0.1", session=f"s-{number}")
    for number in range(50):
        with pytest.raises(BudgetExceeded):
            spend(budget, session=f"s-{number}")

    accounts = cast("LocalStore", budget._store)._accounts
    assert [Amounts(Decimal("0.2"), 20, 2)] * 50 == [budget.spent(f"s-{number}") for number in range(50)]
    assert (NOTHING, 3) == (budget.spent("s-50"), len(accounts))


def test_many_sessions_under_way(monkeypatch):
    """An account that a call has reserved something in stays, whatever the others do."""
    monkeypatch.setattr(local_store, "MAX_ACCOUNTS", 3)
    budget = Budget(max_requests=1, each="session", warn_at=None)
    under_way = [reserve(budget, request(session=f"s-{number}")) for number in range(5)]
    for name in ("a", "b", "c"):
        spend(budget, session=name)
    for reservation in under_way:
        budget.settle(reservation, Amounts(requests=1))

    assert [1] * 5 == [budget.spent(f"s-{number}").requests for number in range(5)]
    assert NOTHING == budget.held("s-0")


def test_many_sessions_in_windows(clock, monkeypatch):
    """Accounts that are out of use have their own windows too."""
    monkeypatch.setattr(local_store, "MAX_ACCOUNTS", 3)
    budget = Budget(max_requests=1, each="session", per="day", warn_at=None)
    reservation = reserve(budget, request(session="a"))
    for session in ("b", "c", "d", "e"):
        spend(budget, session=session)
    clock(2026, 4, 1)
    for session in ("d", "e", "f", "g"):
        spend(budget, session=session)
    budget.settle(reservation, Amounts(requests=1))

    assert [1, 0, 0, 1, 1, 1, 1] == [budget.spent(name).requests for name in "abcdefg"]
    with pytest.raises(BudgetExceeded):
        spend(budget, session="d")


@pytest.mark.parametrize("on_outage", [None, "fail_open", "fail_closed"])
def test_a_full_disk(monkeypatch, caplog, on_outage):
    """Where accounts have no room, those out of use begin again, with one warning; or new ones are refused."""
    monkeypatch.setattr(local_store, "MAX_ACCOUNTS", 10)
    monkeypatch.setattr(shelf, "MAX_PAGES", 3)
    budget, refused = Budget(max_requests=1, each="session", on_outage=on_outage, warn_at=None), []
    names = [f"s-{number}-{'x' * 1000}" for number in range(60)]
    for name in names:
        try:
            spend(budget, session=name)
        except BudgetExceeded as error:
            refused.append(error)

    if on_outage == "fail_closed":
        assert refused
        assert all("fails closed: there is no room for another account" in str(error) for error in refused)
        assert len(names) == len(refused) + sum(budget.spent(name).requests for name in names)
        assert [] == caplog.messages
    else:
        assert [] == refused
        assert 1 == len(caplog.messages)
        assert "there is no room for all of a budget's sessions" in caplog.messages[0]


@pytest.mark.parametrize("per", ["hour", "day", "month"])
def test_the_clock_is_set_back(clock, per):
    """A window that was left and comes again has what was spent in it, and so has the one after it."""
    budget = Budget(max_requests=2, per=per)
    spend(budget)
    clock(2026, 4, 1)
    spend(budget)
    spend(budget)
    clock(2026, 3, 31, 23, 59)
    spend(budget)
    with pytest.raises(BudgetExceeded):
        spend(budget)
    clock(2026, 4, 1)
    with pytest.raises(BudgetExceeded):
        spend(budget)

    clock(2026, 5, 1)
    assert NOTHING == budget.spent()


def test_a_clock_that_was_wrong(clock):
    """A clock that was years ahead for a moment does not end a budget: the window before goes on."""
    budget = Budget(max_requests=2, per="day")
    spend(budget)
    clock(2046, 1, 1)
    spend(budget)
    clock(2026, 3, 31, 23, 59)
    spend(budget)
    with pytest.raises(BudgetExceeded):
        spend(budget)
    clock(2026, 4, 1)
    spend(budget)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_fork(monkeypatch):
    """A forked child knows what each session has spent, and neither disturbs the other's."""
    monkeypatch.setattr(local_store, "MAX_ACCOUNTS", 3)
    budget = Budget(max_requests=2, each="session", warn_at=None)
    names = [f"s-{number}" for number in range(20)]
    for name in names:
        spend(budget, session=name)
    child = os.fork()
    if child == 0:
        right = False
        try:
            for name in names:
                spend(budget, session=name)
            right = all(budget.spent(name).requests == 2 for name in names)
        finally:
            os._exit(0 if right else 1)
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
    assert [1] * 20 == [budget.spent(name).requests for name in names]


def test_reading_makes_no_accounts():
    """Asking for what nobody has spent takes no place."""
    accounts = LocalStore()
    for number in range(10):
        accounts.state(f"s-{number}")

    assert {} == accounts._accounts


def test_a_cost_per_minute(monkeypatch):
    """What the calls of any 60 seconds cost, those under way included, stays within the limit."""
    seconds = [1000.0]
    monkeypatch.setattr(local_store, "monotonic", lambda: seconds[0])
    budget = Budget(max_cost_per_minute="0.10")
    for _ in range(4):
        spend(budget, cost="0.02")
        seconds[0] += 14
    under_way = reserve(budget, request(cost=Decimal("0.02")))
    message = r"max_cost_per_minute=0.10 USD: 0.08 spent in the last minute, 0.02 held .*may take 0.01"
    with pytest.raises(BudgetExceeded, match=message) as raised:
        spend(budget, cost="0.01")
    seconds[0] += 5  # the first call is a minute old
    spend(budget, cost="0.02")
    with pytest.raises(BudgetExceeded):
        spend(budget, cost="0.01")
    budget.release(under_way)
    spend(budget, cost="0.02")

    assert ("max_cost_per_minute", Decimal("0.10"), Decimal("0.08")) == (
        raised.value.limit,
        raised.value.maximum,
        raised.value.spent,
    )
    assert Decimal("0.12") == budget.spent().cost
