import gc
import logging
import pickle
import threading
from decimal import Decimal
from typing import cast

import pytest
from langchain_openai import ChatOpenAI

from tests.support.reservations import request, reserve, spend
from token_handlers import (
    Budget,
    BudgetExceeded,
    ConversationTracker,
    TokenCounter,
    install,
    set_price,
    track_tokens,
    uninstall,
)
from token_handlers.budget import Amounts, BudgetWarning, alerts
from token_handlers.budget.local_store import LocalStore
from token_handlers.errors import raise_faults
from token_handlers.sinks.redis import RedisCounter

NOTHING = Amounts()


def chat(ledger, /, model="gpt-4o-mini", **settings):
    """Return a ChatOpenAI that talks to the test's channel."""
    settings = {"api_key": "none", "max_retries": 0, **settings}
    return ChatOpenAI(model=model, base_url=ledger.url(), **settings)


@pytest.fixture
def lenient():
    """Faults are logged, as in an application, rather than raised."""
    raise_faults(False)
    yield
    raise_faults(True)


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        ({"max_requests": 3}, 3),
        ({"max_tokens": 300}, 3),
        ({"max_tokens": 299}, 2),
        ({"max_cost": "0.03"}, 3),
        ({"max_cost": 0.03}, 3),
        ({"max_cost": Decimal("0.0299999999")}, 2),
        ({"max_cost": 1, "max_tokens": 150, "max_requests": 9}, 1),
    ],
)
def test_limits_are_inclusive(limits, calls):
    """A call that just reaches a limit is sent, and the one that would pass it is not; money is exact."""
    budget = Budget(**limits)
    for _ in range(calls):
        spend(budget, 100, "0.01")
    with pytest.raises(BudgetExceeded):
        spend(budget, 100, "0.01")

    assert Amounts(Decimal("0.01") * calls, 100 * calls, calls) == budget.spent()
    assert NOTHING == budget.held()


def test_the_error_says_it_all():
    """The error names model, scope, limit, what is spent and held, in its message and as attributes."""
    budget = Budget(max_cost="0.50", scope="team", each="user", per="day")
    spend(budget, 10, "0.20", user="ada")
    reserve(budget, request(10, Decimal("0.20"), "gpt-4o", user="ada"))
    with pytest.raises(BudgetExceeded) as raised:
        reserve(budget, request(10, Decimal("0.101"), "gpt-4o", user="ada"))

    scope = "budget 'team' of user 'ada' per day"
    message = (
        f"gpt-4o was not called: {scope} has max_cost=0.50 USD: 0.2 spent, 0.2 held by calls under way, "
        "and this call may take 0.101"
    )
    error = raised.value
    assert message == str(error)
    assert (scope, "max_cost", "gpt-4o") == (error.scope, error.limit, error.model)
    assert (Decimal("0.50"), Decimal("0.20")) == (error.maximum, error.spent)
    assert budget.refused(error)
    assert not Budget(max_cost=1).refused(error)


def test_the_error_can_be_pickled():
    """What a worker process raises arrives whole."""
    error = BudgetExceeded("no", scope="the budget", limit="max_tokens", maximum=5, spent=4, model="m")
    copy = pickle.loads(pickle.dumps(error))

    assert (str(error), vars(error)) == (str(copy), vars(copy))


@pytest.fixture
def nowhere():
    """A store whose server is not there."""
    store = RedisCounter("redis://127.0.0.1:1", "nobody", timeout=0.1)
    yield store
    store.close(0)


@pytest.mark.parametrize(("on_outage", "sent"), [("fail_open", 1), ("fail_closed", 0)])
def test_an_outage(ledger, nowhere, on_outage, sent):
    """While its store can't be asked, a budget sends what comes, or refuses it: limit, maximum and spent are None."""
    budget, refusals = Budget(max_requests=9, store=nowhere, scope="team", on_outage=on_outage), []
    with track_tokens(budget=budget):
        try:
            chat(ledger).invoke("hello")
        except BudgetExceeded as error:
            refusals.append(error)

    assert (sent, 1 - sent) == (ledger.total().requests, len(refusals))
    for refusal in refusals:
        assert "budget 'team' fails closed" in str(refusal)
        assert (None, None, None) == (refusal.limit, refusal.maximum, refusal.spent)


