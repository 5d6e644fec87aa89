import asyncio
import json
import multiprocessing
import subprocess
import sys
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from langchain_openai import ChatOpenAI

import token_handlers
from tests.support.agentsight_api import KEY, OTHER_KEY, AgentSightAPI, Answer
from tests.support.bills import forget_open_calls, record
from token_handlers import (
    TokenCounter,
    TokenHandlersError,
    add_sink,
    install,
    remove_sink,
    shared_counter,
    track_tokens,
    uninstall,
)
from token_handlers.conversation import ConversationTracker
from token_handlers.sinks.agentsight.client import AgentSightClient, SendFailed
from token_handlers.sinks.agentsight.outbox import outbox_at
from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.tracking.call import Call
from token_handlers.tracking.recorder import show_estimate
from token_handlers.tracking.state import state

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _anew():
    """Nothing is counted yet or left to be sent, and automatic tracking ends with the test."""
    outbox_at(None).start_over()
    forget_open_calls()
    shared_counter().reset()
    yield
    uninstall()


@pytest.fixture
def api():
    """The API."""
    with AgentSightAPI() as running:
        yield running


def tracker(api, conversation="c1", key=KEY, **settings):
    """Return a tracker whose client retries at once."""
    settings = {"backoff": 0.001, "retries": 1, "timeout": 10, **settings}
    return ConversationTracker(conversation, sink=AgentSightClient(key, api.url, **settings))


def usage(prompt=0, completion=0, total=None, embedding=0):
    """Return what get_token_usage() returns."""
    return {
        "prompt_llm_token_count": prompt,
        "completion_llm_token_count": completion,
        "total_llm_token_count": prompt + completion if total is None else total,
        "total_embedding_token_count": embedding,
    }


class OneToken(Call):
    """A call whose prompt was one token when it is only an estimate."""

    def estimate(self, text=None):
        return {"input_tokens": 1}, "none"


class TenTokens(OneToken):
    """A call whose estimate is ten."""

    def estimate(self, text=None):
        return {"input_tokens": 10}, "none"


def call(sent=1, received=2, operation="chat", model="gpt-4o-mini"):
    """Make one call, here."""
    made = OneToken()
    made.operation = operation
    made.provider = "openai"
    record(made, {"input_tokens": sent, "output_tokens": received}, model=model)


def test_zeros_before_use():
    """Before anything is counted, all four numbers are zero."""
    assert usage() == ConversationTracker("c1").get_token_usage() == ConversationTracker().get_token_usage()


def test_tracking_adds():
    """Numbers add up; the total is derived where it is not given."""
    one = ConversationTracker("c1")
    one.track_token_usage(3, 2)
    one.track_token_usage(prompt_tokens=10, completion_tokens=5, total_tokens=15, embedding_tokens=7)
    one.track_token_usage(embedding_tokens=1)
    one.track_token_usage()

    assert usage(13, 7, 20, 8) == one.get_token_usage()


def test_none_is_zero():
    """None counts as 0, for each argument."""
    one = ConversationTracker("c1")
    one.track_token_usage(None, None, None, None)
    one.track_token_usage(3, None, None, 1)

    assert usage(3, 0, 3, 1) == one.get_token_usage()


def test_what_is_tracked_by_hand_is_priced_by_its_model():
    """Tokens given with a model cost what that model's calls do, embeddings by the model that they name."""
    one = ConversationTracker("c1")
    one.track_token_usage(1_000_000, 500_000, model="gpt-4o-mini", provider="openai")
    one.track_token_usage(embedding_tokens=1_000_000, model="text-embedding-3-small", provider="openai")
    one.track_token_usage(1_000_000, embedding_tokens=1_000_000, model="gpt-4o-mini", embedding_model="my-embedder")
    by_model = one.counter.by_model

    assert Decimal("0.60") == by_model["gpt-4o-mini"].cost
    assert Decimal("0.02") == by_model["text-embedding-3-small"].cost
    assert (None, 1) == (by_model["my-embedder"].cost, by_model["my-embedder"].unpriced_requests)
    assert (Decimal("0.62"), 1, 0) == (
        one.counter.cost,
        one.counter.unpriced_requests,
        one.counter.successful_requests,
    )


