"""Plain answers, which most calls end with, read in a few steps; a property test compares with the general readers.

An answer that is not plain in some field is None here, and is left to the general readers. Answers of one shape (the
keys of their dicts, in order, and the types of their values) share a reader, which is written for the first of them:
`usages` and `answers` say what it does, `source` writes it. The reader of the last answer with the same outermost keys
is tried at once, as it sees for itself whether it fits.
"""

from typing import Any

from token_handlers.payloads.plain.answers import (
    METADATA_KEYS,
    AnswerKind,
    kind_of,
    of_completion,
    of_message,
    shape_of,
)
from token_handlers.payloads.plain.contents import fields_of
from token_handlers.payloads.plain.source import PlainReader, make_reader
from token_handlers.payloads.plain.usages import RAW_DETAILS, USAGE_DETAILS
from token_handlers.payloads.reported import ReportedUsage

_Dict = dict[str, Any]
_Keys = tuple[Any, ...]
_COMPLETIONS = frozenset({"ChatCompletion", "ChatCompletionChunk"})
_USAGES = frozenset({"CompletionUsage", "Usage"})
_DETAILS = frozenset({"PromptTokensDetails", "CompletionTokensDetails", "CacheCreation", "OutputTokensDetails"})


def read_plain_message(
    usage_metadata: Any, response_metadata: Any, provider: str | None, content: Any, additional_kwargs: Any
) -> ReportedUsage | None:
    """A LangChain message of OpenAI's client, of Anthropic's, or one with a ``usage_metadata`` alone."""
    if type(response_metadata) is not dict:
        return None
    if provider is None:
        provider = response_metadata.get("model_provider")
    if type(provider) is not str and provider is not None:
        return None
    keys = None, provider, *response_metadata
    read = _latest.get(keys)
    if read is not None:
        found = read(response_metadata, usage_metadata, content, additional_kwargs)
        if found is not None:
            return found
    return _read_new_message(keys, usage_metadata, response_metadata, content, additional_kwargs)


def _read_new_message(keys: _Keys, usage: Any, metadata: _Dict, content: Any, more: Any) -> ReportedUsage | None:
    if type(usage) is not dict or not METADATA_KEYS.issuperset(metadata):
        return None
    raw = metadata.get("token_usage")
    if raw is None:
        raw = metadata.get("usage")
    parts = (metadata, usage, raw, *map(usage.get, USAGE_DETAILS))
    if type(raw) is dict:
        parts = (*parts, *map(raw.get, RAW_DETAILS))
    elif raw is not None:
        return None
    read = _reader(keys, of_message, parts, (more,))
    return None if read is None else read(metadata, usage, content, more)


def read_plain(payload: Any, provider: str | None) -> ReportedUsage | None:
    """A whole answer as LlamaIndex and the SDKs pass it on: a chat completion, a message, or a usage alone."""
    if type(provider) is not str and provider is not None:
        return None
    body = payload
    if type(body) is not dict:
        body = fields_of(body, _COMPLETIONS)
        if body is None:
            return None
    keys = type(payload), provider, *body
    read = _latest.get(keys)
    if read is not None:
        found: ReportedUsage | None = read(body)
        if found is not None:
            return found
    return _read_new(keys, kind_of(body) if body is payload else of_completion, body)


def _read_new(keys: _Keys, kind: AnswerKind | None, body: _Dict) -> ReportedUsage | None:
    if kind is None:
        return None
    around, usage = (body, body["usage"]) if "usage" in body else (None, body)
    if type(usage) is not dict:
        usage = fields_of(usage, _USAGES)
        if usage is None:
            return None
    parts = (around, usage, *map(usage.get, RAW_DETAILS))
    read = _reader(keys, kind, parts, ())
    return None if read is None else read(body)


_READERS_KEPT = 256
_latest: dict[_Keys, PlainReader] = {}
"""By type, provider and outermost keys of an answer, the reader of the last one: nearly always that of the next one."""
_readers: dict[tuple[object, ...], PlainReader] = {}
"""By kind of answer, provider and shape: clients have few of them."""


def _reader(keys: _Keys, kind: AnswerKind, parts: tuple[Any, ...], others: tuple[Any, ...]) -> PlainReader | None:
    """Return the reader of an answer, kept for the next one; None where it is not plain, or a part of it is no dict."""
    known, provider = _as_dicts(parts), keys[1]
    if known is None:
        return None
    shape = kind, provider, *shape_of(known, others)
    try:
        read = _readers.get(shape)
    except TypeError:  # a foreign class of classes without a hash
        return None
    if read is None:
        read = make_reader(kind, provider, known, others)
        if read is None:
            return None
        _keep(_readers, shape, read)
    _keep(_latest, keys, read)
    return read


def _keep(readers: dict[tuple[object, ...], PlainReader], key: tuple[object, ...], read: PlainReader) -> None:
    if len(readers) >= _READERS_KEPT:
        readers.clear()
    readers[key] = read


def _as_dicts(parts: tuple[Any, ...]) -> list[_Dict | None] | None:
    """Return the parts, with the fields of the SDKs' objects in place of these; None where one is another thing."""
    known: list[_Dict | None] = []
    for part in parts:
        if part is None or type(part) is dict:
            known.append(part)
            continue
        fields = fields_of(part, _DETAILS)
        if fields is None:
            return None
        known.append(fields)
    return known
