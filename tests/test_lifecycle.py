import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import weakref

import pytest

from token_handlers import lifecycle
from token_handlers.errors import raise_faults
from token_handlers.lifecycle import BackgroundWriter, Warnings


class Store:
    """What a writer sends to: it keeps what it is sent, and fails with the errors that it is given."""

    def __init__(self, *errors):
        self.batches, self.errors, self.refused, self.failures = [], list(errors), [], []

    def send(self, batch):
        if self.errors:
            raise self.errors.pop(0)
        if "bad" in batch:
            raise ValueError("bad")
        self.batches.append(list(batch))

    def writer(self, **settings):
        given = {"name": "test", "batch": 3, "capacity": 10, "passes": lambda error: isinstance(error, OSError)}
        return BackgroundWriter(
            self.send,
            refused=lambda item, error: self.refused.append((item, type(error))),
            failed=self.failures.append,
            **{**given, **settings},
        )


def test_items_go_in_order_and_in_batches():
    """What waits is sent in the order in which it was put, in batches of so many; then nothing waits."""
    store = Store()
    writer = store.writer(linger=60)
    for number in range(7):
        assert writer.put(number)

    assert 7 == writer.waiting
    assert writer.flush(10)
    assert [[0, 1, 2], [3, 4, 5], [6]] == store.batches
    assert 0 == writer.waiting


def test_what_waits_is_bounded():
    """Beyond the capacity, which the items in hand are not in, put takes nothing and says so."""
    sending, go_on = threading.Event(), threading.Event()

    def send(batch):
        sending.set()
        go_on.wait()

    writer = BackgroundWriter(send, name="test", capacity=2, refused=print)
    assert writer.put(1)
    sending.wait()
    assert [True, True, False] == [writer.put(number) for number in (2, 3, 4)]
    go_on.set()
    assert writer.flush(10)


def test_a_send_that_fails_is_tried_again(monkeypatch):
    """After an error that passes the same items are sent again; a flush that is not patient says False at once."""
    monkeypatch.setattr(lifecycle, "FIRST_PAUSE_SECONDS", 60.0)
    store = Store(OSError("gone"), OSError("gone"))
    writer = store.writer(linger=60)
    writer.put(1)

    assert not writer.flush(10)
    assert (1, 1) == (writer.waiting, len(store.failures))
    assert writer.flush(10, patient=True)
    assert ([[1]], 2, []) == (store.batches, len(store.failures), store.refused)


def test_an_item_that_is_refused():
    """After any other error each item is sent alone: the one at fault is lost, which its owner hears; others arrive."""
    store = Store()
    writer = store.writer(linger=60)
    for item in ("a", "bad", "b"):
        writer.put(item)

    assert writer.flush(10)
    assert ([["a"], ["b"]], [("bad", ValueError)]) == (store.batches, store.refused)


def test_more_than_was_put():
    """Where nothing waits, and before a flush returns, the writer asks for more until there is none."""
    store, more = Store(), [["x", "y"], ["z"]]
    writer = store.writer(more=lambda: more.pop(0) if more else ())
    writer.put("a")

    assert writer.flush(10)
    assert [["a"], ["x", "y"], ["z"]] == store.batches


def test_close():
    """close() sends what waits and ends the thread; what can't be sent is left, and close says so."""
    good, bad = Store(), Store(*[OSError("gone")] * 1000)
    for store, done in ((good, True), (bad, False)):
        writer = store.writer(name="closed")
        writer.put(1)
        assert done is writer.close(0.2, patient=True)
        assert (0 if done else 1) == writer.waiting
    assert "closed" not in {thread.name for thread in threading.enumerate()}


def test_flushing_in_the_writers_own_thread():
    """A send that flushes its own writer gets False rather than wait for itself."""
    answers = []
    writer = BackgroundWriter(lambda batch: answers.append(writer.flush()), name="test", capacity=9, refused=print)
    writer.put(1)

    assert writer.flush(10)
    assert [False] == answers


def test_an_idle_writer_is_not_kept(monkeypatch):
    """A writer that nobody holds any more goes, thread and all, when it has been idle; the next item starts anew."""
    monkeypatch.setattr(lifecycle, "IDLE_SECONDS", 0.01)
    store = Store()
    writer = store.writer(name="idle")
    for number in range(2):
        writer.put(number)
        assert writer.flush(10)
        for thread in threading.enumerate():
            if thread.name == "idle":
                thread.join(10)
    gone = weakref.ref(writer)
    del writer
    gc.collect()

    assert [[0], [1]] == store.batches
    assert gone() is None


def test_putting_from_a_finalizer():
    """put() in the middle of a put or a flush, as a finalizer may, takes the item."""
    store = Store()
    writer = store.writer(linger=60)
    with writer._changed:
        writer.put("a")
    assert writer.flush(10)
    assert [["a"]] == store.batches


def end_with_what_waits(results):
    """Put an item, and end: what is called at the end, and what is sent, is put into the queue of results."""
    writer = BackgroundWriter(results.put, name="test", capacity=9, linger=60, refused=print)
    lifecycle.at_exit(lambda: results.put(("waiting", writer.waiting)))
    writer.put(1)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_the_end_of_a_worker(method):
    """A child of multiprocessing calls back and sends what waits before it ends, however it was started."""
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    worker = context.Process(target=end_with_what_waits, args=(results,))
    worker.start()
    assert [("waiting", 1), [1]] == [results.get(), results.get()]
    worker.join()
    assert 0 == worker.exitcode


def test_the_end_of_the_process():
    """At exit all are called, the first first, also where one raises; then writers send what waits."""
    program = """
from token_handlers.lifecycle import BackgroundWriter, at_exit, not_at_exit
fail = lambda: 1 / 0
writer = BackgroundWriter(lambda batch: print(*batch), name="test", capacity=9, linger=60, refused=print)
at_exit(lambda: print("second"))
at_exit(fail)
at_exit(lambda: print("first"), first=True)
never = lambda: print("never")
at_exit(never)
not_at_exit(never)
not_at_exit(never)
writer.put("item")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ["first", "second", "item"] == done.stdout.split()
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork(caplog):
    """Hooks around a fork are called even if one raises; the child has nothing waiting and a thread of its own."""
    calls = []
    hooks = (
        (lifecycle._before_fork, lambda: calls.append("before")),
        (lifecycle._in_parent, lambda: calls.append("parent")),
        (lifecycle._in_children, lambda: 1 / 0),
        (lifecycle._in_children, lambda: calls.append("child")),
    )
    for registry, hook in hooks:
        registry.append(hook)
    store = Store()
    writer = store.writer(linger=60)
    writer.put("parent's")
    raise_faults(False)
    try:
        child = os.fork()
        if child == 0:
            writer.put("child's")
            fine = writer.flush(10) and store.batches == [["child's"]] and calls == ["before", "child"]
            os._exit(0 if fine else 1)
    finally:
        raise_faults(True)
        for registry, hook in hooks:
            registry.remove(hook)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ["before", "parent"] == calls
    assert writer.flush(10)
    assert [["parent's"]] == store.batches


def test_warnings_are_given_once(caplog):
    """A warning is given once a key, up to a number of keys, and again once they are forgotten."""
    warnings = Warnings(most=2)
    for key in ("a", "a", "b", "c"):
        warnings.warn(key, "about %s", key)
    warnings.forget()
    warnings.warn("a", "about %s", "a")

    assert ["about a", "about b", "about a"] == caplog.messages
