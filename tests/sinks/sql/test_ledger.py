import contextlib
import threading
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial

import pytest

from tests.support.ledgers import NOON, call, check_sums
from token_handlers import TokenHandlersError, Usage, UsageRecord, UsageTotals, lifecycle
from token_handlers.pricing import Price
from token_handlers.sinks.sql import rollups
from token_handlers.usage import CostPart

DAY = timedelta(days=1)


@pytest.fixture
def outage(place, ledger, monkeypatch):
    """What keeps everybody from writing, until it is closed."""
    monkeypatch.setattr(lifecycle, "FIRST_PAUSE_SECONDS", 60.0)  # only a flush tries again
    with contextlib.ExitStack() as stack:
        stack.enter_context(place.outage(ledger, monkeypatch))
        yield stack


def test_a_new_ledger_is_empty(ledger):
    """Before the first call all is zero, and there is nothing by any label."""
    assert UsageTotals() == ledger.totals()
    assert ({}, {}, []) == (ledger.by("model"), ledger.by_session_model("s"), list(ledger.records()))
    assert (0, 0, 0) == (ledger.waiting, ledger.failed_writes, ledger.lost)


def test_a_record_comes_back_as_it_was(ledger):
    """Every field is kept: a reported 0 as 0, what was not reported as that, times to the millisecond."""
    kept = UsageRecord(
        usage=Usage(input_tokens=100, output_tokens=0, cache_read_tokens=60, web_searches=2),
        model="gpt-4o",
        provider="openai",
        operation="text_completion",
        outcome="success",
        requests=2,
        source="estimated",
        method="tiktoken:o200k_base",
        session="s",
        user="ü",
        tags={"team": "search", "a\"b\\c'd\n": "", "beta": "true"},
        node="agent",
        cost=Decimal("0.000000123456"),
        cost_source="user",
        saved_cost=Decimal("1234.5"),
        cache_saved_cost=Decimal("-0.0000000005"),
        requested_model="gpt-4o-latest",
        doubts=("container sessions without a count", "ü"),
        cost_breakdown=(CostPart("input_tokens", 100, Decimal("2.5"), 10**6, Decimal("0.00025"), "x1.1 for us", "o3"),),
        service_tier="flex",
        region="eu",
        host="api.openai.com",
        served={"speed": "fast", "inference_geo": "ü"},
        billed={"input_tokens": 7},
        beside=((None, {"input_tokens": 3}), ("o3", {"output_tokens": 0})),
        request_id="req_1",
        organization="org-1",
        project="proj-1",
        event_id="e",
        started_at=NOON + timedelta(milliseconds=123),
        ended_at=NOON + timedelta(milliseconds=1456),
    )
    ledger(kept)
    ledger(UsageRecord(event_id="f", started_at=NOON + DAY))

    first, second = ledger.records()
    assert (kept, UsageRecord(event_id="f", started_at=NOON + DAY)) == (first, second)
    assert kept.usage.model_fields_set == first.usage.model_fields_set


def test_a_call_is_kept_once(place, ledger):
    """A record given again, alone, in one batch or to another ledger of the file, adds nothing."""
    for _ in range(3):
        ledger(call("same"))
    ledger.flush()
    assert 2 == ledger.duplicates
    with place.open() as other:
        other(call("same", sent=99))
        other(call("another"))
        other.flush()
        assert 1 == other.duplicates

    assert 2 == ledger.totals().successful_requests
    assert 34 == ledger.totals().prompt_tokens
    check_sums(ledger)


def test_what_has_no_id_or_time_gets_one(ledger):
    """Records with an empty event id are all kept; one without a time is filed under now."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    ledger(call(""))
    ledger(call("", started_at=None))
    ledger(call("", started_at=None, ended_at=NOON))

    assert 3 == ledger.totals().successful_requests
    *earlier, last = ledger.records()
    assert [NOON, NOON] == [record.started_at for record in earlier]
    assert before <= last.started_at <= datetime.now(UTC)
    assert 3 == len({record.event_id for record in (*earlier, last)})


def test_a_time_without_a_zone_in_a_record_is_local(ledger):
    """A hand-made record's datetime.now() is what Python takes it for."""
    ledger(call(started_at=NOON.astimezone().replace(tzinfo=None)))

    assert [NOON] == [record.started_at for record in ledger.records()]


def test_what_no_ledger_can_hold_is_lost_alone(ledger, caplog):
    """A call of absurd tokens or cost is counted as lost and logged, as totals could not hold it; others are kept."""
    ledger(call("a"))
    ledger(call("tokens", sent=2**63))
    ledger(call("money", cost="1E+999999"))
    ledger(call("half a pair \ud800", model="\ud800", tags={"\udfff": "x"}, session="odd"))
    ledger(call("b"))
    assert ledger.flush()

    assert (3, 2, 0) == (ledger.totals().successful_requests, ledger.lost, ledger.waiting)
    assert ["\ud800"] == list(ledger.by("model", session="odd"))
    assert 2 == len(caplog.messages)
    assert all("loses records" in message for message in caplog.messages)
    check_sums(ledger)


