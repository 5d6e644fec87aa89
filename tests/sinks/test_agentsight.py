import contextlib
import gzip
import logging
import multiprocessing
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.support.agentsight_api import ACTIONS, CONVERSATIONS, KEY, OTHER_KEY, AgentSightAPI, Answer
from tests.support.redis_servers import listening
from token_handlers import Usage, UsageRecord, record_cost, track_tokens
from token_handlers.sinks.agentsight.client import AgentSightClient, SendFailed
from token_handlers.sinks.agentsight.outbox import TokenCounts
from token_handlers.sinks.escapes import escaped
from token_handlers.sinks.sqlite import SQLiteLedger, file

ROOT = Path(__file__).parents[2]
FEW = TokenCounts(prompt=3, completion=2, total=5, embedding=7)


@pytest.fixture
def api():
    """The API."""
    with AgentSightAPI() as running:
        yield running


def client(api, key=KEY, **settings):
    """Return a client that retries at once."""
    return AgentSightClient(key, api.url, **{"backoff": 0.001, "retries": 2, "timeout": 10, **settings})


def send(sender, conversation="c1", counts=FEW):
    """Send counts."""
    return sender.send([sender.keep(conversation, counts)])


def test_the_requests_of_agentsights_own_client(api):
    """A conversation and then an action, with the headers, fields and numbers that AgentSight's client sends."""
    send(client(api, environment="production"))
    conversation, action = api.requests

    assert (CONVERSATIONS, ACTIONS) == (conversation.path, action.path)
    assert KEY == conversation.key == action.key
    at = datetime.fromisoformat(action.body["timestamp"])
    assert timedelta(0) <= datetime.now(UTC) - at < timedelta(minutes=1)
    assert {
        "conversation_id": "c1",
        "customer_id": None,
        "customer_ip_address": None,
        "device": None,
        "source": None,
        "language": None,
        "name": None,
        "is_used": True,
        "environment": "production",
        "metadata": None,
        "timestamp": action.body["timestamp"],
    } == conversation.body
    assert {
        "action_name": "token_usage",
        "metadata": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "embedding_tokens": 7,
            "event_id": action.event_id,
        },
        "conversation_id": "c1",
        "conversation": 1,
        "timestamp": action.body["timestamp"],
    } == action.body


@pytest.mark.parametrize("key", ["", "secret", KEY[:-1], KEY + "0", KEY + "\n", "x" + KEY, KEY.replace("a", "g")])
def test_a_wrong_key_is_refused(key):
    """What has not the form of a key is a ValueError that does not show it."""
    with pytest.raises(ValueError, match="api_key is no AgentSight API key: one is 'ags_'") as caught:
        AgentSightClient(key)

    assert not key or key not in str(caught.value)


def test_a_key_of_another_type_is_refused():
    """A key that is no string is a TypeError that does not show it."""
    with pytest.raises(TypeError, match="api_key must be a string, not bytes"):
        AgentSightClient(KEY.encode())


@pytest.mark.parametrize(
    "endpoint", ["", "api.agentsight.io", "ftp://host", "http://", "http://host?q=1", "http://ho st"]
)
def test_a_wrong_endpoint_is_refused(endpoint):
    """An endpoint is an http or https address, without a query."""
    with pytest.raises(ValueError, match="endpoint must be an address such as"):
        AgentSightClient(KEY, endpoint)


def test_an_endpoint_of_another_type_is_refused():
    """An endpoint is a string."""
    with pytest.raises(TypeError, match="endpoint must be a string, not 80"):
        AgentSightClient(KEY, 80)


def test_a_password_in_the_endpoint_is_refused():
    """An endpoint with a password is refused without showing it."""
    with pytest.raises(ValueError, match="must not hold") as caught:
        AgentSightClient(KEY, "https://me:hush@host")

    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("path", [CONVERSATIONS, ACTIONS])
