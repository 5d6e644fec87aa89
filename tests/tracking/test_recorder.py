import json
import os
from decimal import Decimal

import pytest

from tests.tracking.test_answers import GONE, WHOLE
from token_handlers import Budget, BudgetExceeded, TokenCounter, Usage, UsageRecord, add_sink, remove_sink, track_tokens
from token_handlers.errors import raise_faults
from token_handlers.payloads import ReportedUsage
from token_handlers.tracking import recorder
from token_handlers.tracking.call import Call, open_calls
from token_handlers.tracking.result import DISCARD, FAILED, CallResult, Incomplete

COUNTS = {"input_tokens": 100, "output_tokens": 20}
USAGE = ReportedUsage(COUNTS, model="gpt-4o-mini")
STATED = ReportedUsage(COUNTS, cost=Decimal(3), model="gpt-4o-mini")
DOUBTED = USAGE._replace(doubts=("a search without a count",))
UNKNOWN = ReportedUsage(COUNTS, model="no-such-model")
PARTIAL = ReportedUsage({"input_tokens": 90, "output_tokens": 1}, model="gpt-4o-mini")


class Chat(Call):
    """A call of gpt-4o-mini, $0.15 and $0.60 a million tokens, that is estimated at 40 and 10 tokens."""

    model: str | None = "gpt-4o-mini"
    provider = "openai"

    def estimate(self, text=None):
        return {"input_tokens": 40, "output_tokens": 10}, "test"

    def estimate_prompt(self):
        return 40


@pytest.fixture
def lenient():
    """Faults are logged, as in an application, rather than raised."""
    raise_faults(False)
    yield
    raise_faults(True)


def ended(verdict, *, answers=(), provider="openai", **block):
    """Return the counter and the records of a block in which one call ends so."""
    records: list[UsageRecord] = []
    with track_tokens(sinks=[records.append], **block) as counter:
        call = Chat()
        call.answers, call.provider = answers, provider
        recorder.finish(call, verdict)
    return counter, records


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork():
    """A call that is open goes on in the parent, which records it: in the child it is neither shown nor reserved."""
    budget = Budget(max_requests=3)
    with track_tokens(budget=budget) as counter:
        call = Chat()
        recorder.reserve(call)
        recorder.show_estimate(call)
        child = os.fork()
        if child == 0:
            found = counter.successful_requests, budget.held().requests, len(open_calls)
            recorder.finish(call, CallResult(USAGE))
            os._exit(0 if (0, 0, 0, 0) == (*found, counter.successful_requests) else 1)
        _, status = os.waitpid(child, 0)
        assert (1, 1) == (counter.successful_requests, budget.held().requests)
        recorder.finish(call, CallResult(USAGE))

    assert 0 == os.waitstatus_to_exitcode(status)
    assert (120, 0, 1) == (counter.total_tokens, budget.held().requests, budget.spent().requests)


@pytest.mark.parametrize(
    ("verdict", "requests", "failed", "cached", "estimated", "unpriced", "tokens", "cost"),
    [
        (CallResult(USAGE), 1, 0, 0, 0, 0, (100, 20), "0.000027"),
        (CallResult(USAGE, requests=2), 2, 0, 0, 0, 0, (100, 20), "0.000027"),
        (CallResult(STATED), 1, 0, 0, 0, 0, (100, 20), "3"),
        (CallResult(DOUBTED), 1, 0, 0, 1, 0, (100, 20), "0.000027"),
        (CallResult(UNKNOWN), 1, 0, 0, 0, 1, (100, 20), None),
        (FAILED, 0, 1, 0, 0, 0, (0, 0), "0"),
        (Incomplete(), 1, 0, 0, 1, 0, (40, 10), "0.000012"),
        (Incomplete(PARTIAL, interrupted=True), 1, 0, 0, 1, 0, (90, 10), "0.0000195"),
        (CallResult(USAGE, outcome="cached"), 0, 0, 1, 0, 0, (0, 0), "0"),
    ],
)
def test_verdicts(verdict, requests, failed, cached, estimated, unpriced, tokens, cost):
    """A verdict is one call in the counter, and one record that says the same."""
    counter, [record] = ended(verdict)

    assert (requests, failed, cached, estimated, unpriced) == (
        counter.successful_requests, counter.failed_requests, counter.cached_responses,
        counter.estimated_requests, counter.unpriced_requests,
    )  # fmt: skip
    assert tokens == (counter.prompt_tokens, counter.completion_tokens)
    assert (None if cost is None else Decimal(cost)) == counter.cost
    assert ("estimated" if isinstance(verdict, Incomplete) else "reported") == record.source


@pytest.mark.parametrize("labels", [{}, {"session": "s", "user": "ada", "tags": ["beta"]}], ids=["bare", "labelled"])
@pytest.mark.parametrize(
    "verdict",
    [
        CallResult(USAGE),
        CallResult(USAGE._replace(counts={**COUNTS, "cache_read_tokens": 40})),
        CallResult(USAGE._replace(counts={**COUNTS, "cache_read_tokens": 40}, model="gpt-4")),
        CallResult(STATED._replace(counts={**COUNTS, "cache_read_tokens": 40})),
        CallResult(USAGE, requests=2),
        CallResult(USAGE, outcome="cached"),
        CallResult(DOUBTED),
        CallResult(UNKNOWN),
        FAILED,
        Incomplete(PARTIAL),
    ],
)
def test_a_counter_has_what_the_record_adds(verdict, labels):
    """A call adds to its counter what its record adds to another one."""
    counter, (record,) = ended(verdict, **labels)
    other = TokenCounter()
    other.add(record)

    assert other.snapshot() == counter.snapshot()
    for label in ("model", "session", "user", "tag"):
        assert other.by(label) == counter.by(label)


