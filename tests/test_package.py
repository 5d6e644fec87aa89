import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

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
    "redis",
    "rich",
    "tiktoken",
]
PUBLIC = [
    "Budget",
    "BudgetExceeded",
    "ConversationTracker",
    "MissingDependency",
    "TokenCounter",
    "TokenHandlersError",
    "Usage",
    "UsageRecord",
    "UsageTotals",
    "add_sink",
    "get_llm_token_usage_for_session",
    "get_openai_callback",
    "install",
    "remove_sink",
    "set_price",
    "shared_counter",
    "track_tokens",
    "uninstall",
    "usage_from_payload",
]


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
    """The package exports exactly its public names, and dir() shows them."""
    assert PUBLIC == sorted(token_handlers.__all__)
    assert set() == set(PUBLIC) - set(dir(token_handlers))


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
