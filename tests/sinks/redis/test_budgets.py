import os
import signal
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from multiprocessing import get_context

import pytest
import redis

from tests.support.redis_servers import LosingReplies, Valkey, call, listening
from token_handlers import TokenHandlersError
from token_handlers.sinks.redis.counter import Amounts, RedisCounter, Reserved, Spent, StoreRefused, StoreUnavailable
from token_handlers.sinks.redis.scripts import MONTH

NOTHING = Amounts(Decimal(0), 0, 0)


@pytest.fixture
def store(valkey, namespace):
    """A counter in the test's namespace, as a store of budgets."""
    own = RedisCounter(valkey.url, namespace, timeout=5)
    yield own
    own.close()


def usd(cost, tokens=0, requests=1):
    """Return amounts."""
    return Amounts(Decimal(cost), tokens, requests)


def test_reserve_and_settle(store):
    """A reservation is held until the call is settled, which books what it really used."""
    limits = {"max_cost": Decimal("1.00")}
    first = store.reserve("team", reservation="a", cost=Decimal("0.60"), tokens=900, limits=limits)
    second = store.reserve("team", reservation="b", cost=Decimal("0.50"), tokens=100, limits=limits)
    assert Reserved(True, None, NOTHING, NOTHING) == first
    assert Reserved(False, "max_cost", NOTHING, usd("0.60", 900)) == second

    assert store.settle("team", "a", cost=Decimal("0.10"), tokens=150)
    assert Spent(usd("0.10", 150), NOTHING) == store.spent("team")
    third = store.reserve("team", reservation="b", cost=Decimal("0.90"), tokens=100, limits=limits)
    assert Reserved(True, None, usd("0.10", 150), NOTHING) == third


def test_release(store):
    """A call that was not sent holds nothing any more; releasing what is not held is fine."""
    store.reserve("team", reservation="a", cost=Decimal(1), limits={})

    assert store.release("team", "a")
    assert store.release("team", "a")
    assert Spent(NOTHING, NOTHING) == store.spent("team")


@pytest.mark.parametrize(
    ("limits", "exceeded"),
    [
        ({"max_cost": Decimal("0.5"), "max_tokens": 100, "max_requests": 1}, None),
        ({}, None),
        ({"max_cost": None, "max_tokens": None}, None),
        ({"max_cost": Decimal("0.499999999")}, "max_cost"),
        ({"max_cost": Decimal("0.4999999999")}, "max_cost"),
        ({"max_cost": 0}, "max_cost"),
        ({"max_tokens": 99}, "max_tokens"),
        ({"max_requests": 0}, "max_requests"),
        ({"max_tokens": 99, "max_requests": 0}, "max_tokens"),
    ],
)
def test_limits_are_inclusive_and_named(store, limits, exceeded):
    """A call that just reaches the limits is granted; for one that would pass one, that limit is named."""
    reserved = store.reserve("team", reservation="a", cost=Decimal("0.5"), tokens=100, limits=limits)

    assert (exceeded is None, exceeded) == (reserved.granted, reserved.exceeded)
    assert (usd("0.5", 100) if reserved.granted else NOTHING) == store.spent("team").reserved


def test_a_reservation_is_rounded_up(store):
    """A part of a nano-USD is held as a whole one, so that many of them can't slip through."""
    store.reserve("team", reservation="a", cost=Decimal("0.0000000001"), limits={})

    assert Decimal("0.000000001") == store.spent("team").reserved.cost


def test_settling_is_idempotent(store):
    """What a call used is booked once, however often it is said, by however many processes."""
    store.reserve("team", reservation="a", cost=Decimal(1), limits={})
    for _ in range(3):
        assert store.settle("team", "a", cost=Decimal("0.25"), tokens=10)

    assert Spent(usd("0.25", 10), NOTHING) == store.spent("team")