def test_a_record_made_by_hand_is_kept_once(place, ledger):
    """A record without a given event id has one of its own: the same object given again adds nothing."""
    record = UsageRecord(usage=Usage(input_tokens=5))
    ledger(record)
    ledger(record)
    with place.open() as other:
        other(record)
    ledger(UsageRecord(usage=Usage(input_tokens=5)))

    assert (2, 10) == (ledger.totals().successful_requests, ledger.totals().prompt_tokens)


def test_a_record_that_was_looked_at_is_kept(ledger):
    """What a usage works out when it is asked, its total and its answer's id, is no count."""
    record = call("a")
    assert (29, None) == (record.usage.total_tokens, record.usage.response_id)
    ledger(record)
    assert ledger.flush()

    assert (1, 0) == (ledger.totals().successful_requests, ledger.lost)


def test_doubts_make_an_estimate(ledger):
    """A call of which something could not be counted or priced exactly is among the estimates."""
    ledger(call("a", doubts=("a rate is missing",)))
    ledger(call("b"))

    assert (2, 1) == (ledger.totals().successful_requests, ledger.totals().estimated_requests)
    check_sums(ledger)


ODD = ("a", "a\0b", "a\0", "\ud800", "\udc00", "?", "\u241b0000", "ü\0🙂")


def test_labels_that_differ_stay_different(ledger):
    """A NUL or half a surrogate pair in a label merges it with no other, and it can be asked for as it was given."""
    for odd in ODD:
        ledger(
            call(f"id {odd}", session=odd, user=odd, node=odd, model=odd, provider=odd, tags={odd: odd, "team": odd})
        )
    assert ledger.flush()

    assert (0, 8) == (ledger.lost, ledger.totals().successful_requests)
    for label in ("session", "user", "model", "provider", "langgraph_node", "team"):
        assert dict.fromkeys(ODD, 1) == {
            value: totals.successful_requests for value, totals in ledger.by(label).items()
        }
    assert {f"{name}={odd}" for odd in ODD for name in (odd, "team")} == set(ledger.by("tag"))
    for odd in ODD:
        for asked in ({"session": odd}, {"user": odd}, {"model": odd}):
            assert 1 == ledger.totals(**asked).successful_requests
            assert [f"id {odd}"] == [record.event_id for record in ledger.records(**asked)]
        assert {odd: 1} == {value: one.successful_requests for value, one in ledger.by(odd).items()}
        assert [(odd, odd, "chat")] == list(ledger.by_session_model(odd))
    assert sorted(ODD) == sorted(record.session for record in ledger.records())
    check_sums(ledger)


LATE, EARLY = timezone(-timedelta(hours=12)), timezone(timedelta(hours=12))


@pytest.mark.parametrize(
    "absurd",
    [
        {"started_at": datetime(9999, 12, 31, 23, tzinfo=LATE)},
        {"started_at": datetime(1, 1, 1, tzinfo=EARLY)},
        {"started_at": datetime(1969, 12, 31, tzinfo=UTC)},
        {"ended_at": datetime(9999, 12, 31, 23, tzinfo=LATE)},
        {"ended_at": datetime(1, 1, 1, tzinfo=EARLY)},
        {"sent": 10**15},
        {"requests": 10**15},
    ],
)
def test_absurd_numbers_and_times_are_refused(ledger, absurd, caplog):
    """A time that UTC does not have, or more tokens than anybody has, is lost alone."""
    ledger(call("absurd", **absurd))
    ledger(call("b"))
    assert ledger.flush()

    assert ["b"] == [record.event_id for record in ledger.records()]
    assert 1 == ledger.lost
    assert any(name in caplog.text for name in ("started_at", "ended_at", "tokens"))
    assert 1 == sum(totals.successful_requests for totals in ledger.by("day").values())


def test_many_calls_are_rolled_up(place, ledger, monkeypatch):
    """Sums are the same whether calls are in the rollups or not yet, and repricing changes both."""
    monkeypatch.setattr(rollups, "ROLL_UP_AT", 10)
    monkeypatch.setattr(rollups, "AT_ONCE", 7)
    for number in range(25):
        labels = {"session": f"s{number % 3}", "user": f"u{number % 2}", "tags": {"team": f"t{number % 4}"}}
        ledger(call(f"{number}", sent=number, **labels, started_at=NOON + number * timedelta(hours=5)))
        if number % 4 == 0:
            ledger.flush()
        if number % 8 == 0:
            check_sums(ledger)
    ledger.flush()
    ((rolled,),) = place.rows("SELECT sum(successful_requests) FROM rollup_hour WHERE apart = 0 AND label = ''")
    assert 15 < rolled < 25
    assert (25, 25) == ledger.update_costs(lambda record: Decimal(record.usage.input_tokens + 1))
    assert 325 == ledger.totals().cost
    check_sums(ledger)