@pytest.mark.parametrize(
    "given",
    [
        {"prompt_tokens": 1_000_000, "completion_tokens": 500_000},
        {"total_tokens": 9},
        {"embedding_tokens": 7},
        {"prompt_tokens": 3, "total_tokens": 9, "model": "gpt-4o-mini"},
    ],
)
def test_tokens_without_a_model_are_of_unknown_cost(given):
    """Where nobody says whose tokens they are, or how a total divides, the cost is unknown, and never 0."""
    records = []
    one = ConversationTracker("c1", sink=records.append)
    one.track_token_usage(**given)

    assert (None, 1, 0) == (one.counter.cost, one.counter.unpriced_requests, one.counter.successful_requests)
    assert [None] == [record.cost for record in records]
    assert "unpriced" in repr(one.counter)
    assert "Unpriced Requests: 1" in str(one.counter)


@pytest.mark.parametrize("name", ["model", "provider", "embedding_model"])
@pytest.mark.parametrize("junk", ["", " ", 3, ["gpt-4o-mini"]])
def test_what_is_no_name_is_refused(name, junk):
    """A model or provider that is none is a ValueError that names the argument, and nothing is applied."""
    one = ConversationTracker("c1")
    with pytest.raises(ValueError, match=f"{name} must be a non-empty string such as 'gpt-4o-mini', or None"):
        one.track_token_usage(3, **{name: junk})

    assert usage() == one.get_token_usage()


@pytest.mark.parametrize("junk", [True, False, 1.0, "1", b"2", [], {}, float("nan")])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "total_tokens", "embedding_tokens"])
def test_what_is_no_int_is_refused(name, junk):
    """Bools, floats and strings are a TypeError that names the argument, and nothing is applied."""
    one = ConversationTracker("c1")
    with pytest.raises(TypeError, match=f"{name} must be an int, not"):
        one.track_token_usage(**{"prompt_tokens": 3, "completion_tokens": 2, "embedding_tokens": 7, name: junk})

    assert usage() == one.get_token_usage() == ConversationTracker().get_token_usage()


@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "total_tokens", "embedding_tokens"])
def test_a_negative_is_refused(name):
    """A negative is a ValueError that names the argument, and nothing is applied."""
    one = ConversationTracker("c1")
    with pytest.raises(ValueError, match=f"{name} must not be negative"):
        one.track_token_usage(**{"prompt_tokens": 3, "embedding_tokens": 7, name: -1})

    assert usage() == one.get_token_usage()


def test_a_total_below_its_parts_is_refused():
    """A total below prompt plus completion is a ValueError that says both."""
    one = ConversationTracker("c1")
    with pytest.raises(ValueError, match=r"total_tokens \(4\) is below prompt_tokens \(3\) \+ completion_tokens \(2\)"):
        one.track_token_usage(3, 2, 4, 7)

    assert usage() == one.get_token_usage()


def test_a_total_above_its_parts_is_kept(api):
    """What a total has above its parts stays in the total, here, in the shared view and in what is sent."""
    one = tracker(api)
    one.track_token_usage(3, 2, 9)
    one.track_token_usage(total_tokens=100)

    assert usage(3, 2, 109) == one.get_token_usage() == ConversationTracker().get_token_usage()
    one.send_tracked_data()
    assert (3, 2, 109, 0) == api.counted("c1")
    assert usage() == one.get_token_usage()
    assert 5 == one.counter.total_tokens


def test_numpys_integers_are_integers():
    """What stands for an int by __index__ is one."""

    class Integer:
        def __index__(self):
            return 3

    one = ConversationTracker("c1")
    one.track_token_usage(Integer(), 2)

    assert usage(3, 2) == one.get_token_usage()


def test_without_an_id_it_views_the_shared_counter():
    """It shows what any call, tracker or sink of the process has counted, also before it was made."""
    call()
    ConversationTracker("c1").track_token_usage(10, 20, embedding_tokens=5)
    view = ConversationTracker()
    call(4, 0, "embeddings")

    assert usage(11, 22, 33, 9) == view.get_token_usage() == shared_counter().get_token_usage()
    assert shared_counter() is view.counter
    view.track_token_usage(1)
    assert 12 == shared_counter().prompt_tokens
    shared_counter().reset()
    assert usage() == view.get_token_usage()