def test_discarded():
    """A call that was never sent is nothing."""
    counter, records = ended(DISCARD)

    assert (0, []) == (counter.successful_requests, records)


def test_answers_are_the_bill():
    """What the provider answered stands in place of the event's counts, and a lost request is flagged."""
    counter, [record] = ended(CallResult(USAGE), answers=(GONE, WHOLE))

    assert (10, 5, 2) == (counter.prompt_tokens, counter.completion_tokens, counter.successful_requests)
    assert counter.estimated_requests > 0
    assert ("api.openai.com", 2, True) == (record.host, record.requests, bool(record.doubts))


def test_a_call_ends_once():
    """The second end of a call changes nothing."""
    with track_tokens() as counter:
        call = Chat()
        recorder.finish(call, CallResult(USAGE))
        recorder.finish(call, CallResult(USAGE))

    assert 1 == counter.successful_requests


@pytest.mark.parametrize("error", [BudgetExceeded, KeyboardInterrupt, SystemExit])
def test_every_sink_gets_the_record_before_one_of_them_raises(error):
    """A sink that raises on purpose keeps no other from the record, the process's own included; then it is raised."""
    first, last, of_process = [], [], []

    def refuse(record):
        raise error("no")

    add_sink(refuse)
    add_sink(of_process.append)
    try:
        with track_tokens(sinks=[first.append, refuse, last.append]) as counter:
            call = Chat()
            with pytest.raises(error):
                recorder.finish(call, CallResult(USAGE))
    finally:
        remove_sink(refuse)
        remove_sink(of_process.append)

    assert [1, 1, 1, 1] == [len(first), len(last), len(of_process), counter.successful_requests]


@pytest.mark.usefixtures("lenient")
def test_a_sink_that_fails(caplog):
    """A sink's own fault is logged, and neither the call nor the other sinks know of it."""
    seen: list[UsageRecord] = []

    def fail(record):
        raise LookupError("full")

    with track_tokens(sinks=[fail, seen.append]) as counter:
        recorder.finish(Chat(), CallResult(USAGE))

    assert (1, 1) == (counter.successful_requests, len(seen))
    assert "LookupError" in caplog.text


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("name", ["describe", "estimate", "price_call"])
def test_our_own_fault_keeps_the_call(monkeypatch, name):
    """Where reading or pricing fails, the call is an estimate of what is known, and its budget holds nothing."""

    def fail(*args, **kwargs):
        raise ZeroDivisionError

    budget = Budget(max_requests=9)
    with track_tokens(budget=budget) as counter:
        call = Chat()
        recorder.reserve(call)
        if name == "price_call":
            monkeypatch.setattr(recorder, name, fail)
        else:
            monkeypatch.setattr(call, name, fail, raising=False)
            call.model = None
        recorder.finish(call, Incomplete(USAGE))

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert 100 == counter.prompt_tokens
    assert (1, 0) == (budget.spent().requests, budget.held().requests)


def test_no_room():
    """A call that a budget refuses is closed, uncounted, and holds nothing."""
    budget = Budget(max_tokens=1)
    with track_tokens(budget=budget) as counter:
        call = Chat()
        with pytest.raises(BudgetExceeded):
            recorder.reserve(call)

    assert (0, 0, False) == (counter.successful_requests, budget.held().requests, call in open_calls)


def test_what_is_still_open_at_the_end_of_the_process():
    """It is recorded as an estimate."""
    records: list[UsageRecord] = []
    with track_tokens(sinks=[records.append]):
        Chat()
    recorder.record_open_calls()

    assert ["estimated"] == [record.source for record in records]


def test_record_by_hand():
    """What the application counted itself reaches counters, sinks and budgets."""
    budget, counter, records = Budget(max_requests=3), TokenCounter(), []
    one = UsageRecord(usage=Usage(input_tokens=3, output_tokens=4), model="gpt-4o-mini", cost=Decimal(1))
    recorder.record_manual(one, [counter], (records.append,), (budget,))

    assert ([one], 3, Decimal(1)) == (records, counter.prompt_tokens, budget.spent().cost)


def test_a_record_is_numbers_names_and_labels():
    """A record is JSON with the labels of the block, and the address without anything that is secret in it."""
    _, [record] = ended(CallResult(USAGE), session="s1", tags=["a"])
    text = json.loads(record.model_dump_json())

    assert ("s1", "gpt-4o-mini", 100) == (text["session"], text["model"], text["usage"]["input_tokens"])


def test_a_records_cost_has_its_parts():
    """Each part says what it was, its rate and its model, and together they are the cost, at the prices of the call."""
    advisor = "claude-opus-4-8", {"input_tokens": 100, "output_tokens": 10}
    counts = {"input_tokens": 1100, "output_tokens": 110, "web_searches": 1}
    usage = ReportedUsage(counts, model="claude-sonnet-4-6", beside=(advisor,), context={"inference_geo": "us"})
    (priced,) = ended(CallResult(usage), provider="anthropic")[1]
    (stated,) = ended(CallResult(STATED))[1]
    assert sum(part.cost for part in priced.cost_breakdown) == priced.cost
    assert [("input_tokens", 1000, None), ("output_tokens", 100, None), ("web_searches", 1, None)] == [
        (part.unit, part.number, part.model) for part in priced.cost_breakdown[:3]
    ]
    assert ["claude-opus-4-8"] * 2 == [part.model for part in priced.cost_breakdown[3:]]
    assert "x1.1 for inference_geo us" == priced.cost_breakdown[0].note
    assert () == stated.cost_breakdown
