import logging
import sqlite3
import threading

import pytest
import redis

from tests.support.redis_servers import LosingReplies, Valkey, black_hole, call, free_port, listening
from token_handlers import UsageRecord
from token_handlers.errors import raise_faults
from token_handlers.sinks.redis.counter import RedisCounter, StoreUnavailable


def requests(counter):
    """Return how many calls the server has."""
    return counter.totals().successful_requests


def test_a_server_that_comes_later(caplog):
    """Records that come before the server does wait, which is said once, and arrive once."""
    valkey = Valkey()
    counter = RedisCounter(valkey.url)
    for _ in range(10):
        counter(call())
    assert not counter.flush()
    assert not counter.flush(0.01)
    assert 10 == counter.waiting

    with valkey:
        assert counter.flush(10)
        assert (10, 0, 0) == (requests(counter), counter.waiting, counter.dropped)
        assert 1 == caplog.text.count("records wait until it can, up to 50000")
        assert f"127.0.0.1:{valkey.port}" in caplog.text
        counter.close()


def test_kill_and_restart(tmp_path):
    """Through kill -9 and restarts with the data that was on disk, every record counts exactly once."""
    with Valkey(tmp_path, appendonly="yes", appendfsync="always") as valkey:
        counter = RedisCounter(valkey.url, batch=5, linger=0)
        done = threading.Event()

        def work():
            for number in range(3_000):
                counter(call(event_id=str(number)))
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(3):
            valkey.kill()
            valkey.start()
        thread.join()
        valkey.kill()
        valkey.start()

        assert counter.flush(10)
        assert (3_000, 3_000 * 17) == (requests(counter), counter.totals().prompt_tokens)
        counter.close()


def test_a_restart_without_data():
    """A server that lost everything gets what is recorded from then on: the script is sent to it again."""
    with Valkey() as valkey:
        counter = RedisCounter(valkey.url)
        counter(call())
        assert counter.flush()
        valkey.kill()
        valkey.start()
        counter(call())

        assert counter.flush(10)
        assert 1 == requests(counter)
        counter.close()


def test_a_paused_server(namespace):
    """What a server that hung executes late, and what was sent again meanwhile, counts once."""
    with Valkey() as valkey:
        counter = RedisCounter(valkey.url, namespace, timeout=0.05)
        counter(call(event_id="first"))
        assert counter.flush()
        valkey.pause()
        counter(call(event_id="second"))
        assert not counter.flush(0.2)
        valkey.resume()

        assert counter.flush(10)
        assert 2 == requests(counter)
        counter.close()


def test_lost_replies(valkey, namespace):
    """A batch that is sent again, as the answer to it was lost, counts once."""
    proxy = LosingReplies(valkey.port)
    with listening(proxy) as port:
        counter = RedisCounter(f"redis://127.0.0.1:{port}", namespace)
        proxy.losing = 3
        for _ in range(20):
            counter(call())

        assert counter.flush(10)
        assert (0, 20) == (proxy.losing, requests(counter))
        counter.close()


def test_a_black_hole(namespace):
    """A server that accepts connections and answers nothing is a clear error, and never more than that."""
    with listening(black_hole) as port:
        counter = RedisCounter(f"redis://127.0.0.1:{port}", namespace, timeout=0.05)
        counter(call())

        assert not counter.flush()
        for ask in (counter.totals, counter.ping, lambda: counter.by("model"), lambda: counter.spent("team")):
            with pytest.raises(StoreUnavailable, match=rf"127.0.0.1:{port} did not answer within 0.05 s"):
                ask()
        counter.close(0)


@pytest.mark.parametrize("never", ["refused", "silent"])
def test_ending_without_the_server(caplog, namespace, never):
    """close() gives up in time, and says how many records were lost."""
    with listening(black_hole) as silent:
        port = silent if never == "silent" else free_port()
        counter = RedisCounter(f"redis://127.0.0.1:{port}", namespace, timeout=0.05, batch=10)
        for _ in range(1_000):
            counter(call())
        counter.close(0.2)

    assert "1000 records did not reach the Redis server" in caplog.text


