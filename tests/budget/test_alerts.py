import json
import logging
import threading
from datetime import UTC, datetime
from decimal import Decimal
from http.server import ThreadingHTTPServer

import pytest

from tests.support.quiet_server import QuietHandler
from tests.support.reservations import spend
from token_handlers import Budget
from token_handlers.budget import BudgetWarning
from token_handlers.budget.webhook import RETRIES, Webhook


def test_several_shares():
    """Each share is warned of once, in the order in which they are spent."""
    warnings = []
    budget = Budget(max_requests=100, warn_at=(0.95, 0.5, 0.8), on_warning=warnings.append)
    for _ in range(100):
        spend(budget)

    assert [BudgetWarning("the budget", "max_requests", 100, spent) for spent in (50, 80, 95)] == warnings


def test_shares_that_are_passed_at_once():
    """One warning says it, of the largest share, and the smaller ones are not warned of later."""
    warnings = []
    budget = Budget(max_tokens=100, warn_at=(0.5, 0.8, 0.95), on_warning=warnings.append)
    for tokens in (85, 5, 5):
        spend(budget, tokens)

    assert [85, 95] == [warning.spent for warning in warnings]


def test_each_account_and_limit_has_shares_of_its_own():
    """A warning of one session or limit is none of another's."""
    warnings = []
    budget = Budget(max_tokens=10, max_requests=2, each="session", warn_at=(0.5,), on_warning=warnings.append)
    for session in ("a", "b"):
        spend(budget, 5, session=session)

    assert [("max_tokens", "a"), ("max_requests", "a"), ("max_tokens", "b"), ("max_requests", "b")] == [
        (warning.limit, warning.scope[-2]) for warning in warnings
    ]


@pytest.fixture
def hook():
    """A server that takes alerts: its URL, what it got, and what it answers."""

    class Handler(QuietHandler):
        def reply(self):
            server.got.append((self.path, json.loads(self.content())))
            server.let_go.wait(30)
            self.answer(server.statuses.pop(0) if server.statuses else server.status)

    class Server(ThreadingHTTPServer):
        def __init__(self):
            super().__init__(("127.0.0.1", 0), Handler)
            self.got, self.status, self.statuses, self.let_go = [], 200, [], threading.Event()
            self.let_go.set()
            self.url = f"http://127.0.0.1:{self.server_port}/T000/B000/secret"

    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_url(hook):
    """A warning is POSTed as JSON: names and numbers."""
    webhook = Webhook(hook.url)
    budget = Budget(max_cost="0.10", scope="team", on_warning=webhook, warn_at=(0.5, 0.9))
    for _ in range(5):
        spend(budget, cost="0.02")

    assert webhook.flush(30)
    assert [("/T000/B000/secret", "max_cost", "0.06"), ("/T000/B000/secret", "max_cost", "0.1")] == [
        (path, body["limit"], body["spent"]) for path, body in hook.got
    ]
    assert {
        "scope": "budget 'team'",
        "limit": "max_cost",
        "maximum": "0.1",
        "spent": "0.06",
        "message": "budget 'team' has spent 0.06 of max_cost=0.1 USD",
    } == hook.got[0][1]


def test_a_url_is_an_on_warning(hook, caplog):
    """`on_warning` takes the URL itself, and shows it nowhere, in no library's log either."""
    caplog.set_level(logging.DEBUG)
    budget = Budget(max_requests=1, on_warning=hook.url)
    spend(budget)
    webhook = budget._alerts._on_warning

    assert isinstance(webhook, Webhook)
    assert webhook.flush(30)
    assert 1 == len(hook.got)
    assert "<Webhook 127.0.0.1>" == repr(webhook)
    assert "secret" not in repr(vars(webhook))
    assert "secret" not in caplog.text


@pytest.mark.parametrize("url", ["https://hooks.slack.com/services/T/B/x", "https://slack.com/api/x"])
def test_slacks_shape(url):
    """Slack takes a text, and hosts that merely sound like it get the JSON."""
    warning = BudgetWarning("the budget", "max_tokens", 100, 80)

    assert {"text": "the budget has spent 80 of max_tokens=100"} == Webhook(url).payload(warning)
    assert "scope" in Webhook("https://notslack.com/x").payload(warning)
    assert "scope" in Webhook("https://slack.com.example.org/x").payload(warning)


def test_a_url_that_does_not_answer_slows_no_call(hook):
    """The thread waits, not the call."""
    hook.let_go.clear()
    webhook = Webhook(hook.url)
    budget = Budget(max_requests=1, on_warning=webhook)
    spend(budget)
    assert not webhook.flush(0.01)
    hook.let_go.set()

    assert webhook.flush(30)
    assert 1 == len(hook.got)


@pytest.mark.parametrize("status", [404, 500, 302])
def test_a_url_that_refuses(hook, caplog, status):
    """What is not taken is logged, with its numbers and without the URL."""
    hook.status = status
    webhook = Webhook(hook.url)
    with caplog.at_level(logging.WARNING, "token_handlers"):
        webhook(BudgetWarning("the budget", "max_cost", Decimal(1), Decimal("0.8")))
        assert webhook.flush(30)

    assert [
        f"an alert was not sent to 127.0.0.1 (HTTP status {status}): the budget has spent 0.8 of max_cost=1 USD"
    ] == caplog.messages


@pytest.mark.parametrize("statuses", [[503], [429, 500, 502]])
def test_a_url_that_takes_it_later(hook, caplog, statuses):
    """An alert that the server can't accept now is sent again, without a log line; the next one is retried alike."""
    webhook = Webhook(hook.url)
    for spent in ("0.8", "0.9"):
        hook.statuses = list(statuses)
        webhook(BudgetWarning("the budget", "max_cost", Decimal(1), Decimal(spent)))
        assert webhook.flush(30)

    assert [] == caplog.messages
    assert ["0.8"] * (len(statuses) + 1) + ["0.9"] * (len(statuses) + 1) == [body["spent"] for _, body in hook.got]


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (302, 1), (500, 1 + RETRIES)])
def test_how_often_it_is_tried(hook, status, tries):
    """An alert that a server will never take is sent once."""
    hook.status = status
    webhook = Webhook(hook.url)
    webhook(BudgetWarning("the budget", "max_cost", Decimal(1), Decimal("0.8")))
    assert webhook.flush(30)

    assert tries == len(hook.got)


def test_shares_in_each_window(monkeypatch):
    """Each share is warned of once in each window."""
    warnings = []
    budget = Budget(max_requests=10, per="day", warn_at=(0.5, 0.8, 0.95), on_warning=warnings.append)
    for day in (1, 2):
        monkeypatch.setattr(
            "token_handlers.budget.local_store.now", lambda day=day: datetime(2026, 11, day, tzinfo=UTC)
        )
        for _ in range(10):
            spend(budget)

    assert [5, 8, 10] * 2 == [warning.spent for warning in warnings]


def test_a_url_where_nobody_listens(caplog):
    """So is one that can't be reached, after its retries."""
    webhook = Webhook("http://127.0.0.1:1/secret")
    webhook(BudgetWarning("the budget", "max_cost", Decimal(1), Decimal("0.8")))

    assert webhook.flush(60)
    assert ["ConnectError" in message and "secret" not in message for message in caplog.messages] == [True]
