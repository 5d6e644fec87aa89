import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from token_handlers.tokenizer import estimate_prompt
from token_handlers.tokenizer.tool_schemas import render_tools, sent_tools

WEATHER = {
    "name": "get_current_weather",
    "description": "Get the current weather in a given location",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
            "unit": {
                "type": "string",
                "description": "The unit of temperature to return",
                "enum": ["celsius", "fahrenheit"],
            },
        },
        "required": ["location"],
    },
}
RENDERED = """namespace functions {

// Get the current weather in a given location
type get_current_weather = (_: {
// The city and state, e.g. San Francisco, CA
location: string,
// The unit of temperature to return
unit?: "celsius" | "fahrenheit",
}) => any;

} // namespace functions"""


@pytest.mark.parametrize(
    "tool",
    [
        WEATHER,
        {"type": "function", "function": WEATHER},
        {"type": "function", "strict": True, **WEATHER},
        {"name": WEATHER["name"], "description": WEATHER["description"], "input_schema": WEATHER["parameters"]},
        {"functionDeclarations": [WEATHER]},
        {"function_declarations": [WEATHER]},
        {
            "toolSpec": {
                "name": WEATHER["name"],
                "description": WEATHER["description"],
                "inputSchema": {"json": WEATHER["parameters"]},
            }
        },
    ],
    ids=["legacy", "chat", "responses", "anthropic", "gemini", "google", "bedrock"],
)
def test_every_providers_schemas_are_read(tool):
    """One function reads the same, whichever provider's way it is written."""
    assert RENDERED == render_tools([tool])


class Place(BaseModel):
    latitude: float


SCHEMA = Place.model_json_schema()


@pytest.mark.parametrize(
    "parameters",
    [
        {"response_format": Place},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "Place", "schema": SCHEMA}}},
        {"text": {"format": {"type": "json_schema", "name": "Place", "schema": SCHEMA}}},
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"response_json_schema": SCHEMA},
        {"response_schema": Place},
    ],
    ids=["langchain's", "chat", "responses", "anthropic", "gemini", "google"],
)
def test_a_structured_answers_schema_is_sent_as_a_tool_is(parameters):
    """Whoever's parameter has it, it costs as much as the tool of that name, beside the tools that are sent."""
    tool = {"name": "Place", "parameters": SCHEMA}
    assert render_tools([WEATHER, tool]) == render_tools(sent_tools({"tools": [WEATHER], **parameters}))


@pytest.mark.parametrize(
    "parameters",
    [{}, {"tools": None, "text": "a"}, {"response_format": {"type": "json_object"}}, {"text": {"verbosity": "low"}}],
)
def test_what_has_no_schema_sends_none(parameters):
    """An answer of any form, and settings of another kind, cost no tokens."""
    assert [] == sent_tools(parameters)


@pytest.mark.parametrize(
    ("schema", "rendered"),
    [
        ({"type": "integer"}, "number"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"type": "array", "items": {"type": "boolean"}}, "boolean[]"),
        ({"type": "array"}, "any[]"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null"),
        ({"const": "fixed"}, '"fixed"'),
        ({"enum": [1, None, "ü"]}, '1 | null | "ü"'),
        ({"type": "object"}, "object"),
        ({"properties": {"x": {"type": "number", "description": "left out"}}}, "{\n  x?: number,\n}"),
        ({"type": "array", "items": {"properties": {"x": {"type": "number"}}}}, "{\n  x?: number,\n}[]"),
        ({"$ref": "#/$defs/Colour"}, '"red" | "blue"'),
        ({"$ref": "#/$defs/Missing"}, "any"),
        ({}, "any"),
        ("junk", "any"),
        (None, "any"),
    ],
    ids=str,
)
def test_types_are_written_as_in_typescript(schema, rendered):
    """JSON schema's types have names of their own in TypeScript; what is unknown is any."""
    root = {"properties": {"argument": schema}, "$defs": {"Colour": {"enum": ["red", "blue"]}}}
    assert f"\nargument?: {rendered},\n}})" in render_tools([{"name": "f", "parameters": root}])


def test_a_function_without_parameters_has_none():
    """A tool that takes nothing is one line."""
    assert "type now = () => any;" in render_tools([{"name": "now"}])


@pytest.mark.parametrize("tool", [None, "search", 7, [], {}, {"type": "web_search"}, {"name": 7}], ids=str)
def test_what_is_no_function_is_left_out(tool):
    """Tools that the provider runs itself, and junk, add nothing."""
    assert "" == render_tools([tool])
    assert estimate_prompt([("user", "hi")]) == estimate_prompt([("user", "hi")], [tool])


def test_schemas_without_an_end_are_cut_off():
    """References in a circle, objects that contain themselves and very large schemas have an end."""
    tree = {"properties": {"left": {"$ref": "#/$defs/Tree"}, "right": {"$ref": "#/$defs/Tree"}}}
    tree["$defs"] = {"Tree": tree}
    inside = {str(number): {} for number in range(9)}
    loop = {"type": "object", "properties": inside}
    inside |= {"again": loop, "items": {"type": "array", "items": loop}, "either": {"anyOf": [loop, loop]}}
    large = {"properties": {f"field_{number}": {"type": "string"} for number in range(100_000)}}
    for schema in (tree, loop, large):
        assert 100 < len(render_tools([{"name": "f", "parameters": schema}])) < 200_000


KEYS = "name function description parameters properties required type enum const items anyOf $ref $defs"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(KEYS.split()), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.lists(st.fixed_dictionaries({"name": st.text()}, optional={"description": JSON, "parameters": JSON}) | JSON))
def test_junk_in_schemas_is_no_error(tools):
    """Whatever a tool's schema is made of, there is an estimate."""
    assert estimate_prompt([("user", "hi")], tools).tokens >= estimate_prompt([("user", "hi")]).tokens