def test_with_an_id_it_has_its_own():
    """It counts the calls inside its block, and what it is given, and nothing else."""
    one, other = ConversationTracker("c1"), ConversationTracker("c2")
    call(100)
    with one:
        call()
        other.track_token_usage(50)
        with track_tokens(tags=["inner"]):
            call()
    with other:
        call()
    call(100)

    assert usage(2, 4) == one.get_token_usage()
    assert usage(51, 2) == other.get_token_usage()


def test_a_block_can_be_entered_again():
    """The block of one tracker may be entered many times, one inside the other too; a call counts once."""
    with ConversationTracker("c1") as one, one:
        call()
    with one:
        call()

    assert usage(2, 4) == one.get_token_usage()


async def test_conversations_never_mix():
    """Tasks and threads that each have a conversation count for their own."""
    trackers = [ConversationTracker(f"c{number}") for number in range(20)]
    barrier = asyncio.Barrier(len(trackers))

    async def talk(one, number):
        async with one:
            await barrier.wait()
            for _ in range(number):
                call()
                await asyncio.sleep(0)
                await asyncio.to_thread(call)
        call()

    await asyncio.gather(*(talk(one, number) for number, one in enumerate(trackers)))

    assert [usage(2 * number, 4 * number) for number in range(20)] == [one.get_token_usage() for one in trackers]


def test_a_generators_block():
    """A block in a generator's body has the body's calls, and not its consumer's between two steps."""
    one = ConversationTracker("c1")

    def steps():
        with one:
            call()
            yield
            call()

    for _ in steps():
        call(100)

    assert usage(2, 4) == one.get_token_usage()


def test_a_real_call(ledger):
    """A LangChain call inside the block is counted as the server billed it."""
    with ConversationTracker("c1") as one:
        ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), api_key="none").invoke("How many tokens is this?")
    bill = ledger.total()

    assert usage(bill.prompt_tokens, bill.completion_tokens) == one.get_token_usage()
    assert one.counter.total_cost > 0


@pytest.mark.parametrize("conversation", ["", " ", 3, b"c"])
def test_a_wrong_id_is_refused(conversation):
    """A conversation id is a string with something in it."""
    with pytest.raises(ValueError, match="conversation_id must be a non-empty string"):
        ConversationTracker(conversation)


def test_wrong_settings_are_refused():
    """A key, an endpoint or a sink that can't be one is refused where it is given, without showing the key."""
    with pytest.raises(ValueError, match="api_key is no AgentSight API key") as caught:
        ConversationTracker(api_key="ags_hush")
    assert "hush" not in str(caught.value)
    with pytest.raises(ValueError, match="endpoint must be an address"):
        ConversationTracker(api_key=KEY, endpoint="localhost")
    with pytest.raises(TypeError, match="a sink is a callable"):
        ConversationTracker(sink="ledger.db")
    with pytest.raises(ValueError, match="give them to it alone"):
        ConversationTracker(api_key=KEY, sink=AgentSightClient(KEY))


def test_making_one_turns_on_automatic_tracking(monkeypatch):
    """AGENTSIGHT_TOKEN_HANDLER_TYPE is read when a tracker is made, not at import."""
    ConversationTracker("c1")
    assert set() == state.automatic
    monkeypatch.setenv("AGENTSIGHT_TOKEN_HANDLER_TYPE", "LangChain")
    ConversationTracker("c1")

    assert {"langchain"} == state.automatic