@pytest.mark.parametrize(
    ("status", "remedy"),
    [(400, "c1"), (401, "check the API key"), (403, "key"), (404, "check the endpoint"), (302, "")],
)
def test_a_refusal_keeps_the_counts(api, status, remedy, path):
    """What a retry can't help is raised at once; the next send delivers it, once."""
    sender = client(api)
    api.fail(Answer(status, body={"detail": f"no {KEY} for c1"}), path=path)
    with pytest.raises(SendFailed, match=f"answered {status}; .*{remedy}.*kept for the next send") as caught:
        send(sender)
    assert status == caught.value.status
    assert 1 == len(api.sent_to(path))
    assert (0, 0, 0, 0) == api.counted("c1")

    assert sender.flush()
    assert FEW == api.counted("c1")


@pytest.mark.parametrize("path", [CONVERSATIONS, ACTIONS])
@pytest.mark.parametrize(
    "answer", [Answer(429), Answer(429, {"Retry-After": "0"}), Answer(500), Answer(503), Answer(None)]
)
def test_passing_failures_are_retried(api, answer, path):
    """429, 5xx and dropped connections, before and after the request was processed, are tried again at once."""
    api.fail(answer, Answer(answer.status, answer.headers, processed=True), path=path)
    send(client(api))

    assert 3 == len(api.sent_to(path))
    assert FEW == api.counted("c1")
    assert 1 == len({request.event_id for request in api.sent_to(ACTIONS)})


def test_retries_have_an_end(api):
    """What fails all the time is raised, and the next send delivers it."""
    sender = client(api)
    api.fail(*[Answer(502)] * 3)
    with pytest.raises(SendFailed, match="answered 502"):
        send(sender)

    assert (1, None) == sender.send([])
    assert FEW == api.counted("c1")


def test_back_off_doubles(api):
    """Each wait is about twice the one before."""
    sender = client(api, backoff=0.05)
    api.fail(*[Answer(503)] * 2)
    send(sender)
    first, second, third = (request.at for request in api.sent_to())

    assert 0.0375 <= second - first
    assert 0.075 <= third - second


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept(api, form):
    """The client waits as long as the server asks, in seconds or until a date."""
    wanted = "1" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    api.fail(Answer(429, {"Retry-After": wanted}))
    send(client(api))
    first, second = (request.at for request in api.sent_to())

    assert 0.9 <= second - first
    assert FEW == api.counted("c1")


def test_a_long_retry_after_waits_for_the_next_send(api):
    """A server that asks for an hour does not block the application; the error says how long."""
    sender = client(api)
    api.fail(Answer(429, {"Retry-After": "3600"}))
    with pytest.raises(SendFailed, match="asks to wait 3600 s") as caught:
        send(sender)
    assert 3600 == caught.value.retry_after
    assert 1 == len(api.sent_to())

    assert sender.flush()
    assert FEW == api.counted("c1")


@pytest.mark.parametrize("junk", ["soon", "-1", "1e9", ""])
def test_a_strange_retry_after_is_none(api, junk):
    """What is neither seconds nor a date is as if it were not there."""
    api.fail(Answer(503, {"Retry-After": junk}))
    send(client(api))

    assert FEW == api.counted("c1")


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("path", [CONVERSATIONS, ACTIONS])
def test_a_time_out_counts_once(api, path, processed):
    """A request that times out, processed or not, is raised and sent again next time under its event id."""
    sender = client(api, timeout=0.2)
    api.hold(path=path, processed=processed)
    with pytest.raises(SendFailed, match=r"cannot be reached \(ReadTimeout") as caught:
        send(sender)
    assert caught.value.status is None
    api.release()

    assert sender.flush()
    assert FEW == api.counted("c1")
    assert 2 == len(api.sent_to(path))