@pytest.mark.parametrize("each", ["session", "user"])
def test_each(ledger, each):
    """A budget for each session or user holds apart those that the blocks name, and all calls without a name."""
    budget = Budget(max_requests=1, each=each)
    other = {"session": "user", "user": "session"}[each]
    for name in ("ada", "ben", None):
        with track_tokens(**{each: name, other: "same"}), track_tokens(budget=budget):
            chat(ledger).invoke("hello")
            with pytest.raises(BudgetExceeded) as raised:
                chat(ledger).invoke("hello")
        title = f"the budget of {each} {name!r}" if name else "the budget"
        assert (title, 1) == (raised.value.scope, budget.spent(name).requests)

    assert NOTHING == budget.spent("nobody")
    assert 3 == ledger.total().requests


def test_on_warning():
    """It is called when the share of a limit is spent, once for each limit, with scope, limit and what is spent."""
    warnings = []
    budget = Budget(max_tokens=100, max_requests=10, warn_at=0.5, on_warning=warnings.append, scope="team")
    for _ in range(7):
        spend(budget, 10)

    tokens = BudgetWarning("budget 'team'", "max_tokens", 100, 50)
    requests = BudgetWarning("budget 'team'", "max_requests", 10, 5)
    assert [tokens, requests] == warnings


def test_warnings_of_threads():
    """Many calls that end at once warn once."""
    warnings = []
    budget = Budget(max_requests=1_000_000, warn_at=0.000001, on_warning=warnings.append)
    barrier = threading.Barrier(8)

    def work():
        barrier.wait(10)
        for _ in range(200):
            spend(budget)

    in_threads(work, 8)
    assert 1 == len(warnings)


def in_threads(work, number):
    """Run work in threads, to their end."""
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_without_on_warning(caplog):
    """The share is logged, once; with warn_at=None nothing is."""
    for warn_at in (0.5, None):
        budget = Budget(max_cost="0.10", warn_at=warn_at, scope="team")
        for _ in range(3):
            spend(budget, cost="0.03")

    assert ["budget 'team' has spent 0.06 of max_cost=0.10"] == caplog.messages


def test_an_on_warning_that_raises(ledger, lenient, caplog):
    """It disturbs nothing: the call is booked and returns."""
    budget = Budget(max_requests=1, on_warning=lambda warning: 1 / 0)
    with track_tokens(budget=budget):
        assert chat(ledger).invoke("hello").text

    assert 1 == budget.spent().requests == ledger.total().requests
    assert any("ZeroDivisionError" in line for line in caplog.messages)


def test_on_exceeded_that_allows(ledger):
    """Where it returns something true the call is sent all the same, and booked beyond the limit."""
    asked = []

    def ask(error):
        asked.append(error)
        return True

    budget = Budget(max_requests=1, on_exceeded=ask)
    with track_tokens(budget=budget):
        for _ in range(3):
            chat(ledger).invoke("hello")

    assert 3 == budget.spent().requests == ledger.total().requests
    assert [1, 2] == [error.spent for error in asked]
    assert 0 == budget.held().requests


@pytest.mark.parametrize("answer", [None, False, 0, ""])
def test_on_exceeded_that_refuses(ledger, answer):
    """Where it returns nothing true, the error that it was given is raised."""
    asked = []

    def ask(error):
        asked.append(error)
        return answer

    budget = Budget(max_requests=1, on_exceeded=ask)
    with track_tokens(budget=budget):
        chat(ledger).invoke("hello")
        with pytest.raises(BudgetExceeded) as raised:
            chat(ledger).invoke("hello")

    assert [raised.value] == asked
    assert 1 == ledger.total().requests


def _broken(error):
    raise LookupError


async def _asynchronous(event):
    """Return what cannot be awaited where budgets are checked."""


def _coroutine(error):
    return _asynchronous(error)


@pytest.mark.parametrize("callback", [_broken, _coroutine])
def test_on_exceeded_that_fails(ledger, lenient, caplog, callback):
    """One that raises, or returns a coroutine, is logged, and the call is refused."""
    budget = Budget(max_requests=1, on_exceeded=callback)
    with track_tokens(budget=budget):
        chat(ledger).invoke("hello")
        with pytest.raises(BudgetExceeded, match="max_requests=1"):
            chat(ledger).invoke("hello")

    assert (1, 0) == (ledger.total().requests, budget.held().requests)