def test_the_environments_settings(api, monkeypatch):
    """Key, endpoint and conversation come from the environment, read when they are used."""
    one = ConversationTracker("c1")
    one.track_token_usage(3, 2)
    monkeypatch.setenv("AGENTSIGHT_API_KEY", KEY)
    monkeypatch.setenv("AGENTSIGHT_API_ENDPOINT", f"{api.url}/")
    monkeypatch.setenv("AGENTSIGHT_CONVERSATION_ID", "shared")

    assert "c1" == one.send_tracked_data()["conversation_id"]
    assert "shared" == ConversationTracker().send_tracked_data()["conversation_id"]
    assert (3, 2, 5, 0) == api.counted("c1") == api.counted("shared")
    monkeypatch.setenv("AGENTSIGHT_API_KEY", "ags_hush")
    with pytest.raises(ValueError, match="AGENTSIGHT_API_KEY is no AgentSight API key") as caught:
        one.send_tracked_data()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("blank", ["", " "])
def test_nowhere_to_send_to(monkeypatch, blank):
    """Without a key, a ledger and a sink a send is an error that names them; a blank variable is none."""
    for name in ("API_KEY", "API_ENDPOINT", "CONVERSATION_ID", "TOKEN_LEDGER"):
        monkeypatch.setenv(f"AGENTSIGHT_{name}", blank)
    one = ConversationTracker()
    one.track_token_usage(3)
    with pytest.raises(SendFailed, match="set AGENTSIGHT_API_KEY or AGENTSIGHT_TOKEN_LEDGER, or give"):
        one.send_tracked_data()

    assert usage(3) == one.get_token_usage()


def test_a_send_begins_from_zero(api, capsys):
    """A send delivers what was counted since the last, says what, prints nothing, and only the counter goes on."""
    one = tracker(api)
    with one:
        call(3, 2)
    one.track_token_usage(embedding_tokens=7)
    summary = one.send_tracked_data()
    assert {
        "destination": api.url,
        "conversation_id": "c1",
        "sent": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "embedding_tokens": 7},
        "recovered": 0,
        "error": None,
    } == summary
    assert usage() == one.get_token_usage()
    assert (5, 1) == (one.counter.total_tokens, one.counter.successful_requests)

    one.track_token_usage(1)
    assert 1 == one.send_tracked_data()["sent"]["prompt_tokens"]
    assert 0 == one.send_tracked_data()["sent"]["total_tokens"]
    assert (4, 2, 6, 7) == api.counted("c1")
    assert 2 == len(api.sent_to())
    assert ("", "") == capsys.readouterr()


def test_the_shared_view_is_sent_once(api):
    """What one tracker without an id has sent, no other sends again; the shared counter goes on."""
    call()
    first, second = tracker(api, None), tracker(api, None)
    name = first.send_tracked_data()["conversation_id"]
    assert 0 == second.send_tracked_data()["sent"]["total_tokens"]
    call()
    second.send_tracked_data()

    assert name.startswith("conv_")
    assert (2, 4, 6, 0) == api.counted(name)
    assert 6 == shared_counter().total_tokens
    assert usage() == first.get_token_usage()


def test_an_estimate_makes_way_for_the_exact_number(api):
    """An open call is sent as it is shown, as an estimate; when it ends, the difference follows."""
    with tracker(api) as one:
        low, high = OneToken(), TenTokens()
    show_estimate(low)
    assert usage(11) == one.get_token_usage()
    one.send_tracked_data()
    record(low, {"input_tokens": 6, "output_tokens": 2}, model="gpt-4o-mini")
    record(high, {"input_tokens": 8, "output_tokens": 0}, model="gpt-4o-mini")
    assert usage(3, 2) == one.get_token_usage()
    one.send_tracked_data()

    assert (14, 2, 16, 0) == api.counted("c1")


FAILURES = [
    pytest.param([Answer(401)], id="401"),
    pytest.param([Answer(429)] * 2, id="429"),
    pytest.param([Answer(429, {"Retry-After": "100"})], id="429-long"),
    pytest.param([Answer(500)] * 2, id="500"),
    pytest.param([Answer(503, processed=True)] * 2, id="503-processed"),
    pytest.param([Answer(None)] * 2, id="dropped"),
    pytest.param([Answer(None, processed=True)] * 2, id="dropped-processed"),
]


