import json
import os
import signal
import subprocess
import sys
from textwrap import dedent

import httpx
import pytest

from tests.support.bills import billed
from tests.support.command_line import CALL, LANGCHAIN_CALL, run_command, start_command
from tests.support.redis_servers import free_port
from token_handlers.cli.on_python_path import sitecustomize
from token_handlers.http.taps import TAPS
from token_handlers.sinks.sqlite import SQLiteLedger

START = """
import multiprocessing, os, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
"""


@pytest.fixture
def program(tmp_path, ledger):
    """Return what writes a program whose calls go to the test's server."""

    def write(text, name="program.py", call=CALL):
        path = tmp_path / name
        path.write_text(START + call.replace("sys.argv[1]", repr(ledger.url())) + dedent(text), "utf-8")
        return path

    return write


def told(result):
    """Return what a program's end printed as JSON."""
    return json.JSONDecoder().raw_decode(result.stderr, result.stderr.index("{"))[0]


def kept(path):
    """Return the totals of a ledger."""
    with SQLiteLedger(path) as ledger:
        return ledger.totals()


WAYS = {
    "subprocess": 'subprocess.run([sys.executable, "child.py"], check=True)',
    "shell": 'subprocess.run(f"{sys.executable} child.py", shell=True, check=True)',
    "spawn": """
        for _ in range(2):
            child = multiprocessing.get_context("spawn").Process(target=ask)
            child.start()
            child.join()
    """,
    "fork": """
        for _ in range(2):
            child = multiprocessing.get_context("fork").Process(target=ask)
            child.start()
            child.join()
    """,
    "pool": """
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(ask, ["one", "two"]))
    """,
    "bare fork": """
        if os.fork():
            os.wait()
        else:
            ask()
            ask()
            os._exit(0)
    """,
    "killed": """
        subprocess.run([sys.executable, "-c", "exec(open('child.py').read()); import os; os.kill(os.getpid(), 9)"])
    """,
    "grandchild": """
        code = "import subprocess, sys; subprocess.run([sys.executable, 'child.py'], check=True)"
        subprocess.run([sys.executable, "-c", code], check=True)
    """,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_child_is_tracked(way, program, tmp_path):
    """However a Python process is started, its calls are in the ledger and in the closing table, once."""
    program("ask()\nask()", "child.py")
    body = dedent(WAYS[way]).strip().replace("\n", "\n    ")
    path = program(f"if __name__ == '__main__':\n    ask()\n    {body}")
    result = run_command("run", "--ledger", tmp_path / "ledger.db", "--json", path, cwd=tmp_path)
    counted, total = told(result), kept(tmp_path / "ledger.db")

    assert 0 == result.returncode, result.stderr
    assert 3 == counted["total"]["successful_requests"] == total.successful_requests
    assert 0 < counted["total"]["prompt_tokens"] == total.prompt_tokens
    assert (True, 0, []) == (
        counted["other_processes"]["counted"] >= 1,
        counted["other_processes"]["running"],
        counted["other_processes"]["unfollowed"],
    )


def test_a_program_that_becomes_another(program, tmp_path):
    """What a process used before it becomes another program is in the table, and all of it in the ledger."""
    program("ask()\nask()", "child.py")
    path = program('ask()\nos.execv(sys.executable, [sys.executable, "child.py"])')
    result = run_command("run", "--ledger", tmp_path / "ledger.db", "--json", path, cwd=tmp_path)

    assert 0 == result.returncode
    assert 1 == told(result)["total"]["successful_requests"]
    assert 3 == kept(tmp_path / "ledger.db").successful_requests


def test_a_child_without_an_sdk(program, tmp_path, ledger):
    """Tracking begins with whichever HTTP library a child imports first, and loads none twice."""
    (tmp_path / "child.py").write_text(
        dedent(f"""
            import sys
            import httpx2
            from httpx2 import _client
            import requests
            assert httpx2 is sys.modules["httpx2"] and httpx2.Client is _client.Client
            question = {{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "hello"}}]}}
            for library in (httpx2, requests):
                library.post("{ledger.url()}/chat/completions", json=question)
        """),
        "utf-8",
    )
    result = run_command("run", "--json", program(WAYS["subprocess"]), cwd=tmp_path)

    assert 2 == told(result)["total"]["successful_requests"] == ledger.total().requests, result.stderr
    assert {tap.module.partition(".")[0] for tap in TAPS} <= set(sitecustomize.LIBRARIES)


def test_the_closing_says_what_it_added(program, tmp_path):
    """The table's last line says how many processes are in it, such as one of LangChain's."""
    program("ask()", "child.py", LANGCHAIN_CALL)
    result = run_command("run", program(WAYS["subprocess"]), cwd=tmp_path)

    assert "token-handlers: the calls of 1 process that it started are included" == result.stderr.splitlines()[-1]
    assert "Total" in result.stderr


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (
            'subprocess.run([sys.executable, "-I", "-c", "pass"])',
            f"{sys.executable} -I, which reads no PYTHONPATH or no sitecustomize",
        ),
        (
            'subprocess.run([sys.executable, "-c", "pass"], env={})',
            f"{sys.executable}, started with a PYTHONPATH of its own",
        ),
    ],
)
def test_children_that_can_not_be_followed(start, said, program, tmp_path):
    """A Python process that does not see PYTHONPATH is named at the end."""
    result = run_command("run", program(start), cwd=tmp_path)

    assert f"token-handlers: not tracked: {said}" in result.stderr.splitlines()


