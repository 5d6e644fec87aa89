import threading

import pytest

from token_handlers.turns import Turns


def test_one_after_the_other():
    """What is given in the middle of a turn is done at its end, in order."""
    turns, done = Turns(), []
    with turns:
        turns.do(lambda: done.append(1))
        turns.do(lambda: done.append(2))
        assert [] == done

    assert [1, 2] == done


def test_nobody_waits():
    """An addition returns at once where another thread has its turn, which does it; who takes a turn then sees it."""
    turns, done = Turns(), []
    inside, go_on = threading.Event(), threading.Event()

    def hold():
        with turns:
            inside.set()
            go_on.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    turns.do(lambda: done.append(threading.current_thread()))
    assert [] == done
    go_on.set()
    with turns:
        assert [holder] == done
    holder.join()


def test_an_interruption_lets_go():
    """Where what waits is broken off as a turn begins, the lock is let go of, and others have their turns."""
    turns, done = Turns(), []

    def interrupt():
        raise KeyboardInterrupt

    turns._later.append(interrupt)
    with pytest.raises(KeyboardInterrupt), turns:
        done.append("in the turn")
    thread = threading.Thread(target=turns.do, args=(lambda: done.append("after it"),))
    thread.start()
    thread.join()

    assert ["after it"] == done