def test_real_spend_is_booked_above_a_limit(store):
    """What was really spent counts, also far above what was reserved, and without a reservation."""
    store.reserve("team", reservation="a", cost=Decimal("0.1"), limits={"max_cost": Decimal("0.1")})
    store.settle("team", "a", cost=Decimal(5), tokens=10)
    store.settle("team", "unheard of", cost=Decimal(2), tokens=1, requests=3)

    assert Spent(Amounts(Decimal(7), 11, 4), NOTHING) == store.spent("team")
    assert not store.reserve("team", reservation="b", limits={"max_cost": Decimal(5)}).granted


def test_reserving_again_replaces(store):
    """A call reserves once under its name, also for two limits of one scope; a refusal leaves what it held."""
    store.reserve("team", reservation="a", cost=Decimal("0.6"), limits={"max_cost": Decimal(1)}, window="day")
    again = store.reserve("team", reservation="a", cost=Decimal("0.6"), limits={"max_cost": Decimal(1)})
    assert (True, NOTHING) == (again.granted, again.reserved)
    refused = store.reserve("team", reservation="a", cost=Decimal(2), limits={"max_cost": Decimal(1)})

    assert not refused.granted
    assert usd("0.6") == store.spent("team").reserved


def test_a_name_is_used_once(store):
    """A reservation under the name of a settled call is an error, and holds nothing."""
    store.settle("team", "a", cost=Decimal(1), tokens=0)

    with pytest.raises(StoreRefused, match="reservation a is settled"):
        store.reserve("team", reservation="a", limits={})
    assert NOTHING == store.spent("team").reserved


def wait_until(condition):
    """Ask again until it is so."""
    while not condition():
        pass


def test_a_reservation_expires(store):
    """After its time a reservation holds nothing; the call that made it is booked all the same, once."""
    limits = {"max_requests": 1}
    store.reserve("team", reservation="a", cost=Decimal(1), limits=limits, ttl=0.05)
    assert not store.reserve("team", reservation="b", limits=limits).granted

    wait_until(lambda: store.reserve("team", reservation="b", limits=limits).granted)
    store.settle("team", "a", cost=Decimal(1), tokens=0)
    store.settle("team", "a", cost=Decimal(1), tokens=0)
    assert Spent(usd(1), usd(0)) == store.spent("team")


def test_a_killed_process_holds_nothing_for_long(valkey, namespace, store):
    """The reservation of a process that was killed expires."""
    program = f"""
        import os, signal
        from token_handlers.sinks.redis import RedisCounter

        store = RedisCounter({valkey.url!r}, {namespace!r})
        assert store.reserve("team", reservation="a", limits={{"max_requests": 1}}, ttl=0.5).granted
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)

    assert -signal.SIGKILL == killed.returncode
    wait_until(lambda: store.reserve("team", reservation="b", limits={"max_requests": 1}).granted)
    assert usd(0) == store.spent("team").reserved


LIMIT = Decimal("1.00")
TERMS = {"cost": Decimal("0.01"), "limits": {"max_cost": LIMIT}}


def _hammer(url, namespace, granted):
    """Use a budget up."""
    store = RedisCounter(url, namespace, timeout=5)
    number = 0
    while store.reserve("team", reservation=f"{os.getpid()}-{number}", **TERMS).granted:
        store.settle("team", f"{os.getpid()}-{number}", cost=Decimal("0.007"), tokens=1)
        number += 1
    granted.put(number)
    store.close()


def test_four_processes_never_overspend(valkey, namespace, store):
    """Four processes that hammer one budget stay within it, and use it up."""
    context = get_context("spawn")
    granted = context.SimpleQueue()
    processes = [context.Process(target=_hammer, args=(valkey.url, namespace, granted)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [0] * 4 == [process.exitcode for process in processes]
    total = sum(granted.get() for _ in processes)

    spent, reserved = store.spent("team")
    assert (total * Decimal("0.007"), total, NOTHING) == (spent.cost, spent.requests, reserved)
    assert LIMIT - 4 * Decimal("0.01") < spent.cost <= LIMIT


def test_32_threads_never_overspend(valkey, namespace, store):
    """Neither do 32 threads."""
    names, grants = count(), []

    def work():
        for _ in range(20):
            name = f"call-{next(names)}"
            if store.reserve("team", reservation=name, **TERMS).granted:
                grants.append(name)
                store.settle("team", name, cost=Decimal("0.01"), tokens=1)

    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 100 == len(grants)
    assert Spent(Amounts(LIMIT, 100, 100), NOTHING) == store.spent("team")


@pytest.mark.parametrize("window", ["hour", "day", "month"])
def test_windows_start_anew(store, client, namespace, window):
    """A window's spend is 0 when the next one begins; that of all time stays, and what is held stays held."""
    store.settle("team", "a", cost=Decimal("0.9"), tokens=10)
    store.reserve("team", reservation="b", cost=Decimal("0.1"), limits={})
    limits = {"max_cost": Decimal("1.05")}
    assert usd("0.9", 10) == store.spent("team", window).spent
    assert not store.reserve("team", reservation="c", cost=Decimal("0.5"), limits=limits, window=window).granted

    client.hset(f"{{{namespace}}}:budget:team", window, 1)
    assert Spent(NOTHING, usd("0.1")) == store.spent("team", window)
    assert usd("0.9", 10) == store.spent("team").spent
    assert store.reserve("team", reservation="c", cost=Decimal("0.5"), limits=limits, window=window).granted
    store.settle("team", "c", cost=Decimal("0.5"), tokens=1)
    assert usd("0.5", 1) == store.spent("team", window).spent