def test_a_ledger_from_before_the_sums_of_all_time(place, monkeypatch):
    """What sessions and users add up to in all is made of the days, once, and kept from then on."""
    monkeypatch.setattr(rollups, "ROLL_UP_AT", 1)
    with place.open() as ledger:
        for number in range(9):
            ledger(call(f"{number}", session=f"s{number % 4}", user=f"u{number % 2}", started_at=NOON + number * DAY))
    place.make_older()

    monkeypatch.setattr(rollups, "ROLL_UP_AT", 99)
    with place.open() as ledger:
        ledger(call("a", session="s0"))
        ledger(call("b", session="new"))
        assert ledger.flush()
        by_session = {name: sums.successful_requests for name, sums in ledger.by("session", top=2).items()}
        assert {"s0": 4, "s1": 2, "(other)": 5} == by_session
        check_sums(ledger)
    sums = "SELECT value, successful_requests FROM rollup_ever WHERE label IN ('user', 'every session') ORDER BY 1"
    assert [("", 9), ("u0", 5), ("u1", 4)] == place.rows(sums)


@pytest.mark.parametrize("junk", [None, {}, "record"])
def test_what_is_no_record_is_refused(ledger, junk):
    """A ledger takes UsageRecords."""
    with pytest.raises(TypeError, match="UsageRecord"):
        ledger(junk)


def test_flush_is_the_acknowledgement(place, ledger):
    """After flush() returned True any other program finds the records; nothing waits."""
    ledger(call("a"))
    assert ledger.flush(timeout=30)

    assert 0 == ledger.waiting
    assert [("a", 1500)] == place.rows("SELECT event_id, cost_nano FROM usage_event")


def test_sync_is_committed_when_it_returns(place):
    """With durability='sync' nothing needs a flush."""
    with place.open(durability="sync") as ledger:
        ledger(call("a"))
        assert [(1,)] == place.rows("SELECT count(*) FROM usage_event")


def test_sync_says_what_it_cannot_hold(place):
    """With durability='sync' a record that no ledger can hold is an error where it is given."""
    with place.open(durability="sync") as ledger:
        with pytest.raises(TokenHandlersError, match="can't hold this record"):
            ledger(call("absurd", sent=10**16))
        assert (0, 0) == (ledger.waiting, ledger.totals().successful_requests)


def test_sync_says_when_it_is_not_committed(place, ledger, outage):
    """durability='sync' raises while nobody can write, keeps the record, and writes it later."""
    ledger._sync = True
    with pytest.raises(TokenHandlersError, match=place.why_out):
        ledger(call("a"))
    assert 1 == ledger.waiting

    outage.close()
    ledger(call("b"))
    assert {"a", "b"} == {record.event_id for record in ledger.records()}


@pytest.mark.parametrize("durability", ["batch", "sync"])
def test_a_record_that_is_still_to_be_made(place, durability):
    """A callable in place of a record is called in the ledger's thread; one that raises loses that record alone."""
    threads = []

    def make():
        threads.append(threading.current_thread() is threading.main_thread())
        return call("a")

    with place.open(durability=durability) as ledger:
        ledger.defer(make)
        if durability == "batch":
            ledger.defer(partial(call, "c", sent=-1))
        ledger(call("b"))
        assert ledger.flush()

        assert {"a", "b"} == {record.event_id for record in ledger.records()}
        assert (1 if durability == "batch" else 0) == ledger.lost
    assert {durability == "sync"} == set(threads)


def test_where_no_thread_can_start_flush_writes(ledger, monkeypatch):
    """At the very end of an interpreter, which starts no threads any more, the caller writes."""

    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr("threading.Thread.start", refuse)
    ledger(call("a"))
    assert 1 == ledger.waiting
    assert ledger.flush()
    assert 1 == ledger.totals().successful_requests


def test_an_outage_disturbs_nobody(place, ledger, outage, caplog):
    """While nothing can be written calls return as ever, records wait, and one warning names the place and a remedy."""
    ledger(call("a"))
    assert not ledger.flush()
    ledger(call("b"))
    assert not ledger.flush()
    assert (2, 2, 0) == (ledger.waiting, ledger.failed_writes, ledger.lost)
    assert 1 == len(caplog.messages)
    assert f"the ledger {ledger.place} can't be used: {place.why_out}" in caplog.text

    outage.close()
    assert ledger.flush()
    assert (0, 2) == (ledger.waiting, ledger.totals().successful_requests)


