import pytest

from token_handlers import http, install, shared_counter, track_tokens, uninstall
from token_handlers.tracking.state import starts_count, state, watch_frameworks


@pytest.fixture(autouse=True)
def _stopped():
    """Stop automatic tracking after each test."""
    yield
    uninstall()


def test_what_starts_counts_where_something_tracks():
    """A framework's call is recorded in a block, and everywhere while that framework is tracked."""
    assert not starts_count("langchain")
    with track_tokens():
        assert starts_count("langchain")
    install("langchain")

    assert (True, False) == (starts_count("langchain"), starts_count("llamaindex"))


def test_watching_twice_is_watching_once():
    """Frameworks and clients are attached to once."""
    watch_frameworks()
    before = http.tapped()
    watch_frameworks()

    assert (True, before) == (state.watched, http.tapped())


def test_the_shared_counter_is_one():
    """The process has one counter, whoever asks."""
    assert shared_counter() is state.counter
