import json

import pytest

from tests.support.redis_servers import Valkey, free_port
from tests.support.usage_ledgers import fill
from token_handlers.cli import findings, main, trials


@pytest.fixture
def doctor(capsys):
    """Return what runs doctor and gives its status and what it found."""

    def run(*arguments):
        status = main(["doctor", "--json", *arguments])
        return status, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def installed(monkeypatch):
    """Return what sets the versions of packages, None for one that is missing."""
    real = findings.versions()

    def change(versions):
        monkeypatch.setattr(findings, "versions", lambda: {**real, **versions})

    return change


def test_as_text(capsys):
    """Without settings it is no problem, and says in 80 columns what is installed and why a count may be zero."""
    assert 0 == main(["doctor"])
    output = capsys.readouterr().out

    assert max(map(len, output.splitlines())) <= 80
    assert "no ledger: AGENTSIGHT_TOKEN_LEDGER is not set" in output
    assert "Why a count may be zero\n  - Nothing is tracked" in output


def test_no_secret_is_shown(doctor, monkeypatch):
    """Of variables that may hold a secret it is only said that they are set."""
    for name in ("AGENTSIGHT_API_KEY", "AGENTSIGHT_TOKEN_REDIS_URL", "OPENAI_API_KEY", "AGENTSIGHT_ANYTHING"):
        monkeypatch.setenv(name, "sesame")
    monkeypatch.setenv("AGENTSIGHT_TOKEN_HANDLER_TYPE", "langchain")
    _, found = doctor()

    assert "sesame" not in json.dumps(found)
    assert "(set, 6 characters)" == found["environment"]["AGENTSIGHT_API_KEY"]
    assert "langchain" == found["environment"]["AGENTSIGHT_TOKEN_HANDLER_TYPE"]


@pytest.mark.parametrize(
    ("versions", "handler_type", "problem"),
    [
        ({"langchain-core": None, "llama-index-core": None}, "", "neither LangChain nor LlamaIndex is installed"),
        ({"langchain-core": "0.2.43"}, "", "langchain-core 0.2.43 is too old: pip install 'langchain-core>=0.3'"),
        ({"llama-index-core": None}, "llamaindex", "llama-index-core is not installed: pip install"),
        ({}, "nonsense", "'nonsense' is no handler type"),
    ],
)
def test_problems(versions, handler_type, problem, doctor, installed, monkeypatch):
    """A problem names its remedy, and makes the status 1."""
    installed(versions)
    monkeypatch.setenv("AGENTSIGHT_TOKEN_HANDLER_TYPE", handler_type)
    status, found = doctor()

    assert 1 == status
    assert problem in found["problems"][0]


@pytest.mark.parametrize(
    ("version", "note"), [("0.0.44", "its own automatic handlers never attach"), ("0.1.4", "counts twice")]
)
def test_another_tracker(version, note, doctor, installed):
    """AgentSight's SDK is named where it is installed, with what it does."""
    installed({"agentsight": version})
    status, found = doctor()

    assert 0 == status
    assert any(note in each for each in found["notes"])


def test_trial_calls(doctor):
    """A call of each framework that is installed is made and counted."""
    _, found = doctor()

    assert ["langchain-core", "llama-index-core"] == [note.split()[4] for note in found["notes"] if "trial" in note]


def fail_to_import():
    """Stand for a framework that is broken."""
    raise ImportError("no such thing")


@pytest.mark.parametrize(
    ("call", "problem"),
    [(lambda: None, "was not counted: upgrade"), (fail_to_import, "can't be imported: no such thing")],
)
def test_trial_calls_that_fail(call, problem, doctor, monkeypatch):
    """A trial call that is not counted, or not possible, is a problem."""
    monkeypatch.setitem(trials.CALLS, "langchain-core", call)
    status, found = doctor()

    assert 1 == status
    assert problem in found["problems"][0]


def test_what_is_tracked(doctor, monkeypatch):
    """The handler type that is set is said to be what is tracked."""
    monkeypatch.setenv("AGENTSIGHT_TOKEN_HANDLER_TYPE", "auto")
    _, found = doctor()

    assert any("langchain calls are tracked" in note for note in found["notes"])


def test_a_ledger_that_is_there(doctor, tmp_path):
    """Of a ledger it says that it can be written, and how much is in it."""
    status, found = doctor("--ledger", str(fill(tmp_path / "ledger.db")))

    assert 0 == status
    assert any("can be written, and has 3 requests" in note for note in found["notes"])


def test_a_ledger_that_is_not_yet_there(doctor, tmp_path):
    """A ledger that is not there is not made."""
    status, found = doctor("--ledger", str(tmp_path / "folder" / "ledger.db"))

    assert 0 == status
    assert any("will be made" in note for note in found["notes"])
    assert [] == list(tmp_path.iterdir())


def test_ledgers_that_can_not_be(doctor, tmp_path):
    """A path at which no ledger can be is a problem."""
    other = tmp_path / "other.txt"
    other.write_text("hello" * 1000, "utf-8")
    (first, found), (second, inside) = doctor("--ledger", str(other)), doctor("--ledger", str(other / "ledger.db"))

    assert (1, 1) == (first, second)
    assert "can't be used" in found["problems"][0]
    assert "can't be made" in inside["problems"][0]


def test_a_fleets_server(doctor, monkeypatch):
    """The server that AGENTSIGHT_TOKEN_REDIS_URL names is asked; what it is called is said without its password."""
    with Valkey() as valkey:
        monkeypatch.setenv("AGENTSIGHT_TOKEN_REDIS_URL", valkey.url)
        status, found = doctor()
        assert 0 == status
        assert any(f"127.0.0.1:{valkey.port}" in note and "answers" in note for note in found["notes"])

    monkeypatch.setenv("AGENTSIGHT_TOKEN_REDIS_URL", f"redis://:sesame@127.0.0.1:{free_port()}")
    status, found = doctor()
    assert 1 == status
    assert "AGENTSIGHT_TOKEN_REDIS_URL: " in found["problems"][0]
    assert "sesame" not in json.dumps(found)


def test_the_price_tables_age(doctor):
    """It says how old the price table is, by its newest rate."""
    _, found = doctor()
    (note,) = [note for note in found["notes"] if note.startswith("prices are ")]

    assert ": its newest rate is of 20" in note


def test_a_misspelt_price_setting(doctor, monkeypatch):
    """A setting that says nothing of where prices come from is a problem."""
    monkeypatch.setenv("AGENTSIGHT_TOKEN_PRICES", "yes")
    status, found = doctor()

    assert 1 == status
    assert ["AGENTSIGHT_TOKEN_PRICES is 'auto', 'off' or an https URL, not 'yes'"] == found["problems"]


def test_what_is_not_seen(doctor, tmp_path, monkeypatch):
    """Installed packages that ask models by gRPC, or run them in the process, are named."""
    for name in ("xai_sdk", "llama_cpp_python"):
        folder = tmp_path / f"{name}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.2\n", "utf-8"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    status, found = doctor()

    assert 0 == status
    assert any("xai-sdk 1.2" in note and "by gRPC" in note for note in found["notes"])
    assert any("llama-cpp-python 1.2" in note and "in the process" in note for note in found["notes"])
