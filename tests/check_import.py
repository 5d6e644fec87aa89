"""Import token_handlers and then each of its modules in this interpreter, and say as JSON what came of it.

``loaded`` are the optional or heavy packages that ``import token_handlers`` alone brought in. ``missing`` maps each
module that cannot be imported, or whose exported names cannot all be had, without an extra to the message that says so;
any other failure ends the script. Packages named as arguments are hidden, as if they were not installed.
"""

import importlib
import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path

KEPT_OUT = {
    "aiohttp",
    "genai_prices",
    "httpx",
    "httpx2",
    "langchain",
    "langchain_community",
    "langchain_core",
    "langchain_openai",
    "langgraph",
    "llama_index",
    "llama_index_instrumentation",
    "openai",
    "opentelemetry",
    "redis",
    "requests",
    "rich",
    "tiktoken",
}


def hide(packages):
    """Make packages look as if they were not installed."""

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, fullname, path=None, target=None):
            return None if fullname.partition(".")[0] in packages else super().find_spec(fullname, path, target)

    sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]


def module_names(root):
    """Return every module of the package, without __main__, whose import runs the command line."""
    files = (path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py"))
    return sorted(".".join(file.parts).removesuffix(".__init__") for file in files if file.name != "__main__")


def missing(package):
    """Import each module and look up what it exports; return the messages of those that lack an extra."""
    messages = {}
    for name in module_names(Path(package.__path__[0])):
        try:
            module = importlib.import_module(name)
            for public in getattr(module, "__all__", ()):
                getattr(module, public)
        except package.MissingDependency as error:
            messages[name] = str(error)
    return messages


def main(hidden):
    """Return the report."""
    hide(set(hidden))
    package = importlib.import_module("token_handlers")
    loaded = sorted(KEPT_OUT & {name.partition(".")[0] for name in sys.modules})
    return {"loaded": loaded, "missing": missing(package)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