def test_months_are_the_calendars(client):
    """The number of a month changes exactly where the calendar's month does, leap years included."""
    script = MONTH + "local found = {} for day = 0, 60000 do found[day + 1] = month(day) end return found"
    numbers = client.eval(script, 0)
    days = [date(1970, 1, 1) + timedelta(days=number) for number in range(60_001)]
    changes = [day for day, before, number in zip(days[1:], numbers, numbers[1:], strict=False) if before != number]

    assert [day for day in days[1:] if day.day == 1] == changes
    assert numbers == sorted(numbers)


def test_windows_are_the_servers(store, client, namespace):
    """The hour, day and month of a budget are those of the server's clock, in UTC."""
    store.settle("team", "a", cost=Decimal(1), tokens=1)
    seconds, _ = client.time()
    window = {name: int(client.hget(f"{{{namespace}}}:budget:team", name)) for name in ("hour", "day", "month")}

    assert window["hour"] in (seconds // 3600, seconds // 3600 - 1)
    assert window["day"] == window["hour"] // 24
    today = datetime.fromtimestamp(seconds, UTC).date()
    assert window["month"] == client.eval(MONTH + "return month(tonumber(ARGV[1]))", 0, (today - date(1970, 1, 1)).days)


def test_scopes_and_reservations_are_kept_apart(store):
    """Names with colons in them don't mix, nor do scopes."""
    store.settle("a:b", "c", cost=Decimal(1), tokens=0)
    store.settle("a", "b:c", cost=Decimal(2), tokens=0)
    store.settle("a", "c", cost=Decimal(4), tokens=0)

    assert (Decimal(1), Decimal(6)) == (store.spent("a:b").spent.cost, store.spent("a").spent.cost)


def test_budgets_and_totals_are_apart(store):
    """A record books nothing on a budget, and a settlement is no record."""
    store(call())
    store.settle("team", "a", cost=Decimal(1), tokens=5)

    assert store.flush()
    assert Decimal("0.0000015") == store.totals().cost
    assert Decimal(1) == store.spent("team").spent.cost


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ({"cost": Decimal(-1)}, "cost"),
        ({"cost": Decimal("NaN")}, "cost"),
        ({"cost": Decimal("inf")}, "cost"),
        ({"cost": 0.5}, "cost"),
        ({"cost": Decimal("1e7")}, "measure"),
        ({"cost": Decimal("1e999999")}, "measure"),
        ({"limits": {"max_cost": Decimal("1e999999")}}, "measure"),
        ({"tokens": -1}, "tokens"),
        ({"tokens": 1.5}, "tokens"),
        ({"requests": True}, "requests"),
        ({"limits": {"max_money": 1}}, "max_cost, max_tokens, max_requests, not max_money"),
        ({"limits": {"max_cost": Decimal("NaN")}}, "max_cost"),
        ({"limits": {"max_cost": "1"}}, "max_cost"),
        ({"limits": {"max_cost": Decimal(-1)}}, "max_cost"),
        ({"limits": {"max_tokens": -1}}, "max_tokens"),
        ({"limits": {"max_requests": 1.5}}, "max_requests"),
        ({"window": "week"}, "week"),
        ({"ttl": 0}, "ttl"),
        ({"scope": ""}, "scope"),
    ],
)
def test_bad_terms_are_refused(store, terms, named):
    """Whatever can't be an amount, a limit or a window is a ValueError that names it, and reserves nothing."""
    with pytest.raises(ValueError, match=named):
        store.reserve(**{"scope": "team", "reservation": "a", "limits": {}, **terms})
    assert Spent(NOTHING, NOTHING) == store.spent("team")