def test_a_python_without_this_package(program, tmp_path):
    """A process of another environment, where we are not installed, runs as it does, and is named at the end."""
    (tmp_path / "openai.py").write_text("print('imported')", "utf-8")
    start = f"""subprocess.run([sys.executable, "-S", "-c", "import sitecustomize, openai"],
        env={{**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"] + ":{tmp_path}"}})"""
    result = run_command("run", program(start), cwd=tmp_path)

    assert "imported\n" == result.stdout
    assert "where this version of token_handlers is not installed" in result.stderr


def test_a_sitecustomize_of_their_own(program, tmp_path):
    """The environment's own sitecustomize runs in a child as it does without us."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('own', __name__, __file__[-16:])", "utf-8")
    program("ask()", "child.py")
    result = run_command("run", program(WAYS["subprocess"]), cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))

    assert "own sitecustomize sitecustomize.py\n" * 2 == result.stdout
    assert "the calls of 1 process that it started are included" in result.stderr


def test_children_see_what_they_always_see(program, tmp_path):
    """A child that makes no call does not import us, and has the sys.path that it has without us."""
    (tmp_path / "child.py").write_text(
        "import sys; print(sorted({'token_handlers', 'pydantic', 'wrapt'} & set(sys.modules)), sys.path)", "utf-8"
    )
    path = tmp_path / "program.py"
    path.write_text('import subprocess, sys; subprocess.run([sys.executable, "child.py"], check=True)', "utf-8")
    plain = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    result = run_command("run", path, cwd=tmp_path)

    assert plain.stdout == result.stdout
    assert "[] [" == result.stdout[:4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_goes_on(program, tmp_path):
    """A process that outlives the program is said to go on; its later calls are in the ledger."""
    program("ask()\nprint(flush=True)\nsys.stdin.read()\nask()", "child.py")
    path = program("""
        child = subprocess.Popen([sys.executable, "child.py"], stdout=subprocess.PIPE)
        child.stdout.readline()
        child.returncode = 0  # nobody waits for it
    """)
    with start_command("run", "--ledger", tmp_path / "ledger.db", path, cwd=tmp_path) as process:
        assert 0 == process.wait(60)
        process.stdin.close()
        errors = process.stderr.read()  # ends with the child

    assert "token-handlers: the calls of 1 process that it started are included" in errors.splitlines()
    assert any(line.startswith("token-handlers: 1 process that it started goes on") for line in errors.splitlines())
    assert 2 == kept(tmp_path / "ledger.db").successful_requests


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_of_workers(number, tmp_path, ledger):
    """Uvicorn's workers are tracked, and a signal to the service ends all of it with the table."""
    (tmp_path / "app.py").write_text(
        CALL.replace("sys.argv[1]", repr(ledger.url()))
        + dedent("""
            async def app(scope, receive, send):
                if scope["type"] == "http":
                    ask()
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    await send({"type": "http.response.body", "body": b"ok"})
        """),
        "utf-8",
    )
    port = free_port()
    command = ["run", "--ledger", tmp_path / "ledger.db", "uvicorn", "app:app", "--workers", "2", "--port", port]
    with start_command(*command, cwd=tmp_path) as process:
        # it does not say when it begins to listen
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=60) as client:
            for _ in range(3):
                assert "ok" == client.get(f"http://127.0.0.1:{port}/").text
        process.send_signal(number)
        errors = process.stderr.read()
        process.wait(60)

    assert "Total" in errors
    assert 3 == billed(ledger)["requests"] == kept(tmp_path / "ledger.db").successful_requests