@pytest.mark.parametrize("answers", FAILURES)
def test_a_failed_send_loses_and_repeats_nothing(api, answers):
    """What a send could not deliver is still shown, and sent by the next, together with what came since."""
    one = tracker(api)
    one.track_token_usage(3, 2, embedding_tokens=7)
    api.fail(*answers)
    with pytest.raises(SendFailed, match="kept for the next send"):
        one.send_tracked_data()
    assert usage(3, 2, 5, 7) == one.get_token_usage()
    one.track_token_usage(1)
    assert usage(4, 2, 6, 7) == one.get_token_usage()

    assert {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6, "embedding_tokens": 7} == (
        one.send_tracked_data()["sent"]
    )
    assert usage() == one.get_token_usage()
    assert (4, 2, 6, 7) == api.counted("c1")


@pytest.mark.parametrize("processed", [False, True])
def test_a_time_out_loses_and_repeats_nothing(api, processed):
    """A send that timed out, whether the server counted it or not, is made good by the next."""
    one = tracker(api, timeout=0.2)
    one.track_token_usage(3, 2)
    api.hold(processed=processed)
    with pytest.raises(SendFailed, match="ReadTimeout"):
        one.send_tracked_data()
    api.release()
    one.track_token_usage(1)
    one.send_tracked_data()

    assert (4, 2, 6, 0) == api.counted("c1")


def test_a_dropped_trackers_counts_are_sent_by_the_next(api):
    """What a tracker failed to send before it was dropped, another of the account delivers, and says so."""
    one = tracker(api, "gone")
    one.track_token_usage(3, 2)
    api.fail(Answer(401))
    with pytest.raises(SendFailed):
        one.send_tracked_data()
    del one

    assert 1 == tracker(api).send_tracked_data()["recovered"]
    assert (3, 2, 5, 0) == api.counted("gone")


def test_what_others_failed_to_deliver_is_in_the_summary(api):
    """That an earlier conversation is still refused is no error of this one's send."""
    api.fail(Answer(400, body={"detail": "closed"}))
    refused = tracker(api, "closed")
    refused.track_token_usage(3)
    with pytest.raises(SendFailed):
        refused.send_tracked_data()
    one = tracker(api)
    one.track_token_usage(1)
    api.fail(Answer(201, processed=True), Answer(400, body={"detail": "closed"}))
    summary = one.send_tracked_data()

    assert (1, 0) == (summary["sent"]["prompt_tokens"], summary["recovered"])
    assert "answered 400; closed" in summary["error"]
    assert 3 == refused.send_tracked_data()["sent"]["prompt_tokens"]


def test_what_arrives_during_a_send_stays_for_the_next(api):
    """While a send is under way counting goes on, and what is counted meanwhile is not reset by its end."""
    one = tracker(api)
    one.track_token_usage(3, 2)
    api.hold(processed=True)
    sender = threading.Thread(target=one.send_tracked_data)
    sender.start()
    api.wait_for(1)
    with one:
        call(10, 20)
    one.track_token_usage(embedding_tokens=7)
    assert usage(13, 22, 35, 7) == one.get_token_usage()
    api.release()
    sender.join()

    assert usage(10, 20, 30, 7) == one.get_token_usage()
    one.send_tracked_data()
    assert (13, 22, 35, 7) == api.counted("c1")


def test_two_threads_send_each_piece_once(api):
    """Threads that count and send at once deliver everything once, and their summaries add up to it."""
    one = tracker(api)
    api.fail(*[Answer(503), Answer(None, processed=True), Answer(503), Answer(201, processed=True)] * 5)
    sent = []

    def work():
        for _ in range(10):
            one.track_token_usage(1, 2, 4, 8)
            try:
                sent.append(one.send_tracked_data()["sent"])
            except SendFailed:
                sent.append({"prompt_tokens": 0})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent.append(one.send_tracked_data()["sent"])

    assert (40, 80, 160, 320) == api.counted("c1")
    assert 40 == sum(part["prompt_tokens"] for part in sent)
    assert usage() == one.get_token_usage()


def test_readers_see_whole_updates():
    """A reader never sees a part of what one call has tracked."""
    one = ConversationTracker("c1")
    done = threading.Event()

    def write():
        for _ in range(500):
            one.track_token_usage(1, 1, 3, 1)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set():
        seen.append(one.get_token_usage())
    writer.join()

    assert [] == [
        counts for counts in seen if counts != usage(*[counts["prompt_llm_token_count"] * n for n in (1, 1, 3, 1)])
    ]
    assert usage(500, 500, 1500, 500) == one.get_token_usage()


