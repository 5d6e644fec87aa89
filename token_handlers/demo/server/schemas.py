"""A JSON value that is valid against a JSON schema, as models make them for tool calls and structured output."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

DEPTH = 6
FORMATS = {
    "date-time": "2025-01-31T12:00:00Z",
    "date": "2025-01-31",
    "time": "12:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uri": "https://example.com/",
    "uuid": "12345678-1234-5678-1234-567812345678",
}


def example(schema: Schema) -> object:
    """A small value that matches the schema: every property is given, strings say their property's name.

    Regular expressions (``pattern``) are not followed; a schema that contains itself ends after six levels.
    """
    return _value(schema, schema, "text", 0)


def schemas_in(text: str) -> list[Schema]:
    """The JSON schemas of objects that a text quotes, as prompts do for models without structured output.

    LlamaIndex's prompts quote them with every brace doubled.
    """
    if '"properties"' not in text:
        return []
    return list(_quoted(text)) or list(_quoted(text.replace("{{", "{").replace("}}", "}")))


def _quoted(text: str) -> Iterator[Schema]:
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            end = start + 1
        else:
            if "properties" in value:
                yield value
        start = text.find("{", end)


def _value(schema: Schema, root: Schema, name: str, depth: int) -> object:
    if "$ref" in schema:
        return _value(_referred(schema["$ref"], root), root, name, depth + 1)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return _value(_branch(schema[several], depth), root, name, depth)
    if "allOf" in schema:
        merged = {key: value for part in schema["allOf"] for key, value in part.items()}
        return _value(merged, root, name, depth)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    return _of_kind(_kind(schema), schema, root, name, depth)


def _kind(schema: Schema) -> str:
    kind = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else "string")
    if isinstance(kind, str):
        return kind
    return str(next((one for one in kind if one != "null"), "null"))


def _of_kind(kind: str, schema: Schema, root: Schema, name: str, depth: int) -> object:
    if kind == "object":
        return _object(schema, root, depth)
    if kind == "array":
        return _array(schema, root, name, depth)
    if kind in ("integer", "number"):
        return _number(schema, kind)
    return {"boolean": True, "null": None}.get(kind, _string(schema, name))


def _object(schema: Schema, root: Schema, depth: int) -> dict[str, object]:
    wanted = schema.get("properties", {})
    if depth > DEPTH:
        wanted = {key: wanted[key] for key in schema.get("required", ()) if key in wanted}
    return {key: _value(part, root, key, depth + 1) for key, part in wanted.items()}


def _array(schema: Schema, root: Schema, name: str, depth: int) -> list[object]:
    if "prefixItems" in schema:
        return [_value(part, root, name, depth + 1) for part in schema["prefixItems"]]
    wanted = 0 if depth > DEPTH else 1
    count = max(schema.get("minItems", 0), min(wanted, schema.get("maxItems", 1)))
    return [_value(schema.get("items", {}), root, name, depth + 1)] * count


def _number(schema: Schema, kind: str) -> object:
    floor, over = schema.get("minimum"), schema.get("exclusiveMinimum")
    ceiling, under = schema.get("maximum"), schema.get("exclusiveMaximum")
    low = floor if floor is not None else over
    high = ceiling if ceiling is not None else under
    if kind == "number" and low is not None and high is not None:
        return float(low + high) / 2
    if low is not None:
        number = low if floor is not None else low + 1
    else:
        number = 1 if high is None else min(1, high if ceiling is not None else high - 1)
    step = schema.get("multipleOf", 1 if kind == "integer" else None)
    return float(number) if step is None else int(-(-number // step)) * step


def _string(schema: Schema, name: str) -> str:
    text = FORMATS.get(schema.get("format", ""), name)
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]


def _referred(pointer: str, root: Schema) -> Schema:
    found: Any = root
    for part in pointer.removeprefix("#").strip("/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")] if part else found
    return found  # type: ignore[no-any-return]


def _branch(branches: list[Schema], depth: int) -> Schema:
    nothing = [one for one in branches if one.get("type") == "null"]
    something = [one for one in branches if one.get("type") != "null"]
    return nothing[0] if nothing and (depth > DEPTH or not something) else something[0]
