from collections.abc import Iterator

import pytest

from tests.support.answer_server import AnswerServer, answering, body


@pytest.fixture
def answers() -> Iterator[AnswerServer]:
    """A loopback server; a test says what it answers."""
    with answering(body({})) as server:
        yield server