async def test_an_async_send(api):
    """asend_tracked_data() does the same without blocking the loop."""
    one = tracker(api)
    one.track_token_usage(3, 2)
    api.hold(processed=True)
    sending = asyncio.create_task(one.asend_tracked_data())
    await asyncio.to_thread(api.wait_for, 1)
    api.release()

    assert 5 == (await sending)["sent"]["total_tokens"]
    assert (3, 2, 5, 0) == api.counted("c1")


def test_repr_shows_no_key():
    """repr() names the conversation and what is to be sent, and no key."""
    one = ConversationTracker("c1", api_key=KEY)
    one.track_token_usage(3, 2)

    assert "<ConversationTracker 'c1', 5 tokens to send>" == repr(one)
    assert KEY not in str(vars(one))


class Flushed:
    """A sink that says what it is told to when it is flushed."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.records = []

    def __call__(self, record):
        self.records.append(record)

    def flush(self, timeout=None):
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_a_sink_has_every_record():
    """A tracker's sink gets the calls of its block and what is tracked by hand, labelled with the conversation."""
    sink = Flushed()
    with ConversationTracker("c1", sink=sink) as one, track_tokens(user="ada", tags={"feature": "search"}):
        call(3, 2)
        one.track_token_usage(1, 2, 9, 4)
    call()

    assert [("reported", "chat", 3, 2), ("manual", "chat", 1, 2), ("manual", "embeddings", 4, 0)] == [
        (record.source, record.operation, record.usage.input_tokens, record.usage.output_tokens)
        for record in sink.records
    ]
    assert {("c1", "ada", "search")} == {
        (record.session, record.user, record.tags["feature"]) for record in sink.records
    }
    assert 3 == len({record.event_id for record in sink.records})


def test_a_process_wide_sink_has_every_record_once():
    """A sink of the tracker and of the process gets a record once; so does that of a tracker without an id."""
    sink = Flushed()
    add_sink(sink)
    try:
        with ConversationTracker("c1", sink=sink) as one:
            call()
            one.track_token_usage(1)
        ConversationTracker(sink=sink).track_token_usage(1)
        call()
    finally:
        remove_sink(sink)

    assert [3, 1, 1, 3] == [record.usage.total_tokens for record in sink.records]


def test_a_sink_that_acknowledges(api):
    """Without a key a send is the sink's flush: False or an error keeps the counts, True begins from zero."""
    sink = Flushed(False, TokenHandlersError("disk full"), True, None)
    one = ConversationTracker("c1", sink=sink)
    one.track_token_usage(3, 2, 9)
    with pytest.raises(SendFailed, match="Flushed has not everything on disk yet"):
        one.send_tracked_data()
    with pytest.raises(TokenHandlersError, match="disk full"):
        one.send_tracked_data()
    assert usage(3, 2, 9) == one.get_token_usage()

    assert 9 == one.send_tracked_data()["sent"]["total_tokens"]
    assert usage() == one.get_token_usage()
    assert 0 == one.send_tracked_data()["sent"]["total_tokens"]
    assert 1 == len(sink.records)


def test_to_the_ledger(tmp_path):
    """With a ledger and no key a send is done when the records are on the disk."""
    with SQLiteLedger(tmp_path / "ledger.db") as kept:
        one = ConversationTracker("c1", sink=kept)
        with one:
            call(3, 2)
        one.track_token_usage(1, 1, embedding_tokens=7)
        summary = one.send_tracked_data()
        totals = kept.totals(session="c1")

    assert (str(tmp_path / "ledger.db"), 7) == (summary["destination"], summary["sent"]["total_tokens"])
    assert (4, 3, 7) == (totals.prompt_tokens, totals.completion_tokens, totals.embedding_tokens)


TRACKER = """
import sys
from token_handlers.conversation import ConversationTracker
tracker = ConversationTracker("c1")
tracker.track_token_usage(3, 2, embedding_tokens=7)
try:
    print(tracker.send_tracked_data()["sent"]["total_tokens"])
except Exception as error:
    print(type(error).__name__)
tracker.track_token_usage(1)
print(tracker.send_tracked_data()["sent"]["total_tokens"])
"""


