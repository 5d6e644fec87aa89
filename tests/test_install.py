import subprocess
import sys
from pathlib import Path

import cohere
import httpx
import pytest
from langchain_openai import ChatOpenAI
from openai import OpenAI
from openai._base_client import SyncAPIClient

from token_handlers import Budget, install, track_tokens, uninstall
from token_handlers.http import tapped
from token_handlers.langchain import LangChainTokenHandler
from token_handlers.tracking.state import state

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _stopped():
    """Stop automatic tracking after each test."""
    yield
    uninstall()


@pytest.mark.parametrize(
    ("handler_type", "tracked"),
    [
        ("langchain", {"langchain"}),
        ("LlamaIndex", {"llamaindex"}),
        (" langchain , llamaindex ", {"langchain", "llamaindex"}),
        ("auto", {"langchain", "llamaindex", "sdk"}),
    ],
)
def test_handler_types(handler_type, tracked):
    """A type, both by a comma, and 'auto'; case and blanks do not matter; twice is the same as once."""
    install(handler_type)
    install(handler_type)

    assert tracked == state.automatic


@pytest.mark.parametrize("junk", ["", " ", "langsmith", "langchain;llamaindex", "langchain,", "auto,langchain"])
def test_an_unknown_type_is_refused(junk):
    """Anything else is a ValueError that names it and lists the valid ones, and changes nothing."""
    with pytest.raises(ValueError, match="'langchain', 'llamaindex', 'langchain,llamaindex' or 'auto'") as caught:
        install(junk)

    assert repr(junk) in str(caught.value)
    assert set() == state.automatic


def test_a_type_that_is_no_string():
    """A type that is no string is a TypeError that names it."""
    with pytest.raises(TypeError, match="not 3"):
        install(3)


@pytest.mark.parametrize(("value", "tracked"), [("langchain", {"langchain"}), ("", set()), (None, set())])
def test_the_environment(monkeypatch, value, tracked):
    """install() reads AGENTSIGHT_TOKEN_HANDLER_TYPE when it is called; unset or empty is nothing."""
    if value is not None:
        monkeypatch.setenv("AGENTSIGHT_TOKEN_HANDLER_TYPE", value)
    install()

    assert tracked == state.automatic


def test_an_unknown_type_in_the_environment(monkeypatch):
    """A misspelt variable is an error that names it."""
    monkeypatch.setenv("AGENTSIGHT_TOKEN_HANDLER_TYPE", "langchian")
    with pytest.raises(ValueError, match=r"'langchian' is no handler type: AGENTSIGHT_TOKEN_HANDLER_TYPE"):
        install()


def run(script, **environ):
    """Run a script in a fresh interpreter and return its output and its errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={"PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout.strip(), done.stderr.strip()


HIDE = """
import sys
class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("langchain_core", "llama_index"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden)
"""


def test_a_missing_framework_is_one_warning():
    """A framework that is not installed gives one warning with the pip line, and no tracker; 'auto' says nothing."""
    script = f"""{HIDE}
from token_handlers import install
from token_handlers.tracking.state import state
install("auto")
install("langchain")
install("langchain,llamaindex")
print(state.automatic)
"""
    output, errors = run(script)

    assert "{'sdk'}" == output
    assert 2 == len(errors.splitlines())
    assert "pip install 'token-handlers[langchain]'" in errors.splitlines()[0]
    assert "pip install 'token-handlers[llamaindex]'" in errors.splitlines()[1]


def test_importing_auto_without_the_variable():
    """It turns nothing on."""
    script = "import token_handlers.auto; from token_handlers.tracking.state import state; print(state.automatic)"
    assert ("set()", "") == run(script)


def test_a_model_that_needs_no_embeddings():
    """A program that imports nothing of LangChain's before its first model is tracked, and its call answered."""
    script = """
import token_handlers
token_handlers.install("langchain")
from langchain_core.language_models import FakeListChatModel
FakeListChatModel(responses=["yes"]).invoke("there?")
print(token_handlers.shared_counter().successful_requests)
"""
    assert "1" == run(script)[0]


