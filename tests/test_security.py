import functools
import gc
import html
import io
import logging
import os
import stat
import subprocess
import sys
import tomllib
import types
from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
import redis
from packaging.requirements import Requirement

from tests.support.agentsight_api import KEY, AgentSightAPI
from tests.support.command_line import run_command
from tests.support.everything import SECRETS, Everything, drive
from tests.support.redis_servers import Valkey
from tests.support.usage_ledgers import fill
from token_handlers import TokenCounter, UsageRecord
from token_handlers.errors import raise_faults
from token_handlers.reporting.notebook import counter_html
from token_handlers.reporting.package_data import read_data
from token_handlers.sinks.agentsight import AgentSightClient
from token_handlers.sinks.agentsight.outbox import TokenCounts
from token_handlers.sinks.sqlite import SQLiteLedger

MARKUP = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def seen(server, tmp_path_factory):
    """All that the package writes, logs, shows and raises while everything is driven: place -> text."""
    folder, texts = tmp_path_factory.mktemp("everything"), {}
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("token_handlers")
    level, umask = logger.level, os.umask(0)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    raise_faults(False)  # an application finds them in its log
    try:
        with AgentSightAPI() as api, Valkey() as valkey:
            with redis.Redis(port=valkey.port) as client:
                client.config_set("requirepass", SECRETS["password of Redis"])
            drive(Everything(folder, server.channel("security", close=1), api, valkey, texts))
    finally:
        os.umask(umask)
        raise_faults(True)
        logger.removeHandler(handler)
        logger.setLevel(level)
    texts["log"] = log.getvalue()
    return texts


def held():
    """Yield every text that our modules' state holds, through containers and objects of ours."""
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "token_handlers"]
    waiting = deque(vars(module) for module in modules if ".demo" not in module.__name__)
    met: set[int] = set()
    while waiting:
        thing = waiting.popleft()
        if id(thing) in met:
            continue
        met.add(id(thing))
        if isinstance(thing, (str, bytes)):
            yield thing if isinstance(thing, str) else thing.decode("latin-1")
        elif isinstance(thing, functools._lru_cache_wrapper) or is_ours(thing):
            waiting.extend(gc.get_referents(thing))


def is_ours(thing):
    """Return whether a thing is a container, a function's state, or an object of the package."""
    if isinstance(thing, (types.ModuleType, type)):
        return False
    if isinstance(
        thing, (Mapping, AbstractSet, list, tuple, deque, types.CellType, types.MethodType, types.FunctionType)
    ):
        return getattr(thing, "__module__", None) is None or thing.__module__.startswith("token_handlers")
    return type(thing).__module__.startswith("token_handlers")


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_nowhere(seen, secret):
    """No prompt, answer, tool argument, key or password is in any file, log, repr, error, metric, record or report."""
    assert [] == [place for place, text in seen.items() if SECRETS[secret] in text]


def test_no_text_is_held(seen):
    """When all calls have ended, nothing in our modules holds a prompt, an answer, an argument or an embedded text."""
    texts = [SECRETS[name] for name in ("prompt", "completion", "tool arguments", "embedded text")]

    assert [] == [text for text in held() if any(secret in text for secret in texts)]


def test_everything_was_driven(seen):
    """The search above had something to search in: calls of each kind, logs, errors, files."""
    assert {"log", "metrics", "the outbox", "the file ledger.db", "the file report.html"} <= set(seen)
    assert 30 < sum(place.startswith("record ") for place in seen)
    assert "reported no usage" in seen["log"]
    assert "RuntimeError" in seen["log"]
    assert "gen_ai.client.token.usage" in seen["metrics"]
    for place in ("run", "report", "export --csv", "sessions", "doctor"):
        assert any(name.startswith(f"token-handlers {place}") and text for name, text in seen.items())


def test_files_are_the_owners(seen, tmp_path):
    """The ledger, its companions and an outbox are for their owner alone, whatever the umask."""
    before = os.umask(0)
    try:
        with SQLiteLedger(tmp_path / "deep" / "ledger.db") as ledger:
            ledger(UsageRecord(model="gpt-4o"))
            ledger.flush()
            files = {path.name: mode(path) for path in (tmp_path / "deep").iterdir()}
        client = AgentSightClient(KEY, "http://127.0.0.1:1", outbox=tmp_path / "outbox")
        client.keep("c", TokenCounts(1, 2, 3))
        kept = {mode(path) for path in (tmp_path / "outbox").iterdir()}
    finally:
        os.umask(before)

    assert {"ledger.db", "ledger.db.lock", "ledger.db-wal", "ledger.db-shm"} == set(files)
    assert {0o600} == set(files.values()) == kept
    assert {0o700} == {mode(tmp_path / "deep"), mode(tmp_path / "outbox")}


def mode(path):
    """Return a file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


class Tags(HTMLParser):
    """What a page would run: elements and attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found |= {tag, *(name for name, _ in attrs)}


