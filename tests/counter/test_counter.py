import copy
import decimal
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from token_handlers import TokenCounter, Usage, UsageRecord, UsageTotals
from token_handlers.counter.totals import MAX_VALUES, OTHER, CallLabels, increment


def record(sent=17, received=12, cost="0.0000015", **fields):
    """Return a record of one call to gpt-4o-mini."""
    usage = Usage(input_tokens=sent, output_tokens=received)
    return UsageRecord(**{"usage": usage, "model": "gpt-4o-mini", "cost": cost and Decimal(cost), **fields})


def test_a_new_counter_is_zero():
    """Before the first call everything is zero, and so is the cost."""
    assert UsageTotals() == TokenCounter().snapshot()
    assert Decimal(0) == TokenCounter().cost


def test_totals_add_up():
    """Each number is the sum over the records, under the names of the peers."""
    counter = TokenCounter()
    usage = Usage(input_tokens=100, output_tokens=50, cache_read_tokens=60, cache_write_tokens=10, reasoning_tokens=30)
    counter.add(record(usage=usage))
    counter.add(record())

    assert (
        UsageTotals(
            prompt_tokens=117,
            completion_tokens=62,
            prompt_tokens_cached=60,
            cache_write_tokens=10,
            reasoning_tokens=30,
            successful_requests=2,
            unpriced_cache_tokens=70,
            cost=Decimal("0.000003"),
            cache_saved_cost=None,
        )
        == counter.snapshot()
    )
    assert 179 == counter.total_tokens
    assert 0.000003 == counter.total_cost


def test_what_the_prompt_cache_saved():
    """Savings add up, losses too; tokens of which nobody knows it are counted, and None is said where that is all."""
    counter = TokenCounter()
    usage = Usage(input_tokens=100, output_tokens=50, cache_read_tokens=60, cache_write_tokens=10)
    counter.add(record(usage=usage, session="a"))
    assert (None, 0.6, 70) == (counter.cache_saved_cost, counter.cache_hit_rate, counter.unpriced_cache_tokens)

    counter.add(record(usage=usage, session="b", cache_saved_cost=Decimal("0.25")))
    counter.add(record(usage=usage, session="b", cache_saved_cost=Decimal("-0.75")))

    assert (Decimal("-0.5"), 70) == (counter.cache_saved_cost, counter.unpriced_cache_tokens)
    assert {"a": None, "b": Decimal("-0.5")} == {
        name: each.cache_saved_cost for name, each in counter.by_session.items()
    }
    assert (Decimal(0), 0.0) == (TokenCounter().cache_saved_cost, TokenCounter().cache_hit_rate)
    assert "Prompt Cache Saved (USD): $-0.50" in str(counter).splitlines()
    assert "Prompt Cache" not in str(TokenCounter())


def test_every_property_is_in_the_snapshot():
    """A TokenCounter has each of UsageTotals' numbers under the same name."""
    counter = TokenCounter()
    counter.add(record(source="estimated"))
    counter.add(record(cost=None))
    counter.add(record(outcome="failed"))
    counter.add(record(outcome="cached", cost=None, saved_cost=Decimal("0.5")))
    totals = counter.snapshot()

    names = [*UsageTotals.model_fields, *UsageTotals.model_computed_fields]
    assert {name: getattr(totals, name) for name in names} == {name: getattr(counter, name) for name in names}
    assert (2, 1, 1, 1, 1) == (
        counter.successful_requests,
        counter.failed_requests,
        counter.cached_responses,
        counter.estimated_requests,
        counter.unpriced_requests,
    )
    assert Decimal("0.5") == counter.saved_cost


def test_embeddings_are_counted_apart():
    """Embedding tokens are no prompt tokens, but their requests and their cost count."""
    counter = TokenCounter()
    counter.add(record(sent=9, received=0, operation="embeddings"))

    assert (0, 9, 1) == (counter.total_tokens, counter.embedding_tokens, counter.successful_requests)
    assert Decimal("0.0000015") == counter.cost


def test_failed_and_cached_calls_are_not_billed():
    """What the provider rejected, or LangChain's cache answered, adds neither tokens nor cost."""
    counter = TokenCounter()
    counter.add(record(outcome="failed"))
    counter.add(record(outcome="cached", cost=None))

    assert (0, Decimal(0), 0) == (counter.total_tokens, counter.cost, counter.successful_requests)


