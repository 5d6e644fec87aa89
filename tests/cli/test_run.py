import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.bills import billed
from tests.support.command_line import CALL, LANGCHAIN_CALL, run_command, start_command
from token_handlers.cli import main
from token_handlers.sinks.sqlite import SQLiteLedger

SELF = """
import pickle, sys, threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

class Thing: pass

def double(number): return 2 * number

def late():
    threading.main_thread().join(0.01)
    print(pickle.loads(pickle.dumps(Thing())).__class__.__module__)

if __name__ == "__main__":
    main = sys.modules["__main__"]
    print(main.__dict__ is globals(), __name__, __file__, __spec__ and __spec__.name, __package__, __loader__.name)
    print(sys.argv, sys.path[0], sorted(name for name in vars() if name.startswith("__")))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        print(list(pool.map(double, [1, 2])))
    threading.Thread(target=late).start()
"""


@pytest.fixture
def script(tmp_path):
    """Return what writes a program and gives its path."""

    def write(text, name="program.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(text), "utf-8")
        return path

    return write


def told(result):
    """Return the totals that a program's end printed as JSON."""
    return json.JSONDecoder().raw_decode(result.stderr, result.stderr.index("{"))[0]["total"]


def sums(total):
    """Return totals as bills are compared."""
    return {"requests": total["successful_requests"], "prompt": total["prompt_tokens"]} | {
        "completion": total["completion_tokens"],
        "rejected": total["failed_requests"],
    }


def test_langchain(script, ledger, tmp_path):
    """A LangChain program keeps its output and its status, and its end prints a table; the ledger has its calls."""
    path = script(LANGCHAIN_CALL + "print(ask()[:4], sys.argv[2:])\nask()\nraise SystemExit(7)")
    result = run_command("run", "--ledger", tmp_path / "ledger.db", path, ledger.url(), "--json", "-m", "--", "x")

    assert (7, "this ['--json', '-m', '--', 'x']\n") == (result.returncode, result.stdout)
    assert ["Model", "-----", "gpt-4", "Total"] == [line[:5] for line in result.stderr.strip().splitlines()]
    assert max(map(len, result.stderr.splitlines())) <= 80
    with SQLiteLedger(tmp_path / "ledger.db") as kept:
        total = kept.totals()
    assert billed(ledger)["prompt"] == total.prompt_tokens
    assert billed(ledger)["requests"] == total.successful_requests == 2


LLAMA_INDEX = """
import sys
from llama_index.llms.openai import OpenAI
llm = OpenAI(model="gpt-4o-mini", api_base=sys.argv[1], api_key="none")
llm.complete("hello")
print(len(list(llm.stream_complete("hello"))) > 1)
llm.complete("hello")
"""


def test_llama_index_by_module(script, ledger, tmp_path):
    """A LlamaIndex program that is a package runs by its name, its totals are the bill's, and a budget holds for it."""
    script("", "package/__init__.py")
    script(LLAMA_INDEX, "package/__main__.py")
    words = ["--json", "--budget", "0.000017", "-m", "package", ledger.url(usage="always")]
    result = run_command("run", *words, cwd=tmp_path)
    expected = {key: number for key, number in billed(ledger).items() if key not in ("cached", "reasoning")}

    assert (1, "True\n", 2) == (result.returncode, result.stdout, expected["requests"])
    assert "BudgetExceeded: gpt-4o-mini was not called" in result.stderr
    assert expected == sums(told(result))


def test_a_ledger_of_the_environment(script, ledger, tmp_path):
    """AGENTSIGHT_TOKEN_LEDGER is written to without --ledger, also for calls of threads that outlive the program."""
    path = script(CALL + "import threading\nthreading.Thread(target=ask).start()")
    result = run_command("run", path, ledger.url(), AGENTSIGHT_TOKEN_LEDGER=str(tmp_path / "ledger.db"))

    assert 0 == result.returncode
    assert "Total" in result.stderr
    with SQLiteLedger(tmp_path / "ledger.db") as kept:
        assert 1 == kept.totals().successful_requests


@pytest.mark.parametrize("arguments", [["program.py"], ["-m", "program"], ["folder"]])
def test_the_program_sees_what_it_always_sees(arguments, script, tmp_path):
    """__main__, sys.argv, sys.path, threads, pickle and spawned processes are as Python itself has them."""
    script(SELF)
    script(SELF.partition("    with Process")[0], "folder/__main__.py")
    plain = subprocess.run(
        [sys.executable, *arguments, "a", "-b"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    result = run_command("run", *arguments, "a", "-b", cwd=tmp_path)

    assert plain.stdout == result.stdout
    assert 0 == result.returncode


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        ("raise SystemExit", 0, ""),
        ("raise SystemExit('bye')", 1, "bye\n"),
        ("import sys; sys.exit(300)", 300 % 256, ""),
        ("import sys\nsys.excepthook = lambda *error: print('hooked', file=sys.stderr)\n1 / 0", 1, "hooked\n"),
        ("import token_handlers\nraise token_handlers.BudgetExceeded('too much')", 1, "BudgetExceeded: too much\n"),
        ("def (", 1, "SyntaxError: "),
    ],
)
def test_how_a_program_ends(program, status, said, script):
    """Its status is its own, also where it raises; what it says comes before what we say."""
    result = run_command("run", script(program))

    assert status == result.returncode
    assert said in result.stderr
    assert "token-handlers: no call of LangChain or LlamaIndex was seen" in result.stderr.splitlines()[-1]


def test_an_exception_after_a_call(script, ledger):
    """The traceback is the program's alone, and the table comes."""
    path = script(CALL + "ask()\nraise LookupError('gone')")
    result = run_command("run", path, ledger.url())

    assert 1 == result.returncode
    assert f'Traceback (most recent call last):\n  File "{path}", line 9, in <module>\n' in result.stderr
    assert "token_handlers" not in result.stderr
    assert result.stderr.index("LookupError: gone") < result.stderr.index("Total")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(number, script, ledger, tmp_path):
    """A program that a signal ends has the status of that signal; the table comes and the ledger is written."""
    path = script(CALL + "ask()\nprint('ready', flush=True)\nimport threading\nthreading.Event().wait(60)")
    with start_command("run", "--ledger", tmp_path / "ledger.db", path, ledger.url()) as process:
        assert "ready\n" == process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)

    assert -number == process.returncode
    assert "Total" in errors
    with SQLiteLedger(tmp_path / "ledger.db") as kept:
        assert 1 == kept.totals().successful_requests