def test_on_exceeded_that_raises_the_limits(ledger):
    """It may raise the limits and let the call be sent: those after it are checked against the new ones."""

    def ask(error):
        budget.set_limits(max_requests=3)
        return error.maximum < 3

    budget = Budget(max_requests=1, on_exceeded=ask)
    with track_tokens(budget=budget):
        for _ in range(3):
            chat(ledger).invoke("hello")
        with pytest.raises(BudgetExceeded, match="max_requests=3"):
            chat(ledger).invoke("hello")

    assert 3 == ledger.total().requests


def test_set_limits():
    """Those that are given are replaced, the others stay; a limit below what is spent refuses what comes."""
    budget = Budget(max_cost=1, max_requests=5)
    spend(budget, 10, "0.5")
    budget.set_limits(max_cost="0.4", max_tokens=100)

    assert {"max_cost": Decimal("0.4"), "max_tokens": 100, "max_requests": 5} == budget.limits
    assert "<Budget the budget: max_cost=0.4, max_tokens=100, max_requests=5>" == repr(budget)
    with pytest.raises(BudgetExceeded, match=r"max_cost=0\.4 USD: 0\.5 spent, and this call may take 0"):
        spend(budget)


@pytest.mark.parametrize(
    ("unpriced", "sent", "warned"), [("warn", 2, 1), ("allow", 2, 0), ("refuse", 0, 0), (None, 2, 1)]
)
def test_unpriced_models(ledger, caplog, unpriced, sent, warned):
    """A model without a price under max_cost is sent with a warning, sent, or refused, as one chose."""
    budget = Budget(max_cost="0.01", **({"unpriced": unpriced} if unpriced else {}))
    refusals = []
    with track_tokens(budget=budget):
        for _ in range(2):
            try:
                chat(ledger, "nobody-knows-7b").invoke("hello")
            except BudgetExceeded as error:
                refusals.append(error)

    assert (sent, 2 - sent) == (ledger.total().requests, len(refusals))
    assert Amounts(Decimal(0), budget.spent().tokens, sent) == budget.spent()
    about = [line for line in caplog.messages if "so the budget does not see its cost" in line]
    assert warned == len(about)
    assert all("set_price('nobody-knows-7b', ...)" in line for line in (*about, *map(str, refusals)))
    assert all(("max_cost", None) == (error.limit, error.spent) for error in refusals)


def test_unpriced_models_without_max_cost(ledger, caplog):
    """Where the cost is no limit, a model without a price is nothing to warn of, nor to refuse."""
    with track_tokens(budget=Budget(max_requests=1, unpriced="refuse")):
        chat(ledger, "nobody-knows-8b").invoke("hello")

    assert 1 == ledger.total().requests
    assert not any("budget" in line and "price" in line for line in caplog.messages)


def test_unpriced_and_asked(ledger):
    """on_exceeded is asked about a model without a price, too."""
    budget = Budget(max_cost="0.01", unpriced="refuse", on_exceeded=lambda error: "no price" in str(error))
    with track_tokens(budget=budget):
        chat(ledger, "nobody-knows-9b").invoke("hello")

    assert 1 == ledger.total().requests


def test_a_price_of_ones_own(ledger):
    """A price that is set makes an unknown model one that a budget sees."""
    set_price("own-model-of-budgets", input_mtok=1000, output_mtok=1000)
    budget = Budget(max_cost="0.03", unpriced="refuse")
    with track_tokens(budget=budget):
        chat(ledger, "own-model-of-budgets").invoke("hello")
        with pytest.raises(BudgetExceeded, match=r"max_cost=0\.03 USD"):
            chat(ledger, "own-model-of-budgets").invoke("hello", max_tokens=25)

    bill = ledger.total()
    assert Decimal(bill.prompt_tokens + bill.completion_tokens) / 1000 == budget.spent().cost
    assert 1 == bill.requests


def test_held_and_spent(ledger):
    """A call under way holds its prompt and max_tokens; at its end what it used is booked in their place."""
    budget = Budget(max_cost="0.01", max_tokens=1000)
    gated = ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(gate=0), api_key="none", max_retries=0)

    def work():
        with track_tokens(budget=budget):
            gated.invoke("What is the weather?", max_tokens=100)

    thread = threading.Thread(target=work)
    thread.start()
    ledger.wait_at_gate()
    held, spent = budget.held(), budget.spent()
    ledger.release()
    thread.join()

    bill = ledger.total()
    assert NOTHING == spent
    assert (1, True) == (held.requests, 100 < held.tokens <= 100 + 2 * bill.prompt_tokens)
    # 0.15 and 0.60 USD per million
    assert Decimal((held.tokens - 100) * 150 + 100 * 600) / 10**9 == held.cost
    used = Decimal(bill.prompt_tokens * 150 + bill.completion_tokens * 600) / 10**9
    assert Amounts(used, bill.prompt_tokens + bill.completion_tokens, 1) == budget.spent()
    assert NOTHING == budget.held()


