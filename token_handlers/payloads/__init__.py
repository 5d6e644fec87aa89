"""Any provider's or framework's usage payload as a Usage: one small reader per shape, in an ordered tuple."""

from token_handlers.payloads.anthropic import UNSTATED_LIFETIME
from token_handlers.payloads.bedrock import GUARDED
from token_handlers.payloads.fields import entries, text, view, views
from token_handlers.payloads.langchain import add_usage_metadata, read_usage_metadata
from token_handlers.payloads.openai import UNNAMED_IMAGES
from token_handlers.payloads.plain import read_plain
from token_handlers.payloads.reported import (
    NO_CONTEXT,
    ReportedUsage,
    hint_of,
    is_empty,
    is_whole,
    reported_cost,
    states_no_output,
)
from token_handlers.payloads.search import COMPOSITES, READERS, PayloadSearch, read_chunks, read_message, read_model_map
from token_handlers.usage import Usage

__all__ = [
    "GUARDED",
    "NO_CONTEXT",
    "READERS",
    "UNNAMED_IMAGES",
    "UNSTATED_LIFETIME",
    "ReportedUsage",
    "add_usage_metadata",
    "is_empty",
    "is_whole",
    "read_any",
    "read_message",
    "read_payload",
    "read_usage_metadata",
    "reported_cost",
    "response_id",
    "states_no_output",
    "usage_from_payload",
]


def usage_from_payload(payload: object, provider: str | None = None) -> Usage | None:
    """What a provider's or framework's payload says a call used; None where it does not say so, never an error.

    The payload is a usage object, a response, message or event that contains one, or a list of one stream's chunks,
    each a JSON-like dict or an SDK's object. ``provider`` settles shapes that two providers share.

    A number that the payload does not state, or that cannot be read, is 0 and not in ``model_fields_set``:
    ``"output_tokens" in usage.model_fields_set`` tells a stated 0 from half a usage. A whole answer's id is kept as
    ``response_id``, by which a counter knows one that it has counted already.
    """
    reading = read_payload(payload, provider)
    if reading is None:
        return None
    usage = Usage(**reading.counts)
    vars(usage)["response_id"] = response_id(payload)  # a cached property, which equality leaves out
    return usage


def response_id(payload: object) -> str | None:
    """Return the id of the answer that a payload is, or of the stream whose chunks or last event it is."""
    listed = entries(payload)
    fields = view(payload) if listed is None else next(views(listed), None)
    for holder in () if fields is None else (fields, *(view(fields.get(key)) for key in _ANSWERS)):
        found = None if holder is None else text(holder, *_IDS)
        if found is not None:
            return found
    return None


_ANSWERS = ("response", "message", "raw", "ResponseMetadata")
_IDS = ("id", "responseId", "response_id", "generation_id", "RequestId")


def read_payload(payload: object, provider: str | None = None) -> ReportedUsage | None:
    """As usage_from_payload, with the cost, tier, model, place, doubts and other models that the payload states."""
    plain = read_plain(payload, provider)
    return read_any(payload, provider) if plain is None else plain


def read_any(payload: object, provider: str | None = None) -> ReportedUsage | None:
    """As `read_payload`, by the readers of every shape, which take many times as long as one for a common shape."""
    hint = hint_of(provider)
    listed = entries(payload)
    if listed is not None:
        chunks = list(views(listed))
        return read_chunks(chunks, hint) if chunks else PayloadSearch(hint, COMPOSITES).find({"generations": listed})
    fields = view(payload)
    if fields is None:
        return None
    return PayloadSearch(hint, COMPOSITES).find(fields) or read_model_map(payload, hint)
