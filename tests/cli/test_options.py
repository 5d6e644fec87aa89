import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.usage_ledgers import CALLS, fill
from token_handlers.cli import main


@pytest.fixture
def path(tmp_path):
    """Return a ledger with a call of ten minutes ago, and one of ten days ago."""
    now = datetime.now(UTC)
    calls = [
        CALLS[0].model_copy(update={"event_id": f"ago-{minutes}", "started_at": now - timedelta(minutes=minutes)})
        for minutes in (10, 10 * 24 * 60)
    ]
    return fill(tmp_path / "ledger.db", *calls)


@pytest.mark.parametrize(
    ("window", "requests"),
    [
        (["--since", "1h"], 1),
        (["--since", "7d"], 1),
        (["--since", "2w"], 2),
        (["--until", "7d"], 1),
        (["--since", "2w", "--until", "1d"], 1),
        (["--since", "yesterday"], 1),
    ],
)
def test_times_ago(window, requests, path, capsys):
    """--since and --until take how long ago, and days by their name."""
    assert 0 == main(["report", "--json", "--ledger", str(path), *window])

    assert requests == json.loads(capsys.readouterr().out)["total"]["successful_requests"]


def test_a_window_without_calls(path, capsys):
    """A window in which there is no call says so, and when there were calls."""
    assert 0 == main(["report", "--ledger", str(path), "--until", "2020-01-01"])
    first = (datetime.now(UTC) - timedelta(days=10)).date().isoformat()

    assert (
        f"token-handlers: no call until 2020-01-01: the ledger's calls are from {first} to " in capsys.readouterr().err
    )


@pytest.mark.parametrize("command", [["report"], ["sessions"], ["export", "--csv"], ["reprice"]])
def test_a_window_that_ends_before_it_begins(command, path, capsys):
    """A window that ends before it begins is wrong usage."""
    assert 2 == main([*command, "--ledger", str(path), "--since", "2026-11-02", "--until", "2026-11-01"])

    assert "--since 2026-11-02 is not before --until 2026-11-01" in capsys.readouterr().err


def test_a_ledgers_url(tmp_path, capsys, monkeypatch):
    """A URL is no ledger: nothing is made, and the error says what one is."""
    monkeypatch.chdir(tmp_path)
    assert 2 == main(["report", "--ledger", "sqlite:///usage.db"])

    assert "a ledger is a file's path, or a postgresql:// URL, not a sqlite:// URL" in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())