def start_tracker(api, path):
    """Run a program that tracks and sends twice."""
    environ = {
        "PYTHONPATH": str(ROOT),
        "AGENTSIGHT_API_KEY": KEY,
        "AGENTSIGHT_API_ENDPOINT": api.url,
        "AGENTSIGHT_TOKEN_LEDGER": str(path),
    }
    return subprocess.Popen([sys.executable, "-c", TRACKER], env=environ, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("processed", [False, True])
def test_a_killed_process_loses_and_repeats_nothing(api, tmp_path, processed):
    """With a ledger, what a killed process was sending, and what waited behind it, the next process delivers once."""
    api.fail(Answer(401))
    api.hold(processed=processed)
    with start_tracker(api, tmp_path / "ledger.db") as process:
        api.wait_for(2)
        process.kill()
    api.release()
    with start_tracker(api, tmp_path / "ledger.db") as process:
        assert ["5", "1"] == process.communicate(timeout=60)[0].split()

    assert (8, 4, 12, 14) == api.counted("c1")


def track_in_child(one, results):
    """Count and send in a forked process."""
    one.track_token_usage(10)
    results.put((one.get_token_usage()["prompt_llm_token_count"], one.send_tracked_data()["sent"]["prompt_tokens"]))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_its_own_counts(api):
    """After a fork the parent's counts are still the parent's to send, and the child's the child's."""
    one = tracker(api)
    one.track_token_usage(3)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=track_in_child, args=(one, results))
    child.start()
    assert (10, 10) == results.get(timeout=20)
    child.join()
    one.send_tracked_data()

    assert (13, 0, 13, 0) == api.counted("c1")


def test_another_key(api):
    """Trackers with different keys send with their own."""
    for key in (KEY, OTHER_KEY):
        one = ConversationTracker(key[-6:], api_key=key, endpoint=api.url)
        one.track_token_usage(1)
        one.send_tracked_data()

    assert [KEY, KEY, OTHER_KEY, OTHER_KEY] == [request.key for request in api.requests]