def test_nobody_there():
    """A refused connection is an error that names the endpoint, and the counts are kept."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sender = AgentSightClient(KEY, f"http://127.0.0.1:{port}/", retries=1, backoff=0)
    event_id = sender.keep("c1", FEW)
    with pytest.raises(SendFailed, match=f"http://127.0.0.1:{port} cannot be reached"):
        sender.send([event_id, sender.keep("c2", FEW)])

    assert sender.outbox.holds(event_id)


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        (CONVERSATIONS, {"id": "1"}, "gave the conversation no id: check the endpoint"),
        (CONVERSATIONS, {"id": True}, "gave the conversation no id: check the endpoint"),
        (CONVERSATIONS, {}, "gave the conversation no id: check the endpoint"),
        (CONVERSATIONS, "welcome", "did not answer as AgentSight does: check the endpoint"),
        (ACTIONS, "welcome", "did not answer as AgentSight does: check the endpoint"),
        (ACTIONS, [1], "did not answer as AgentSight does: check the endpoint"),
    ],
)
def test_a_server_that_is_not_agentsight(api, path, body, reason):
    """An answer that is none of AgentSight's, or has no id, is an error, and the counts are kept."""
    sender = client(api)
    api.fail(Answer(200, body=body), path=path)
    with pytest.raises(SendFailed, match=reason):
        send(sender)

    assert sender.flush()
    assert FEW == api.counted("c1")


def take_request(connection):
    """Read a whole request: what is unread when the connection is closed resets it."""
    request = b""
    while not request.endswith(b"}"):
        request += connection.recv(65536)


def dripping(start):
    """Answer with a start, and then a byte every 20 ms for ever."""

    def answer(connection):
        take_request(connection)
        connection.sendall(start)
        while True:
            connection.sendall(b"x")
            threading.Event().wait(0.02)

    return answer


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX-", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{"])
@pytest.mark.parametrize("proxied", [False, True])
def test_a_server_that_drips(start, proxied, monkeypatch):
    """An exchange ends when its time is up, in the headers and in the body, and the counts are kept."""
    with listening(dripping(start)) as port:
        if proxied:
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        endpoint = "http://agentsight.example" if proxied else f"http://127.0.0.1:{port}"
        sender = AgentSightClient(KEY, endpoint, timeout=0.3)
        began = time.monotonic()
        with pytest.raises(SendFailed, match=r"cannot be reached \(ReadTimeout"):
            send(sender)
        assert time.monotonic() - began < 5
        assert sender.outbox.holds_any(endpoint, None)


def test_a_flush_ends_in_time():
    """A flush with a time limit, such as that at the end of a process, does not wait for a longer time-out."""
    with listening(dripping(b"HTTP/1.1 200 OK\r\nX-")) as port:
        sender = AgentSightClient(KEY, f"http://127.0.0.1:{port}", timeout=60)
        sender(record("c1"))
        began = time.monotonic()
        assert not sender.flush(0.3)
        assert time.monotonic() - began < 10


def answering(head, body):
    """Answer with a body, or what of it is taken."""

    def answer(connection):
        take_request(connection)
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body)

    return answer


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("", b" " * 50_000_000),
        ("Content-Encoding: gzip\r\n", gzip.compress(b" " * 50_000_000)),
        ("", b"[" * 200_000),
        ("", b'{"id": ' + b"9" * 5_000 + b"}"),
        ("", b"<html>Sign in</html>"),
        ("", b"\xff"),
    ],
    ids=["long", "packed", "nested", "digits", "page", "bytes"],
)
def test_a_body_that_is_no_answer(head, body):
    """A body that is too long, packed, nested or no JSON is a failed send in little memory, and the counts are kept."""
    with listening(answering(head, body)) as port:
        sender = AgentSightClient(KEY, f"http://127.0.0.1:{port}", retries=0)
        tracemalloc.start()
        try:
            with pytest.raises(SendFailed, match="did not answer as AgentSight does: check the endpoint"):
                send(sender)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 20_000_000 + len(body)  # the server's own copy
        assert sender.outbox.holds_any(f"http://127.0.0.1:{port}", None)


@pytest.mark.parametrize("odd", ["a\0b", "\ud800", "ü"])
def test_odd_conversations(api, tmp_path, odd):
    """A conversation whose name no JSON or file can hold is sent under its escaped name, through the outbox too."""
    sender = client(api, outbox=tmp_path)
    sender(record(odd))

    assert sender.flush()
    assert (3, 2, 5, 0) == api.counted(escaped(odd))


