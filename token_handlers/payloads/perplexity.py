"""Perplexity: the searches of its deep research and of its agents, which are billed per query."""

from token_handlers.payloads.fields import Fields, named, part, view
from token_handlers.payloads.reported import Hint, ReportedUsage, count, first, reported

_SEARCHES = "search_web"


def read_searches(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """``num_search_queries`` of a usage or of LangChain's ``response_metadata``; an agent's tools."""
    tools = part(usage, "tool_calls_details")
    searches = first(usage, "num_search_queries")
    if searches is None:
        searches = first(part(tools, _SEARCHES), "invocation")
    others = [
        f"{number} calls of a tool of Perplexity's"
        for name, value in named(tools)
        if name != _SEARCHES and (fields := view(value)) is not None and (number := count(fields.get("invocation")))
    ]
    found = reported(web_searches=searches)
    return found if not others else (found or ReportedUsage({}))._replace(doubts=tuple(others))