def test_nested_budgets_all_hold(ledger):
    """A call is checked against the budgets of all blocks around it, and booked in each."""
    outer, inner = Budget(max_requests=3, scope="outer"), Budget(max_requests=2, scope="inner")
    with track_tokens(budget=outer):
        with track_tokens(budget=inner):
            for _ in range(2):
                chat(ledger).invoke("hello")
            with pytest.raises(BudgetExceeded, match="budget 'inner' has max_requests=2"):
                chat(ledger).invoke("hello")
        assert (2, NOTHING) == (outer.spent().requests, outer.held())  # the inner's refusal let go of it
        chat(ledger).invoke("hello")
        with track_tokens(budget=Budget(max_requests=9)), pytest.raises(BudgetExceeded) as raised:
            chat(ledger).invoke("hello")

    assert outer.refused(raised.value)
    assert (3, 2) == (outer.spent().requests, inner.spent().requests)
    assert (NOTHING, NOTHING) == (outer.held(), inner.held())
    assert 3 == ledger.total().requests


def test_one_budget_in_two_blocks(ledger):
    """A budget that several blocks around a call share counts it once; blocks beside each other share it."""
    budget = Budget(max_requests=3)
    with track_tokens(budget=budget), track_tokens(budget=budget), track_tokens(budget=budget):
        chat(ledger).invoke("hello")
        chat(ledger).invoke("hello")
    assert 2 == budget.spent().requests

    with track_tokens(budget=budget):
        chat(ledger).invoke("hello")
        with pytest.raises(BudgetExceeded):
            chat(ledger).invoke("hello")
    assert 3 == ledger.total().requests


def test_a_counter_is_entered_again_with_its_budget(ledger):
    """A thread of one's own that enters the counter again is under the block's budget."""
    budget, refusals = Budget(max_requests=1), []
    with track_tokens(budget=budget) as counter:
        chat(ledger).invoke("hello")

    def work():
        with track_tokens(counter=counter):
            try:
                chat(ledger).invoke("hello")
            except BudgetExceeded as error:
                refusals.append(error)

    in_threads(work, 1)
    assert (1, 1, 1) == (len(refusals), ledger.total().requests, counter.successful_requests)


def test_a_budget_that_is_given_again(ledger):
    """A counter that is entered again, with the same budget given again, is under it once."""
    budget, counter = Budget(max_requests=2), TokenCounter()
    for _ in range(2):
        with track_tokens(counter=counter, budget=budget):
            chat(ledger).invoke("hello")

    assert 2 == counter.successful_requests == budget.spent().requests
    assert NOTHING == budget.held()


def test_the_decorator(ledger):
    """A decorated function's calls share the budget."""
    budget = Budget(max_requests=2)

    @track_tokens(budget=budget)
    def ask():
        return chat(ledger).invoke("hello").text

    ask()
    ask()
    with pytest.raises(BudgetExceeded):
        ask()
    assert 2 == ledger.total().requests


def test_a_budget_of_the_process(ledger):
    """install(budget=) holds in every thread, in blocks too and with theirs, until uninstall()."""
    budget, errors = Budget(max_requests=2, scope="process"), []

    def work():
        try:
            chat(ledger).invoke("hello")
        except BudgetExceeded as error:
            errors.append(error)

    install("langchain", budget=budget)
    try:
        install("langchain", budget=budget)
        in_threads(work, 1)
        with track_tokens(budget=budget), track_tokens(budget=Budget(max_requests=9)):
            work()
            work()
        work()
    finally:
        uninstall()
    work()
    with track_tokens():
        work()

    assert ["budget 'process'"] * 2 == [error.scope for error in errors]
    assert (2, 4) == (budget.spent().requests, ledger.total().requests)


