import contextlib
import subprocess
import sys

import aiobotocore.client
import aiobotocore.httpsession
import aiohttp
import botocore.client
import botocore.httpsession
import httpx
import httpx2
import pytest
import requests

from tests.support.answer_server import body, relaying_app
from tests.support.provider_answers import CHAT
from token_handlers import http

ASKED = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
METHODS = {
    "httpx.Client.send": (httpx.Client, "send"),
    "httpx.AsyncClient.send": (httpx.AsyncClient, "send"),
    "httpx2.Client.send": (httpx2.Client, "send"),
    "httpx2.AsyncClient.send": (httpx2.AsyncClient, "send"),
    "requests.sessions.Session.send": (requests.Session, "send"),
    "aiohttp.client.ClientSession._request": (aiohttp.ClientSession, "_request"),
    "botocore.client.BaseClient._make_api_call": (botocore.client.BaseClient, "_make_api_call"),
    "botocore.httpsession.URLLib3Session.send": (botocore.httpsession.URLLib3Session, "send"),
    "aiobotocore.httpsession.AIOHTTPSession.send": (aiobotocore.httpsession.AIOHTTPSession, "send"),
    "aiobotocore.client.AioBaseClient._make_api_call": (aiobotocore.client.AioBaseClient, "_make_api_call"),
}


def methods():
    """Return the methods as they stand in their classes."""
    return {name: owner.__dict__[method] for name, (owner, method) in METHODS.items()}


def ask(server, client=None):
    """Ask for an answer."""
    with client or httpx.Client() as own:
        own.post(server.url + "/v1/chat/completions", json=ASKED)


def test_detach_leaves_every_library_as_it_was():
    """Each method is the very same object again."""
    before = methods()
    http.attach(None)
    attached, names = methods(), http.tapped()
    http.detach()

    assert before == methods()
    assert set(METHODS) == set(names)
    assert all(attached[name] is not before[name] for name in METHODS)
    assert [] == http.tapped()


def test_attaching_twice_wraps_once(watcher, answers):
    """One answer is told once."""
    answers.answer(body(CHAT))
    first = methods()
    http.attach(watcher)

    assert first == methods()
    ask(answers)
    assert 1 == len(watcher.answers)


def test_wrap_has_the_names_of_what_it_wraps_and_no_attributes(watcher):
    """Help shows the method; marks of others on it are not ours."""
    assert ("send", "Client.send", "httpx._client") == (
        httpx.Client.send.__name__, httpx.Client.send.__qualname__, httpx.Client.send.__module__,
    )  # fmt: skip
    assert {} == httpx.Client.send.__dict__


def test_wrap_that_someone_wrapped_stays_and_does_nothing(watcher, answers, monkeypatch):
    """Their wrap is left in its place, and ours sees nothing any more."""
    answers.answer(body(CHAT))
    http.detach()
    monkeypatch.setattr(httpx.Client, "send", httpx.Client.send)  # what is put back in the end is httpx's own
    http.attach(watcher)
    ours = httpx.Client.send
    calls = []

    def theirs(self, request, **kwargs):
        calls.append(request.url)
        return ours(self, request, **kwargs)

    monkeypatch.setattr(httpx.Client, "send", theirs)
    http.detach()
    ask(answers)

    assert (1, []) == (len(calls), watcher.answers)
    assert theirs is httpx.Client.send

    http.attach(watcher)
    ask(answers)
    http.detach()
    assert (2, 1) == (len(calls), len(watcher.answers))
    assert theirs is httpx.Client.send


def test_answer_that_is_read_after_detach_is_told(watcher, answers):
    """A stream that was begun while somebody watched is theirs."""
    answers.answer(body(CHAT))
    with httpx.Client() as client, client.stream("POST", answers.url + "/v1/chat/completions", json=ASKED) as response:
        http.detach()
        response.read()

    assert [((100, 20), True)] == watcher.counts


def test_observer_that_raises_is_logged_once(watcher, answers, monkeypatch, caplog):
    """The client gets its answer, whatever an observer does."""
    from token_handlers.errors import raise_faults

    answers.answer(body(CHAT))

    def fail(*args):
        raise LookupError("no")

    raise_faults(False)
    for name in ("wants", "opened", "answered"):
        with monkeypatch.context() as patch:
            patch.setattr(watcher, name, fail, raising=False)
            ask(answers)
            ask(answers)
    raise_faults(True)

    assert 6 == len(answers.asked)
    assert 3 == len([record for record in caplog.records if "LookupError" in record.getMessage()])


@pytest.mark.parametrize("name", ["wants", "opened", "answered"])
def test_refusal_comes_before_the_sending(watcher, answers, monkeypatch, caplog, name):
    """BudgetExceeded reaches the client from `opened` alone, and then nothing is sent."""
    from token_handlers.errors import BudgetExceeded, raise_faults

    answers.answer(body(CHAT))

    def refuse(*args):
        raise BudgetExceeded("no room")

    monkeypatch.setattr(watcher, name, refuse, raising=False)
    raise_faults(False)
    with pytest.raises(BudgetExceeded) if name == "opened" else contextlib.nullcontext():
        ask(answers)
    raise_faults(True)

    assert (0 if name == "opened" else 1) == len(answers.asked)
    assert (name != "opened") == ("a budget cannot refuse what was sent: no room" in caplog.text)


@pytest.mark.parametrize("when", ["before", "after"])
def test_libraries_are_wrapped_whenever_they_are_imported(when):
    """Attaching imports none of them."""
    script = f"""
import sys
from token_handlers import http
if {when == "before"}:
    import httpx2, requests, aiohttp, botocore.client
http.attach(None)
if {when == "after"}:
    assert not {{"httpx2", "requests", "aiohttp", "botocore"}} & set(sys.modules), set(sys.modules)
    import httpx2, requests, aiohttp, botocore.client
print(*http.tapped())
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    imported = {name for name in METHODS if not name.startswith(("aiobotocore", "httpx."))}  # httpx: by ourselves
    assert imported <= set(result.stdout.split())


def test_app_in_the_process_answers_for_itself(watcher, answers):
    """A request to an app that asks a provider is not counted beside the provider's."""
    from fastapi.testclient import TestClient

    answers.answer(body(CHAT))
    with TestClient(relaying_app(answers.url, ASKED)) as client:
        client.post("/v1/chat/completions", json=ASKED)

    assert [(False, True), (True, False)] == [(answer.is_relayed, answer.is_final) for answer in watcher.answers]
