"""Mistral: its connectors, which are billed per call, and audio, which is billed by its length."""

from token_handlers.payloads.fields import Fields, named, part
from token_handlers.payloads.reported import Hint, ReportedUsage, count, first, reported

_COUNTED = frozenset({"web_search", "code_interpreter", "document_library"})


def read_connectors(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """How often an answer of the agents' API used each connector, and how many seconds of audio it heard."""
    used = part(usage, "connectors")
    doubts = [
        f"{number} calls of a connector without a known price"
        for name, value in named(used)
        if name not in _COUNTED and (number := count(value))
    ]
    seconds = first(usage, "prompt_audio_seconds")
    if seconds:
        doubts.append(f"{seconds} s of audio, which Mistral bills by time")
    found = reported(
        web_searches=first(used, "web_search"),
        code_executions=first(used, "code_interpreter"),
        storage_searches=first(used, "document_library"),
    )
    return found if not doubts else (found or ReportedUsage({}))._replace(doubts=tuple(doubts))