def test_the_key_is_shown_nowhere(api, caplog, tmp_path):
    """Neither repr, nor error, nor traceback, nor log, nor file shows the API key."""
    caplog.set_level(logging.DEBUG)
    sender = client(api, SecretStr(KEY), outbox=tmp_path)
    api.fail(*[Answer(401, body={"detail": f"Invalid key {KEY}"})] * 2)
    with pytest.raises(SendFailed, match=r"Invalid key \(the API key\)") as caught:
        send(sender)
    assert not sender.flush()
    report = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    files = [path.read_text() for path in tmp_path.iterdir()]

    assert 2 == len(files)
    assert [] == [text for text in (repr(sender), str(vars(sender)), report, caplog.text, *files) if KEY in text]


def record(session, sent=3, received=2, **fields):
    """Return a record."""
    return UsageRecord(usage=Usage(input_tokens=sent, output_tokens=received), session=session, **fields)


def test_as_a_sink(api):
    """Records count for the conversation that their session names, when flushed; what was not billed does not."""
    with_default = client(api, conversation_id="rest")
    sender = client(api)
    for sink in (with_default, sender):
        sink(record("c1"))
        sink(record("c1", 7, 0, operation="embeddings"))
        sink(record("c2", outcome="failed"))
        sink(record("c2", outcome="cached"))
        sink(record(None))
    assert [] == api.requests

    assert sender.flush()
    assert FEW == api.counted("c1")
    with_default.close()
    assert (6, 4, 10, 14) == api.counted("c1")
    assert (3, 2, 5, 0) == api.counted("rest")
    assert {"c1", "rest"} == set(api.conversations)


SINK = """
import sys
from token_handlers import Usage, UsageRecord, add_sink
from token_handlers.tracking.call import Call
from token_handlers.sinks.agentsight import AgentSightClient
class Open(Call):
    def estimate(self, text=None):
        return {"input_tokens": 3, "output_tokens": 2}, "none"
sink = AgentSightClient(sys.argv[2], sys.argv[1], conversation_id="c1")
add_sink(sink)
sink(UsageRecord(usage=Usage(input_tokens=3)))
Open()
"""


def test_the_end_of_the_process(api):
    """A sink that nobody flushed delivers what it has when the process ends, open calls included."""
    subprocess.run([sys.executable, "-c", SINK, api.url, KEY], env={"PYTHONPATH": str(ROOT)}, check=True)

    assert (6, 2, 8, 0) == api.counted("c1")


def test_a_sink_that_counts_much(api):
    """What waits for a flush is summed up, by conversation."""
    sender = client(api)
    for _ in range(2500):
        sender(record("c1"))
    assert len(sender._arrived) <= 1001

    assert sender.flush()
    assert (7500, 5000, 12500, 0) == api.counted("c1")


def test_a_flush_that_fails(api, caplog):
    """It says so, logs why, and the next one delivers everything."""
    sender = client(api)
    sender(record("c1"))
    sender(record("c2"))
    api.fail(Answer(403))

    assert not sender.flush()
    assert "answered 403" in caplog.text
    assert sender.flush(timeout=10)
    assert (3, 2, 5, 0) == api.counted("c1") == api.counted("c2")


def test_a_flush_without_time(api):
    """No batch is begun after the time-out; nothing is lost."""
    sender = client(api)
    sender(record("c1"))

    assert not sender.flush(timeout=0)
    assert [] == api.requests
    assert sender.flush()


def test_one_that_is_refused_does_not_hold_up_others(api):
    """A conversation that the server will not take keeps its own counts, and no others."""
    sender = client(api)
    good = Answer(201, processed=True)
    api.fail(Answer(400), good, good, Answer(400))
    refused = sender.keep("c1", FEW)
    with pytest.raises(SendFailed, match="answered 400"):
        sender.send([refused, sender.keep("c2", FEW)])
    assert FEW == api.counted("c2")

    recovered, failure = send(sender, "c3")
    assert (0, 400) == (recovered, failure.status)
    assert FEW == api.counted("c3")
    assert (1, None) == sender.send([])


