import json
import logging
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import genai_prices.data_snapshot
import httpx
import pytest
from genai_prices.data_snapshot import get_snapshot, set_custom_snapshot

from token_handlers import install, track_tokens, uninstall
from token_handlers.cli import main
from token_handlers.pricing import calculator, price_call, reset_prices, updates
from token_handlers.pricing.freshness import kept_path
from token_handlers.pricing.updates import PriceUpdateFailed


def table(newest="2026-11-20", rate="2", models=("gpt-4o", "gpt-4o-mini", "o3")):
    """Return a table as genai-prices publishes it, of which one rate holds from a day on."""
    prices = [
        {"prices": {"input_mtok": 2.5, "output_mtok": 10}},
        {
            "constraint": {"type": "start_date", "start_date": newest},
            "prices": {"input_mtok": float(rate), "output_mtok": 8},
        },
    ]
    return [
        {
            "id": "openai",
            "name": "OpenAI",
            "api_pattern": "https://api\\.openai\\.com",
            "model_match": {"starts_with": "gpt-"},
            "models": [{"id": name, "match": {"equals": name}, "prices": prices} for name in models],
        }
    ]


@pytest.fixture(autouse=True)
def _own_table(monkeypatch, tmp_path):
    """A table of three models is installed, the cache is the test's, and all is as before afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    installed = updates.parse(json.dumps(table("2026-11-09", "2.4")).encode())
    installed.from_auto_update = False
    monkeypatch.setattr(genai_prices.data_snapshot, "_bundled_snapshot", lambda: installed)
    yield
    uninstall()
    set_custom_snapshot(None)
    reset_prices()


@pytest.fixture
def publisher():
    """A server of tables: its URL, what it answers, and how often it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            server.let_go.wait(30)
            self.send_response(server.status)
            self.send_header("Content-Length", str(server.length or len(server.content)))
            self.end_headers()
            self.wfile.write(server.content)

        def log_message(self, *args): ...

    class Publisher(ThreadingHTTPServer):
        def __init__(self):
            super().__init__(("127.0.0.1", 0), Handler)
            self.asked, self.status, self.length = [], 200, 0
            self.content, self.let_go = json.dumps(table()).encode(), threading.Event()
            self.let_go.set()
            self.url = f"http://127.0.0.1:{self.server_port}/secret/data.json"

    server = Publisher()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.let_go.set()
    server.shutdown()
    thread.join()
    server.server_close()


def rate():
    """Return what a million input tokens of gpt-4o cost now."""
    at = datetime(2026, 11, 25, tzinfo=UTC).timestamp()
    return price_call({"input_tokens": 1_000_000}, "gpt-4o", "openai", at=at).cost


def test_a_newer_table(publisher):
    """It prices the next call, and is kept for this user alone, as it was sent."""
    assert Decimal("2.4") == rate()
    updates.update(publisher.url)

    assert Decimal(2) == rate()
    assert publisher.content == kept_path().read_bytes()
    assert (0o600, 0o700) == (kept_path().stat().st_mode & 0o777, kept_path().parent.stat().st_mode & 0o777)
    assert [kept_path()] == list(kept_path().parent.iterdir())


