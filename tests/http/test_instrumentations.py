import json

import httpx
import pytest
import requests
import respx
import sentry_sdk
import vcr
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from sentry_sdk.integrations.httpx import HttpxIntegration

from tests.support.answer_server import body, events
from tests.support.provider_answers import CHAT, CHAT_STREAM
from token_handlers import http

ASKED = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"
RIGHT = [((100, 20), True)]


def ask(url):
    """Ask for an answer, and see that it is the server's."""
    with httpx.Client() as client:
        assert CHAT == client.post(url + PATH, json=ASKED).json()


def stream(url):
    """Return what a streamed answer brings."""
    with httpx.Client() as client, client.stream("POST", url + PATH, json=ASKED) as response:
        return response.read()


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_opentelemetry(watcher, answers, first):
    """In either order, and neither takes the other's wrap away."""
    answers.answer(body(CHAT))
    before = httpx.HTTPTransport.handle_request
    theirs = HTTPXClientInstrumentor()
    if first == "theirs":
        http.detach()
    theirs.instrument()
    http.attach(watcher)
    ask(answers.url)
    theirs.uninstrument()
    ask(answers.url)
    http.detach()

    assert before is httpx.HTTPTransport.handle_request
    assert RIGHT * 2 == watcher.counts


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_sentry(watcher, answers, monkeypatch, first):
    """It puts a function of its own in the place of `Client.send`."""
    answers.answer(body(CHAT), events(CHAT_STREAM))
    http.detach()
    for client in (httpx.Client, httpx.AsyncClient):
        monkeypatch.setattr(client, "send", client.send)  # it has no way to take its own away
    if first == "ours":
        http.attach(watcher)
    HttpxIntegration.setup_once()
    http.attach(watcher)
    with sentry_sdk.isolation_scope():
        ask(answers.url)
        stream(answers.url)

    assert RIGHT * 2 == watcher.counts


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_respx(watcher, first):
    """A mocked answer is one, too."""
    if first == "theirs":
        http.detach()
    with respx.mock as mock:
        http.attach(watcher)
        mock.post("http://mock" + PATH).respond(json=CHAT)
        ask("http://mock")
        assert CHAT == json.loads(stream("http://mock"))

    assert RIGHT * 2 == watcher.counts


def test_pytest_httpx_before_ours(httpx_mock, answers, request):
    """The fixture replaces the transport's method."""
    watcher = request.getfixturevalue("watcher")
    httpx_mock.add_response(url="http://mock" + PATH, json=CHAT, is_reusable=True)
    ask("http://mock")
    stream("http://mock")

    assert RIGHT * 2 == watcher.counts


def test_pytest_httpx_after_ours(watcher, request):
    """As above."""
    request.getfixturevalue("httpx_mock").add_response(url="http://mock" + PATH, json=CHAT)
    ask("http://mock")

    assert RIGHT == watcher.counts


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_vcr(watcher, answers, tmp_path, first):
    """An answer that is recorded and one that is replayed are seen alike; the replay costs, as far as we can see."""
    answers.answer(body(CHAT))
    cassette = vcr.VCR(match_on=["method", "path"]).use_cassette(str(tmp_path / "cassette.yaml"))
    if first == "theirs":
        http.detach()
    with cassette:
        http.attach(watcher)
        ask(answers.url)
        with requests.Session() as session:
            session.post(answers.url + PATH + "/../completions", json=ASKED)
    with vcr.use_cassette(str(tmp_path / "cassette.yaml"), record_mode="none", match_on=["method", "path"]):
        ask(answers.url)

    assert 2 == len(answers.asked)
    assert RIGHT * 3 == watcher.counts