def test_what_waits_is_bounded(ledger, outage, monkeypatch, caplog):
    """Past MAX_WAITING records are lost, which is counted and logged once; the others are kept."""
    monkeypatch.setattr(ledger._writer, "capacity", 5)
    for number in range(8):
        ledger(call(f"{number}"))
    assert (5, 3) == (ledger.waiting, ledger.lost)
    assert 1 == sum("loses records" in message for message in caplog.messages)

    outage.close()
    assert ledger.flush()
    assert ["0", "1", "2", "3", "4"] == [record.event_id for record in ledger.records()]


def test_a_ledger_closed_in_an_outage_says_what_is_lost(ledger, outage, caplog):
    """close() never raises: it logs how many records were not written, and why."""
    ledger(call("a"))
    ledger.close()

    assert "records that were not written: 1: " in caplog.messages[-1]
    assert ledger.place in caplog.messages[-1]


def test_an_outage_between_records_that_can_and_cannot_be_kept(ledger, outage):
    """A record that no ledger can hold is lost once, also when nothing can be written for a while."""
    for name, sent in (("a", 17), ("absurd", 10**16), ("b", 17)):
        ledger(call(name, sent=sent))
    assert not ledger.flush()

    outage.close()
    assert ledger.flush()
    assert (1, ["a", "b"]) == (ledger.lost, [record.event_id for record in ledger.records()])


def test_repricing(ledger):
    """update_costs() gives past calls another cost, totals included; what is reported or unknown stays."""
    ledger(call("a", cost="1", cost_source="user", session="s"))
    ledger(call("b", cost=None, user="u", tags={"team": "x"}))
    ledger(call("c", cost="1", cost_source="reported"))
    ledger(call("d", cost="1", model="other"))
    ledger(call("e", cost=None, outcome="cached", saved_cost=Decimal(1)))
    ledger(call("f", cost=None, outcome="failed"))
    ledger(call("g", cost="2", started_at=NOON + DAY))

    def price(record):
        return None if record.model == "other" else Decimal(3)

    assert (6, 3) == ledger.update_costs(price, until="2026-03-04")
    costs = {record.event_id: (record.cost, record.saved_cost, record.cost_source) for record in ledger.records()}
    assert {
        "a": (3, None, "repriced"),
        "b": (3, None, "repriced"),
        "c": (1, None, "reported"),
        "d": (1, None, None),
        "e": (None, 3, "repriced"),
        "f": (None, None, None),
        "g": (2, None, None),
    } == costs
    assert (Decimal(10), Decimal(3), 0) == (
        ledger.totals().cost,
        ledger.totals().saved_cost,
        ledger.totals().unpriced_requests,
    )
    check_sums(ledger)
    assert (6, 0) == ledger.update_costs(price, until="2026-03-04")


def test_repricing_to_the_third_of_a_cent_settles(ledger):
    """A price that no decimal holds is rounded once, and is no change the second time."""
    ledger(call("a"))

    assert (1, 1) == ledger.update_costs(lambda record: Decimal(1) / 300)
    assert (1, 0) == ledger.update_costs(lambda record: Decimal(1) / 300)


def test_repricing_by_a_price(ledger):
    """A Price also says why it is an estimate, beside the doubts of the call, and what the prompt cache saved."""
    cached = Usage(input_tokens=100, cache_read_tokens=60)
    ledger(call("a", usage=cached, doubts=("old",)))
    ledger(call("b", usage=cached, cost="1", cost_source="reported"))
    ledger(call("c", cost="3"))
    assert 120 == ledger.totals().unpriced_cache_tokens
    price = Price(Decimal(3), "user", ("new",), cache_saved=Decimal("-0.5"))

    def again(record):
        return price._replace(cache_saved=None) if record.event_id == "c" else price

    assert (3, 3) == ledger.update_costs(again)
    assert (3, 0) == ledger.update_costs(again)
    a, b, c = ledger.records()
    assert (Decimal(3), ("old", "new"), Decimal("-0.5")) == (a.cost, a.doubts, a.cache_saved_cost)
    assert (Decimal(1), (), Decimal("-0.5"), "reported") == (b.cost, b.doubts, b.cache_saved_cost, b.cost_source)
    assert (Decimal(3), ("new",), "repriced") == (c.cost, c.doubts, c.cost_source)
    totals = ledger.totals()
    assert (Decimal(-1), 0, 2) == (totals.cache_saved_cost, totals.unpriced_cache_tokens, totals.estimated_requests)
    check_sums(ledger)
