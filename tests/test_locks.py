import contextlib
import os
import signal
import threading

import pytest

from token_handlers.locks import DeferredLock


@contextlib.contextmanager
def held_elsewhere(lock):
    """Have another thread hold a lock until the end, or until the event that this yields is set."""
    inside, go_on = threading.Event(), threading.Event()

    def turn():
        inside.set()
        go_on.wait()

    holder = threading.Thread(target=lock.run, args=(turn,))
    holder.start()
    inside.wait()
    try:
        yield go_on
    finally:
        go_on.set()
        holder.join()


def test_one_after_the_other():
    """What is given in the middle of a turn is done at its end, in order."""
    lock, done = DeferredLock(), []

    def turn():
        lock.run_soon(lambda: done.append(1))
        lock.run_soon(lambda: done.append(2))
        return [*done]

    assert [] == lock.run(turn)
    assert [1, 2] == done


def test_what_waits_is_done_first():
    """A turn first does what waits; one in the middle of another turn of the same thread leaves it waiting."""
    lock, done = DeferredLock(), []
    lock.waiting.append(lambda: done.append(1))

    def turn():
        lock.waiting.append(lambda: done.append(2))
        return lock.run(lambda: [*done])

    assert [1] == lock.run(turn)
    assert [1, 2] == done


def test_nobody_waits():
    """An addition returns at once where another thread has its turn; who takes a turn after it sees it done."""
    lock, done = DeferredLock(), []
    with held_elsewhere(lock) as go_on:
        lock.run_soon(lambda: done.append(threading.current_thread()))
        assert [] == done
        go_on.set()
        assert 1 == lock.run(lambda: len(done))


@pytest.mark.parametrize("begin", [lambda lock: lock.run(int), lambda lock: lock.run_soon(int)], ids=["run", "soon"])
def test_an_interruption_lets_go(begin):
    """Where what waits is interrupted, the lock is let go of, and others have their lock and do it."""
    lock, done, interrupts = DeferredLock(), [], [KeyboardInterrupt]

    def action():
        if interrupts:
            raise interrupts.pop()
        done.append("what waited")

    lock.waiting.append(action)
    with pytest.raises(KeyboardInterrupt):
        begin(lock)
    thread = threading.Thread(target=lock.run_soon, args=(lambda: done.append("after it"),))
    thread.start()
    thread.join()

    assert ["what waited", "after it"] == done


def test_an_error_is_raised_once():
    """What raises an error is not done again, and keeps nothing after it from being done."""
    lock, done = DeferredLock(), []
    lock.waiting.append(lambda: 1 / 0)
    lock.waiting.append(lambda: done.append("after it"))
    with pytest.raises(ZeroDivisionError):
        lock.run_soon(int)
    lock.run_soon(int)

    assert ["after it"] == done


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_frees_locks():
    """A child has what a thread of its parent held, and does what waits."""
    lock, done = DeferredLock(), []
    with held_elsewhere(lock):
        lock.run_soon(lambda: done.append("waited"))
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # ends one that waits for the lock
            os._exit(0 if lock.run(lambda: done == ["waited"]) else 1)
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