def test_unknown_cost_is_none():
    """The cost is None while nothing could be priced; what could be priced counts, the rest is said."""
    counter = TokenCounter()
    counter.add(record(cost=None))
    assert (None, 0.0, 1) == (counter.cost, counter.total_cost, counter.unpriced_requests)

    counter.add(record())
    assert (Decimal("0.0000015"), 1) == (counter.cost, counter.unpriced_requests)


def test_money_ignores_the_callers_decimal_context():
    """A caller who works with three digits does not round our sums."""
    counter = TokenCounter()
    with decimal.localcontext(prec=3):
        for _ in range(3):
            counter.add(record(cost="0.123456789"))

        assert Decimal("0.370370367") == counter.cost


def test_labels():
    """by_model, by_session and by() sum each call under its labels; a call without one is not in it."""
    counter = TokenCounter()
    counter.add(record(session="s1", user="u", node="agent", tags={"team": "search", "beta": "true"}))
    counter.add(record(model=None, session="s2"))
    counter.add(record())

    def prompt(totals):
        return {value: total.prompt_tokens for value, total in totals.items()}

    assert {"gpt-4o-mini": 34, "(unknown)": 17} == prompt(counter.by_model)
    assert {"s1": 17, "s2": 17} == prompt(counter.by_session)
    assert {"u": 17} == prompt(counter.by("user"))
    assert {"agent": 17} == prompt(counter.by("langgraph_node"))
    assert {"search": 17} == prompt(counter.by("team"))
    assert {"team=search": 17, "beta": 17} == prompt(counter.by("tag"))
    assert {} == counter.by("nothing")


def test_labels_are_bounded():
    """Past MAX_VALUES sessions the rest is summed in one, and the totals stay right."""
    counter = TokenCounter()
    for number in range(MAX_VALUES + 5):
        counter.add(record(session=f"s{number}"))
    counter.add(record(session="s0"))

    assert MAX_VALUES + 1 == len(counter.by_session)
    assert 5 * 17 == counter.by_session[OTHER].prompt_tokens
    assert 2 * 17 == counter.by_session["s0"].prompt_tokens
    assert (MAX_VALUES + 6) * 17 == counter.prompt_tokens