def test_an_interrupted_command():
    """Where no terminal interrupts both processes, `run` passes a SIGINT on to the command's process."""
    text = "import signal, sys; signal.signal(2, lambda *_: sys.exit(7)); print('ready', flush=True); signal.pause()"
    with start_command("run", "python", "-I", "-c", text) as process:
        assert "ready\n" == process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert 7 == process.wait(60)


def test_an_environment_behind_a_link(tmp_path):
    """A command of this environment runs in this process, by whichever path the environment is reached."""
    (tmp_path / "bin").symlink_to(Path(sys.executable).parent)
    command = tmp_path / "told"
    command.write_text(f"#!{tmp_path / 'bin' / 'python'}\nimport os, sys; print(os.getpid() == os.getpgrp())", "utf-8")
    command.chmod(0o755)
    with start_command("run", command) as process:
        assert "True\n" == process.stdout.readline()


def test_a_program_with_its_own_handler(script):
    """A program's own handler of SIGTERM is the one that counts."""
    text = "import os, signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\nos.kill(os.getpid(), 15)"
    result = run_command("run", script(text))

    assert 5 == result.returncode
    assert "no call" in result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_says_nothing(script):
    """Only the program's own process prints what it used."""
    result = run_command("run", script("import os, sys\nif os.fork():\n    os.wait()\nelse:\n    sys.exit()"))

    assert 1 == result.stderr.count("token-handlers:")


@pytest.mark.parametrize(
    ("words", "error"), [([], "run needs a program: "), (["{folder}/no.py"], "can't open {folder}/no.py: No such file")]
)
def test_nothing_to_run(words, error, tmp_path, capsys):
    """A program that is not there is one line, with the status that Python has for it; nothing else happens."""
    ledger = ["--ledger", str(tmp_path / "ledger.db")]
    assert 2 == main(["run", *ledger, *(word.format(folder=tmp_path) for word in words)])
    out, err = capsys.readouterr()

    assert ("", 1) == (out, len(err.splitlines()))
    assert f"token-handlers: {error.format(folder=tmp_path)}" in err
    assert [] == list(tmp_path.iterdir())


