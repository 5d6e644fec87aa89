from datetime import UTC, datetime
from decimal import Decimal

import pytest

from token_handlers import Budget, BudgetExceeded
from token_handlers.budget import Amounts, BudgetWarning
from token_handlers.budget import local_store as budget_accounts
from token_handlers.budget.limits import Asked
from token_handlers.budget.local_store import LocalStore

NOTHING = Amounts()


@pytest.fixture
def clock(monkeypatch):
    """Return what sets the time that says which window it is."""

    def set_to(year, month, day, hour=0, minute=0):
        time = datetime(year, month, day, hour, minute, tzinfo=UTC)
        monkeypatch.setattr(budget_accounts, "now", lambda: time)

    set_to(2026, 3, 31, 23, 59)
    return set_to


def spend(budget, tokens=0, cost=0, **whose):
    """Make a call that uses what it asked for; raise where it is refused."""
    asked = Asked(tokens, Decimal(cost), "gpt-4o-mini", **whose)
    budget.settle(budget.reserve(asked), Amounts(Decimal(cost), tokens, 1), asked.session, asked.user)


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
    hold = budget.reserve(Asked(80))
    clock(2026, 4, 1, 0, 0)
    with pytest.raises(BudgetExceeded):
        budget.reserve(Asked(30))
    budget.settle(hold, Amounts(Decimal(0), 50, 1))

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


def test_many_sessions(monkeypatch, caplog):
    """Beyond the most accounts the others share one, with one warning; windows that have ended make room."""
    monkeypatch.setattr(budget_accounts, "MAX_ACCOUNTS", 3)
    budget = Budget(max_requests=2, each="session", warn_at=None)
    for session in ("a", "b", "c", "d", "e"):
        spend(budget, session=session)

    assert [1, 1, 1, 2, 2, 2] == [budget.spent(name).requests for name in "abcdef"]
    with pytest.raises(BudgetExceeded):
        spend(budget, session="f")
    spend(budget, session="a")
    assert 1 == sum("3 sessions or users" in line for line in caplog.messages)


def test_many_sessions_in_windows(clock, monkeypatch):
    """The accounts of windows that have ended make room for others, apart from those that hold something."""
    monkeypatch.setattr(budget_accounts, "MAX_ACCOUNTS", 3)
    budget = Budget(max_requests=1, each="session", per="day", warn_at=None)
    hold = budget.reserve(Asked(session="a"))
    for session in ("b", "c"):
        spend(budget, session=session)
    clock(2026, 4, 1)
    for session in ("d", "e"):
        spend(budget, session=session)
    budget.settle(hold, Amounts(requests=1), session="a")

    assert [1, 0, 0, 1, 1] == [budget.spent(name).requests for name in "abcde"]


def test_reading_makes_no_accounts():
    """Asking for what nobody has spent takes no place."""
    accounts = LocalStore()
    for number in range(10):
        accounts.spent(f"s-{number}")

    assert {} == accounts._accounts