def test_untried_counts_of_a_conversation_are_one_batch(api):
    """TokenCounts that no send has tried are added up; what was tried keeps its event id and its numbers."""
    sender = client(api)
    first = sender.keep("c1", FEW)
    assert first == sender.keep("c1", FEW)
    api.fail(Answer(400))
    with pytest.raises(SendFailed):
        sender.send([first])
    assert first != sender.keep("c1", FEW)

    assert sender.flush()
    assert FEW.plus(FEW).plus(FEW) == api.counted("c1")
    assert [10, 10, 5] == [request.body["metadata"]["total_tokens"] for request in api.sent_to()]


def test_another_accounts_counts_are_left_alone(api, tmp_path):
    """What was kept under one API key is not sent with another, unless told that it is the same account's."""
    api.revoke(KEY)
    for outbox in (None, tmp_path):
        with pytest.raises(SendFailed, match="check the API key"):
            send(client(api, outbox=outbox))
        sender = client(api, OTHER_KEY, outbox=outbox)
        assert (0, None) == send(sender, "other")
        assert sender.flush()
        assert (0, 0, 0, 0) == api.counted("c1")

        assert sender.take_over()
        assert FEW == api.counted("c1")
        api.actions.clear()


def test_two_senders_of_one_batch(api):
    """A batch that is being sent is waited for; when that fails, it is tried again."""
    sender = client(api)
    event_id = sender.keep("c1", FEW)
    api.hold(status=400)
    outcomes = []

    def work():
        try:
            outcomes.append(sender.send([event_id]))
        except SendFailed as failure:
            outcomes.append(failure.status)

    threads = [threading.Thread(target=work) for _ in range(2)]
    threads[0].start()
    api.wait_for(1)
    threads[1].start()
    api.release()
    for thread in threads:
        thread.join()

    assert {400, (0, None)} == set(outcomes)
    assert FEW == api.counted("c1")


SENDER = """
import sys
from token_handlers.sinks.agentsight import AgentSightClient
from token_handlers.sinks.agentsight.outbox import TokenCounts
from token_handlers.sinks.sqlite import SQLiteLedger
url, key, place, conversation = sys.argv[1:]
client = AgentSightClient(key, url, outbox=SQLiteLedger(place) if place.endswith(".db") else place)
client.send([client.keep(conversation, TokenCounts(3, 2, 5, 7))])
"""


def start_sender(api, folder, conversation="c1"):
    """Send from another process."""
    return subprocess.Popen(
        [sys.executable, "-c", SENDER, api.url, KEY, str(folder), conversation],
        env={"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(params=["outbox", "usage.db"])
def shelf(request, tmp_path):
    """A folder, and a ledger's file, as what an outbox is kept in: the path and what a client is given."""
    path = tmp_path / request.param
    if request.param == "outbox":
        yield path, path
        return
    with SQLiteLedger(path) as ledger:
        yield path, ledger


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("path", [CONVERSATIONS, ACTIONS])
def test_a_killed_process(api, shelf, path, processed):
    """What a process had begun to send when it was killed, the next delivers, under the same event id."""
    place, outbox = shelf
    api.hold(path=path, processed=processed)
    with start_sender(api, place) as process:
        api.wait_for(1, path)
        # It lives, so its batch is its own.
        assert (0, None) == client(api, outbox=outbox).send([])
        process.send_signal(signal.SIGKILL)
    assert -signal.SIGKILL == process.returncode
    api.release()

    assert (1, None) == client(api, outbox=outbox).send([])
    assert FEW == api.counted("c1")
    assert (0, None) == client(api, outbox=outbox).send([])


def kept(place):
    """Return how many batches are on a shelf."""
    if place.is_dir():
        return len(list(place.glob("*.batch")))
    with contextlib.closing(sqlite3.connect(place)) as connection:
        return connection.execute("SELECT count(*) FROM agentsight_batch").fetchone()[0]


def test_several_heirs(api, shelf):
    """Of several processes that find a dead one's batches, one sends each of them."""
    place, _ = shelf
    api.hold()
    with start_sender(api, place) as process:
        api.wait_for(1)
        process.kill()
    api.release()
    heirs = [start_sender(api, place, f"heir-{number}") for number in range(3)]
    for heir in heirs:
        with heir:
            pass

    assert [0, 0, 0] == [heir.returncode for heir in heirs]
    assert FEW == api.counted("c1") == api.counted("heir-0") == api.counted("heir-1") == api.counted("heir-2")
    assert 5 == len(api.sent_to(ACTIONS))
    assert 0 == kept(place)


def test_the_folder_is_the_owners_alone(api, tmp_path):
    """Nobody else may read what is kept."""
    client(api, outbox=tmp_path / "outbox").keep("c1", FEW)

    assert 0o700 == stat.S_IMODE((tmp_path / "outbox").stat().st_mode)
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "outbox").iterdir()}


