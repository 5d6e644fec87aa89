"""Fees that a request allows: what the tools that it declares may be billed for, beside the tokens."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

_FEES = (  # what a tool's type or key begins with, and the unit that it is billed by; the first that fits
    ("web_search", "web_searches"),
    ("google_search", "web_searches"),
    ("googleSearch", "web_searches"),
    ("enterprise_web_search", "web_searches"),
    ("enterpriseWebSearch", "web_searches"),
    ("$web_search", "web_searches"),
    ("x_search", "social_searches"),
    ("file_search", "storage_searches"),
    ("collections_search", "storage_searches"),
    ("google_maps", "maps_searches"),
    ("googleMaps", "maps_searches"),
    ("code_interpreter", "container_sessions"),
    ("shell", "container_sessions"),
)
_SIZES = ("low", "medium", "high")


class AllowedFees(NamedTuple):
    """Usage's field -> how often it may be billed, and what else its price depends on, by `price_call`'s keys.

    A tool that states no limit may be used any number of times: it counts once.
    """

    counts: dict[str, int]
    context: dict[str, str]


NO_FEES = AllowedFees({}, {})


def allowed_fees(tools: Iterable[object], max_tool_calls: object = None) -> AllowedFees:
    """Return what the tools of one request may be billed for, in the shapes of OpenAI, Anthropic, Gemini, xAI, Mistral.

    ``max_tool_calls`` is OpenAI's limit of all tools together. What is no such tool is left out.
    """
    fees = AllowedFees({}, {})
    for tool in tools:
        for kind in _kinds(tool):
            unit = next((unit for start, unit in _FEES if kind.startswith(start)), None)
            if unit is not None:
                times = _times(tool, max_tool_calls)
                fees.counts[unit] = fees.counts.get(unit, 0) + times
                _note_context(fees.context, kind, tool)
    return fees


def _kinds(tool: object) -> Iterable[str]:
    """Return a tool's type, else its keys: Gemini's tools are named by the one that is set."""
    if not isinstance(tool, Mapping):
        set_fields = getattr(tool, "model_fields_set", ())
        return [name for name in set_fields if getattr(tool, name, None) is not None]
    kind = tool.get("type")
    if kind is None:
        return [key for key, value in tool.items() if isinstance(key, str) and value is not None]
    return [kind] if isinstance(kind, str) else ()


def _times(tool: object, max_tool_calls: object) -> int:
    stated = (tool.get("max_uses") if isinstance(tool, Mapping) else None, max_tool_calls)
    return next((times for times in stated if type(times) is int and times > 0), 1)


def _note_context(context: dict[str, str], kind: str, tool: object) -> None:
    if kind.startswith("web_search_preview"):
        context["web_search_tool"] = "web_search_preview"
    elif kind == "web_search":
        context["web_search_tool"] = "web_search"
    size = tool.get("search_context_size") if isinstance(tool, Mapping) else None
    if size in _SIZES:
        context["search_context_size"] = str(size)
