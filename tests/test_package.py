import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from langchain_openai import ChatOpenAI
from llama_index.llms.openai import OpenAI

import token_handlers

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OPTIONAL = [
    "langchain",
    "langchain_core",
    "langchain_openai",
    "langgraph",
    "llama_index",
    "llama_index_instrumentation",
    "openai",
    "opentelemetry",
    "psycopg",
    "redis",
    "rich",
    "tiktoken",
]
PUBLIC = [
    "Budget",
    "BudgetExceeded",
    "ConversationTracker",
    "LangChainTokenHandler",
    "LlamaIndexTokenHandler",
    "MissingDependency",
    "SQLLedger",
    "SQLiteLedger",
    "TokenCounter",
    "TokenHandlersError",
    "Usage",
    "UsageRecord",
    "UsageTotals",
    "add_sink",
    "conversation_tracker",
    "estimate",
    "get_llm_token_usage_for_session",
    "get_openai_callback",
    "install",
    "record_cost",
    "remove_sink",
    "report_stream_usage",
    "set_price",
    "shared_counter",
    "track_tokens",
    "uninstall",
    "usage_from_payload",
]


ON_DEMAND = {"LangChainTokenHandler", "LlamaIndexTokenHandler", "conversation_tracker"}
"""What `import *` leaves out: it needs a framework, or is made when it is asked for."""


def check_import(*hidden):
    """Run check_import.py in a fresh interpreter, outside of any automatic tracking, and return its report."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSIGHT_")}
    command = [sys.executable, "-P", ROOT / "tests" / "check_import.py", *hidden]
    done = subprocess.run(
        command, env=environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100, check=False
    )
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


def test_namespace():
    """dir() shows exactly the public names; `import *` has those that need no framework."""
    assert PUBLIC == dir(token_handlers)
    assert set(PUBLIC) - ON_DEMAND == set(token_handlers.__all__)


def test_help_begins_with_the_ways_in():
    """help(token_handlers) begins with a block, a whole process and a handler."""
    text = token_handlers.__doc__
    ways = [text.index(way) for way in ("with track_tokens()", "import token_handlers.auto", "LangChainTokenHandler()")]

    assert sorted(ways) == ways


def test_modules_are_attributes():
    """Importing the package alone imports no other module, and its modules are there as attributes all the same."""
    program = (
        "import sys, token_handlers; print([name for name in sys.modules if name.startswith('token_handlers.')]);"
        "import token_handlers.install; print(token_handlers.pricing.__name__, type(token_handlers.install).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)

    assert ["[]", "token_handlers.pricing function"] == done.stdout.splitlines()


def test_an_old_python():
    """Where Python is too old, importing says so and which is needed."""
    program = "import sys; sys.version_info, sys.version = (3, 10, 4), '3.10.4 (main)'; import token_handlers"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)

    assert "ImportError: token_handlers needs Python 3.11 or newer; this is 3.10.4" == done.stderr.splitlines()[-1]


def test_a_name_that_is_not_there():
    """What the package does not have is an AttributeError that names it."""
    with pytest.raises(AttributeError, match="module 'token_handlers' has no attribute 'LangChainHandler'"):
        getattr(token_handlers, "LangChainHandler")  # noqa: B009 (as a name that mypy does not know)


def test_models_of_both_frameworks_are_made_to_report():
    """report_stream_usage takes a model of either framework, and refuses what is none."""
    chat = token_handlers.report_stream_usage(ChatOpenAI(model="gpt-4o-mini", api_key="none", base_url="http://a"))
    llm = token_handlers.report_stream_usage(OpenAI(model="gpt-4o-mini", api_key="none"))

    assert chat.stream_usage is True
    assert {"include_usage": True} == llm.additional_kwargs["stream_options"]
    with pytest.raises(TypeError, match="report_stream_usage takes a LangChain chat model or LLM, not str"):
        token_handlers.report_stream_usage("gpt-4o-mini")


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    """A public name is documented where it is defined."""
    assert getattr(token_handlers, name).__doc__


def test_import_with_every_extra():
    """Importing the package loads no framework, price table, HTTP client, store, exporter or tokenizer, and every
    module of it imports.
    """
    assert {"loaded": [], "missing": {}} == check_import()


def test_import_without_extras():
    """Without the extras the package and its core import all the same; a module that cannot do without one raises
    MissingDependency with the pip line of an extra that exists.
    """
    report = check_import(*OPTIONAL)
    asked_for = {
        text.split("pip install 'token-handlers[")[1].removesuffix("]'") for text in report["missing"].values()
    }

    assert [] == report["loaded"]
    assert set() == asked_for - set(EXTRAS)


def test_wheel_is_typed():
    """The wheel holds py.typed, and nothing beside the package."""
    files = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}

    assert "token_handlers/py.typed" in files
    assert {"token_handlers"} == {file.partition("/")[0] for file in files}
