import threading
from decimal import Decimal

import pytest

from tests.support.langchain_models import AnsweringChat
from tests.support.line_faults import LineFault
from token_handlers import Budget, BudgetExceeded, TokenCounter, track_tokens
from token_handlers.budget import Amounts
from token_handlers.budget.tool_fees import NO_FEES, AllowedFees
from token_handlers.errors import raise_faults
from token_handlers.payloads import ReportedUsage
from token_handlers.tracking import recorder, reservations
from token_handlers.tracking.call import Call, open_calls
from token_handlers.tracking.result import DISCARD, FAILED, CallResult, Incomplete

NOTHING = Amounts()


class Chat(Call):
    """A call of gpt-4o-mini, $0.15 and $0.60 a million tokens, whose prompt has 100 bytes and some 20 tokens."""

    model = "gpt-4o-mini"
    provider = "openai"
    estimates = 0
    fees: AllowedFees = NO_FEES
    bound: int | None = 100
    cached = False

    def prompt_bound(self):
        return self.bound

    def estimate_prompt(self):
        self.estimates += 1
        return 20

    def estimate(self, text=None):
        return {"input_tokens": 20, "output_tokens": 5}, "test"

    def max_output(self):
        return 10

    def allowed_fees(self):
        return self.fees

    def is_cached(self):
        return self.cached


def opened(budget, **facts):
    """Return a call under a budget that has reserved what it may use."""
    with track_tokens(budget=budget):
        call = Chat()
        for name, value in facts.items():
            setattr(call, name, value)
        recorder.reserve(call)
    return call


def used(tokens):
    """Return the end of a call that used so many input tokens."""
    return CallResult(ReportedUsage({"input_tokens": tokens, "output_tokens": 0}, model="gpt-4o-mini"))


def test_far_from_a_limit_nothing_is_estimated():
    """While an upper bound fits, no prompt is estimated; held() says what the calls are estimated to use."""
    budget = Budget(max_tokens=1000, max_cost=1)
    calls = [opened(budget) for _ in range(3)]
    assert [0, 0, 0] == [call.estimates for call in calls]

    assert Amounts(3 * (20 * Decimal("0.15") + 10 * Decimal("0.60")) / 1_000_000, 90, 3) == budget.held()
    assert [1, 1, 1] == [call.estimates for call in calls]
    assert [1, 1, 1] == [call.estimates for call in calls if budget.held()]  # once each
    for call in calls:
        recorder.finish(call, used(7))
    assert (21, NOTHING) == (budget.spent().tokens, budget.held())


@pytest.mark.parametrize("limit", [{"max_tokens": 299}, {"max_cost": "0.0000899"}])
def test_near_a_limit_estimates_decide(limit):
    """As many calls fit as by their estimates, 30 tokens or $0.000009 each, although the bounds would let fewer in."""
    budget = Budget(**limit)
    calls = [opened(budget) for _ in range(9)]
    with pytest.raises(BudgetExceeded):
        opened(budget)

    for call in calls:
        recorder.finish(call, DISCARD)
    assert (NOTHING, NOTHING) == (budget.held(), budget.spent())


def test_two_budgets_have_one_estimate():
    """A call is estimated once for all budgets, and holds the same in each."""
    outer, inner = Budget(max_tokens=1000), Budget(max_tokens=50)
    with track_tokens(budget=outer):
        call = opened(inner)

    assert (30, 30) == (inner.held().tokens, outer.held().tokens)
    assert 1 == call.estimates
    recorder.finish(call, used(7))
    assert [(7, NOTHING)] * 2 == [(budget.spent().tokens, budget.held()) for budget in (outer, inner)]


def test_what_was_not_reserved_is_booked():
    """A call that has reserved in only one of its budgets is booked in both, once."""
    first, second = Budget(max_tokens=1000), Budget(max_tokens=1000, each="user")
    call = opened(first)
    call.budgets = (first, second)
    recorder.finish(call, used(7))
    recorder.finish(call, used(7))

    assert [(7, 1)] * 2 == [(budget.spent().tokens, budget.spent().requests) for budget in (first, second)]


def test_a_number_of_requests_needs_no_estimate():
    """A budget of requests alone never estimates, nor does a refusal by their number."""
    budget = Budget(max_requests=1, max_tokens=10**6)
    first = opened(budget)
    second = Chat()
    second.budgets = (budget,)
    with pytest.raises(BudgetExceeded):
        recorder.reserve(second)
    recorder.finish(first, used(1))

    assert (0, 0) == (first.estimates, second.estimates)


def test_without_a_bound_the_prompt_is_estimated():
    """A call that can't state a bound, such as one with tools, reserves its estimate at once."""
    call = opened(Budget(max_tokens=1000), bound=None)
    recorder.finish(call, used(1))

    assert 1 == call.estimates