READERS = {
    "shared_counter": "token_handlers.shared_counter().total_tokens",
    "session": "token_handlers.get_llm_token_usage_for_session('s')",
}


@pytest.mark.parametrize("reader", READERS)
def test_a_variable_that_nothing_reads(reader):
    """Where the variable is set and nothing has read it, whoever reads what the process used gets one warning."""
    script = f"import token_handlers\nfor _ in range(2):\n    {READERS[reader]}"
    _, errors = run(script, AGENTSIGHT_TOKEN_HANDLER_TYPE="langchain")

    assert 1 == len(errors.splitlines())
    assert "AGENTSIGHT_TOKEN_HANDLER_TYPE is 'langchain', but nothing in this process reads it" in errors
    assert "`import token_handlers.auto`" in errors


def test_a_variable_that_is_read_or_not_set():
    """Nothing is said of it."""
    script = "\n".join(["import token_handlers", *READERS.values()])

    assert ("", "") == run(script)
    assert ("", "") == run(f"import token_handlers.auto\n{script}", AGENTSIGHT_TOKEN_HANDLER_TYPE="langchain")


def test_uninstall_leaves_the_dispatcher_as_it_was():
    """LlamaIndex's dispatcher has the user's handlers alone before and after, in whatever order things are undone."""
    from llama_index_instrumentation import get_dispatcher

    uninstall()
    root = get_dispatcher()
    before = list(root.event_handlers), list(root.span_handlers)
    for _ in range(2):
        install("llamaindex")
        assert (len(before[0]) + 1, len(before[1]) + 1) == (len(root.event_handlers), len(root.span_handlers))
        uninstall()
        assert before == (root.event_handlers, root.span_handlers)


def test_uninstall_leaves_clients_as_they_were():
    """HTTP clients, SDKs and their threads have their own methods again; the next block wraps them anew."""
    uninstall()
    clients = (httpx.Client, "send"), (SyncAPIClient, "request"), (cohere.Client, "embed")
    before = [vars(owner)[name] for owner, name in clients]
    for _ in range(2):
        install("auto", budget=Budget(max_requests=1))
        assert all(vars(owner)[name] is not own for (owner, name), own in zip(clients, before, strict=True))
        uninstall()
        assert before == [vars(owner)[name] for owner, name in clients]


def test_the_events_alone(ledger):
    """With http=False no client is wrapped, and what an SDK asks by itself is not counted, until uninstall()."""
    with track_tokens() as tokens:
        install("auto", http=False)
        ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), api_key="sk-1").invoke("hello")
        OpenAI(base_url=ledger.url(), api_key="sk-1").chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}]
        )
        seen = tapped()
        uninstall()

        assert ([], 1, 2) == (seen, tokens.successful_requests, len(ledger.entries()))
        assert "httpx.Client.send" in tapped()


def test_a_handler_outlives_uninstall(ledger):
    """A handler goes on seeing the provider's answer, and so the exact usage of a stream that LangChain drops."""
    handler = LangChainTokenHandler()
    uninstall()
    model = ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(close=1, usage="every"), api_key="none")
    list(model.stream("Hello", config={"callbacks": [handler]}))

    assert ["httpx.Client.send"] == [name for name in tapped() if name == "httpx.Client.send"]
    assert (1, 0) == (handler.successful_requests, handler.estimated_requests)
    uninstall()


def test_a_block_outlives_uninstall():
    """uninstall() inside a block leaves what the block needs."""
    from llama_index_instrumentation import get_dispatcher

    root = get_dispatcher()
    with track_tokens():
        attached = list(root.event_handlers)
        uninstall()
        assert attached == root.event_handlers
    uninstall()
    assert len(attached) - 1 == len(root.event_handlers)
