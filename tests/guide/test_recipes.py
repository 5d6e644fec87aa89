"""Each recipe of the guide runs as it stands there, against a server that knows what it billed."""

import asyncio
import gzip
import json
import shlex
import socket
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.message import EmailMessage
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import nbformat
import pytest
import uvicorn
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging
from langchain_core.tracers.langchain import wait_for_all_tracers
from langfuse import get_client
from nbclient import NotebookClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.bill_pages import DAY, call, openai_day, openai_pages
from tests.support.bill_server import BillServer
from tests.support.bills import billed, counted
from tests.support.guide_pages import GUIDE, blocks, sections
from tests.support.usage_ledgers import fill
from token_handlers import track_tokens
from token_handlers.cli import main
from token_handlers.pricing import price_call, reset_prices

pytest_plugins = ["pytester"]

PAGE = (GUIDE / "recipes.md").read_text("utf-8")
RECIPES = {name: blocks(text) for name, text in sections(PAGE).items()}
GIVEN = blocks(PAGE)[0]


@pytest.fixture
def recipe(ledger, monkeypatch, tmp_path):
    """Return what runs a recipe's blocks, those given or all, after what the page gives, and returns their names."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", ledger.url())
    monkeypatch.chdir(tmp_path)

    def run(name, *which):
        names = {"__name__": "recipe"}
        for code in [GIVEN, *(RECIPES[name][index] for index in which or range(len(RECIPES[name])))]:
            exec(code, names)
        return names

    yield run
    reset_prices()


class Collector:
    """A server that keeps what is posted to it, by path."""

    def __init__(self):
        self.posted = posted = []

        class Answer(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                posted.append((self.path, self.headers["Content-Type"], body))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST = answer  # noqa: N815 (http.server's names)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def serve():
    """Return what serves an ASGI application on the loopback interface, and gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    running = []

    def start(app):
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()
    listener.close()


def test_every_recipe_is_tested():
    """A recipe without a test of its name is none; the page lists them all at its top."""
    listed = [line.partition("]")[0][3:] for line in PAGE.splitlines() if line.startswith("- [")]

    assert list(RECIPES) == listed
    assert set(TESTS) == set(RECIPES)


async def test_fastapi(recipe, serve, ledger, chan):
    """Two users' streams at once, over a socket, are counted apart and as they were billed."""
    url, users = serve(recipe("A FastAPI endpoint that streams, per user")["app"]), (f"{chan}-ada", f"{chan}-bob")
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        asked = [(users[0], "hello"), (users[1], "hello there, you"), (users[0], "hello again")]
        answers = await asyncio.gather(
            *(client.post(f"/chat/{user}", params={"question": text}) for user, text in asked)
        )
        ada, bob, nobody = [(await client.get(f"/usage/{user}")).json() for user in (*users, "nobody")]

    assert all(answer.text for answer in answers)
    assert (2, 1, 0) == tuple(user["successful_requests"] for user in (ada, bob, nobody))
    assert ledger.total().prompt_tokens == ada["prompt_tokens"] + bob["prompt_tokens"]
    assert ledger.total().completion_tokens == ada["completion_tokens"] + bob["completion_tokens"]
    assert 0 == ada["estimated_requests"] + bob["estimated_requests"]


async def test_fastapi_broken_off(recipe, serve, ledger, chan, monkeypatch):
    """A client that leaves in the middle of its stream leaves an estimate under its name."""
    monkeypatch.setenv("OPENAI_BASE_URL", ledger.url(gate=1))
    url, user = serve(recipe("A FastAPI endpoint that streams, per user")["app"]), f"{chan}-ada"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        async with client.stream("POST", f"/chat/{user}", params={"question": "hello"}) as answer:
            await anext(answer.aiter_text())
        usage = {"successful_requests": 0}
        while not usage["successful_requests"]:
            usage = (await client.get(f"/usage/{user}")).json()

    assert (1, 1) == (usage["successful_requests"], usage["estimated_requests"])
    assert 0 < usage["completion_tokens"] < 12


def test_thread_pools(recipe, ledger):
    """The pool's calls are in the block, once, and carry its user."""
    names = recipe("Thread pools")

    assert billed(ledger) == counted(names["tokens"])
    assert 3 == names["tokens"].by("user")["ada"].successful_requests


def leave_logging_alone(**settings):
    """Stand for an application that sets its logging up by itself; Celery would take the root logger's handlers."""


def test_celery(recipe, ledger):
    """What a worker's tasks call is in the ledger, by user and by task."""
    setup_logging.connect(leave_logging_alone)
    names = recipe("Celery", 0)
    names["app"].conf.broker_transport_options = {"polling_interval": 0.01}
    with start_worker(names["app"], perform_ping_check=False, pool="solo", loglevel="error"):
        tasks = [names["summarise"].delay("a text", user) for user in ("ada", "bob", "ada")]
        answers = [task.get(timeout=30, interval=0.01) for task in tasks]
    setup_logging.disconnect(leave_logging_alone)
    exec(RECIPES["Celery"][1], names)
    by_user = names["ledger"].by("user")

    assert all(answers)
    assert {"ada": 2, "bob": 1} == {user: totals.successful_requests for user, totals in by_user.items()}
    assert ledger.total().prompt_tokens == names["ledger"].by("task")["summarise"].prompt_tokens
    names["ledger"].close()


