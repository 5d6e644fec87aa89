"""xAI: the tools that its servers run for an answer, billed per call, and the sources of its older live search."""

from token_handlers.payloads.fields import Fields, named, part
from token_handlers.payloads.reported import Hint, ReportedUsage, add, count, first, reported

_COUNTED = frozenset({"web_search_calls", "x_search_calls", "code_interpreter_calls", "code_execution_calls",
                      "file_search_calls", "document_search_calls", "collections_search_calls"})  # fmt: skip
_FREE = frozenset({"mcp_calls", "view_image_calls", "view_x_video_calls"})
"""Calls that cost the tokens they add alone."""


def read_server_side_tools(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """xAI's ``server_side_tool_usage_details`` and ``num_sources_used``; a tool without a unit of ours is a doubt."""
    tools = part(usage, "server_side_tool_usage_details")
    found = reported(
        web_searches=first(tools, "web_search_calls"),
        social_searches=first(tools, "x_search_calls"),
        code_executions=first(tools, "code_interpreter_calls", "code_execution_calls"),
        storage_searches=add(
            first(tools, "file_search_calls", "collections_search_calls"), first(tools, "document_search_calls")
        ),
        sources=first(usage, "num_sources_used"),
    )
    if found is None:
        return None
    others = [name for name, value in named(tools) if name.endswith("_calls") and count(value)]
    return found._replace(
        doubts=tuple(
            f"{count(tools.get(name))} {name}" for name in others if name not in _COUNTED and name not in _FREE
        )
    )
