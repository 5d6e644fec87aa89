import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bill_pages import call, openai_cost, openai_day, openai_pages
from tests.support.bill_server import BillServer
from tests.support.guide_pages import blocks
from tests.support.usage_ledgers import fill
from token_handlers import guide
from token_handlers.cli import main

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
# What the README takes for granted, as its readers have it.
GIVEN = """
import warnings
warnings.simplefilter("ignore")  # LlamaIndex's bridge imports langchain-community, which announces its sunset
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
model = ChatOpenAI(model="gpt-4o-mini")
embeddings = OpenAIEmbeddings(model="text-embedding-3-small")
"""
FLEET_TOLD = """
model.invoke("Hello"), fleet.flush(10)
print(fleet.totals().successful_requests, fleet.spent("shop").spent)
"""
LEDGER_TOLD = """
model.invoke("Hello"), shared.flush(10)
print(shared.totals() == local.totals(), len(list(shared.records())))
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


def run(script, environ, folder):
    """Run a script as its readers do, and return how it ended."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_python_blocks_run(ledger, environ, tmp_path, valkey, postgres, schema):
    """Every Python block runs, one after the other, and prints what the block of text below it shows; then what the
    guide says of a fleet counts a call on a real server, and what it says of a fleet's ledger keeps one there, and in
    the file beside it.
    """
    kinds = [kind for kind, _ in BLOCKS]
    python = [number for number, kind in enumerate(kinds) if kind == "python"]
    shown = {number: BLOCKS[number + 1][1] for number in python if kinds[number + 1 : number + 2] == ["text"]}
    fleets, ledgers = blocks(guide.page("scaling"))
    more = [
        fleets.replace("redis://localhost:6379", valkey.url) + FLEET_TOLD,
        ledgers.replace("postgresql://usage@localhost:5432/usage", f"{postgres.url}?schema={schema}").replace(
            "usage.db", "fleet.db"
        )
        + LEDGER_TOLD,
    ]
    end = "\nprint(end='\\x1e')\n"
    done = run(GIVEN + end.join([*(BLOCKS[number][1] for number in python), *more, ""]), environ, tmp_path)
    *printed, of_fleet, of_ledger, _ = done.stdout.split("\x1e")
    printed = dict(zip(python, printed, strict=True))

    assert (0, "") == (done.returncode, done.stderr)
    assert ledger.total().requests > 5
    assert len(shown) > 4
    assert shown == {number: printed[number] for number in shown}
    assert re.match(r"1 Amounts\(cost=Decimal\('0\.0", of_fleet)
    assert "True 1\n" == of_ledger


def test_the_bill(tmp_path, monkeypatch, capsys):
    """What the README shows of a bill is what the command prints, line by line."""
    (shown,) = [text for kind, text in BLOCKS if kind == "console" and "reconcile" in text]
    command, *lines = shown.splitlines()
    costs, usage = openai_day(240)
    costs["results"].append(openai_cost(0.03, "web search tool calls | gpt-5-mini", 3))
    fill(tmp_path / "usage.db", *(call(project="proj_a") for _ in range(240)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-1")
    with BillServer() as server:
        server.pages = openai_pages((costs, usage), openai_day(52, project="proj_b"))
        status = main([*shlex.split(command)[2:], "--base-url", server.url])
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    assert 1 == status
    assert lines == [line for line in printed if line in lines]


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "token_handlers" / "guide").glob("*.md"))])
def test_links_lead_somewhere(path):
    """A link is to a file that is there, or to a heading of the page itself."""
    text = path.read_text("utf-8")
    headings = [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines()]
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]

    assert links
    for link in links:
        assert link[1:] in headings if link.startswith("#") else (path.parent / link).is_file(), link


def test_every_page_of_the_guide_is_linked():
    """The README leads to each page that `token-handlers guide` prints."""
    text = (ROOT / "README.md").read_text("utf-8")

    assert all(f"(token_handlers/guide/{page}.md)" in text for page in guide.PAGES)
