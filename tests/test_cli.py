import re

import pytest

from token_handlers.cli import main


def test_demo(capsys):
    """The demo makes its calls, prints totals and cost, and its totals equal the server's ledger."""
    status = main(["demo"])
    output = capsys.readouterr().out

    assert 0 == status
    assert re.search(r"Total Cost \(USD\): \$0\.\d+", output)
    assert "Every reported token equals the server's ledger" in output
    assert max(map(len, output.splitlines())) <= 80


def test_a_demo_that_differs(monkeypatch, capsys):
    """When a record is lost, the demo says so and fails."""
    from token_handlers import recording

    monkeypatch.setattr(recording, "starts_count", lambda framework: False)
    monkeypatch.setattr(recording, "is_tracking", lambda framework: False)

    assert 1 == main(["demo"])
    assert "DIFFER" in capsys.readouterr().out


def test_a_live_demo_needs_a_key(capsys):
    """--live without a key is one line with the remedy."""
    assert 2 == main(["demo", "--live"])
    assert "token-handlers: demo --live needs an OpenAI key: set OPENAI_API_KEY\n" == capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["demo", "--nonsense"]])
def test_wrong_usage(arguments, capsys):
    """Wrong usage exits with 2 and says what is expected."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert 2 == caught.value.code
    assert "usage: token-handlers" in capsys.readouterr().err


def test_version(capsys):
    """--version names the distribution and its version."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])

    assert 0 == caught.value.code
    assert re.fullmatch(r"token-handlers \d+\.\d+\.\d+\n", capsys.readouterr().out)
