import pytest

from token_handlers import http, shared_counter, uninstall
from token_handlers.tracking.state import state, watch_frameworks


@pytest.fixture(autouse=True)
def _stopped():
    """Stop automatic tracking after each test."""
    yield
    uninstall()


def test_watching_twice_is_watching_once():
    """Frameworks and clients are attached to once."""
    watch_frameworks()
    before = http.tapped()
    watch_frameworks()

    assert (True, before) == (state.watched, http.tapped())


def test_the_shared_counter_is_one():
    """The process has one counter, whoever asks."""
    assert shared_counter() is state.counter
