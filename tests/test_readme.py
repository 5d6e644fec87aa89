import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
# What the README takes for granted, as its readers have it.
GIVEN = """
import warnings
warnings.simplefilter("ignore")  # LlamaIndex's bridge imports langchain-community, which announces its sunset
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
model = ChatOpenAI(model="gpt-4o-mini")
embeddings = OpenAIEmbeddings(model="text-embedding-3-small")
"""


def test_the_quick_start_is_two_lines():
    """The first two sh blocks are one command each: the demo, and the tests."""
    commands = [text.strip() for kind, text in BLOCKS if kind == "sh"][:2]

    assert [1, 1] == [len(command.splitlines()) for command in commands]
    assert "token-handlers demo" in commands[0]
    assert "pytest" in commands[1]


@pytest.fixture
def environ(ledger):
    """The environment of someone whose OpenAI is the test's channel."""
    url = ledger.url()
    return {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": url, "OPENAI_API_BASE": url}


def test_python_blocks_run(ledger, environ, tmp_path):
    """Every Python block runs, one after the other, and what it prints is neither nothing nor zero."""
    script = "\n".join([GIVEN, *(text for kind, text in BLOCKS if kind == "python")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert ledger.total().requests > 5
    assert re.match(r"\d+ \d", done.stdout)
    assert "Total Cost (USD): $0.0\n" not in done.stdout
