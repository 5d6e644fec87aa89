from decimal import Decimal

import pytest

from token_handlers import Usage, UsageRecord, UsageTotals
from token_handlers.counter.totals import Increment, RunningTotal, increment, increment_of, label_pairs

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
    """A running total adds numbers and money exactly, and takes back what it added."""
    total = RunningTotal()
    first, second = increment(COUNTS, cost=Decimal("1e-18")), increment(COUNTS, cost=Decimal("1e9"))
    total.add(first)
    total.add(second)
    both = total.totals()
    total.subtract(second)

    assert (18, 10, 2, Decimal("1000000000.000000000000000001")) == (
        *(both.prompt_tokens, both.completion_tokens, both.successful_requests),
        both.cost,
    )
    assert RunningTotal(first).totals() == total.totals()


def test_sums_of_sums():
    """Two running totals add up."""
    total, other = RunningTotal(increment(COUNTS, cost=CENT)), RunningTotal(increment(COUNTS))
    total.add_total(other)

    assert (
        UsageTotals(prompt_tokens=18, completion_tokens=10, successful_requests=2, unpriced_requests=1, cost=CENT)
        == total.totals()
    )


def test_an_unknown_cost_is_none():
    """A cost is None where there were requests and none could be priced, and 0 where there were none."""
    assert None is RunningTotal(increment(COUNTS)).known_cost()
    assert Decimal(0) == RunningTotal().known_cost()


def test_a_records_increment():
    """A record adds what its call did, under its labels."""
    usage = Usage(input_tokens=9, output_tokens=5)
    record = UsageRecord(usage=usage, model="m", user="ada", tags={"team": "search"}, cost=CENT, doubts=("a fee",))
    labels = (("model", "m"), ("user", "ada"), ("team", "search"), ("tag", "team=search"))
    numbers = {**COUNTS, "successful_requests": 1, "estimated_requests": 1}

    assert Increment(numbers, CENT, None, labels) == increment_of(record)


def test_labels():
    """A bare tag is summed by its name, a session by its models too, and what has no model has a row all the same."""
    assert (("model", "(unknown)"),) == label_pairs(None, None, None, None, {})
    assert (("model", "m"), ("langgraph_node", "plan"), ("beta", "true"), ("tag", "beta")) == label_pairs(
        "m", None, None, "plan", {"beta": "true"}
    )
    assert (("model", "m"), ("session", "s"), ("\0session", "s\0openai\0m")) == label_pairs(
        "m", "s", None, None, {}, "openai"
    )
