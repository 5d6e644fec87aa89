"""The reference: docstrings that pdoc renders without a warning."""

import importlib

import pdoc
import pytest

# From Python 3.13 on nobody finds the source of a class that pydantic makes.
pytestmark = pytest.mark.filterwarnings("ignore:Cannot determine where .*UsageTotals")

MODULES = (
    "token_handlers",
    "token_handlers.langchain",
    "token_handlers.llama_index",
    "token_handlers.sinks.sqlite.ledger",
    "token_handlers.sinks.postgres.ledger",
    "token_handlers.sinks.redis.counter",
    "token_handlers.sinks.otel",
    "token_handlers.sinks.agentsight.client",
    "token_handlers.tokenizer.estimates",
    "token_handlers.pytest_plugin",
)


def test_pdoc_renders_the_package(tmp_path, capsys):
    """`pdoc token_handlers` says nothing, and each public name is on its page with what it is for."""
    pdoc.pdoc("token_handlers", output_directory=tmp_path)

    assert ("", "") == capsys.readouterr()
    page = (tmp_path / "token_handlers.html").read_text("utf-8")
    names = [*importlib.import_module("token_handlers").__all__]
    names.remove("install")  # there the page has the module of that name, which the function is in
    assert [] == [name for name in names if f'id="{name}"' not in page]
    assert 'href="token_handlers/install.html"' in page


@pytest.mark.parametrize("name", MODULES)
def test_pdoc_renders_each_module(name):
    """So it does the modules of the frameworks and sinks, once what they export has been asked for."""
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        assert getattr(module, public).__doc__
    pages = pdoc.doc.Module(module)
    text = pdoc.render.html_module(pages, all_modules={name: pages})

    assert [] == [public for public in getattr(module, "__all__", ()) if f'id="{public}"' not in text]
