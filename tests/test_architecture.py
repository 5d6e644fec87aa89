import ast
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "token_handlers"
NOT_A_ROOM = {"token_handlers", "__main__"}
UNHELPFUL = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}


@cache
def arrows() -> dict[str, frozenset[str]]:
    """Each module and the modules of the package that it imports, wherever the import stands."""
    graph = grimp.build_graph("token_handlers", cache_dir=None)
    return {name: frozenset(graph.find_modules_directly_imported_by(name)) for name in graph.modules}


def room(module: str) -> str:
    """Return the file or folder at the top of the package that a module is in."""
    return module.partition(".")[2].partition(".")[0] or module


def reachable(start: str) -> set[str]:
    """Return the modules that a module imports, and what these import."""
    found: set[str] = set()
    new = {start}
    while new:
        new = {target for module in new for target in arrows()[module]} - found
        found |= new
    return found


def test_no_module_imports_itself_by_a_detour():
    """There is no import circle, not inside a folder and not by an import inside a function either."""
    assert [] == [module for module in sorted(arrows()) if module in reachable(module)]


def test_what_ls_shows():
    """The top of the package has at most 13 modules and 14 folders; no name there is one that says nothing."""
    modules = [path.stem for path in PACKAGE.glob("*.py")]
    folders = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]

    assert len(modules) <= 13, modules
    assert len(folders) <= 14, folders
    assert set() == UNHELPFUL & {path.stem for path in PACKAGE.rglob("*.py")}


def test_at_most_ten_floors():
    """Files and folders at the top stand on at most 10 floors: the longest chain of imports from one to the next."""
    below: dict[str, set[str]] = {}
    for module, targets in arrows().items():
        below.setdefault(room(module), set()).update(room(target) for target in targets)

    @cache
    def floor(name: str) -> int:
        return 1 + max((floor(other) for other in below[name] if other != name), default=0)

    assert max(map(floor, below)) <= 10, sorted((floor(name), name) for name in below)


def test_one_contract_of_few_layers():
    """One contract says who may import whom, in at most 9 lines."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

    assert (1, True) == (len(contracts), len(contracts[0]["layers"]) <= 9)


def test_a_class_name_stands_for_one_thing():
    """No two files have a class of the same public or private name."""
    names = Counter(
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    assert [] == [name for name, number in names.items() if number > 1]


PUBLIC = {
    "token_handlers": [
        *("Budget", "BudgetExceeded", "ConversationTracker", "MissingDependency", "TokenCounter"),
        *("TokenHandlersError", "Usage", "UsageRecord", "UsageTotals", "add_sink", "get_llm_token_usage_for_session"),
        *("get_openai_callback", "install", "remove_sink", "set_price", "shared_counter", "track_tokens", "uninstall"),
        "usage_from_payload",
    ],
    "token_handlers.auto": [],
    "token_handlers.budget": ["Amounts", "Budget", "BudgetWarning", "Spent"],
    "token_handlers.cli": ["main"],
    "token_handlers.conversation": ["ConversationTracker", "SendSummary"],
    "token_handlers.counter": ["TokenCounter"],
    "token_handlers.demo.server": ["Channel", "LedgerServer"],
    "token_handlers.errors": [
        *("BudgetExceeded", "MissingDependency", "StoreRefused", "StoreUnavailable", "TokenHandlersError"),
    ],
    "token_handlers.guide": ["DASHBOARDS", "PAGES", "WHY", "page"],
    "token_handlers.install": ["Settings", "install", "parse_handler_type", "uninstall"],
    "token_handlers.langchain": [
        *("BudgetMiddleware", "LangChainTokenHandler", "TrackedEmbeddings", "get_bedrock_anthropic_callback"),
        *("get_openai_callback", "report_stream_usage"),
    ],
    "token_handlers.llama_index": ["LlamaIndexTokenHandler", "report_stream_usage"],
    "token_handlers.payloads": ["read_payload", "usage_from_payload"],
    "token_handlers.pricing": ["Price", "load_prices", "price_call", "reset_prices", "set_price"],
    "token_handlers.pytest_plugin": [],
    "token_handlers.sessions": ["LLMTokenUsage", "get_llm_token_usage_for_session"],
    "token_handlers.sinks.agentsight": ["DEFAULT_ENDPOINT", "AgentSightClient", "SendFailed"],
    "token_handlers.sinks.otel": ["OTelMetrics"],
    "token_handlers.sinks.redis": [
        *("Amounts", "Backlog", "RedisCounter", "Reserved", "Spent", "StoreRefused", "StoreUnavailable"),
    ],
    "token_handlers.sinks.postgres": ["SQLLedger"],
    "token_handlers.sinks.sqlite": ["SQLiteLedger"],
    "token_handlers.tokenizer": ["Estimate", "estimate_prompt", "estimate_tokens", "prepare", "set_tokenizer"],
    "token_handlers.tracking": ["track_tokens"],
    "token_handlers.usage": ["Usage", "UsageRecord", "UsageTotals"],
}
"""What users could import before the package was laid out in folders."""


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_stay_where_they_were(module):
    """Every public name can be imported from where it has always been."""
    loaded = __import__(module, fromlist=["*"])

    assert [] == [name for name in PUBLIC[module] if not hasattr(loaded, name)]
