"""The commands on a ledger on a server: what they say of a file they say of it, but for its name."""

import json
import re
from decimal import Decimal

import pytest

from tests.support.bill_pages import call as bill_call
from tests.support.bill_pages import openai_day, openai_pages
from tests.support.bill_server import BillServer
from tests.support.bills import billed
from tests.support.command_line import CALL, run_command
from tests.support.redis_servers import SECRET
from tests.support.usage_ledgers import CALLS, fill
from token_handlers import get_llm_token_usage_for_session
from token_handlers.cli import main
from token_handlers.cli.findings import on_ledger
from token_handlers.sinks.postgres import SQLLedger


@pytest.fixture
def url(postgres, schema):
    """The URL of a ledger that is not there yet."""
    return f"{postgres.url}?schema={schema}"


@pytest.fixture
def filled(url):
    """The URL of a ledger with CALLS in it."""
    with SQLLedger(url) as ledger:
        for record in CALLS:
            ledger(record)
    return url


@pytest.mark.parametrize(
    "command",
    [
        "report",
        "report --by session --since 2026-10-01",
        "report --by team",
        "report --since 2030-01-01",
        "report --by nothing",
        "report --project --budget 50/month",
        "sessions --top 1",
        "export --csv",
        "export --json --until 2026-10-02",
        "reprice --dry-run",
    ],
)
def test_commands(filled, tmp_path, capsys, command):
    """Tables, CSV, JSON, notes and exit status are those of the same calls in a file."""
    said = []
    for ledger in (filled, str(fill(tmp_path / "ledger.db"))):
        status = main([*command.split(), "--ledger", ledger])
        said.append((status, *capsys.readouterr()))

    assert said[0] == said[1]


def test_the_page(filled, tmp_path, capsys):
    """The page of a server's ledger is that of a file's with the same title; its own is the database's name."""
    for name, ledger in (("a", filled), ("b", str(fill(tmp_path / "ledger.db")))):
        assert 0 == main(["report", "--ledger", ledger, "--html", str(tmp_path / name), "--title", "T"])
    pages = [re.sub(r"\d\d:\d\d(:\d\d)?", "", (tmp_path / name).read_text("utf-8")) for name in "ab"]
    assert pages[0] == pages[1]  # but for when they were made
    assert 0 == main(["report", "--ledger", filled, "--html", str(tmp_path / "c")])
    assert "Token usage: postgres (schema " in (tmp_path / "c").read_text("utf-8")


def test_ingest_and_reprice(filled, url, postgres, tmp_path, capsys):
    """What one ledger exported another one takes, once; and repricing changes what it says it will."""
    assert 0 == main(["export", "--json", "--ledger", filled])
    (tmp_path / "calls.jsonl").write_text(capsys.readouterr().out, "utf-8")
    other = f"{url}_other"
    for added in (4, 0):
        assert 0 == main(["ingest", str(tmp_path / "calls.jsonl"), "--ledger", other, "--json"])
        told = json.loads(capsys.readouterr().out)
        assert (added, 4 - added) == (told["added"], told["already_there"])
    with SQLLedger(filled) as one, SQLLedger(other) as copy:
        assert list(one.records()) == list(copy.records())

    (tmp_path / "prices.json").write_text('{"my-llama": {"input_mtok": 1, "output_mtok": 2}}', "utf-8")
    changes = ["reprice", "--prices", str(tmp_path / "prices.json"), "--unpriced", "--json", "--ledger", other]
    for dry in (["--dry-run"], []):
        assert 0 == main([*changes, *dry])
        told = json.loads(capsys.readouterr().out)
        assert (1, "0.50520750") == (told["changed"], f"{Decimal(told['cost_after']):.8f}")
    with SQLLedger(other) as copy:
        assert Decimal("0.5052075") == copy.totals().cost


def test_run(url, ledger, tmp_path, capsys):
    """A program's calls reach the ledger that --ledger or the environment names, and sessions are found there."""
    (tmp_path / "program.py").write_text(f"{CALL}print(ask()[:4])\n", "utf-8")
    result = run_command("run", "--ledger", url, "--session", "of run", tmp_path / "program.py", ledger.url())
    assert (0, "this\n") == (result.returncode, result.stdout), result.stderr
    with SQLLedger(url) as kept:
        total = kept.totals(session="of run")
        assert (billed(ledger)["requests"], billed(ledger)["prompt"]) == (
            total.successful_requests,
            total.prompt_tokens,
        )
        (usage,) = get_llm_token_usage_for_session("of run", ledger=kept).values()
        assert total.prompt_tokens == usage["usage"]["inputTokens"]


@pytest.mark.parametrize("command", ["report", "export --csv", "ingest {file}", "reprice", "report --html {page}"])
def test_a_server_that_is_away(postgres, schema, command, tmp_path, capsys):
    """Where the server can't be asked, each command says why in a line without the password, and fails."""
    file = tmp_path / "calls.jsonl"
    file.write_text(
        '{"id": "a", "model": "gpt-4o-mini", "usage": {"prompt_tokens": 5, "completion_tokens": 1}}\n', "utf-8"
    )
    url = f"{postgres.url_of('locked', f'{SECRET}-no')}?schema={schema}"
    words = command.format(file=file, page=tmp_path / "page.html").split()

    assert 1 == main([*words, "--ledger", url])
    said = "".join(capsys.readouterr())
    assert "password authentication failed" in said or words[0] == "ingest"
    assert "can't be used" in said or "not everything could be written to postgresql://" in said
    assert SECRET not in said


def test_a_url_of_another_kind(capsys):
    """A URL that no ledger can have is wrong usage, and is not shown."""
    assert 2 == main(["report", "--ledger", f"mysql://user:{SECRET}@host/db"])
    said = capsys.readouterr().err
    assert "not a mysql:// URL" in said
    assert SECRET not in said


def test_doctor(filled):
    """doctor asks the server, and says what it has."""
    (finding,) = on_ledger(filled)
    assert not finding.problem
    assert "can be written, and has 3 requests" in finding.text
    assert SECRET not in finding.text


def test_reconcile(url, tmp_path, monkeypatch, capsys):
    """A provider's bill is set beside a server's ledger as beside a file's."""
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-none")
    calls = [bill_call() for _ in range(3)]
    with SQLLedger(url) as ledger:
        for record in calls:
            ledger(record)
    said = []
    with BillServer() as server:
        server.pages = openai_pages(openai_day(3), openai_day(1, day=1))
        for name in (url, str(fill(tmp_path / "ledger.db", *calls))):
            window = ["--since", "2026-03-10", "--until", "2026-03-12", "--base-url", server.url]
            said.append((main(["reconcile", "openai", "--ledger", name, *window]), *capsys.readouterr()))

    assert said[1] == (said[0][0], said[0][1].replace(f"postgres (schema {url.rpartition('=')[2]})", "ledger.db"), "")
