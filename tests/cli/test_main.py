import json
import re
import sys
from decimal import Decimal
from types import SimpleNamespace
from urllib.request import Request, urlopen

import pytest

from token_handlers.cli.main import COMMANDS, main
from token_handlers.demo.run import CALLS
from token_handlers.tracking.recorder import _unreported as warned_of

# LlamaIndex's agents look at every attribute of pydantic's, and at one of their own; its engines leave a loop open
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def test_demo(capsys):
    """The first line says what comes, progress comes before the table, whose rows equal the server's ledger; the one
    warning and what to do next come last.
    """
    warned_of.forget()
    status = main(["demo"])
    output, progress = capsys.readouterr()
    lines = output.splitlines()
    rows = {line[:22].strip(): line.split() for line in lines}
    billed = [line.split()[-4:] for line in lines if "the server billed" in line]

    assert 0 == status
    assert "14 calls of real clients against an embedded server" in progress.splitlines()[0]
    assert ["  LangChain:", "  LlamaIndex:"] == [line[: line.index(":") + 1] for line in progress.splitlines()[1:]]
    assert re.search(r"Total cost: \$0\.\d+", output)
    assert "Every reported token equals the server's ledger" in output
    assert max(map(len, [*lines, *progress.splitlines()])) <= 80
    assert [rows["reported to us"][-4:], rows["our estimates"][-4:][:1]] == [billed[0], billed[1][:1]]
    assert rows["Total"][1] == str(sum(int(row[0]) for row in billed)) == "14"
    assert output.index("Total") < output.index("reported no usage") < output.index("What next:")
    assert "  any program       token-handlers run your_app.py" in lines


def test_demo_as_json(capsys):
    """--json has the totals as other commands have them, and the comparison, on standard output alone."""
    status = main(["demo", "--json"])
    told = json.loads(capsys.readouterr().out)
    ours, theirs = (told["comparison"]["reported"][name] for name in ("token_handlers", "server"))

    assert (0, True, "model") == (status, told["comparison"]["equal"], told["by"])
    assert Decimal(told["total"]["cost"]) > 0
    assert ours == theirs
    assert told["total"]["successful_requests"] == ours["requests"] + 1
    assert sum(group["prompt_tokens"] for group in told["groups"].values()) == told["total"]["prompt_tokens"]


def test_every_command_has_json(capsys):
    """Whatever a command says, it says as JSON too."""
    for name in set(COMMANDS) - {"guide"}:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert "--json" in capsys.readouterr().out


def ask_directly(base_url, api_key):
    """Ask the server past everything that is watched, so that nobody records it."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
    with urlopen(Request(f"{base_url}/chat/completions", json.dumps(body).encode(), headers)) as answer:
        answer.read()


def test_a_demo_that_differs(monkeypatch, capsys):
    """When a call is not recorded, the demo says so and fails."""
    monkeypatch.setattr("token_handlers.demo.run.CALLS", {"unrecorded_calls": "past both", **CALLS})
    monkeypatch.setitem(sys.modules, "token_handlers.demo.unrecorded_calls", SimpleNamespace(make_calls=ask_directly))

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


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["reportt"], "report"),
        (["report", "--ledgre", "x.db"], "--ledger"),
        (["sessions", "--sinc", "7d", "--jsno"], "--json"),
        (["guide", "recipe"], "recipes"),
    ],
)
def test_did_you_mean(arguments, meant, capsys):
    """A misspelt command, choice or option is answered with the one that is like it."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert 2 == caught.value.code
    assert capsys.readouterr().err.rstrip().endswith(f"did you mean {meant}?")


def test_version(capsys):
    """--version names the distribution and its version."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])

    assert 0 == caught.value.code
    assert re.fullmatch(r"token-handlers \d+\.\d+\.\d+\n", capsys.readouterr().out)
