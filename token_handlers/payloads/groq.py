"""Groq: systems that ask several models for one answer, and the tools that its servers run."""

from token_handlers.payloads.fields import Fields, items, part, text
from token_handlers.payloads.openai import read_chat
from token_handlers.payloads.reported import NO_HINT, Counts, Hint, ReportedUsage


def read_breakdown(response: Fields, counts: Counts) -> ReportedUsage | None:
    """A compound system's ``usage_breakdown``: each model's part of ``counts``, billed at that model's rates."""
    models = tuple(
        (text(each, "model"), found.counts)
        for each in items(part(response, "usage_breakdown"), "models")
        if (found := read_chat(part(each, "usage"), NO_HINT)) is not None
    )
    if not models:
        return None
    sides = ("input_tokens", "output_tokens")
    if all(sum(each.get(side, 0) for _, each in models) == counts.get(side) for side in sides):
        return ReportedUsage({}, beside=models)
    return ReportedUsage({}, doubts=("the models' parts of the usage do not add up to it",))


def read_executed_tools(response: Fields, hint: Hint) -> ReportedUsage | None:
    """Tools that ran on Groq's servers: it bills them by kind and provider, which an answer does not tell apart."""
    places = [part(choice, "message", "delta") for choice in items(response, "choices")]
    number = sum(1 for place in [response, *places] for _ in items(place, "executed_tools"))
    return ReportedUsage({}, doubts=(f"{number} tools that Groq ran, whose fees are not stated",)) if number else None
