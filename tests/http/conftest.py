from collections.abc import Iterator

import pytest

from tests.support.answer_server import AnswerServer, answering, body
from token_handlers import http
from token_handlers.http import ProviderAnswer, ProviderRequest
from token_handlers.tracking import answers as answers_of_calls
from token_handlers.tracking.state import state


class Watcher:
    """An observer that owns every request, and keeps them and their answers."""

    def __init__(self) -> None:
        self.is_wanting = True
        self.requests: list[ProviderRequest] = []
        self.answers: list[ProviderAnswer] = []
        self.begun_by: list[object] = []

    def wants(self) -> bool:
        return self.is_wanting

    def opened(self, request: ProviderRequest) -> object:
        self.requests.append(request)
        return len(self.requests)

    def begun(self, owner: object) -> None:
        self.begun_by.append(owner)

    def answered(self, owner: object, answer: ProviderAnswer) -> None:
        self.answers.append(answer)

    @property
    def counts(self):
        """Input and output tokens of each answer, None where it reports none, and whether they are the bill."""
        return [
            (
                answer.usage and (answer.usage.counts.get("input_tokens"), answer.usage.counts.get("output_tokens")),
                answer.is_final,
            )
            for answer in self.answers
        ]


@pytest.fixture(autouse=True)
def _nobody_watches() -> Iterator[None]:
    """A test starts with nothing attached; what the process has attached before is attached again after it."""
    http.detach()
    yield
    http.detach()
    if state.watched:
        answers_of_calls.watch()


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    """An observer that is attached for the time of the test."""
    watching = Watcher()
    http.attach(watching)
    yield watching
    http.detach()


@pytest.fixture
def answers() -> Iterator[AnswerServer]:
    """A loopback server; a test says what it answers."""
    with answering(body({})) as server:
        yield server
