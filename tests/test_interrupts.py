"""Ctrl-C in the middle of our own code leaves totals right and locks free, wherever it comes."""

import itertools
import threading
from contextlib import suppress
from decimal import Decimal

import pytest

from tests.support.interrupts import Interrupt
from tests.support.one_token import end, spend, start
from tests.support.reservations import request
from token_handlers import Budget, TokenCounter, track_tokens
from token_handlers.budget import Amounts
from token_handlers.counter import totals
from token_handlers.counter.totals import CallLabels, increment
from token_handlers.tracking import recorder

COUNTER = ("locks.py", "counter/totals.py", "counter/counter.py")
BUDGET = ("locks.py", "budget/local_store.py")


def elsewhere(action, *arguments):
    """Return what an action returns in another thread, which has a second for it."""
    returned = []
    thread = threading.Thread(target=lambda: returned.append(action(*arguments)), daemon=True)
    thread.start()
    thread.join(1)
    assert returned, "the other thread waits"
    return returned[0]


def interrupted(make, steps, files):
    """Yield what is made, the steps that were done, and the place of the interrupt, for each place in each step."""
    for number, (_, step) in enumerate(steps):
        for position in itertools.count(1):
            made = make()
            for _, before in steps[:number]:
                before(made)
            with Interrupt(position, *files) as interrupt:
                try:
                    step(made)
                except KeyboardInterrupt:
                    assert interrupt.place
            if not interrupt.place:
                break
            yield made, number, interrupt.place


def added(tokens):
    """Return what a call of so many tokens adds, under one of six combinations of labels."""
    labels = CallLabels(f"m{tokens % 2}", user=f"u{tokens % 3}")
    return increment({"input_tokens": tokens}, cost=Decimal(tokens), labels=labels)


def of_counters():
    """Return what is done to a counter, one after the other: by how many tokens its total grows, and the step."""
    applied = [(number, lambda counter, number=number: counter.apply(added(number))) for number in range(1, 20)]
    return [
        *applied[:7],
        (100, lambda counter: counter.show("first", added(100))),
        (200, lambda counter: counter.show("second", added(200))),
        (300, lambda counter: counter.show("third", added(300))),
        (50, lambda counter: counter.show("first", added(150))),
        (-200, lambda counter: counter.hide("second")),
        *applied[7:],
        (-119, lambda counter: counter.settle("first", added(31))),
        (32, lambda counter: counter.settle("never shown", added(32))),
        (0, lambda counter: counter.by_model),
        (33, lambda counter: counter._sums._lock.run(lambda: counter.settle("in the middle", added(33)))),
        (0, TokenCounter.snapshot),
        *applied[:3],
        (0, lambda counter: counter.by("nothing")),
        (300 - 592, TokenCounter.reset),
        *applied[:9],
        (0, lambda counter: counter.by_user),
    ]


def test_a_counter(monkeypatch):
    """A counter has each call once, in all and by its labels: the one that is interrupted once, or not at all."""
    monkeypatch.setattr(totals, "MAX_APART", 2)
    steps, places = of_counters(), set()
    for counter, number, place in interrupted(TokenCounter, steps, COUNTER):
        places.add(place)
        tokens = sum(grows for grows, _ in steps[:number])
        for label in ("model", "user"):
            by_value = elsewhere(counter.by, label)
            assert sum(found.prompt_tokens for found in by_value.values()) == counter.prompt_tokens, place
        assert counter.prompt_tokens in {tokens, tokens + steps[number][0]}, place
        total = counter.prompt_tokens
        elsewhere(counter.apply, added(1000))
        assert total + 1000 == elsewhere(counter.snapshot).prompt_tokens, place
    assert len(places) > 100


def of_budgets():
    """Return what is done to a budget of four requests: the calls booked after it, and reserved, and the step.

    The step after it in each is what tracking does once the step is interrupted.
    """

    def reserve(number):
        return lambda made: made[0].reserve(made[1][number]), lambda made: made[0].release(made[1][number])

    def settle(number):
        return (lambda made: made[0].settle(made[1][number], Amounts(Decimal(1), 10, 1)),) * 2

    def release(number):
        return (lambda made: made[0].release(made[1][number]),) * 2

    def held(made):
        made[1][2].is_bound = True
        return made[0].held()

    def settle_in_the_middle(number):
        step, again = settle(number)
        return lambda made: made[0]._store._lock.run(lambda: step(made)), again

    return [
        (0, 1, *reserve(0)),
        (0, 2, *reserve(1)),
        (1, 1, *settle(0)),
        (1, 2, *reserve(2)),
        (1, 2, held, held),
        (2, 1, *settle(1)),
        (2, 2, *reserve(3)),
        (3, 1, *settle_in_the_middle(2)),
        (3, 1, lambda made: made[0].spent(), lambda made: None),
        (3, 0, *release(3)),
    ]


@pytest.mark.parametrize("per", [None, "day"])
def test_a_budget(per):
    """A budget has booked and reserved each call once, also what the last minute cost, and others can ask it."""

    def make():
        budget = Budget(max_requests=9, max_tokens=90, max_cost=9, max_cost_per_minute=9, per=per)
        return budget, [budget.open(request(10, 1)) for _ in range(4)]

    steps, places = of_budgets(), set()
    for made, number, place in interrupted(make, [step[1:3] for step in steps], BUDGET):
        places.add(place)
        spent, held, _, after_it = steps[number]
        is_reservation = held > (steps[number - 1][1] if number else 0)
        after_it(made)
        budget = made[0]
        assert (spent, held - is_reservation) == elsewhere(lambda b=budget: (b.spent().requests, b.held().requests)), (
            place
        )
        assert budget.held().cost == held - is_reservation, place
        assert sum(account.last_minute() for account in budget._store._accounts.values()) == spent, place
        assert elsewhere(lambda b=budget: b.reserve(b.open(request(10, 1))) or True), place
    assert len(places) > 50


@pytest.mark.parametrize("shown", [False, True], ids=["unseen", "shown as an estimate"])
def test_the_end_of_a_call(shown):
    """A call that Ctrl-C interrupts as it is counted is counted once, also in its budget, and reserves nothing."""
    for position in itertools.count(1):
        budget = Budget(max_requests=99)
        with track_tokens(budget=budget, user="ada") as counter:
            for _ in range(8):
                spend()
            call = start()
            recorder.reserve(call)
            if shown:
                recorder.show_estimate(call)
            with Interrupt(position, *COUNTER, *BUDGET) as interrupt, suppress(KeyboardInterrupt):
                end(call)
        if not interrupt.place:
            break
        assert elsewhere(counter.snapshot).successful_requests == 9, interrupt.place
        assert elsewhere(counter.by, "user")["ada"].successful_requests == 9, interrupt.place
        assert (elsewhere(budget.spent).requests, budget.held().requests) == (9, 0), interrupt.place
    assert position > 10