def test_langgraph(recipe, ledger, capsys):
    """Each node has its own total, and both together are the bill."""
    by_node = recipe("LangGraph, per node")["tokens"].by("langgraph_node")
    bill = {name: entry.prompt_tokens for name, entry in zip(("draft", "review"), ledger.entries(), strict=True)}

    assert bill == {name: totals.prompt_tokens for name, totals in by_node.items()}
    assert 2 == len(capsys.readouterr().out.splitlines())


def test_labels(recipe, monkeypatch, ledger):
    """Calls are under the customer, the agent and the tool, with what the tool cost by itself."""
    monkeypatch.setenv("OPENAI_BASE_URL", ledger.url(close=1, rounds=1))
    tokens = recipe("Per customer, agent and tool")["tokens"]

    assert {"weather API": Decimal("0.002")} == {
        name: sums.cost for name, sums in tokens.by("tool").items() if name != "temperature"
    }
    assert tokens.by("tool")["temperature"].total_tokens > 0
    assert tokens.snapshot() == tokens.by("customer")["acme"] == tokens.by("session")["t-1"]
    assert tokens.cost == tokens.by("agent")["travel"].cost
    assert (ledger.total().requests, ledger.total().prompt_tokens) == (tokens.successful_requests, tokens.prompt_tokens)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the notebook tools' own, between their versions
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_jupyter(recipe, ledger):
    """A counter at the end of a cell is a table of all calls of the notebook, or of one cell."""
    cells = [GIVEN, *RECIPES["Jupyter"]]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    shown = [cell.outputs[-1]["data"]["text/html"] for cell in notebook.cells[2:]]

    assert 3 == ledger.total().requests
    assert [" · 1 requests · ", " · 2 requests · "] == [
        table[table.index(" · ") : table.index("requests") + len("requests · ")] for table in shown
    ]


def test_pytest(recipe, pytester):
    """A test under its ceilings passes, one above them fails with what was spent; the fixture counts."""
    with track_tokens():  # what is imported for a call inside of a run, pytester forgets with the run
        recipe("Thread pools")
    code = RECIPES["pytest: a ceiling on what a test costs"][0]
    dear = code.replace('model.invoke("What time is it?")\n\n', 'model.batch(["What time is it?"] * 3)\n\n', 1)
    pytester.makepyfile(test_cheap=GIVEN + code, test_dear=GIVEN + dear)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:asyncio")

    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_dear.py::test_the_answer_is_cheap - Failed: token_ceiling: requ*"])
    result.stdout.fnmatch_lines(["token_ceiling: requests 3 > max_requests 2"])
    assert "token_ceiling: requests 3 > max_requests 2" in PAGE


def test_azure(recipe, ledger, monkeypatch):
    """A deployment costs what the model that answered costs; one that answers by its own name, what its alias does."""
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "none")
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", ledger.url(model="gpt-4o-mini-2024-07-18"))
    names = recipe("Azure deployments", 0)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", ledger.url(model="our-deployment"))
    unpriced = recipe("Azure deployments", 0)["tokens"]
    exec(RECIPES["Azure deployments"][1], names)
    priced = recipe("Azure deployments", 0)["tokens"]

    assert ["gpt-4o-mini-2024-07-18"] == list(names["tokens"].by_model)
    assert (None, 1) == (unpriced.cost, unpriced.unpriced_requests)
    assert names["tokens"].cost == priced.cost > 0


def test_own_prices(recipe):
    """Each price is what the next call costs."""
    recipe("Prices of your own")
    counts = {"input_tokens": 1_000_000, "output_tokens": 1_000_000, "cache_read_tokens": 500_000}

    assert "0.725" == str(price_call(counts, "our-llama").cost.normalize())
    assert price_call(counts, "gpt-4o-mini", "openai").cost == price_call(counts, "our-fine-tune", "openai").cost
    assert 0 == price_call(counts, "llama3.2", "ollama").cost
    assert price_call(counts, "llama3.2", "another") is None


def test_estimate(recipe, ledger):
    """What is foreseen is a price of the prompt alone and with the longest answer; nothing is sent."""
    found = recipe("What a call will cost, before it is made")["foreseen"]

    assert (0, 100, "openai") == (found.min_output_tokens, found.max_output_tokens, found.provider)
    assert 100 * Decimal("0.6") == (found.max_cost - found.min_cost) * 10**6
    assert [] == ledger.entries()


def test_index(recipe, ledger):
    """An index and a query have a cost before anything is sent."""
    names = recipe("What an index will cost, before it is built")

    assert names["index_cost"].embedding_tokens * Decimal("0.02") == names["index_cost"].cost * 10**6
    assert names["query_cost"].unpriced_requests == 0 < names["query_cost"].cost
    assert [] == ledger.entries()