def test_more_than_the_capacity(caplog):
    """Records beyond the capacity are dropped, counted, and said once, with the remedy; the others arrive."""
    valkey = Valkey()
    counter = RedisCounter(valkey.url, capacity=100, batch=10)
    for _ in range(300):
        counter(call())
    dropped = counter.dropped

    assert 190 <= dropped <= 200
    assert 1 == caplog.text.count("capacity")
    with valkey:
        assert counter.flush(10)
        assert 300 - dropped == requests(counter)
        counter.close()


class Ledger:
    """A backlog as simple as one can be: a table of records, each with whether it has arrived."""

    def __init__(self, path):
        self._path = path
        connection = self._connection()
        with connection:
            connection.execute("CREATE TABLE IF NOT EXISTS event (id TEXT PRIMARY KEY, record TEXT, sent INTEGER)")
        connection.close()

    def _connection(self):
        connection = sqlite3.connect(self._path)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    def __call__(self, record):
        connection = self._connection()
        with connection:
            row = record.event_id, record.model_dump_json(exclude={"usage": {"total_tokens"}})
            connection.execute("INSERT INTO event VALUES (?, ?, 0)", row)
        connection.close()

    def unsent(self, limit):
        connection = self._connection()
        rows = connection.execute("SELECT record FROM event WHERE NOT sent LIMIT ?", (limit,)).fetchall()
        connection.close()
        return [UsageRecord.model_validate_json(record) for (record,) in rows]

    def sent(self, event_ids):
        connection = self._connection()
        with connection:
            connection.executemany("UPDATE event SET sent = 1 WHERE id = ?", [(name,) for name in event_ids])
        connection.close()


def test_a_backlog_takes_what_memory_does_not(tmp_path):
    """With a ledger as its backlog nothing is dropped: beyond the capacity, records wait there and arrive once."""
    valkey, ledger = Valkey(), Ledger(tmp_path / "ledger")
    counter = RedisCounter(valkey.url, capacity=10, batch=7, backlog=ledger)
    for number in range(100):
        record = call(event_id=str(number))
        ledger(record)
        counter(record)

    with valkey:
        assert counter.flush(10)
        assert (100, 0, []) == (requests(counter), counter.dropped, ledger.unsent(1))
        counter.close()


def test_a_backlog_outlives_the_process(valkey, namespace, tmp_path):
    """What an earlier process could not send is sent by the next one, with its first record, once."""
    ledger = Ledger(tmp_path / "ledger")
    nowhere = RedisCounter(f"redis://127.0.0.1:{free_port()}", namespace, backlog=ledger)
    for number in range(20):
        record = call(event_id=str(number))
        ledger(record)
        nowhere(record)
    nowhere.close(0)
    assert 20 == len(ledger.unsent(100))

    counter = RedisCounter(valkey.url, namespace, backlog=Ledger(tmp_path / "ledger"))
    counter(call(event_id="next"))
    assert counter.flush(10)
    assert (21, []) == (requests(counter), ledger.unsent(1))
    counter.close()


def test_a_backlog_with_what_nothing_can_add(valkey, namespace, tmp_path):
    """A record of the backlog that the server can't add exactly is dropped, counted, and not looked at again."""
    ledger = Ledger(tmp_path / "ledger")
    ledger(call(event_id="endless", sent=2**50))
    ledger(call(event_id="next"))
    counter = RedisCounter(valkey.url, namespace, backlog=ledger)

    assert counter.flush(10)
    assert (1, 1, []) == (requests(counter), counter.dropped, ledger.unsent(10))
    counter.close()


def test_a_backlog_that_fails(valkey, namespace, caplog):
    """A backlog that raises keeps no record, and nobody who flushes, from their server; it is said once."""

    class Broken:
        def unsent(self, limit):
            raise OSError("the disk is gone")

        sent = unsent

    raise_faults(False)
    try:
        counter = RedisCounter(valkey.url, namespace, backlog=Broken())
        counter(call())
        assert counter.flush(10)
        assert 1 == requests(counter)
        counter.close()
    finally:
        raise_faults(True)
    assert "failed with OSError" in caplog.text


