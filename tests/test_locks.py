import threading

import pytest

from token_handlers.locks import DeferredLock


def test_one_after_the_other():
    """What is given in the middle of a turn is done at its end, in order."""
    lock, done = DeferredLock(), []
    with lock:
        lock.run_soon(lambda: done.append(1))
        lock.run_soon(lambda: done.append(2))
        assert [] == done

    assert [1, 2] == done


def test_nobody_waits():
    """An addition returns at once where another thread has its turn, which does it; who takes a turn then sees it."""
    lock, done = DeferredLock(), []
    inside, go_on = threading.Event(), threading.Event()

    def hold():
        with lock:
            inside.set()
            go_on.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    lock.run_soon(lambda: done.append(threading.current_thread()))
    assert [] == done
    go_on.set()
    with lock:
        assert [holder] == done
    holder.join()


def test_an_interruption_lets_go():
    """Where what waits is broken off as a turn begins, the lock is let go of, and others have their lock."""
    lock, done = DeferredLock(), []

    def interrupt():
        raise KeyboardInterrupt

    lock.waiting.append(interrupt)
    with pytest.raises(KeyboardInterrupt), lock:
        done.append("in the turn")
    thread = threading.Thread(target=lock.run_soon, args=(lambda: done.append("after it"),))
    thread.start()
    thread.join()

    assert ["after it"] == done
