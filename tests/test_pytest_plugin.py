import importlib.metadata
import json
import subprocess
import sys

import pytest
from langchain_openai import ChatOpenAI

from tests.check_import import KEPT_OUT
from token_handlers import track_tokens

pytest_plugins = ["pytester"]

# Its own plugins alone, so that what is installed beside does not matter: pytest's settings are not the project's here.
PLUGINS = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly")
HEAD = """
import asyncio
import unittest

import pytest
from langchain_openai import ChatOpenAI
from token_handlers import track_tokens

model = ChatOpenAI(model="gpt-4o-mini", api_key="none")

def ask():
    return model.invoke("hello there")

async def ask_async():
    return await model.ainvoke("hello there")

"""


@pytest.fixture(scope="module", autouse=True)
def _everything_is_loaded(server):
    """A call that is counted: what is imported for one inside of a run, pytester forgets with the run."""
    with track_tokens() as tokens:
        ChatOpenAI(model="gpt-4o-mini", api_key="none", base_url=server.url(close=1)).invoke("hello")
    assert 1 == tokens.successful_requests


@pytest.fixture
def run(pytester, ledger, monkeypatch):
    """Return what runs a test module of somebody whose OpenAI is the test's channel."""
    monkeypatch.setenv("OPENAI_BASE_URL", ledger.url())
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nstrict = true")

    def run(module, *arguments):
        pytester.makepyfile(HEAD + module)
        return pytester.runpytest_inprocess(*PLUGINS, *arguments)

    return run


def test_it_is_there_once_installed():
    """The package registers the plugin under its own name."""
    (entry,) = [entry for entry in importlib.metadata.entry_points(group="pytest11") if entry.name == "token_handlers"]

    assert "token_handlers.pytest_plugin" == entry.value


def test_it_imports_nothing_before_it_is_used():
    """A pytest run that uses neither the fixture nor the marker imports no other module of the package."""
    program = "import json, sys, token_handlers.pytest_plugin as _; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = json.loads(done.stdout)

    assert ["token_handlers", "token_handlers.pytest_plugin"] == [n for n in loaded if n.startswith("token_handlers")]
    assert set() == (KEPT_OUT | {"pydantic", "wrapt"}) & {name.partition(".")[0] for name in loaded}


def test_the_fixture(run, ledger):
    """token_usage counts the test's calls and no other's."""
    result = run("""
def test_one(token_usage):
    assert token_usage.total_tokens == 0
    ask()
    assert token_usage.successful_requests == 1
    assert 0 < token_usage.total_cost < 0.01

def test_two(token_usage):
    ask(), ask()
    assert token_usage.successful_requests == 2

def test_none(token_usage):
    assert token_usage.successful_requests == 0
""")

    result.assert_outcomes(passed=3)
    assert 3 == ledger.total().requests


def test_every_kind_of_test_is_counted(run):
    """Coroutines count, whoever runs them and in whatever context, and so do unittest's test cases."""
    result = run("""
@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"

@pytest.fixture(scope="module", autouse=True)
async def early(anyio_backend):
    yield  # anyio runs the tests of the module in the context of this moment

@pytest.mark.anyio
async def test_anyio(token_usage, anyio_backend):
    await ask_async()
    assert token_usage.successful_requests == 1

@pytest.mark.token_ceiling(max_requests=0)
class TestCase(unittest.IsolatedAsyncioTestCase):
    async def test_coroutine(self):
        await ask_async()

    def test_function(self):
        ask()
""", "-p", "no:asyncio", "-o", "strict=false")  # fmt: skip

    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(2 * ["*token_ceiling: requests 1 > max_requests 0*"])


def test_coroutines_of_pytest_asyncio(run):
    """Coroutines count under pytest-asyncio, and what their asynchronous fixtures call does."""
    result = run("""
@pytest.fixture
async def answer():
    yield await ask_async()

async def test_coroutine(token_usage, answer):
    await asyncio.gather(ask_async(), ask_async())
    assert token_usage.successful_requests == 3
""")

    result.assert_outcomes(passed=1)