def test_without_the_server(namespace):
    """reserve() says at once that the server can't be asked; what was spent waits, and is booked once it is back."""
    with Valkey() as valkey:
        store = RedisCounter(valkey.url, namespace)
        assert store.reserve("team", reservation="a", cost=Decimal(1), limits={}).granted
        valkey.kill()
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{valkey.port}") as caught:
            store.reserve("team", reservation="b", cost=Decimal(1), limits={})
        assert isinstance(caught.value, TokenHandlersError)
        assert not store.settle("team", "a", cost=Decimal("0.5"), tokens=3)
        assert not store.release("team", "c")
        assert not store.flush()

        valkey.start()
        assert store.flush(10)
        assert Spent(usd("0.5", 3), NOTHING) == store.spent("team")
        assert store.reserve("team", reservation="d", limits={}).granted
        store.close()


def test_a_dead_server_is_asked_once(namespace):
    """While the server is known to be down, reserve() fails without asking it: no call is slowed time and again."""
    connections = []

    def hang(connection):
        connections.append(connection)
        while connection.recv(65536):
            pass

    with listening(hang) as port:
        store = RedisCounter(f"redis://127.0.0.1:{port}", namespace, timeout=0.05)
        for number in range(2_000):
            with pytest.raises(StoreUnavailable, match="did not answer"):
                store.reserve("team", reservation=str(number), limits={})

        assert len(connections) < 100
        store.close(0)


def test_a_reservation_whose_answer_is_lost_is_released(valkey, namespace, store):
    """Whether or not the server heard it, a reservation that failed holds nothing in the end."""
    proxy = LosingReplies(valkey.port)
    with listening(proxy) as port:
        far = RedisCounter(f"redis://127.0.0.1:{port}", namespace)
        far.spent("team")
        proxy.losing = 1
        with pytest.raises(StoreUnavailable):
            far.reserve("team", reservation="a", cost=Decimal(1), limits={})

        assert far.flush(10)
        assert Spent(NOTHING, NOTHING) == store.spent("team")
        far.close()


def test_a_settlement_whose_answer_is_lost_counts_once(valkey, namespace, store):
    """A settlement that is repeated because its answer was lost books once."""
    proxy = LosingReplies(valkey.port)
    with listening(proxy) as port:
        far = RedisCounter(f"redis://127.0.0.1:{port}", namespace)
        proxy.losing = 3
        assert not far.settle("team", "a", cost=Decimal(1), tokens=5)

        assert far.flush(10)
        assert Spent(usd(1, 5), NOTHING) == store.spent("team")
        far.close()


def test_another_applications_key(store, client, namespace):
    """A budget whose key is of another type is an error that says so; the server is not taken for dead."""
    client.set(f"{{{namespace}}}:open:team", "by somebody")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        store.reserve("team", reservation="a", limits={})
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        store.settle("team", "a", cost=Decimal(1), tokens=1)

    assert store.reserve("other team", reservation="a", limits={}).granted