def test_no_http_client_before_a_send():
    """Importing and tracking load no HTTP client."""
    script = (
        "import sys; from token_handlers.conversation import ConversationTracker as T; T('c').track_token_usage(1);"
        "print('httpx' in sys.modules, 'sqlite3' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )

    assert "False False" == done.stdout.strip()


def test_it_can_be_read_as_json(api):
    """The summary and the usage are plain data."""
    one = tracker(api)

    assert "c1" == json.loads(json.dumps([one.send_tracked_data(), one.get_token_usage()]))[0]["conversation_id"]
    assert isinstance(one.counter, TokenCounter)


class ItemsAPI:
    """AgentSight's API for what holds text: it keeps what it was sent, and refuses the paths it is told to."""

    def __init__(self):
        self.sent, self.refused = [], set()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                api.sent.append((self.path, body))
                answer = json.dumps({"id": len(api.sent)}).encode()
                self.send_response(400 if self.path in api.refused else 201)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def items():
    """The API for items."""
    api = ItemsAPI()
    thread = threading.Thread(target=api.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield api
    api.server.shutdown()
    thread.join()
    api.server.server_close()


def test_a_program_of_agentsights_own_tracker(items):
    """What a program tracks with agentsight's tracker arrives, in its order and in its conversation."""
    one = ConversationTracker(api_key=KEY, endpoint=items.url)
    one.configure(conversation_id="c7", log_level="INFO")
    one.get_or_create_conversation("c7", customer_id="u1", device="mobile")
    picture = {"filename": "a.png", "mime_type": "image/png", "data": b"\x00\x01"}
    one.track_human_message("Hello", attachments=[picture], metadata={"page": 1})
    one.track_agent_message("Hi")
    one.track_action("search", duration_ms=12, response=None)
    one.track_button("rating", "Good", "5")
    one.track_attachments([picture], sender="agent")
    one.track_token_usage(3, 2)
    tracked = {"conversations": 1, "messages": 2, "actions": 1, "buttons": 1, "attachments": 1}
    assert tracked == one.get_tracked_data_summary()["summary"]
    assert {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "embedding_tokens": 0} == (
        one.send_tracked_data()["sent"]
    )
    said = [(path, body) for path, body in items.sent if body.get("action_name") != "token_usage"][:7]

    assert [
        "/api/conversations/",
        *("/api/track/", "/api/attachments/", "/api/track/", "/api/action_logs/", "/api/buttons/", "/api/attachments/"),
    ] == [path for path, _ in said]
    assert ("u1", "mobile", True) == tuple(said[0][1][name] for name in ("customer_id", "device", "is_used"))
    assert ("Hello", "end_user", {"page": 1}, 1, "c7") == tuple(
        said[1][1][name] for name in ("content", "sender", "metadata", "conversation", "conversation_id")
    )
    assert ([{**picture, "data": "AAE="}], 2) == (said[2][1]["attachments"], said[2][1]["message"])
    assert {"summary": {}, "conversation_id": "c7", "token_usage": usage()} == one.get_tracked_data_summary()


def test_items_that_are_refused(items, caplog):
    """What AgentSight refuses is dropped with a warning that has no text of it; the rest arrives."""
    items.refused.add("/api/track/")
    one = ConversationTracker("c1", api_key=KEY, endpoint=items.url)
    one.track_human_message("a secret")
    one.track_button("rating", "Good", "5")
    one.send_tracked_data()

    assert "/api/buttons/" in [path for path, _ in items.sent]
    assert "AgentSight did not take an item (message), which is dropped" in caplog.text
    assert "secret" not in caplog.text


def test_items_without_a_key():
    """Without a key, items are counted and nothing of them is kept."""
    one = ConversationTracker("c1")
    one.track_human_message("a secret")
    one.track_agent_message("a secret")

    assert {"messages": 2} == one.get_tracked_data_summary()["summary"]
    assert "secret" not in repr(vars(one))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("track_human_message", [""]),
        ("track_agent_message", [None]),
        ("track_action", [" "]),
        ("track_button", ["rating", "", "5"]),
        ("initialize_conversation", [""]),
    ],
)
def test_items_that_are_none(name, arguments):
    """An item without its text is a ValueError, and is not counted."""
    one = ConversationTracker("c1")
    with pytest.raises(ValueError, match=r"must be a (non-empty )?string"):
        getattr(one, name)(*arguments)

    assert {} == one.get_tracked_data_summary()["summary"]


def test_another_conversation(api):
    """configure() chooses a conversation; what was not sent of the one before waits until it is chosen again."""
    one = ConversationTracker("c1", api_key=KEY, endpoint=api.url)
    one.track_token_usage(3)
    one.configure(conversation_id="c2")
    assert usage() == one.get_token_usage()
    with one:
        call(1, 2)
        one.configure(conversation_id="c1")
    assert usage(3) == one.get_token_usage()
    one.send_tracked_data()
    one.configure(conversation_id="c2")
    one.send_tracked_data()

    assert ((3, 0, 3, 0), (1, 2, 3, 0)) == (api.counted("c1"), api.counted("c2"))


def test_the_ready_made_tracker():
    """conversation_tracker is one tracker of the whole process."""
    assert token_handlers.conversation_tracker is token_handlers.conversation.conversation_tracker
    assert token_handlers.conversation_tracker.counter is shared_counter()


def test_a_key_as_the_conversation():
    """agentsight's first argument is the key: given so, it is refused without being shown."""
    with pytest.raises(ValueError, match="looks like an API key") as caught:
        ConversationTracker(KEY)

    assert KEY not in str(caught.value)


def test_calls_outside_of_its_block(caplog):
    """Where automatic tracking counts calls and none is inside the tracker's block, one warning says so."""
    install("langchain")
    one = ConversationTracker("c1")
    assert usage() == one.get_token_usage()
    assert "" == caplog.text
    call()
    one.get_token_usage()
    one.get_token_usage()

    assert 1 == caplog.text.count("the tracker of 'c1' has counted no call")
