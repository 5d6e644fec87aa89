import pytest

from token_handlers import Budget, TokenCounter, shared_counter, track_tokens
from token_handlers.tracking import call as calls
from token_handlers.tracking import recorder
from token_handlers.tracking.call import Call, current_context, open_calls
from token_handlers.tracking.scopes import NO_LABELS, JointContext


@pytest.fixture
def _closed():
    """What a test leaves open is discarded."""
    before = set(open_calls)
    yield
    for call in set(open_calls) - before:
        recorder.discard(call)


pytestmark = pytest.mark.usefixtures("_closed")


def test_outside_of_blocks():
    """A call outside of blocks reaches the shared counter alone, without labels."""
    context = current_context()

    assert ((shared_counter(),), (), NO_LABELS) == (context.counters, context.own, context.labels)


def test_one_block_has_one_context():
    """Calls of one block share what they have in common."""
    with track_tokens(session="s1") as counter:
        context = current_context()

        assert context is current_context()
    assert ((shared_counter(), counter), "s1") == (context.counters, context.labels.session)


def test_nested_blocks():
    """A call of an inner block reaches both counters, each once, under merged labels and all budgets."""
    outer_budget, inner_budget = Budget(max_requests=1), Budget(max_requests=2)
    with (
        track_tokens(user="u1", budget=outer_budget) as outer,
        track_tokens(session="s1", budget=inner_budget) as inner,
        track_tokens(counter=outer),
    ):
        context = current_context()

    assert {shared_counter(), outer, inner} == set(context.counters)
    assert 3 == len(context.counters)
    assert ("s1", "u1") == (context.labels.session, context.labels.user)
    assert {outer_budget, inner_budget} == set(context.budgets)


def test_the_shared_counter_in_a_block():
    """A block that counts into the shared counter does not count twice."""
    with track_tokens(counter=shared_counter()):
        assert (shared_counter(),) == current_context().counters


def test_one_more_counter():
    """A handler's counter is added once, whatever it is, and the context for it is made once."""
    context, counter = JointContext(shared_counter(), ()), TokenCounter()
    more = context.plus(counter)

    assert (shared_counter(), counter) == more.counters
    assert more is context.plus(counter)
    assert more is more.plus(counter)
    assert context is context.plus(shared_counter())


def test_an_open_call():
    """A call is open until it ends, for its block's counter as well."""
    with track_tokens() as counter:
        call = Call()
        assert (True, True) == (call in open_calls, call in counter.open_calls)
        recorder.discard(call)

    assert (False, False) == (call in open_calls, call in counter.open_calls)
    assert call.settled


def test_too_many_open_calls(monkeypatch):
    """Beyond the limit the oldest call is recorded as an estimate."""
    monkeypatch.setattr(calls, "MAX_OPEN_CALLS", len(open_calls) + 1)
    with track_tokens():
        first, second = _Estimated(), _Estimated()
        oldest = next(iter(open_calls))
        recorder.evict_oldest()

    assert oldest.settled
    assert second in open_calls
    assert first.settled or oldest is not first


class _Estimated(Call):
    """A call that is estimated at one token."""

    def estimate(self, text=None):
        return {"input_tokens": 1}, "test"


@pytest.mark.parametrize(
    ("reported", "is_own"),
    [
        ({"input_tokens": 1, "output_tokens": 2}, False),
        ({"input_tokens": 4, "output_tokens": 6}, False),
        ({"input_tokens": 4, "output_tokens": 6, "cache_read_tokens": 1}, False),
        ({"input_tokens": 5, "output_tokens": 6}, True),
        ({}, True),
    ],
)
def test_a_call_that_made_others(reported, is_own):
    """It reports its own usage, unless what it reports is one of theirs or their sum."""
    outer, inner = Call(), Call()
    inner.add_parent(outer)
    inner.add_parent(outer)
    assert outer.child_usages == []
    outer.child_usages += [{"input_tokens": 1, "output_tokens": 2}, {"input_tokens": 3, "output_tokens": 4}]

    assert ((outer,), is_own) == (inner.parents, outer.reports_own_usage(reported))


def test_a_call_that_made_none():
    """It passes on nobody's usage."""
    assert not Call().reports_own_usage({"input_tokens": 1})
