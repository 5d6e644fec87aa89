# ruff: noqa: INP001 (this folder is put on PYTHONPATH, and is no package)
"""Tracks a Python process that a program under `token-handlers run` starts, which finds this file on PYTHONPATH.

It first runs the sitecustomize that it hides. Tracking starts with the first import of a library that can make calls,
so that other processes do not load it. The file runs on every Python 3: an older one is named as not tracked.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec, spec_from_loader
from types import ModuleType

HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 (pathlib takes time to import)
LIBRARIES = (
    *("langchain_core", "llama_index", "llama_index_instrumentation", "openai", "anthropic"),
    *("aiobotocore", "aiohttp", "botocore", "httpx", "httpx2", "requests"),  # what all other SDKs send by
)


class Loaded:
    """A loader of a module that is loaded already."""

    def __init__(self, module: "ModuleType") -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: "ModuleSpec") -> "ModuleType":
        """Return the module."""
        return self._module

    def exec_module(self, module: "ModuleType") -> None:
        """Leave it as it was."""
        module.__spec__ = self._spec


class StartWithFirst:
    """Starts tracking where a library is looked for, and finds what the finders then find: some are put there for it.

    What tracking has imported itself meanwhile is not to be loaded a second time.
    """

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Start tracking, once, before a library is imported."""
        if name not in LIBRARIES or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        start()
        module = sys.modules.pop(name, None)  # where it stays, Python takes its spec and loads it
        return find_spec(name) if module is None else spec_from_loader(name, Loaded(module))  # type: ignore[arg-type]  # duck-typed


def start() -> None:
    """Track this process, or note that it can't be tracked; the program goes on either way."""
    try:
        from token_handlers.cli.child_processes import start_here
    except ImportError:  # another environment's Python
        note_unfollowed(f"{sys.executable}, where this version of token_handlers is not installed")
    else:
        start_here()


def note_unfollowed(process: str) -> None:
    """Write down for the closing table that a process could not be tracked."""
    import json

    for run in json.loads(os.environ.get("TOKEN_HANDLERS_RUN", "[]")):
        try:
            with open(os.path.join(run["folder"], "unfollowed"), "a", encoding="utf-8") as file:  # noqa: PTH118, PTH123
                file.write(f"{process}\n")
        except OSError:  # the run has ended
            continue


def run_the_hidden() -> None:
    """Run the sitecustomize that would have been found without this one."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != HERE]  # noqa: PTH100
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        hidden = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(hidden)


if __name__ == "sitecustomize":
    if os.environ.get("TOKEN_HANDLERS_RUN"):
        sys.meta_path.insert(0, StartWithFirst())
    run_the_hidden()
