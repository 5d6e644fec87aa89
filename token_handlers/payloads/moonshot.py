"""Moonshot: its built-in web search, which is billed for each answer that asks for it."""

from token_handlers.payloads.fields import Fields, items, part, text
from token_handlers.payloads.reported import Hint, ReportedUsage


def read_built_in_search(response: Fields, hint: Hint) -> ReportedUsage | None:
    """A call of ``$web_search``, whose results the client sends back as input of its next request."""
    for choice in items(response, "choices"):
        calls = items(part(choice, "message", "delta"), "tool_calls")
        if any(text(part(call, "function"), "name") == "$web_search" for call in calls):
            return ReportedUsage({"web_searches": 1})
    return None
