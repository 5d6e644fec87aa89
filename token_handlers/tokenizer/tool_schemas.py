"""Tool schemas as OpenAI's models read them: functions of a TypeScript namespace; and which are sent with a prompt."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

_DEEPEST = 8  # levels of nesting
_LARGEST = 2_000  # properties, of all tools together
_NAMES = {"integer": "number", "int": "number", "float": "number", "str": "string", "bool": "boolean", "dict": "object"}


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _listed(value: object) -> Iterable[object]:
    return value if isinstance(value, (list, tuple)) else ()


def _functions(tool: object) -> Iterator[Mapping[object, object]]:
    """Yield the functions of a tool as OpenAI, Anthropic, Gemini or Bedrock write it: with name and description."""
    if not _is_mapping(tool):
        return
    for key in ("function_declarations", "functionDeclarations"):
        for function in _listed(tool.get(key)):
            yield from _functions(function)
    for key in ("function", "toolSpec"):
        if _is_mapping(inner := tool.get(key)):
            yield inner
            return
    if isinstance(tool.get("name"), str):
        yield tool


def _parameters(function: Mapping[object, object]) -> Mapping[object, object]:
    for key in ("parameters", "input_schema", "inputSchema", "parametersJsonSchema"):
        if _is_mapping(schema := function.get(key)):
            inner = schema.get("json")
            return inner if _is_mapping(inner) else schema
    return {}


class _Schema:
    """Renders the types of one function's parameters; junk is any, and what goes on and on is cut off."""

    def __init__(self, root: Mapping[object, object], room: int) -> None:
        self._root = root
        self._depth = 0
        self.room = room

    def properties(self, schema: Mapping[object, object], indent: int) -> list[str]:
        """Return a line per property; only those of the function itself keep their descriptions."""
        found = schema.get("properties")
        required = set(map(str, _listed(schema.get("required"))))
        lines = []
        for name, value in found.items() if _is_mapping(found) else ():
            if self.room <= 0:
                break
            self.room -= 1
            if not indent and _is_mapping(seen := self._resolved(value)) and isinstance(seen.get("description"), str):
                lines.append(f"// {seen['description']}")
            optional = "" if str(name) in required else "?"
            lines.append(f"{name}{optional}: {self._type(value, indent)},")
        return [" " * indent + line for line in lines]

    def _resolved(self, value: object) -> object:
        """Follow a reference of the form #/$defs/Name, one step; what stands beside it overrules."""
        if not _is_mapping(value) or not isinstance(reference := value.get("$ref"), str):
            return value
        found: object = self._root
        for key in reference.removeprefix("#/").split("/"):
            found = found.get(key) if _is_mapping(found) else None
        return {**found, **{k: v for k, v in value.items() if k != "$ref"}} if _is_mapping(found) else value

    def _type(self, value: object, indent: int) -> str:
        value = self._resolved(value)
        if not _is_mapping(value) or self._depth >= _DEEPEST or self.room <= 0:
            return "any"
        self._depth += 1
        rendered = self._choices(value, indent) or self._named(value, indent)
        self._depth -= 1
        return rendered

    def _choices(self, value: Mapping[object, object], indent: int) -> str:
        """Return what is one of several, or ""."""
        if fixed := [*_listed(value.get("enum"))] or ([value["const"]] if "const" in value else []):
            return " | ".join(json.dumps(choice, ensure_ascii=False, default=str) for choice in fixed)
        for key in ("anyOf", "oneOf", "allOf"):
            if options := _listed(value.get(key)):
                self.room -= 1
                return " | ".join(dict.fromkeys(self._type(option, indent) for option in options))
        return " | ".join(_NAMES.get(str(one), str(one)) for one in _listed(value.get("type")))

    def _named(self, value: Mapping[object, object], indent: int) -> str:
        kind = value.get("type")
        if kind == "array":
            return self._type(value.get("items"), indent) + "[]"
        if kind == "object" or "properties" in value:
            lines = self.properties(value, indent + 2)
            return "\n".join(["{", *lines, "}"]) if lines else "object"
        return _NAMES.get(kind, kind) if isinstance(kind, str) else "any"


def _rendered(function: Mapping[object, object], room: int) -> tuple[list[str], int]:
    root = _parameters(function)
    schema = _Schema(root, room)
    lines = schema.properties(root, 0)
    head = [f"// {text}"] if isinstance(text := function.get("description"), str) and text else []
    name = function.get("name")
    body = [f"type {name} = (_: {{", *lines, "}) => any;"] if lines else [f"type {name} = () => any;"]
    return [*head, *body, ""], schema.room


def render_tools(tools: Iterable[object]) -> str:
    """Return tools as text to count, or "" when none of them has a function's name."""
    lines: list[str] = []
    room = _LARGEST
    for tool in tools:
        for function in _functions(tool):
            more, room = _rendered(function, room)
            lines += more
    return "\n".join(["namespace functions {", "", *lines, "} // namespace functions"]) if lines else ""


_ANSWERS = ("response_format", "text", "output_config", "response_schema", "response_json_schema")
"""The parameters of OpenAI's APIs, of Anthropic's and of Google's that have the schema of a structured answer."""
SENT_BESIDE = frozenset({"tools", "functions", *_ANSWERS})
"""The parameters whose tools and schemas are sent with a prompt; see `sent_tools`."""


def sent_tools(parameters: Mapping[str, Any]) -> Sequence[Any]:
    """Return the tools that are sent with a prompt, and the schema of a structured answer as one that costs as much."""
    tools = _listed(parameters.get("tools")) or _listed(parameters.get("functions"))
    return [*tools, *(tool for name in _ANSWERS if (tool := _as_tool(parameters.get(name))) is not None)]


def _as_tool(answer: object) -> Mapping[str, object] | None:
    """Return the tool with an answer's schema, which may be a model of pydantic's; None where there is none."""
    schema = answer.model_json_schema() if hasattr(answer, "model_json_schema") else answer
    name: object = None
    for key in ("format", "json_schema", "schema"):
        if _is_mapping(schema):
            name = schema.get("name") or name
            schema = schema.get(key, schema)
    if not _is_mapping(schema) or "properties" not in schema:
        return None
    return {"name": name or schema.get("title") or "answer", "parameters": schema}