def test_sixty_four_threads_at_the_limit():
    """What is reserved and spent together never exceeds a limit, whatever bounds and estimates stand reserved."""
    budget, granted, barrier = Budget(max_tokens=3_000, max_cost="0.001"), [], threading.Barrier(64)
    over = []

    def work():
        barrier.wait(30)
        for _ in range(20):
            try:
                call = opened(budget)
            except BudgetExceeded:
                continue
            spent, held = budget.spent(), budget.held()
            if spent.tokens > 3_000 or held.tokens > 3_000:
                over.append((spent, held))
            recorder.finish(call, used(30))
            granted.append(call)

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == over
    assert (100, 3_000, NOTHING) == (len(granted), budget.spent().tokens, budget.held())


@pytest.mark.parametrize(
    ("verdict", "requests", "tokens"),
    [
        (used(7), 1, 7),
        (FAILED, 1, 0),
        (Incomplete(), 1, 25),
        (DISCARD, 0, 0),
        (used(7)._replace(outcome="cached"), 0, 0),
    ],
)
def test_ends(verdict, requests, tokens):
    """A call that was sent is booked by what it used, a rejected one as a request; others book nothing."""
    budget = Budget(max_tokens=1000)
    call = opened(budget)
    recorder.finish(call, verdict)
    recorder.finish(call, verdict)

    assert (requests, tokens) == (budget.spent().requests, budget.spent().tokens)
    assert (NOTHING, None) == (budget.held(), call.reservations)


def test_a_call_that_is_refused_by_the_second_budget():
    """It reserves nothing in the first, and counts nowhere."""
    first, second, counter = Budget(max_tokens=1000), Budget(max_tokens=10), TokenCounter()
    with track_tokens(counter=counter, budget=first), pytest.raises(BudgetExceeded):
        opened(second)

    assert (NOTHING, NOTHING) == (first.held(), first.spent())
    assert TokenCounter().snapshot() == counter.snapshot()


def test_a_call_that_a_cache_answers():
    """It is not refused, and reserves nothing."""
    budget = Budget(max_tokens=10)
    call = opened(budget, cached=True)
    held = budget.held()
    recorder.finish(call, used(500)._replace(outcome="cached"))

    assert (NOTHING, NOTHING) == (held, budget.spent())


def test_fees_are_reserved():
    """What the tools of a call may be billed for is reserved with its tokens, and what was spent is booked."""
    budget, kind = Budget(max_cost="0.05"), {"web_search_tool": "web_search"}
    with pytest.raises(BudgetExceeded, match=r"may take 0\.1000"):
        opened(budget, bound=None, fees=AllowedFees({"web_searches": 10}, kind), model="gpt-5-mini")
    call = opened(budget, bound=None, fees=AllowedFees({"web_searches": 4}, kind), model="gpt-5-mini")
    assert Decimal("0.04") < budget.held().cost < Decimal("0.041")
    counts = {"input_tokens": 0, "output_tokens": 0, "web_searches": 1}
    recorder.finish(call, CallResult(ReportedUsage(counts, model="gpt-5-mini", context=kind)))

    assert (Decimal("0.01"), NOTHING) == (budget.spent().cost, budget.held())


def test_an_answer_without_a_price():
    """A call whose answer turns out to have no price is booked at the cost that was reserved for it, not at 0."""
    budget = Budget(max_cost=1)
    call = opened(budget)
    counts = {"input_tokens": 20, "output_tokens": 10, "rerank_searches": 1}
    recorder.finish(call, CallResult(ReportedUsage(counts, model="gpt-4o-mini")))

    assert Decimal("0.000009") == budget.spent().cost


@pytest.fixture
def lenient():
    """Faults are logged, as in an application, rather than raised."""
    raise_faults(False)
    yield
    raise_faults(True)


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_fault_at_any_line(error):
    """Whatever raises between reserve and settle, and where: nothing stays reserved, and an answer is booked, once."""
    left, unbooked, position = [], [], 0
    with track_tokens(budget=Budget(max_cost=1, max_tokens=1000)):
        AnsweringChat().invoke("hello")  # what a first call imports and caches is there
    while True:
        position += 1
        budget, model = Budget(max_cost=1, max_tokens=1000), AnsweringChat()
        with track_tokens(budget=budget), LineFault(position, error("injected")) as fault:
            try:
                model.invoke("hello")
            except (RuntimeError, KeyboardInterrupt):
                answered_before = model.answers
            else:
                answered_before = 0
        if not fault.line:
            break
        if budget._store.state("budget").reserved != NOTHING:
            left.append(fault.line)
        if answered_before and budget.spent().requests != 1:
            unbooked.append(fault.line)
        for call in list(open_calls):
            recorder.discard(call)

    assert position > 200
    assert ([], []) == (left, unbooked)


def test_what_is_booked_by_hand():
    """`book` books beyond a limit, by label where the budget has an account for each value of it."""
    budget = Budget(max_tokens=10, each="thread_id")
    reservations.book(budget, Amounts(Decimal(1), 50, 1), None, None, {"thread_id": "t-1"})

    assert (50, 0) == (budget.spent("t-1").tokens, budget.spent().tokens)