@pytest.fixture
def _restless():
    """Threads give way to each other hundreds of times as often as they do otherwise."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.00001)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("_restless")
def test_exact_under_threads():
    """64 threads that add 1,000 records each lose none of them, in all and by label."""
    counter = TokenCounter()
    one = record(session="s")

    def work():
        for _ in range(1_000):
            counter.add(one)

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (64_000 * 17, 64_000 * 12) == (counter.prompt_tokens, counter.completion_tokens)
    assert 64_000 == counter.successful_requests == counter.by_session["s"].successful_requests
    assert 64_000 * Decimal("0.0000015") == counter.cost


@pytest.mark.usefixtures("_restless")
def test_readings_are_whole():
    """While threads add calls of new sessions, a reading has each call with all its numbers, and none is lost again."""
    counter = TokenCounter()
    done = threading.Event()

    def add(name):
        for number in range(500):
            counter.add(record(session=f"{name} {number}"))

    def read():
        seen = []
        while not done.is_set():
            seen.append(counter.successful_requests)
            totals = counter.snapshot()
            seen.append(totals.successful_requests)
            assert (17 * seen[-1], seen[-1] * Decimal("0.0000015")) == (totals.prompt_tokens, totals.cost)
            seen.append(sum(each.successful_requests for each in counter.by_session.values()))
        return seen

    adders = [threading.Thread(target=add, args=(name,)) for name in range(4)]
    readers = ThreadPoolExecutor(2)
    reading = [readers.submit(read) for _ in range(2)]
    for thread in adders:
        thread.start()
    for thread in adders:
        thread.join()
    done.set()
    for each in reading:
        assert sorted(each.result()) == each.result()

    assert 2_000 == counter.successful_requests == len(counter.by_session)
    assert {1} == {each.successful_requests for each in counter.by_session.values()}


class Called:
    """An open call that does something where a counter asks, in its lock, whether it is settled."""

    def __init__(self, action):
        self._action = action

    @property
    def settled(self):
        self._action()
        return False


def test_who_settles_a_call_reads_it_settled():
    """A thread that settles a call reads its exact numbers, although another thread holds the lock."""
    counter = TokenCounter()
    estimate, exact = increment({"output_tokens": 9}, source="estimated"), increment({"output_tokens": 5})
    inside, go_on = threading.Event(), threading.Event()

    def wait():
        inside.set()
        go_on.wait()

    counter.show("call", estimate)
    holder = threading.Thread(target=counter.show, args=(Called(wait), estimate))
    holder.start()
    inside.wait()
    counter.settle("call", exact)
    threading.Timer(0.05, go_on.set).start()

    assert 5 + 9 == counter.completion_tokens
    holder.join()


def test_a_finalizer_in_the_middle():
    """A finalizer that runs while its thread holds the lock may add calls and read totals."""
    counter = TokenCounter()
    one, seen = increment({"output_tokens": 1}, labels=CallLabels("m")), []

    def finalize():
        for _ in range(20):
            counter.apply(one)
        seen.append((counter.completion_tokens, counter.by_model["m"].completion_tokens))

    for _ in range(20):
        counter.apply(one)
    counter.show(Called(finalize), one)

    assert [(40, 40)] == seen
    assert 41 == counter.completion_tokens == counter.by_model["m"].completion_tokens


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_counters_are_not_copied(copied):
    """Copying or pickling a counter is a TypeError, also before its first call."""
    with pytest.raises(TypeError, match="TokenCounter"):
        copied(TokenCounter())


def test_reset_and_snapshot_are_atomic():
    """With threads adding all the while, what the resets return and what is left is every record, each whole."""
    counter = TokenCounter()
    done = threading.Event()
    taken = []

    def add():
        for _ in range(5_000):
            counter.add(record())

    def reset():
        while not done.is_set():
            taken.append(counter.reset())

    adders = [threading.Thread(target=add) for _ in range(4)]
    resetter = threading.Thread(target=reset)
    for thread in (*adders, resetter):
        thread.start()
    for thread in adders:
        thread.join()
    done.set()
    resetter.join()
    taken.append(counter.reset())

    assert 20_000 == sum(totals.successful_requests for totals in taken)
    assert all(17 * totals.successful_requests == totals.prompt_tokens for totals in taken)
    assert all(12 * totals.successful_requests == totals.completion_tokens for totals in taken)
    assert all(totals.successful_requests * Decimal("0.0000015") == totals.cost for totals in taken)
    assert (UsageTotals(), {}) == (counter.snapshot(), counter.by_model)


def test_printed_lines():
    """str() has the lines of get_openai_callback, then what is estimated, unpriced or not billed."""
    counter = TokenCounter()
    counter.add(record())
    peer = (
        "Tokens Used: 29\n\tPrompt Tokens: 17\n\t\tPrompt Tokens Cached: 0\n\tCompletion Tokens: 12\n"
        "\t\tReasoning Tokens: 0\nSuccessful Requests: 1\nTotal Cost (USD): $0.0000015"
    )
    assert peer == str(counter)

    counter.add(record(cost=None, source="estimated"))
    assert [
        "Estimated Requests: 1 (no usage was reported: their tokens are estimates)",
        "Unpriced Requests: 1 (not in the total cost: see token_handlers.set_price)",
    ] == str(counter).splitlines()[7:]


def test_html_is_escaped():
    """Jupyter's table shows names as text."""
    counter = TokenCounter()
    counter.add(record(model="<script>alert(1)</script>"))

    assert "<script>" not in counter._repr_html_()
    assert "&lt;script&gt;" in counter._repr_html_()


def test_token_usage_under_agentsights_names():
    """get_token_usage() has AgentSight's four names, zeros before use."""
    counter = TokenCounter()
    assert {0} == set(counter.get_token_usage().values())

    counter.add(record())
    assert {
        "prompt_llm_token_count": 17,
        "completion_llm_token_count": 12,
        "total_llm_token_count": 29,
        "total_embedding_token_count": 0,
    } == counter.get_token_usage()


@pytest.mark.parametrize("junk", [None, {}, 3, "record"])
def test_what_is_no_record_is_refused(junk):
    """add() takes UsageRecords, and changes nothing otherwise."""
    counter = TokenCounter()
    with pytest.raises(TypeError, match="UsageRecord"):
        counter.add(junk)

    assert UsageTotals() == counter.snapshot()
