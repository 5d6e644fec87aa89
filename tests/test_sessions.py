import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bills import forget_open_calls, record
from token_handlers import add_sink, record_cost, remove_sink, shared_counter, track_tokens
from token_handlers.conversation import ConversationTracker
from token_handlers.sessions import get_llm_token_usage_for_session
from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.tracking.call import Call

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _anew():
    """Nothing is counted yet."""
    forget_open_calls()
    shared_counter().reset()


def call(sent=441, received=106, operation="chat", model="gpt-4o", provider="openai", **fields):
    """Make one call, here."""
    made = Call()
    made.operation = operation
    made.provider = provider
    record(made, {"input_tokens": sent, "output_tokens": received}, model=model, **fields)


def entry(provider, model, sent, received):
    """Return what is said of a model."""
    return {
        "llmDisplayName": f"{provider} - {model}",
        "providerType": provider,
        "modelType": model,
        "usage": {"inputTokens": sent, "outputTokens": received},
    }


def test_cognigys_form():
    """Each model of the session has its tokens, embedding models outputTokens 0; other sessions are not in it."""
    with track_tokens(session="s"):
        call()
        call(1, 2)
        call(6, 0, "embeddings", "text-embedding-3-large")
        call(5, 5, provider="azure")
    with track_tokens(session="s2"):
        call(9, 9)
    call(9, 9)

    assert {
        "openai/gpt-4o": entry("openai", "gpt-4o", 442, 108),
        "openai/text-embedding-3-large": entry("openai", "text-embedding-3-large", 6, 0),
        "azure/gpt-4o": entry("azure", "gpt-4o", 5, 5),
    } == get_llm_token_usage_for_session("s")


@pytest.mark.parametrize("session", ["never", "", "s\0"])
def test_an_unknown_session(session):
    """A session that nothing was recorded for is None."""
    with track_tokens(session="s"):
        call()

    assert get_llm_token_usage_for_session(session) is None


def test_strange_names():
    """Sessions and models may be called anything; one without a known provider stands by its own name."""
    with track_tokens(session="a"):
        call(1, 1, provider=None, model=None)
    with track_tokens(session="a\0b"):
        call(2, 2, model="org/model:free")

    assert {
        "(unknown)": {
            "llmDisplayName": "(unknown)",
            "providerType": "unknown",
            "modelType": "(unknown)",
            "usage": {"inputTokens": 1, "outputTokens": 1},
        }
    } == get_llm_token_usage_for_session("a")
    assert ["openai/org/model:free"] == list(get_llm_token_usage_for_session("a\0b"))


def test_a_session_without_success_is_known():
    """A session whose calls failed, or came from a cache, is known, and has used nothing."""
    with track_tokens(session="s"):
        call(5, 0, outcome="failed")
        call(5, 5, outcome="cached")

    assert {"openai/gpt-4o": entry("openai", "gpt-4o", 0, 0)} == get_llm_token_usage_for_session("s")


def test_what_a_tracker_was_given():
    """A conversation is a session; what was tracked by hand has no model."""
    ConversationTracker("c1").track_token_usage(3, 2, embedding_tokens=7)

    assert {"inputTokens": 10, "outputTokens": 2} == get_llm_token_usage_for_session("c1")["(unknown)"]["usage"]


def test_the_active_blocks_session():
    """Without a session it is that of the block which is active, and outside of one an error."""
    with track_tokens(session="s"):
        call()
        assert entry("openai", "gpt-4o", 441, 106) == get_llm_token_usage_for_session()["openai/gpt-4o"]
    with pytest.raises(TypeError, match="session must be a string, not None: no block that is active here has one"):
        get_llm_token_usage_for_session()


def test_both_frameworks_calls_are_one_row(tmp_path):
    """A provider that the frameworks call by different names is one, in memory and in a ledger."""
    with SQLiteLedger(tmp_path / "ledger.db") as kept, track_tokens(session="s", sinks=[kept]):
        call(1, 2, provider="openai")
        call(10, 20, provider="OpenAI_LLM")
        call(5, 5, provider="my_own")
    expected = {"openai/gpt-4o": entry("openai", "gpt-4o", 11, 22), "my_own/gpt-4o": entry("my_own", "gpt-4o", 5, 5)}
    in_memory = get_llm_token_usage_for_session("s")
    shared_counter().reset()
    with SQLiteLedger(tmp_path / "ledger.db") as kept:
        in_ledger = get_llm_token_usage_for_session("s", ledger=kept)

    assert expected == in_memory == in_ledger


def test_labels_of_counters_are_as_before():
    """by_session has sessions alone."""
    with track_tokens(session="s") as counter:
        call()

    assert ["s"] == list(counter.by_session)


def test_a_session_is_a_string():
    """What is no string is refused; None would be all sessions."""
    with pytest.raises(TypeError, match="session must be a string, not None"):
        get_llm_token_usage_for_session(None)


@pytest.mark.parametrize("how", ["process", "argument"])
def test_after_a_restart_the_ledger_answers(tmp_path, how):
    """A session of the past is answered from the ledger; one that goes on is all of it, and nothing twice."""
    with SQLiteLedger(tmp_path / "ledger.db") as kept, track_tokens(session="s", sinks=[kept]):
        call()
        call(6, 0, "embeddings", "text-embedding-3-large")
    shared_counter().reset()
    assert get_llm_token_usage_for_session("s") is None

    with SQLiteLedger(tmp_path / "ledger.db") as kept:
        if how == "process":
            add_sink(kept)
        asked = {"ledger": kept} if how == "argument" else {}
        assert entry("openai", "gpt-4o", 441, 106) == get_llm_token_usage_for_session("s", **asked)["openai/gpt-4o"]
        with ConversationTracker("s", sink=kept):
            call(1, 2)
        found = get_llm_token_usage_for_session("s", **asked)
        remove_sink(kept)

    assert {
        "openai/gpt-4o": entry("openai", "gpt-4o", 442, 108),
        "openai/text-embedding-3-large": entry("openai", "text-embedding-3-large", 6, 0),
    } == found


SCRIPT = """
import sys
from token_handlers.conversation import ConversationTracker
from token_handlers.sessions import get_llm_token_usage_for_session
print(get_llm_token_usage_for_session("s"))
ConversationTracker("s").track_token_usage(3, 2)
"""


def test_the_environments_ledger(tmp_path):
    """AGENTSIGHT_TOKEN_LEDGER is enough for a process to know what the one before it has used."""
    environ = {"PYTHONPATH": str(ROOT), "AGENTSIGHT_TOKEN_LEDGER": str(tmp_path / "ledger.db")}
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    outputs = [
        subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout for _ in range(3)
    ]

    assert "None" == outputs[0].strip()
    assert "'inputTokens': 3, 'outputTokens': 2" in outputs[1]
    assert "'inputTokens': 6, 'outputTokens': 4" in outputs[2]


def test_what_tools_cost_is_no_model(tmp_path):
    """What a tool cost by itself is no model's usage, in memory and in a ledger."""
    with SQLiteLedger(tmp_path / "usage.db") as ledger, track_tokens(session="s-tools", sinks=[ledger]):
        call()
        record_cost("search API", "0.005")
        ledger.flush(30)

        assert {"openai/gpt-4o": entry("openai", "gpt-4o", 441, 106)} == get_llm_token_usage_for_session(
            "s-tools", ledger=ledger
        )