def test_a_module_that_is_not_there():
    """It ends as with Python."""
    result = run_command("run", "-m", "no_such_module")

    assert (1, "") == (result.returncode, result.stdout)
    assert "No module named no_such_module" in result.stderr


def test_a_ledger_that_can_not_be(script, tmp_path, capsys, monkeypatch):
    """Without its ledger the program is not started."""
    monkeypatch.setenv("AGENTSIGHT_TOKEN_LEDGER", "")  # `run` sets it
    assert 1 == main(["run", "--ledger", str(tmp_path), str(script("print('started')"))])
    error = f"token-handlers: the ledger {tmp_path} can't be used: it is no file"
    out, err = capsys.readouterr()

    assert ("", 1) == (out, len(err.splitlines()))
    assert error in err


@pytest.mark.parametrize(
    ("name", "value"), [("AGENTSIGHT_TOKEN_LEDGER", "sqlite:///usage.db"), ("AGENTSIGHT_TOKEN_REDIS_URL", "localhost")]
)
def test_a_sink_that_is_misspelt(name, value, script, monkeypatch, capsys):
    """A sink's variable that can't be one is an error of one line, and the program is not started."""
    monkeypatch.setenv(name, value)
    assert 2 == main(["run", str(script("print('started')"))])
    out, err = capsys.readouterr()

    assert ("", 1) == (out, len(err.splitlines()))


def test_a_budget(script, ledger, tmp_path):
    """The call that would pass it is not sent; a program that dies of that has status 1, and the table comes."""
    path = script(CALL + "for _ in range(5):\n    ask()\n    print('answered')")
    result = run_command("run", "--ledger", tmp_path / "ledger.db", "--budget", "0.000011", path, ledger.url())

    assert (1, "answered\nanswered\n", 2) == (result.returncode, result.stdout, ledger.total().requests)
    refusal = (
        "token_handlers.errors.BudgetExceeded: gpt-4o-mini was not called: budget 'run' has max_cost=0.000011 USD: "
    )
    assert result.stderr.index(refusal) < result.stderr.index("Total")
    assert "0.0000165" in result.stderr.splitlines()[-1]
    with SQLiteLedger(tmp_path / "ledger.db") as kept:
        assert billed(ledger)["prompt"] == kept.totals().prompt_tokens