def test_caching(recipe, ledger, monkeypatch, capsys):
    """The counter, the ledger and the command line say the same, and --as leaves the ledger as it is."""
    monkeypatch.setenv("OPENAI_BASE_URL", ledger.url(cached=5))
    names = recipe("What caching saves, and what another model would cost")
    saved = 5 * (Decimal("0.15") - Decimal("0.075")) / 10**6
    by_session = names["ledger"].by("session")
    names["ledger"].close()

    assert (saved, saved) == (names["tokens"].cache_saved_cost, by_session["support"].cache_saved_cost)
    assert 0 == main(["report", "--ledger", "usage.db", "--cache", "--by", "day"])
    assert 0 == main(["report", "--ledger", "usage.db", "--as", "gpt-5-mini"])
    assert "As gpt-5-mini" in capsys.readouterr().out


def test_side_by_side(recipe, ledger, monkeypatch):
    """LangSmith, Langfuse and this package say the same of one call, and none keeps another from doing so."""
    with Collector() as langsmith, Collector() as langfuse:
        for name, value in {
            "LANGSMITH_ENDPOINT": langsmith.url,
            "LANGSMITH_API_KEY": "none",
            "LANGFUSE_BASE_URL": langfuse.url,
            "LANGFUSE_PUBLIC_KEY": "none",
            "LANGFUSE_SECRET_KEY": "none",
        }.items():
            monkeypatch.setenv(name, value)
        names = recipe("LangSmith and Langfuse side by side")
        wait_for_all_tracers()
        get_client().flush()
        get_client().shutdown()
    bill = ledger.total()
    expected = bill.prompt_tokens, bill.completion_tokens

    assert billed(ledger) == counted(names["handler"])
    assert expected == langsmiths_usage(langsmith.posted)
    assert expected == langfuses_usage(langfuse.posted)


def test_the_bill(tmp_path, monkeypatch, capsys):
    """Both commands run as they stand there: by the API, and with exports of cost and usage."""
    commands = [shlex.split(text)[2:] for text in blocks(sections(PAGE)["Does the ledger match the bill?"], "console")]
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    past = (now - DAY).days - 3
    fill(tmp_path / "usage.db", *(call(day=past) for _ in range(3)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-1")
    start = int((now - timedelta(days=3)).timestamp())
    (tmp_path / "costs.csv").write_text(f"start_time,amount_value,line_item\n{start},0.0054,\n")
    (tmp_path / "usage.csv").write_text(
        f"start_time,num_model_requests,model,input_tokens,output_tokens\n{start},3,gpt-5-mini,12000,1200\n"
    )
    with BillServer() as server:
        server.pages = openai_pages(openai_day(3, day=past))
        statuses = [main([*commands[0], "--base-url", server.url]), main(commands[1])]

    assert [0, 0] == statuses
    assert 2 == capsys.readouterr().out.count("The ledger equals the bill on 1 day.")


def langsmiths_usage(posted):
    """Return the tokens of the one run that was sent to LangSmith."""
    texts = [
        f"Content-Type: {kind}\r\n\r\n".encode() + body for path, kind, body in posted if path == "/runs/multipart"
    ]
    parts = [part for text in texts for part in BytesParser(EmailMessage).parsebytes(text).iter_parts()]
    (output,) = [
        part for part in parts if str(part.get_param("name", header="Content-Disposition")).endswith(".outputs")
    ]
    answer = json.loads(output.get_payload(decode=True))["generations"][0][0]
    usage = answer["message"]["kwargs"]["usage_metadata"]
    return usage["input_tokens"], usage["output_tokens"]


def langfuses_usage(posted):
    """Return the tokens of the one generation that was sent to Langfuse."""
    requests = [ExportTraceServiceRequest.FromString(body) for path, _, body in posted if path.endswith("/traces")]
    scopes = [scope for request in requests for resource in request.resource_spans for scope in resource.scope_spans]
    values = [pair for scope in scopes for span in scope.spans for pair in span.attributes]
    (usage,) = [pair.value.string_value for pair in values if pair.key == "langfuse.observation.usage_details"]
    return json.loads(usage)["input"], json.loads(usage)["output"]


TESTS = {
    "A FastAPI endpoint that streams, per user": test_fastapi,
    "Thread pools": test_thread_pools,
    "Celery": test_celery,
    "LangGraph, per node": test_langgraph,
    "Per customer, agent and tool": test_labels,
    "Jupyter": test_jupyter,
    "pytest: a ceiling on what a test costs": test_pytest,
    "Azure deployments": test_azure,
    "Prices of your own": test_own_prices,
    "What a call will cost, before it is made": test_estimate,
    "What an index will cost, before it is built": test_index,
    "What caching saves, and what another model would cost": test_caching,
    "LangSmith and Langfuse side by side": test_side_by_side,
    "Does the ledger match the bill?": test_the_bill,
}