def test_pages_are_escaped(tmp_path):
    """Names in the HTML report, its charts, its title, and a notebook's table are text and nothing else."""
    path = tmp_path / f"{IMAGE}.db"
    names = {"model": MARKUP, "session": f"'\"&{MARKUP}", "user": MARKUP, "tags": {MARKUP: MARKUP}, "node": MARKUP}
    record = UsageRecord(usage={"input_tokens": 3}, started_at=datetime(2026, 3, 4, tzinfo=UTC), **names)
    counter = TokenCounter()
    counter.add(record)
    fill(path, record, record.model_copy(update={"model": IMAGE, "event_id": "b"}))
    assert 0 == run_command("report", "--ledger", path, "--html", tmp_path / "report.html").returncode
    own_script = f"<script>{read_data('page.js')}</script>"
    report = (tmp_path / "report.html").read_text("utf-8")
    pages = report.replace(own_script, "", 1), counter._repr_html_(), counter_html(counter)

    for page in pages:
        assert html.escape(MARKUP) in page
        assert set() == Tags(page).found & {"script", "img", "iframe", "object", "link", "onerror", "onload", "href"}
    assert html.escape(IMAGE) in pages[0]
    assert own_script in report


LAUNCHER = """
import sys
from pathlib import Path

STARTED = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen"}
CONNECTED = {"socket.connect", "socket.getaddrinfo", "urllib.Request"}
happened = []
sys.addaudithook(lambda event, arguments: happened.append(event) if event in STARTED | CONNECTED else None)
from token_handlers.cli import main

try:
    status = main(sys.argv[1:])
finally:
    print("happened", happened)
sys.exit(status)
"""
HOSTILE = "from pathlib import Path; Path({!r}).touch()"
MODULES = (
    *("sitecustomize", "usercustomize", "token_handlers", "token_handlers_plugin", "redis", "json", "argparse", "rich"),
    *("sqlite3", "tiktoken", "langchain_core", "llama_index", "genai_prices", "wrapt", "pydantic_settings"),
)


@pytest.fixture
def hostile(tmp_path):
    """A folder of modules that leave a mark when they are imported, under names that someone may want to import."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(HOSTILE.format(str(tmp_path / f"{name} ran")))
    (folder / "__init__.py").write_text(HOSTILE.format(str(tmp_path / "__init__ ran")))
    return folder


def run_program(tmp_path, *arguments, cwd):
    """Run a program by `token-handlers run` as its script of the bin folder does; return the lines that it printed."""
    launcher = tmp_path / "bin" / "token-handlers"
    launcher.parent.mkdir()
    launcher.write_text(LAUNCHER)
    command = [sys.executable, launcher, "run", *arguments]
    environment = {"PATH": os.environ["PATH"], "AGENTSIGHT_TOKEN_HANDLER_TYPE": "__import__('os').abort()"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert 0 == done.returncode, done.stderr
    return done.stdout.splitlines()


def marks(tmp_path):
    """Return which hostile modules ran."""
    return sorted(path.name for path in tmp_path.glob("* ran"))


def test_run_executes_the_program_alone(hostile, tmp_path):
    """`run` starts no process, connects to nothing, and imports nothing from the folder that it is called in."""
    program = tmp_path / "elsewhere" / "program.py"
    program.parent.mkdir()
    program.write_text("import sys\nprint(sys.path[0])")
    lines = run_program(tmp_path, program, cwd=hostile)

    assert [] == marks(tmp_path)
    assert [str(program.parent), "happened []"] == lines


def test_run_imports_nothing_beside_the_script(hostile, tmp_path):
    """What stands beside the script is imported where the program imports it, and nowhere else."""
    program = hostile / "program.py"
    program.write_text("import redis\nimport sys\nprint(sys.path[0])")
    lines = run_program(tmp_path, program, cwd=tmp_path)

    assert ["redis ran"] == marks(tmp_path)
    assert [str(hostile), "happened []"] == lines


def test_run_finds_a_module_where_python_does(hostile, tmp_path):
    """`run -m` looks where `python -m` does, which is in the folder that it is called in first."""
    (hostile / "program.py").write_text("import rich\nimport sys\nprint(sys.path[0])")
    lines = run_program(tmp_path, "-m", "program", cwd=hostile)

    assert ["rich ran"] == marks(tmp_path)
    assert [str(hostile), "happened []"] == lines


def test_dependencies_have_a_floor_and_a_ceiling():
    """Each dependency that a user gets is the oldest that works or newer, and below the next that may break."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(project["optional-dependencies"])
    del extras["dev"], extras["checks"]
    wanted = [
        Requirement(line) for line in (*project["dependencies"], *(line for one in extras.values() for line in one))
    ]
    bounds = {
        str(one): {specifier.operator for specifier in one.specifier} for one in wanted if one.name != "token-handlers"
    }

    assert {} == {line: operators for line, operators in bounds.items() if not {">=", "<"} <= operators}
