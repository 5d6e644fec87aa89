"""What LlamaIndex's LLMs and embedding models say of themselves, and what their classes tell."""

from collections.abc import Mapping
from typing import Any

from token_handlers.llama_index.by_type import ByType

_BASE_URLS = ("api_base", "base_url", "azure_endpoint", "endpoint", "endpoint_url")
_UNKNOWN = "unknown"


def facts_of(instance: Any) -> dict[str, Any]:
    """Return the class name and model of an LLM or embedding model as events have them, for one without events."""
    tell = getattr(instance, "to_payload", None)  # not before llama-index-core 0.14.23
    if callable(tell):
        facts = tell()
        return facts if isinstance(facts, dict) else {}
    name = getattr(instance, "class_name", None)
    model = getattr(instance, "model", None) or getattr(instance, "model_name", None)
    return {"class_name": name() if callable(name) else type(instance).__name__, "model_name": model}


def model_name(facts: Mapping[str, Any], instance: object) -> str | None:
    """Return the name of an LLM's or embedding model's model; of one that has none, as mocks do, its class's name.

    LlamaIndex's own fields say "unknown" where an integration does not fill them, as Jina's, which has a ``model``.
    """
    name = facts.get("model_name")
    if isinstance(name, str) and name and name != _UNKNOWN:
        return name
    for name in (facts.get("model"), getattr(instance, "model", None), facts.get("class_name")):
        if isinstance(name, str) and name and name != _UNKNOWN:
            return name
    return None


def base_url(instance: Any) -> str | None:
    """Return the server that an LLM or embedding model talks to, where it says so."""
    kind = type(instance)
    for name in _url_fields[kind]:
        url = getattr(instance, name, None)
        if isinstance(url, str) and url:
            return url
    return _url_of_google(instance) if kind.__name__ == "GoogleGenAI" else None


def takes_stream_options(kind: type) -> bool:
    """Return whether LLMs of a class speak OpenAI's chat completions, whose streams report usage only if asked to."""
    return any((base.__name__, base.__module__) == ("OpenAI", "llama_index.llms.openai.base") for base in kind.__mro__)


def _possible_urls(kind: type) -> tuple[str, ...]:
    fields = getattr(kind, "model_fields", {})
    return tuple(name for name in _BASE_URLS if name in fields)


_url_fields = ByType(_possible_urls)


def _url_of_google(instance: Any) -> str | None:
    """Return the server of Google's client, whose host says at which location Vertex AI serves."""
    try:
        url = instance._client._api_client._http_options.base_url  # noqa: SLF001
    except Exception:  # noqa: BLE001 - a foreign object's own code runs here, and may change
        return None
    return url if isinstance(url, str) and url else None