FAULTS = {
    "bad JSON": ({"content": b"<html>"}, "no price table: JSONDecodeError"),
    "another JSON": ({"content": b'{"a": 1}'}, "it has no model"),
    "another list": ({"content": b'[{"id": 1}]'}, "no price table: ValidationError"),
    "deeply nested": ({"content": b"[" * 100_000}, "no price table"),
    "no model": ({"content": b"[]"}, "it has no model"),
    "truncated": ({"length": 10**6}, "can't be read: RemoteProtocolError"),
    "cut off JSON": ({"content": json.dumps(table()).encode()[:-20]}, "no price table"),
    "an error": ({"status": 500}, "answered with HTTP status 500"),
    "a redirection": ({"status": 302}, "answered with HTTP status 302"),
    "older": ({"content": json.dumps(table("2026-11-01")).encode()}, "is of 2026-11-01, that of the table in use of"),
    "models lost": (
        {"content": json.dumps(table(models=["gpt-4o", "new"])).encode()},
        "lacks 2 of 3 known models, such as openai/gpt-4o-mini, openai/o3",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_taken(publisher, fault):
    """A table that is none, older, or lacks known models is refused with the reason: the table in use stays."""
    updates.update(publisher.url)
    before, kept = get_snapshot(), kept_path().read_bytes()
    answer, reason = FAULTS[fault]
    vars(publisher).update(answer)

    with pytest.raises(PriceUpdateFailed, match=reason) as raised:
        updates.update(publisher.url)
    assert before is get_snapshot()
    assert kept == kept_path().read_bytes()
    assert "secret" not in str(raised.value)


def test_a_slow_server(publisher, monkeypatch):
    """One that does not answer is given up after a time-out, one that sends for ever after another."""
    monkeypatch.setattr(updates, "TIMEOUT", httpx.Timeout(0.05))
    publisher.let_go.clear()
    with pytest.raises(PriceUpdateFailed, match=r"127\.0\.0\.1 can't be read: ReadTimeout"):
        updates.update(publisher.url)
    publisher.let_go.set()
    monkeypatch.setattr(updates, "TIMEOUT", httpx.Timeout(10))
    monkeypatch.setattr(updates, "MOST_SECONDS", -1)
    with pytest.raises(PriceUpdateFailed, match="took longer than"):
        updates.update(publisher.url)
    monkeypatch.setattr(updates, "MOST_BYTES", 10)
    with pytest.raises(PriceUpdateFailed, match="sent more than 10 bytes"):
        updates.update(publisher.url)


def test_nobody_listens():
    """Where nobody listens that is the reason."""
    with pytest.raises(PriceUpdateFailed, match="ConnectError"):
        updates.update("http://127.0.0.1:1/data.json")


@pytest.mark.parametrize("url", ["http://example.com/data.json", "ftp://localhost/x", "data.json", "file:///etc/x"])
def test_where_prices_may_come_from(url):
    """Prices that somebody on the way could change are not asked for."""
    with pytest.raises(ValueError, match="prices come from an https URL"):
        updates.update(url)


def test_the_kept_table(publisher):
    """Another process that asks for it begins with the kept table, without the network."""
    updates.update(publisher.url)
    set_custom_snapshot(None)

    assert Decimal("2.4") == rate()
    assert updates.use_kept()
    assert Decimal(2) == rate()
    assert 1 == len(publisher.asked)


@pytest.mark.parametrize("newest", ["2026-11-01", "2026-11-09"])
def test_a_kept_table_that_is_older(newest, caplog):
    """A kept table is passed over in silence where the installed one is newer, with equal dates by their arrival."""
    updates.keep(json.dumps(table(newest)).encode())
    os.utime(kept_path(), (1, 1))

    assert not updates.use_kept()
    assert Decimal("2.4") == rate()
    assert [] == caplog.messages


@pytest.mark.parametrize("content", [b"", b"{}", json.dumps(table(models=["new"])).encode()])
def test_a_kept_table_that_is_broken(content, caplog):
    """What is wrong with the kept file is logged, and the installed table stays."""
    updates.keep(content)
    with caplog.at_level(logging.WARNING, "token_handlers"):
        assert not updates.use_kept()

    assert [str(kept_path()) in message for message in caplog.messages] == [True]
    assert Decimal("2.4") == rate()


def test_a_kept_table_that_others_can_write(caplog):
    """A file that another user could have written is not believed."""
    updates.keep(json.dumps(table()).encode())
    kept_path().chmod(0o666)

    assert not updates.use_kept()
    assert "other users can write it: delete it" in caplog.text


def test_a_folder_that_cannot_be_written(publisher, caplog, tmp_path):
    """The new table is used all the same, and that it was not kept is logged."""
    (tmp_path / "cache").write_text("a file")
    updates.update(publisher.url)

    assert Decimal(2) == rate()
    assert "was not kept" in caplog.text


def wait_for_update():
    """Wait until the background thread has an outcome; raises its error."""
    assert genai_prices.update_prices.wait_prices_updated_sync(30)


@pytest.mark.parametrize("way", ["argument", "environment", "a block alone"])
def test_in_the_background(publisher, monkeypatch, way):
    """install(update_prices=True), or the variable, fetches a table in a thread; uninstall() ends that."""
    monkeypatch.setattr(calculator.price_state, "asked", False)
    monkeypatch.setattr("token_handlers.tracking.state.state.watched", False)
    if way == "argument":
        monkeypatch.setattr(updates, "DEFAULT_UPDATE_URL", publisher.url)
        install(update_prices=True)
    else:
        monkeypatch.setenv("AGENTSIGHT_TOKEN_PRICES", publisher.url)
        if way == "environment":
            install("langchain")
        else:
            with track_tokens():
                pass
    wait_for_update()

    assert Decimal(2) == rate()
    assert ["/secret/data.json"] == publisher.asked
    uninstall()
    assert [] == updates._running


def test_a_refusal_in_the_background(publisher, monkeypatch, caplog):
    """A table that is refused there is one line in genai-prices' log, and the application goes on."""
    monkeypatch.setattr(updates, "DEFAULT_UPDATE_URL", publisher.url)
    publisher.status = 503
    install("langchain", update_prices=True)
    with pytest.raises(PriceUpdateFailed):
        wait_for_update()
    uninstall()
    for thread in threading.enumerate():
        if thread.name == "genai_prices:update":
            thread.join(30)

    assert Decimal("2.4") == rate()
    assert "HTTP status 503" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("said", ["", "off", "bundled"])
def test_never_unasked(publisher, monkeypatch, said):
    """Nothing is fetched where nobody asked."""
    monkeypatch.setattr(updates, "DEFAULT_UPDATE_URL", publisher.url)
    monkeypatch.setenv("AGENTSIGHT_TOKEN_PRICES", said)
    install("langchain")
    with track_tokens():
        pass

    assert [] == publisher.asked == updates._running


def test_a_misspelt_variable(monkeypatch, caplog):
    """install() refuses one, and a block says so in the log."""
    monkeypatch.setenv("AGENTSIGHT_TOKEN_PRICES", "yes")
    with pytest.raises(ValueError, match="AGENTSIGHT_TOKEN_PRICES is 'auto', 'off' or an https URL, not 'yes'"):
        install("langchain")
    monkeypatch.setattr(calculator.price_state, "asked", False)
    calculator.load_prices()
    assert "AGENTSIGHT_TOKEN_PRICES is 'auto'" in caplog.text


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_goes_on(publisher, monkeypatch):
    """A forked child, which has no thread of its parent's, looks for tables itself."""
    monkeypatch.setattr(updates, "DEFAULT_UPDATE_URL", publisher.url)
    install("langchain", update_prices=True)
    wait_for_update()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            wait_for_update()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)

    assert 0 == status
    assert 2 == len(publisher.asked)


def test_the_command(publisher, capsys):
    """`prices update` says what it fetched and how old that is; `forget` goes back to the installed table."""
    assert 0 == main(["prices", "update", "--url", publisher.url])
    first, second = capsys.readouterr().out.splitlines()
    assert f"3 models (3 before), kept in {kept_path()}" == first
    assert second.startswith("prices are an updated table: its newest rate is of 2026-11-20, ")

    set_custom_snapshot(None)
    assert 0 == main(["prices", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert ("an updated table", "2026-11-20", 3) == (found["table"], found["newest_rate"], found["models"])
    assert time.time() - datetime.fromisoformat(found["kept_at"]).timestamp() < 600

    set_custom_snapshot(None)
    assert 0 == main(["price", "gpt-4o", "--provider", "openai", "--json", "--at", "2026-11-25"])
    assert "2" == json.loads(capsys.readouterr().out)["usd_per_million_tokens"]["input"]

    set_custom_snapshot(None)
    assert 0 == main(["prices", "forget"])
    assert "2026-11-09" in capsys.readouterr().out
    assert not kept_path().exists()


def test_the_command_says_why(publisher, capsys):
    """A table that is refused is one line and exit status 1; a URL that is none is wrong usage."""
    publisher.content = b"nothing"
    assert 1 == main(["prices", "update", "--url", publisher.url])
    assert "token-handlers: it is no price table: JSONDecodeError\n" == capsys.readouterr().err
    assert 2 == main(["prices", "update", "--url", "http://example.com"])
    assert 2 == main(["prices", "--url", publisher.url])


def test_no_price_asks_the_network():
    """A program that prices a call, without asking for updates, imports no updater of ours."""
    code = (
        "import sys, token_handlers.pricing as pricing\n"
        "assert pricing.price_call({'input_tokens': 1}, 'gpt-4o', 'openai')\n"
        "assert 'token_handlers.pricing.updates' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert (0, "") == (done.returncode, done.stderr)