def test_a_replica_that_is_promoted(caplog):
    """While the server we reach may not write, as after a failover, records wait; they arrive when it may."""
    with Valkey() as primary, Valkey(replicaof=f"127.0.0.1 {primary.port}") as replica:
        with redis.Redis(port=replica.port) as client:
            counter = RedisCounter(replica.url)
            counter(call())
            assert not counter.flush()
            assert "read only replica" in caplog.text

            client.replicaof("NO", "ONE")
        assert counter.flush(10)
        assert 1 == requests(counter)
        counter.close()


def test_a_full_server(caplog):
    """While the server has no memory left, records wait."""
    with Valkey(maxmemory_policy="noeviction") as valkey, redis.Redis(port=valkey.port) as client:
        client.config_set("maxmemory", 1)
        counter = RedisCounter(valkey.url)
        counter(call())
        assert not counter.flush()
        assert "used memory > 'maxmemory'" in caplog.text

        client.config_set("maxmemory", 0)
        assert counter.flush(10)
        assert 1 == requests(counter)
        counter.close()


def test_an_outage_is_said_and_its_end(caplog):
    """An outage has a warning, its end an info; recording is undisturbed."""
    caplog.set_level(logging.INFO, "token_handlers")
    with Valkey() as valkey:
        counter = RedisCounter(valkey.url)
        counter(call())
        assert counter.flush()
        valkey.kill()
        counter(call())
        assert not counter.flush()
        valkey.start()
        assert counter.flush(10)
        counter.close()

    assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]


def test_a_cluster():
    """In a cluster the node that holds the namespace's slot is found, whichever node the URL names."""
    with (
        _node() as owner,
        _node() as other,
        redis.Redis(port=owner.port) as client,
        redis.Redis(port=other.port) as asked,
    ):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        bus = client.config_get("cluster-port")["cluster-port"]
        asked.execute_command("CLUSTER", "MEET", "127.0.0.1", owner.port, bus)
        while not _knows_the_owner(asked):
            pass
        counter = RedisCounter(other.url)
        for _ in range(10):
            counter(call(session="s", user="u"))

        assert counter.flush(10)
        assert counter.reserve("team", reservation="a", limits={"max_requests": 1}).granted
        assert counter.settle("team", "a", cost=call().cost, tokens=3)
        assert (10, 10) == (requests(counter), counter.by("session")["s"].successful_requests)
        assert f"at 127.0.0.1:{owner.port}" in repr(counter)
        counter.close()


def test_a_node_that_fails_over():
    """When the node that holds the slot is gone, the one that the URL names is asked where it is now."""
    owner = []

    def moved(connection):
        while connection.recv(65536):
            connection.sendall(f"-MOVED 1 127.0.0.1:{owner[-1]}\r\n".encode())

    with listening(moved) as port, Valkey() as first, Valkey() as second:
        owner.append(first.port)
        counter = RedisCounter(f"redis://127.0.0.1:{port}")
        counter(call())
        assert counter.flush(10)
        first.kill()
        owner.append(second.port)
        counter(call())

        assert counter.flush(10)
        assert f"at 127.0.0.1:{second.port}" in repr(counter)
        owner.append(port)
        second.kill()
        with pytest.raises(StoreUnavailable, match="can't be used"):
            counter.ping()
        with pytest.raises(StoreUnavailable, match="moves our slot around"):
            counter.ping()
        counter.close(0)


def _node():
    return Valkey(cluster_enabled="yes", cluster_port=free_port())


def _knows_the_owner(client):
    try:
        client.get("any")
    except redis.exceptions.ResponseError as error:  # MOVED, or CLUSTERDOWN before the nodes have met
        return "127.0.0.1" in str(error)
    return False


def test_a_record_that_can_not_be_read(valkey, namespace, caplog):
    """A record whose time no calendar holds is dropped and said; the thread and the other records go on."""
    raise_faults(False)
    try:
        counter = RedisCounter(valkey.url, namespace)
        counter(call(started_at="9999-12-31T23:59:59-01:00"))
        counter(call())
        assert counter.flush()
    finally:
        raise_faults(True)

    assert (1, 1) == (requests(counter), counter.dropped)
    assert "its date" in caplog.text
    counter.close()