def test_a_settlement_that_is_refused_later(tmp_path, namespace, caplog):
    """A settlement that waited, and then can't be booked, is dropped and said; what comes after it is booked."""
    with Valkey(tmp_path, appendonly="yes", appendfsync="always") as valkey:
        with redis.Redis(port=valkey.port) as client:
            client.set(f"{{{namespace}}}:open:taken", "by somebody")
        store = RedisCounter(valkey.url, namespace)
        valkey.kill()
        assert not store.settle("taken", "a", cost=Decimal(1), tokens=1)
        assert not store.settle("team", "b", cost=Decimal(2), tokens=1)
        valkey.start()

        assert store.flush(10)
        assert (1, Decimal(2)) == (store.dropped, store.spent("team").spent.cost)
        assert "WRONGTYPE" in caplog.text
        store.close()


EVICTING = [("allkeys-lru", "100mb"), ("volatile-ttl", "64mb")]
KEEPING = [("noeviction", "100mb"), ("allkeys-lru", "0")]


def reserve(counter, name):
    """Reserve a request of ten, and return whether it was granted."""
    return counter.reserve("team", reservation=name, limits={"max_requests": 10}).granted


@pytest.mark.parametrize(("policy", "limit"), EVICTING)
def test_a_server_that_forgets_is_refused(policy, limit):
    """A budget on a server that may drop its keys is refused with the remedy, and holds nothing, until it may not."""
    with Valkey(maxmemory=limit, maxmemory_policy=policy) as valkey, redis.Redis(port=valkey.port) as client:
        counter = RedisCounter(valkey.url, timeout=5)
        for name in "ab":
            with pytest.raises(StoreRefused, match=f"maxmemory-policy {policy}, .*set maxmemory-policy noeviction"):
                reserve(counter, name)
        assert 0 == counter.spent("team").reserved.requests

        client.config_set("maxmemory-policy", "noeviction")
        assert reserve(counter, "c")
        assert 1 == counter.spent("team").reserved.requests
        counter.close()


@pytest.mark.parametrize(("policy", "limit", "settings"), [
    *((policy, limit, {"allow_eviction": True}) for policy, limit in EVICTING),
    *((policy, limit, {}) for policy, limit in KEEPING),
])  # fmt: skip
def test_a_server_that_keeps_or_is_accepted(policy, limit, settings, caplog):
    """Where the server drops nothing, or the user accepts that it does, budgets and records are as ever."""
    with Valkey(maxmemory=limit, maxmemory_policy=policy) as valkey:
        counter = RedisCounter(valkey.url, timeout=5, **settings)
        assert reserve(counter, "a")
        counter(call())
        assert counter.flush()
        counter.close()

    assert "drops keys" not in caplog.text


def test_records_on_a_server_that_forgets(caplog):
    """A counter whose records the server may drop says so once, and counts."""
    with Valkey(maxmemory="100mb", maxmemory_policy="allkeys-lru") as valkey:
        counter = RedisCounter(valkey.url, timeout=5)
        for _ in range(3):
            counter(call())
            assert counter.flush()
        assert 3 == counter.totals().successful_requests
        assert f"maxmemory-policy allkeys-lru, maxmemory {100 * 2**20}" == counter.eviction()
        counter.close()

    assert 1 == caplog.text.count("drops keys when its memory is full (maxmemory-policy allkeys-lru")


def test_a_user_who_may_not_ask(caplog):
    """A server that does not let its user ask how it drops keys is used."""
    with Valkey() as valkey, redis.Redis(port=valkey.port) as client:
        client.acl_setuser("app", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-info"])
        counter = RedisCounter(f"redis://app:secret@127.0.0.1:{valkey.port}", timeout=5)
        assert reserve(counter, "a")
        assert counter.eviction() is None
        counter.close()
