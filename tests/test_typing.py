import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

import langchain_core.messages.ai
import langchain_core.outputs
import langgraph.types
import opentelemetry.metrics
import pytest
from langchain.agents.middleware.types import ToolCallRequest
from pydantic import BaseModel

import token_handlers.langchain.openai_callback
from token_handlers import TokenCounter, UsageTotals
from token_handlers.counter.attributes import UsageAttributes
from token_handlers.langchain import LangChainTokenHandler
from token_handlers.llama_index import LlamaIndexTokenHandler
from token_handlers.usage import Measure

PUBLIC = {
    "token_handlers": (),  # what is in its __all__
    "token_handlers.budget": ("Amounts", "BudgetWarning"),
    "token_handlers.conversation": ("SendSummary",),
    "token_handlers.install": ("Settings",),
    "token_handlers.langchain": (),
    "token_handlers.llama_index": (),
    "token_handlers.sessions": ("LLMTokenUsage",),
    "token_handlers.sinks.agentsight": (),
    "token_handlers.sinks.otel": ("OTelMetrics",),
    "token_handlers.sinks.redis": (),
    "token_handlers.sinks.postgres": ("SQLLedger",),
    "token_handlers.sinks.sqlite": ("SQLiteLedger",),
}
"""Each public module, with the names of those that have more than are theirs or no __all__."""

FRAMEWORKS = {
    # LangChain's callbacks, and what its embeddings are copied with
    *(f"LangChainTokenHandler.on_{event}" for event in ("chat_model_start", "llm_start", "llm_new_token", "llm_end")),
    *(f"LangChainTokenHandler.on_{event}" for event in ("llm_error", "chain_start", "chain_end", "chain_error")),
    *(f"LangChainTokenHandler.on_{event}" for event in ("tool_start", "tool_end", "tool_error")),
    "LangChainTokenHandler.__deepcopy__",
    "TrackedEmbeddings.__getattr__",
    # LangChain's middleware, whose state and context are an agent's own
    *(f"BudgetMiddleware.{name}" for name in ("after_model", "aafter_model", "wrap_model_call", "awrap_model_call")),
    *(f"BudgetMiddleware.{name}" for name in ("wrap_tool_call", "awrap_tool_call")),
    # LlamaIndex's callbacks
    "LlamaIndexTokenHandler.on_event_start",
    "LlamaIndexTokenHandler.on_event_end",
    "LlamaIndexTokenHandler.__deepcopy__",
    "LlamaIndexTokenHandler.__reduce__",
}
"""Where a framework's own signature has Any."""

# What the modules import for type checkers alone.
TYPING_ONLY = {
    "LLMResult": langchain_core.outputs.LLMResult,
    "MeterProvider": opentelemetry.metrics.MeterProvider,
    "ToolCallRequest": ToolCallRequest,
    "UsageMetadata": langchain_core.messages.ai.UsageMetadata,
    "Command": langgraph.types.Command,
    "openai_callback": token_handlers.langchain.openai_callback,
}


def public_names() -> Iterator[tuple[str, str]]:
    """Yield each public module's name with each of its public names."""
    for module, names in PUBLIC.items():
        for name in (*getattr(import_module(module), "__all__", ()), *names):
            yield module, name


def test_the_typed_example_has_every_public_name():
    """typing_api.py, which mypy and pyright check, imports and uses every public name."""
    tree = ast.parse(Path(__file__).with_name("typing_api.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported = {(node.module, alias.name): alias.asname or alias.name for node in imports for alias in node.names}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}

    assert [] == [name for name in public_names() if imported.get(name, name[1]) not in used]


@pytest.mark.parametrize(("module", "name"), dict.fromkeys(public_names()))
def test_no_any_on_the_surface(module, name):
    """No public function, method or attribute is annotated with Any, or not at all; the frameworks' signatures may."""
    assert [] == list(untyped(name, getattr(import_module(module), name)))


def test_a_handler_has_what_a_counter_has():
    """Both frameworks' handlers have all the totals and the methods of a TokenCounter, under its names and types."""
    totals = {*UsageTotals.model_fields, *UsageTotals.model_computed_fields}
    methods = {"add", "by", "by_model", "by_session", "by_user", "get_token_usage", "flush", "on_record", "reset"}
    methods |= {"input_tokens", "output_tokens", "snapshot"}

    assert totals | methods == {name for name in dir(UsageAttributes) if not name.startswith("_")}
    assert issubclass(LangChainTokenHandler, UsageAttributes)
    assert issubclass(LlamaIndexTokenHandler, UsageAttributes)
    for name in totals | methods:
        assert signature(getattr(TokenCounter, name)) == signature(getattr(UsageAttributes, name))


def signature(member):
    """Return a method's or a property's types; a measure is the same descriptor for both."""
    if isinstance(member, Measure):
        return member
    return get_type_hints(member.fget if isinstance(member, property) else member)


def untyped(name, thing):
    """Yield the names of what has Any, or a parameter or a result without a type."""
    if inspect.isfunction(thing):
        if has_any(thing):
            yield name
    elif inspect.isclass(thing):
        for key, member in members(thing):
            if key == "__annotations__":
                hints = get_type_hints(SimpleNamespace(__annotations__=member), vars(import_module(thing.__module__)))
                yield from (f"{name}.{one}" for one, hint in hints.items() if one[0] != "_" and mentions_any(hint))
            function = (
                member.fget if isinstance(member, property) else inspect.unwrap(getattr(member, "__func__", member))
            )
            if f"{name}.{key}" not in FRAMEWORKS and inspect.isfunction(function) and has_any(function):
                yield f"{name}.{key}"


def members(kind):
    """Yield what a class has of its own and of its bases, where they are ours."""
    for base in kind.__mro__:
        if base.__module__.startswith("token_handlers"):
            for key, member in vars(base).items():
                if not key.startswith("_") or key == "__annotations__" or (key.startswith("__") and ours(base, member)):
                    yield key, member


def ours(kind, member):
    """Return whether a special method was written here, rather than made by typing or pydantic."""
    code = getattr(inspect.unwrap(getattr(member, "__func__", member)), "__code__", None)
    return code is not None and "token_handlers" in code.co_filename and not issubclass(kind, (BaseModel, tuple))


def has_any(function):
    """Return whether a function's types have Any in them, or are not all there."""
    hints = get_type_hints(function, localns=TYPING_ONLY)
    wanted = [one for one in inspect.signature(function).parameters if one not in ("self", "cls")]
    return any(map(mentions_any, hints.values())) or not {*wanted, "return"} <= {*hints}


def mentions_any(hint):
    """Return whether a type is or has Any; what is read of JSON, a dict of names, is typed as object."""
    return hint is Any or any(map(mentions_any, get_args(hint))) or get_origin(hint) is Any
