from decimal import Decimal

import pytest

from token_handlers import Usage, UsageRecord, UsageTotals
from token_handlers.counter.totals import NOTHING, CallLabels, Increment, increment, increment_of, summed

COUNTS = {"input_tokens": 9, "output_tokens": 5}
CENT = Decimal("0.01")


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ({"cost": CENT}, {**COUNTS, "successful_requests": 1}),
        ({}, {**COUNTS, "successful_requests": 1, "unpriced_requests": 1}),
        ({"cost": CENT, "source": "estimated"}, {**COUNTS, "successful_requests": 1, "estimated_requests": 1}),
        ({"cost": CENT, "doubted": True}, {**COUNTS, "successful_requests": 1, "estimated_requests": 1}),
        ({"cost": CENT, "source": "manual"}, COUNTS),
        ({"source": "manual"}, {**COUNTS, "unpriced_requests": 1}),
        ({"cost": CENT, "requests": 3}, {**COUNTS, "successful_requests": 3}),
        ({"cost": CENT, "operation": "embeddings"}, {"embedding_tokens": 9, "successful_requests": 1}),
        ({"outcome": "failed", "cost": CENT}, {"failed_requests": 1}),
        ({"outcome": "cached", "cost": CENT}, {"cached_responses": 1}),
    ],
)
def test_increments(arguments, numbers):
    """What was billed adds tokens and requests; what failed or came from a cache, itself alone."""
    assert numbers == increment(COUNTS, **arguments).numbers


def test_a_sum():
    """A sum adds numbers and money exactly, and what is taken back leaves what was there before."""
    first, second = increment(COUNTS, cost=Decimal("1e-18")), increment(COUNTS, cost=Decimal("1e9"))
    both = summed((first, second))

    assert (18, 10, 2, Decimal("1000000000.000000000000000001")) == (
        *(both.totals().prompt_tokens, both.totals().completion_tokens, both.totals().successful_requests),
        both.known_cost(),
    )
    assert first.totals() == summed((both, second.negated())).totals()


def test_sums_of_sums():
    """Increments that state other numbers add up, sums too, and the order makes no difference."""
    parts = increment(COUNTS, cost=CENT), increment(COUNTS), increment({"cache_read_tokens": 3}, source="estimated")
    totals = UsageTotals(
        prompt_tokens=18,
        completion_tokens=10,
        prompt_tokens_cached=3,
        successful_requests=3,
        estimated_requests=1,
        unpriced_requests=2,
        unpriced_cache_tokens=3,
        cost=CENT,
        cache_saved_cost=None,
    )

    assert totals == summed(parts).totals() == summed((summed(parts[:2]), parts[2])).totals()
    assert totals == summed((NOTHING, *reversed(parts))).totals()


def test_an_unknown_cost_is_none():
    """A cost is None where there were requests and none could be priced, also once an estimate was taken back."""
    estimate = increment(COUNTS, cost=CENT)

    assert None is increment(COUNTS).known_cost()
    assert None is summed((estimate, estimate.negated(), increment(COUNTS))).known_cost()
    assert Decimal(0) == NOTHING.known_cost() == summed(()).known_cost()


def test_a_records_increment():
    """A record adds what its call did, under its labels."""
    usage = Usage(input_tokens=9, output_tokens=5)
    record = UsageRecord(usage=usage, model="m", user="ada", tags={"team": "search"}, cost=CENT, doubts=("a fee",))
    labels = CallLabels("m", user="ada", tags=(("team", "search"),))
    numbers = {**COUNTS, "successful_requests": 1, "estimated_requests": 1}

    assert Increment(numbers, CENT, None, labels, priced=1) == increment_of(record)


def test_labels():
    """A bare tag is summed by its name, a session by its models too, and what has no model has a row all the same."""
    assert [("model", "(unknown)")] == CallLabels().pairs()
    assert [("model", "m"), ("langgraph_node", "plan"), ("beta", "true"), ("tag", "beta")] == CallLabels(
        "m", node="plan", tags=(("beta", "true"),)
    ).pairs()
    assert [("model", "m"), ("session", "s"), ("\0session", "s\0openai\0m")] == CallLabels(
        "m", "s", provider="openai"
    ).pairs()