def test_a_budget_of_a_conversation(ledger):
    """ConversationTracker(budget=) checks the calls in its block, and books what it is told."""
    budget = Budget(max_tokens=100)
    tracker = ConversationTracker("c-budget", sink=lambda record: None, budget=budget)
    tracker.track_token_usage(prompt_tokens=60, completion_tokens=20, embedding_tokens=5)
    assert Amounts(Decimal(0), 85, 0) == budget.spent()
    with tracker, pytest.raises(BudgetExceeded, match="max_tokens=100: 85 spent"):
        chat(ledger).invoke("hello", max_tokens=50)
    budget.set_limits(max_tokens=1000)
    with tracker:
        chat(ledger).invoke("hello", max_tokens=50)

    bill = ledger.total()
    assert (1, 85 + bill.prompt_tokens + bill.completion_tokens) == (bill.requests, budget.spent().tokens)
    with pytest.raises(ValueError, match="must not be negative"):
        tracker.track_token_usage(prompt_tokens=1000, completion_tokens=-1)
    assert 1000 > budget.spent().tokens


def test_spend_by_hand_is_never_refused():
    """What was used already is booked beyond a limit, and refuses what comes."""
    budget = Budget(max_tokens=10)
    ConversationTracker("c-over", sink=lambda record: None, budget=budget).track_token_usage(prompt_tokens=50)

    assert 50 == budget.spent().tokens
    with pytest.raises(BudgetExceeded):
        spend(budget, 1)


def test_a_refused_call_is_recorded_nowhere(ledger):
    """No counter, failed requests included, knows of a call that was not sent."""
    with track_tokens(budget=Budget(max_tokens=1)) as counter, pytest.raises(BudgetExceeded):
        chat(ledger).invoke("hello")

    assert TokenCounter().snapshot() == counter.snapshot()
    assert {} == counter.open_calls
    assert 0 == ledger.total().requests


def test_sixteen_threads_at_a_budget():
    """What is held and spent together never passes a limit, whatever the threads do."""
    budget, granted, barrier = Budget(max_tokens=1000), [], threading.Barrier(16)

    def work():
        barrier.wait(10)
        for _ in range(50):
            try:
                spend(budget, 7)
            except BudgetExceeded:
                continue
            granted.append(7)

    in_threads(work, 16)
    assert 1000 // 7 * 7 == sum(granted) == budget.spent().tokens
    assert NOTHING == budget.held()


def test_nothing_is_kept():
    """A budget keeps its accounts, and nothing of calls, refusals or models."""
    budget = Budget(max_tokens=1000, max_cost=1, each="user", warn_at=None)
    for number in range(500):
        user = f"u-{number % 5}"
        reservation = reserve(budget, request(10, None, f"m-{number}", user=user))
        budget.release(reservation) if number % 2 else budget.settle(reservation, NOTHING)
        with pytest.raises(BudgetExceeded):
            reserve(budget, request(1001, user=user))
    gc.collect()

    accounts = cast("LocalStore", budget._store)._accounts
    assert (5, 0, 0) == (len(accounts), sum(len(one.under_way) for one in accounts.values()), len(budget._refusals))


def test_warnings_are_bounded(monkeypatch):
    """What it has warned of is kept for so many accounts, the latest ones."""
    monkeypatch.setattr(alerts, "MAX_GIVEN", 3)
    budget = Budget(max_requests=1, each="user", on_warning=lambda warning: None)
    for number in range(10):
        spend(budget, user=f"u-{number}")

    assert [f"budget/user/u-{number}" for number in (7, 8, 9)] == [account for account, *_ in budget._alerts._given]


def test_what_a_user_may_call():
    """Completion shows what users may call, and nothing of what calls do."""
    public = {"limits", "set_limits", "spent", "held", "refused", "scope"}

    assert public == {name for name in dir(Budget(max_cost=1)) if not name.startswith("_")}


@pytest.mark.parametrize("label", ["thread_id", "customer"])
def test_each_value_of_a_tag(ledger, label):
    """`each` may be the name of a tag: each of its values has an account, and calls without it share one."""
    budget = Budget(max_requests=1, each=label)
    for tags in ({label: "t-1"}, {label: "t-2", "other": "x"}, {}):
        with track_tokens(tags=tags, budget=budget):
            chat(ledger).invoke("hello")
            with pytest.raises(BudgetExceeded):
                chat(ledger).invoke("hello")

    assert [1, 1, 1, 0] == [budget.spent(name).requests for name in ("t-1", "t-2", None, "t-3")]
    assert 3 == ledger.total().requests


def test_logging_is_the_packages_own(caplog):
    """Budgets warn on the package's logger."""
    budget = Budget(max_requests=1)
    with caplog.at_level(logging.WARNING, "token_handlers"):
        spend(budget)

    assert ["token_handlers"] == [record.name for record in caplog.records]