def test_a_budget_that_the_program_minds(script, ledger):
    """A program that catches the error goes on, without any call; threads are under the budget as well."""
    path = script(
        CALL
        + """
import threading
from token_handlers import BudgetExceeded
def work():
    try:
        ask()
    except BudgetExceeded as error:
        print(error.scope, error.limit)
ask()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    )
    result = run_command("run", "--json", "--budget", "0.000009", path, ledger.url())

    assert (0, "budget 'run' max_cost\n", 1) == (result.returncode, result.stdout, ledger.total().requests)
    assert 1 == told(result)["successful_requests"]


@pytest.mark.parametrize("words", [["python"], [sys.executable], ["python3", "-m"], ["./"]])
def test_programs_as_they_are_started_elsewhere(words, script, tmp_path):
    """`run` before `python app.py`, `python -m app` or `./app.py` runs it in this process, with the same sys.argv."""
    path = script(f"#!{sys.executable}\nimport sys; print(__name__, sys.argv[1:], sys.executable)")
    path.chmod(0o755)
    program = {"-m": [*words, "program"], "./": ["./program.py"]}.get(words[-1], [*words, "program.py"])
    result = run_command("run", *program, "a", "-b", cwd=tmp_path)

    assert (0, f"__main__ ['a', '-b'] {sys.executable}\n") == (result.returncode, result.stdout)


def test_a_line_of_code():
    """-c runs a line of code as Python does."""
    result = run_command("run", "-c", "import sys; print(__name__, sys.argv, sys.path[0]); sys.exit(3)", "x")

    assert (3, "__main__ ['-c', 'x'] \n") == (result.returncode, result.stdout)


def test_an_installed_command(script, tmp_path):
    """A command of the environment runs by its name, whether PATH has it or not."""
    result = run_command("run", "token-handlers", "price", "gpt-4o-mini", "--json", PATH=os.defpath)

    assert 0 == result.returncode
    assert json.loads(result.stdout)


@pytest.mark.parametrize(
    ("code", "status"), [("exit 5", 5), ("kill -TERM $$", -signal.SIGTERM), ("kill -KILL $$", 128 + signal.SIGKILL)]
)
def test_a_command_that_is_no_python(code, status, script, ledger, tmp_path):
    """Any other command runs in a process of its own, with its own status, and the Pythons that it starts count."""
    script(CALL + "ask()")
    result = run_command("run", "sh", "-c", f"{sys.executable} program.py {ledger.url()}; {code}", cwd=tmp_path)

    assert status == result.returncode
    assert "the calls of 1 process that it started are included" in result.stderr


def test_labels(script, ledger, tmp_path):
    """--session, --user and --tag label what the program does not label itself, in the ledger, in threads too."""
    path = script(
        CALL
        + """
import threading
from token_handlers import track_tokens
thread = threading.Thread(target=ask)
thread.start()
thread.join()
with track_tokens(session="own", tags={"team": "red"}):
    ask()
"""
    )
    labels = ("--session", "nightly", "--user", "ada", "--tag", "team=blue", "--tag", "batch")
    result = run_command("run", "--ledger", tmp_path / "ledger.db", *labels, path, ledger.url())
    with SQLiteLedger(tmp_path / "ledger.db") as kept:
        sums = {
            label: {name: each.successful_requests for name, each in kept.by(label).items()}
            for label in ("session", "user", "team", "batch")
        }

    assert 0 == result.returncode
    assert {"session": {"nightly": 1, "own": 1}, "user": {"ada": 2}, "team": {"blue": 1, "red": 1}} == {
        name: sums[name] for name in ("session", "user", "team")
    }
    assert {"true": 2} == sums["batch"]


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        *(("--tag", tag, "a tag such as team=search, whose name is not one of ") for tag in ("", "=x", "model=x")),
        *(
            ("--budget", budget, f"USD, more than 0, not {budget!r}\n")
            for budget in ("0", "-1", "nan", "inf", "much", "")
        ),
        *((f"--{name}", " ", "a name with something in it, not ' '\n") for name in ("session", "user")),
    ],
)
def test_options_that_can_not_be(option, value, error, script, capsys):
    """What is no tag, budget or name is an error of one line that says what is one; the program is not started."""
    with pytest.raises(SystemExit) as caught:
        main(["run", option, value, str(script("print('started')"))])
    out, err = capsys.readouterr()

    assert (2, "") == (caught.value.code, out)
    assert err.splitlines(keepends=True)[-1].startswith(f"token-handlers run: error: argument {option}: {error}")


STREAMS = """
import sys
from langchain_openai import ChatOpenAI
from llama_index.llms.openai import OpenAI
for _ in ChatOpenAI(model="gpt-4o-mini", base_url=sys.argv[1], api_key="none").stream("hello"):
    pass
for _ in OpenAI(model="gpt-4o-mini", api_base=sys.argv[1], api_key="none").stream_complete("hello"):
    pass
for _ in ChatOpenAI(model="gpt-4o-mini", base_url=sys.argv[1], api_key="none", stream_usage=False).stream("hi"):
    pass
"""


def test_streams_that_report(script, ledger):
    """--report-stream-usage makes streams exact, unless the model itself has been told not to ask."""
    total = told(run_command("run", "--json", "--report-stream-usage", script(STREAMS), ledger.url()))

    assert (3, 1) == (total["successful_requests"], total["estimated_requests"])


def test_options_after_the_program(script):
    """An option of ours after the program's name is the program's, and the closing says so."""
    result = run_command("run", script("import sys; print(sys.argv[1:])"), "--ledger", "usage.db", "--tag=a=b")

    assert "['--ledger', 'usage.db', '--tag=a=b']\n" == result.stdout
    assert "--ledger, --tag stood after the program, which got it: our options stand before it" in result.stderr
