import json
import random
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from multiprocessing import get_context

import pytest
from redis.crc import key_slot

from tests.support.redis_servers import black_hole, call, listening
from token_handlers import MissingDependency, TokenCounter, Usage, UsageRecord, UsageTotals
from token_handlers.sinks.redis import RedisCounter


@pytest.fixture
def counter(valkey, namespace):
    """A counter in the test's namespace."""
    own = RedisCounter(valkey.url, namespace, timeout=5)
    yield own
    own.close()


def random_call(draw, number):
    """Return any call: labels, outcomes, sources and costs of all kinds."""
    sent, received = draw.randrange(100_000), draw.randrange(9_000)
    return UsageRecord(
        usage=Usage(
            input_tokens=sent,
            output_tokens=received,
            cache_read_tokens=sent // 3,
            cache_write_tokens=draw.choice((0, sent // 4)),
            reasoning_tokens=received // 2,
        ),
        model=draw.choice(("gpt-4o", "claude-sonnet-4-5", None)),
        session=draw.choice(("s1", "s2", "s3", None)),
        user=draw.choice(("u1", "u:2", None)),
        operation=draw.choice(("chat", "chat", "embeddings")),
        outcome=draw.choice(("success", "success", "success", "failed", "cached")),
        source=draw.choice(("reported", "reported", "estimated", "manual")),
        requests=draw.choice((1, 1, 0, 2)),
        cost=draw.choice((None, Decimal(0), Decimal(draw.randrange(10**9)).scaleb(-9))),
        saved_cost=draw.choice((None, Decimal("0.25"))),
        cache_saved_cost=draw.choice((None, Decimal("0.25"), Decimal("-0.000000007"))),
        event_id=str(number),
        started_at=datetime(2026, 3, draw.randrange(1, 4), 23, 59, tzinfo=UTC),
    )


def assert_equal(counter, reference):
    """A RedisCounter has what a TokenCounter has, in all and by each label."""
    assert reference.snapshot() == counter.totals()
    for label in ("model", "session", "user"):
        assert reference.by(label) == counter.by(label)
        for value, totals in reference.by(label).items():
            assert totals == counter.totals(**{label: value})


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_sums_are_a_token_counters(valkey, namespace, batch):
    """All totals, and those by model, session and user, are what a TokenCounter has, however records are batched."""
    draw, reference = random.Random(batch), TokenCounter()
    counter = RedisCounter(valkey.url, namespace, batch=batch)
    for number in range(300):
        record = random_call(draw, number)
        reference.add(record)
        counter(record)

    assert counter.flush()
    assert_equal(counter, reference)
    assert (0, 0) == (counter.waiting, counter.dropped)
    counter.close()


def test_nothing_recorded_is_zero(counter):
    """Before the first call, and for a label that nobody used, everything is zero."""
    assert UsageTotals() == counter.totals() == counter.totals(user="nobody")
    assert {} == counter.by("session")


def test_a_record_counts_once(valkey, namespace, counter):
    """Given again, in the same batch, in another one or by another process, a record counts once, by its event id."""
    records = [call(event_id=str(number)) for number in range(50)]
    other = RedisCounter(valkey.url, namespace, batch=3)
    for record in (*records, *records[:20]):
        counter(record)
    for record in records[10:]:
        other(record)

    assert counter.flush()
    assert other.flush()
    assert 50 == counter.totals().successful_requests
    assert 50 * Decimal("0.0000015") == counter.totals().cost
    other.close()


def test_records_without_an_event_id_are_all_different(counter):
    """A record that has no id is a call of its own each time that it is given."""
    counter(call())
    counter(call())

    assert counter.flush()
    assert 2 == counter.totals().successful_requests


@pytest.mark.parametrize(
    ("cost", "counted"),
    [("0.0000000005", "0"), ("0.0000000015", "0.000000002"), ("0.0000000025", "0.000000002"), ("17592", "17592")],
)
def test_costs_are_rounded_to_nano_dollars(counter, cost, counted):
    """Each record's cost is a whole number of nano-USD, a half of one to the even side."""
    counter(call(cost=cost))

    assert counter.flush()
    assert Decimal(counted) == counter.totals().cost


def test_big_numbers_stay_exact(counter, client, namespace):
    """Sums are exact far beyond what a double holds."""
    client.hset(f"{{{namespace}}}:total", mapping={"cost": 2**53 - 10**9, "input_tokens": 2**62})
    for _ in range(5):
        counter(call(sent=2**44 - 1, received=0, cost="17592.123456789"))

    assert counter.flush()
    assert 2**62 + 5 * (2**44 - 1) == counter.totals().prompt_tokens
    assert Decimal(2**53 - 10**9).scaleb(-9) + 5 * Decimal("17592.123456789") == counter.totals().cost


def test_totals_by_day(counter):
    """since is inclusive, until exclusive, both are UTC days of a call's start, for all calls and for one model."""
    for day, model in ((1, "a"), (2, "a"), (2, "b"), (3, "b")):
        counter(call(model=model, started_at=datetime(2026, 3, day, 23, 59, 59, tzinfo=UTC)))

    assert counter.flush()
    assert {"2026-03-01": 1, "2026-03-02": 2, "2026-03-03": 1} == {
        day: totals.successful_requests for day, totals in counter.by("day").items()
    }
    assert 3 == counter.totals(since=date(2026, 3, 2)).successful_requests
    assert 2 == counter.totals(since=date(2026, 3, 2), until=date(2026, 3, 3)).successful_requests
    assert 1 == counter.totals(until=datetime(2026, 3, 2, tzinfo=UTC)).successful_requests
    assert 1 == counter.totals(model="a", since=date(2026, 3, 2)).successful_requests


@pytest.mark.parametrize(
    ("question", "remedy"),
    [
        ({"session": "s", "user": "u"}, "ledger"),
        ({"session": "s", "since": date(2026, 3, 1)}, "ledger"),
        ({"since": datetime(2026, 3, 1, 12, tzinfo=UTC)}, "midnight UTC"),
        ({"since": datetime(2026, 3, 1)}, "midnight UTC"),  # noqa: DTZ001 (what it is about)
    ],
)
def test_what_is_not_kept_is_refused(counter, question, remedy):
    """Totals that the server does not have are a ValueError that says who has them."""
    with pytest.raises(ValueError, match=remedy):
        counter.totals(**question)


def test_other_labels_are_refused(counter):
    """by() names what totals are kept by."""
    with pytest.raises(ValueError, match="day, model, session, user, not by 'tag'"):
        counter.by("tag")


def test_all_keys_share_one_hash_tag(counter, client, namespace):
    """Whatever is done, every key of a namespace is in one slot of a cluster, odd labels included."""
    for session in ("s", "{x}:y", "}{", "ü"):
        counter(call(session=session, user="u"))
    counter.reserve("team", reservation="1", limits={})
    counter.settle("team", "1", cost=Decimal(1), tokens=1)
    counter.reserve("team", reservation="2", limits={})

    assert counter.flush()
    keys = client.keys(f"*{namespace}}}*")
    assert 17 < len(keys)
    assert {key_slot(f"{{{namespace}}}".encode())} == {key_slot(key) for key in keys}


def test_everything_but_the_total_is_forgotten_in_time(counter, client, namespace):
    """Each key has an end, apart from the total of all calls."""
    counter(call(session="s", user="u"))
    counter.reserve("team", reservation="1", limits={})
    counter.settle("team", "1", cost=Decimal(1), tokens=1)
    counter.reserve("team", reservation="2", limits={})

    assert counter.flush()
    lasting = {key for key in client.keys(f"{{{namespace}}}:*") if client.ttl(key) < 0}
    assert {f"{{{namespace}}}:total".encode()} == lasting


def test_idle_labels_leave_the_index(counter, client, namespace):
    """A session that has had no call for keep_days is not in by() any more once another one has."""
    counter(call(session="old"))
    assert counter.flush()
    long_ago = (datetime.now(UTC) - timedelta(days=401)).timestamp() // 86_400
    client.zadd(f"{{{namespace}}}:index:session", {"old": long_ago})

    counter(call(session="new"))
    assert counter.flush()
    assert ["new"] == list(counter.by("session"))


def test_odd_labels_come_back(counter):
    """Labels with colons, braces, line ends and even half a surrogate pair are kept apart and come back unchanged."""
    odd = ["a:b", "a", "b", "{a}", "", "\x00", "line\r\nend", "\ud83d", "\U0001f600", "model:gpt-4o-mini"]
    for session in odd:
        counter(call(session=session))

    assert counter.flush()
    assert dict.fromkeys(odd, 1) == {s: totals.successful_requests for s, totals in counter.by("session").items()}


def test_waiting_records_go_in_one_script(valkey, namespace, client):
    """Records that come within the linger time share a script call; with batch=1 each has its own."""
    records = [call() for _ in range(50)]

    def script_calls(**options):
        client.config_resetstat()
        counter = RedisCounter(valkey.url, namespace, **options)
        for record in records:
            counter(record)
        assert counter.flush()
        counter.close()
        return client.info("commandstats")["cmdstat_evalsha"]["calls"]

    assert script_calls(linger=60) in (1, 2)  # 2: the server had not seen the script
    assert 50 == script_calls(batch=1)


def test_records_arrive_without_a_flush(counter):
    """What is given arrives by itself."""
    counter(call())

    while counter.totals().successful_requests != 1:
        pass
    assert 17 == counter.totals().prompt_tokens


def test_exact_under_threads(counter):
    """What 16 threads record at once is all there, once."""

    def work():
        for _ in range(200):
            counter(call(session="s"))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counter.flush()
    assert 3200 == counter.totals().successful_requests == counter.totals(session="s").successful_requests


def _record_and_end(url, namespace, calls):
    counter = RedisCounter(url, namespace, linger=60)
    for _ in range(calls):
        counter(call())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_that_end_send_what_waits(valkey, namespace, counter, method):
    """The records of multiprocessing's processes arrive, though they end without flushing."""
    context = get_context(method)
    processes = [context.Process(target=_record_and_end, args=(valkey.url, namespace, 200)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [0, 0] == [process.exitcode for process in processes]
    assert 400 == counter.totals().successful_requests


def _record_in_child(counter):
    counter(call(session="child"))
    assert counter.flush(10)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_takes_nothing_along(valkey, namespace):
    """The child of a fork records with a connection of its own; what waited in the parent, the parent sends, once."""
    counter = RedisCounter(valkey.url, namespace, linger=60)
    counter(call(session="before"))
    assert counter.flush()
    counter(call(session="waiting"))
    child = get_context("fork").Process(target=_record_in_child, args=(counter,))
    child.start()
    child.join()

    assert 0 == child.exitcode
    assert {"before": 1, "child": 1} == {s: t.successful_requests for s, t in counter.by("session").items()}
    assert counter.flush()
    assert 1 == counter.totals(session="waiting").successful_requests
    counter.close()


def test_the_end_of_a_program_sends_what_waits(valkey, namespace, counter):
    """A program that just ends sends its records, those of calls that were still open included."""
    program = f"""
        from token_handlers import Usage, UsageRecord, add_sink
        from token_handlers.tracking.call import Call
        from token_handlers.sinks.redis import RedisCounter

        class Open(Call):
            def estimate(self, text=None):
                return {{"input_tokens": 5}}, "guess"

        counter = RedisCounter({valkey.url!r}, {namespace!r}, linger=60)
        add_sink(counter)
        counter(UsageRecord(usage=Usage(input_tokens=3)))
        call = Open()
        call.model, call.provider = "gpt-4o-mini", "openai"
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], capture_output=True, check=False, text=True
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert (8, 2, 1) == (
        counter.totals().prompt_tokens,
        counter.totals().successful_requests,
        counter.totals().estimated_requests,
    )


def test_the_first_record_may_come_at_the_end(valkey, namespace, counter):
    """A record that comes when no thread can be started any more arrives as well."""
    program = f"""
        import atexit
        from token_handlers import Usage, UsageRecord
        from token_handlers.sinks.redis import RedisCounter

        counter = RedisCounter({valkey.url!r}, {namespace!r})
        atexit.register(counter, UsageRecord(usage=Usage(input_tokens=3)))
        import threading
        threading.Thread.start = lambda thread: exec("raise RuntimeError('shutting down')")
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], capture_output=True, check=False, text=True
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert 3 == counter.totals().prompt_tokens


def test_beyond_all_measure(counter, caplog):
    """A record that the server can't add exactly is dropped, counted and said; the others arrive."""
    counter(call())
    counter(call(sent=2**44 + 1))
    counter(call(cost="17593"))
    counter(call(cost="1e-400"))

    assert counter.flush()
    assert (2, 2) == (counter.totals().successful_requests, counter.dropped)
    assert 1 == caplog.text.count("beyond all measure")


def test_another_applications_key_stops_nothing(counter, client, namespace, caplog):
    """A record that meets a key of another type is dropped whole, and said; those in the same batch arrive."""
    client.set(f"{{{namespace}}}:session:taken", "by somebody")
    for session in ("s", "taken", "t"):
        counter(call(session=session))

    assert counter.flush()
    assert (2, 1) == (counter.totals().successful_requests, counter.dropped)
    assert 2 * Decimal("0.0000015") == counter.totals().cost
    assert "WRONGTYPE" in caplog.text


def test_a_closed_counter_takes_no_records(valkey, namespace):
    """After close() a record is an error, and closing again is none."""
    counter = RedisCounter(valkey.url, namespace)
    counter(call())
    counter.close()
    counter.close()

    with pytest.raises(RuntimeError, match="remove_sink"):
        counter(call())
    assert 1 == counter.totals().successful_requests


def test_recording_never_waits():
    """Thousands of records are taken while the server answers none of them."""
    with listening(black_hole) as port:
        counter = RedisCounter(f"redis://127.0.0.1:{port}")
        for _ in range(5_000):
            counter(call())

        assert not counter.flush(0.01)
        assert 5_000 == counter.waiting
        counter.close(0)


@pytest.mark.parametrize("junk", [None, {}, "record"])
def test_what_is_no_record_is_refused(counter, junk):
    """A RedisCounter takes UsageRecords."""
    with pytest.raises(TypeError, match="UsageRecord"):
        counter(junk)


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": ""},
        {"namespace": "a{b"},
        {"namespace": None},
        {"timeout": 0},
        {"batch": 0},
        {"batch": 513},
        {"linger": -1},
        {"capacity": 0},
        {"remember": -5},
        {"keep_days": 0},
        {"timeout": float("nan")},
        {"linger": float("inf")},
        {"remember": float("inf")},
        {"keep_days": 1.5},
    ],
)
def test_bad_options_are_refused(options):
    """A bad option is an error when the counter is made, and is named."""
    with pytest.raises(ValueError, match=next(iter(options))):
        RedisCounter("redis://127.0.0.1", **options)


def test_repr(counter, valkey, namespace):
    """It says where the records go."""
    assert f"<RedisCounter '{namespace}' at 127.0.0.1:{valkey.port}, 0 waiting>" == repr(counter)


def test_without_redis_py(monkeypatch):
    """Without the client the error is the pip line."""
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(MissingDependency, match=r"token-handlers\[redis\]"):
        RedisCounter("redis://127.0.0.1")


def test_the_payload_is_small(valkey, namespace, client):
    """A record's text, tags, node and provider stay here: the server gets numbers, the event id, model and labels."""
    counter = RedisCounter(valkey.url, namespace)
    with client.monitor() as monitor:
        counter(call(event_id="e", provider="secretive", node="hidden", tags={"team": "x"}, method="tiktoken"))
        assert counter.flush()
        seen = ""
        while "HINCRBY" not in seen:
            seen += json.dumps(monitor.next_command())

    assert [] == [word for word in ("secretive", "hidden", "team", "tiktoken") if word in seen]
    counter.close()


def test_a_record_made_by_hand_is_counted_once(valkey, namespace):
    """A record without a given event id has one of its own: the same object given again adds nothing."""
    counter = RedisCounter(valkey.url, namespace)
    record = UsageRecord(usage=Usage(input_tokens=5, web_searches=2))
    counter(record)
    counter(record)
    counter.defer(lambda: record)
    counter(UsageRecord(usage=Usage(input_tokens=5)))

    assert counter.flush()
    totals = counter.totals()
    assert (2, 10, 2) == (totals.successful_requests, totals.prompt_tokens, totals.web_searches)
    counter.close()


def test_a_record_that_can_not_be_made(valkey, namespace, caplog):
    """A callable that raises in place of a record loses that one alone, which is counted and said."""
    counter = RedisCounter(valkey.url, namespace)
    counter.defer(lambda: call(sent=-1))
    counter.defer(call)

    assert counter.flush()
    assert (1, 1) == (counter.totals().successful_requests, counter.dropped)
    assert "A record was dropped" in caplog.text
    counter.close()


ODD = ("a", "a\0b", "\ud800", "\udc00", "?", "ü:b")


def test_labels_that_differ_stay_different(valkey, namespace):
    """A NUL, a colon or half a surrogate pair in a label merges it with no other, and it can be asked for."""
    counter = RedisCounter(valkey.url, namespace)
    for odd in ODD:
        counter(call(event_id=f"id {odd}", session=odd, user=odd, model=odd))
    assert counter.flush()

    for label in ("session", "user", "model"):
        assert dict.fromkeys(ODD, 1) == {name: each.successful_requests for name, each in counter.by(label).items()}
        assert [1] * len(ODD) == [counter.totals(**{label: odd}).successful_requests for odd in ODD]
    counter.close()