def test_a_folder_that_cannot_be_written(api, tmp_path, caplog):
    """Without a place on disk counts are kept in memory, sent, and one warning says so."""
    (tmp_path / "outbox").write_text("a file")
    sender = client(api, outbox=tmp_path / "outbox")
    send(sender)
    send(sender)

    assert (6, 4, 10, 14) == api.counted("c1")
    assert 1 == len(caplog.records)
    assert "kept in memory only" in caplog.text


def test_a_ledger_that_cannot_be_written(api, tmp_path, caplog):
    """Then counts are kept in memory, sent, and one warning says so; what the ledger had is as it was."""
    with SQLiteLedger(tmp_path / "usage.db") as ledger:
        sender = client(api, outbox=ledger)
        ledger.path.unlink()
        ledger.path.mkdir()
        send(sender)
        ledger.path.rmdir()

    assert FEW == api.counted("c1")
    assert 1 == len(caplog.records)
    assert "kept in memory only" in caplog.text


def test_looking_for_dead_processes_waits_for_no_writer(api, tmp_path, monkeypatch, caplog):
    """What dead processes left is looked for while somebody else writes to the ledger."""
    monkeypatch.setattr(file, "LOCK_SECONDS", 0.1)
    with SQLiteLedger(tmp_path / "usage.db") as ledger, file.WriteLock(ledger.path):
        assert (0, None) == client(api, outbox=ledger).send([])

    assert [] == caplog.messages


def test_dead_processes_leave_no_files(api, shelf):
    """The files that tell that a process lives go once it is dead, whether or not it left anything."""
    place, outbox = shelf
    for number in range(2):
        with start_sender(api, place, f"c{number}"):
            pass
    sender = client(api, outbox=outbox)
    send(sender)
    folder = place if place.is_dir() else place.parent

    assert 1 == len(list(folder.glob("*.owner")))


def test_a_strange_file_in_the_folder(api, tmp_path, caplog):
    """What is no batch is named, and neither sent nor removed; other files and folders do not matter."""
    (tmp_path / "README").write_text("notes")
    (tmp_path / f"{'0' * 32}.{'1' * 32}.batch").write_text("{}")
    (tmp_path / f"{'2' * 32}.{'1' * 32}.batch").mkdir()
    (tmp_path / f"{'3' * 32}.{'1' * 32}.batch").write_bytes(b"\xff")

    assert (0, None) == send(client(api, outbox=tmp_path))
    assert "is no batch of token counts" in caplog.text
    assert b"{}" in [path.read_bytes() for path in tmp_path.glob("*.batch") if path.is_file()]
    assert (tmp_path / f"{'2' * 32}.{'1' * 32}.batch").is_dir()


def in_child(sender, place, results):
    """Flush in a forked process."""
    results.put((sender.flush(), kept(place)))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_leaves_the_parents_counts(api, shelf):
    """After a fork the parent's batches are still the parent's; and they are its child's when the parent has died."""
    place, outbox = shelf
    sender = client(api, outbox=outbox)
    sender.keep("c1", FEW)
    sender(record("c1"))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=in_child, args=(sender, place, results))
    child.start()
    assert (True, 1) == results.get(timeout=20)
    child.join()

    assert [] == api.requests
    assert sender.flush()
    assert (6, 4, 10, 7) == api.counted("c1")


def test_what_a_tool_cost_is_not_sent(api):
    """AgentSight counts tokens: what a tool cost by itself is none of its business."""
    sender = client(api)
    with track_tokens(session="c-tools", sinks=[sender]):
        record_cost("search API", "0.005")

    assert sender.flush(30)
    assert [] == api.requests
    sender.close()