def test_fixtures(run):
    """Fixtures of function scope count wherever they stand; those of a wider scope are no single test's, and don't."""
    result = run("""
@pytest.fixture(scope="module")
def index():
    return ask()

@pytest.fixture
def before():
    ask()
    yield
    ask()

@pytest.fixture
def inner(request):
    with track_tokens() as tokens:
        ask()
        yield tokens
        assert tokens.successful_requests == 2

def test_order(index, before, inner, token_usage):
    assert token_usage.successful_requests == 2
    ask()
    assert token_usage.successful_requests == 3

def test_late(request):
    ask()
    tokens = request.getfixturevalue("token_usage")
    ask()
    assert tokens.successful_requests == 1
""")

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ("max_cost=0.000_001", "cost 0.0000168 USD > max_cost 0.000001 USD"),
        ("max_cost='0.000_001'", "cost 0.0000168 USD > max_cost 0.000001 USD"),
        ("max_tokens=10", "tokens 40 > max_tokens 10"),
        ("max_requests=1", "requests 2 > max_requests 1"),
        ("max_requests=0, max_tokens=0", "requests 2 > max_requests 0; tokens 40 > max_tokens 0"),
    ],
)
def test_a_ceiling_that_is_passed(limits, problem, run):
    """The test fails, and the message names what was spent, the limit and the most expensive model."""
    result = run(f"""
@pytest.mark.token_ceiling({limits})
def test_it():
    ask(), ask()
""")

    result.assert_outcomes(failed=1)
    assert problem in result.stdout.str()
    assert "most expensive: gpt-4o-mini-2024-07-18 (0.0000168 USD, 40 tokens, requests: 2)" in result.stdout.str()


def test_a_ceiling_that_is_kept(run):
    """A limit itself is allowed; a test's own limit stands in place of its class's or module's, the others hold too."""
    result = run("""
pytestmark = pytest.mark.token_ceiling(max_cost=1, max_requests=0)

@pytest.mark.token_ceiling(max_requests=1)
def test_kept():
    ask()

@pytest.mark.token_ceiling(max_tokens=1000)
def test_passed():
    ask()
""")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*test_passed*"])


def test_what_fails_by_itself_says_what_it_used(run):
    """A failing test keeps its own error, and shows what it used."""
    result = run("""
@pytest.mark.token_ceiling(max_requests=0)
def test_it():
    ask()
    assert "one" == "two"
""")

    result.assert_outcomes(failed=1)
    assert "AssertionError" in result.stdout.str()
    assert "Failed: token_ceiling" not in result.stdout.str()
    result.stdout.fnmatch_lines(
        ["*Captured token_usage call*", "<TokenCounter 20 tokens, 1 requests, *", "gpt-4o-mini*"]
    )


def test_an_unknown_price_is_above_every_ceiling(run):
    """What nobody can price fails a limit on the cost, and says what to do; it fails no other limit."""
    result = run("""
from langchain_core.language_models import FakeListChatModel

@pytest.mark.token_ceiling(max_cost=100)
def test_cost():
    FakeListChatModel(responses=["yes"]).invoke("there?")

@pytest.mark.token_ceiling(max_tokens=100)
def test_tokens():
    FakeListChatModel(responses=["yes"]).invoke("there?")
""")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["token_ceiling: max_cost can't be checked, as 1 of 1 requests have no known price: *set_price; *"]
    )
    result.stdout.fnmatch_lines(["most expensive: (unknown) (price unknown, * tokens, requests: 1)"])


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ("", "token_ceiling takes max_cost, max_tokens, max_requests, by name, not ()"),
        ("0.01", "by name, not (0.01)"),
        ("max_usd=1", "by name, not (max_usd)"),
        ("max_cost='cheap'", "max_cost must be USD, 0 or more, not 'cheap'"),
        ("max_cost=-1", "max_cost must be USD, 0 or more, not -1"),
        ("max_tokens=1.5", "max_tokens must be a whole number, 0 or more, not 1.5"),
        ("max_requests=True", "max_requests must be a whole number, 0 or more, not True"),
    ],
)
def test_what_is_no_ceiling(limits, problem, run, ledger):
    """A marker that says nothing, or nothing sensible, is an error of the test before it runs."""
    result = run(f"""
@pytest.mark.token_ceiling({limits})
def test_it():
    ask()
""")

    result.assert_outcomes(errors=1)
    assert problem in result.stdout.str()
    assert 0 == ledger.total().requests


def test_other_tests_are_left_alone(run):
    """A test without the fixture and the marker runs as it is, and no call of it is counted."""
    result = run("""
from token_handlers import shared_counter

def test_it(request):
    before = shared_counter().successful_requests
    ask()
    assert shared_counter().successful_requests == before
    assert test_it is request.node.obj

@pytest.mark.token_ceiling(max_requests=1)
def test_with(request):
    ask()
""")

    result.assert_outcomes(passed=2)


def test_markers_are_documented(run):
    """`pytest --markers` and `pytest --fixtures` explain them."""
    markers, fixtures = run("", "--markers"), run("", "--fixtures")

    markers.stdout.fnmatch_lines(["@pytest.mark.token_ceiling(max_cost=None, max_tokens=None, max_requests=None): *"])
    fixtures.stdout.fnmatch_lines(["token_usage -- *", "*What the LLM and embedding calls of this test use and cost*"])
