"""A session's usage in Cognigy's form, from memory and from the ledgers that this process knows."""

from collections.abc import Iterator
from typing import TypedDict

from token_handlers.counter.totals import SESSION_MODEL
from token_handlers.pricing.providers import flat, provider_id
from token_handlers.sinks.configured import Ledger, configured_ledger
from token_handlers.tracking.scopes import active_scopes
from token_handlers.tracking.state import state
from token_handlers.tracking.unread_variable import warn_if_unread
from token_handlers.usage import TOOLS


class LLMTokens(TypedDict):
    """The tokens of a model in a session, cached and reasoning tokens included."""

    inputTokens: int
    outputTokens: int


class LLMTokenUsage(TypedDict):
    """What a session used of a model: ``modelType`` is its name, ``providerType`` its provider's, or "unknown"."""

    llmDisplayName: str
    providerType: str
    modelType: str
    usage: LLMTokens


def get_llm_token_usage_for_session(
    session: str | None = None, *, ledger: Ledger | None = None
) -> dict[str, LLMTokenUsage] | None:
    """Return what each model was used for in a session, by 'provider/model'; None for a session that nobody knows.

    ``session`` is by default that of the block which is active here. LangChain's and LlamaIndex's calls of one model
    are one row: the provider is named as genai-prices names it, whatever the framework calls it.

    Embedding models have outputTokens 0. Calls from before a restart are read from ``ledger``, from the ledger that
    AGENTSIGHT_TOKEN_LEDGER names, or from the ledgers given to `add_sink`. Without a ledger the answer is from memory,
    which holds 10,000 pairs of session and model.
    """
    if session is None:
        scopes = active_scopes()
        session = scopes[-1].labels.session if scopes else None
    if not isinstance(session, str):
        hint = ": no block that is active here has one" if session is None else ""
        raise TypeError(f"session must be a string, not {session!r}{hint}")
    warn_if_unread()
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for model, counts in (*_in_memory(session), *_in_ledgers(session, ledger)):
        # Each source may know less than all: memory since the start, a ledger since it is a sink.
        found[model] = max(found.get(model, (0, 0)), counts, key=sum)
    if not found:
        return None
    return {
        f"{provider}/{model}" if provider else model: {
            "llmDisplayName": f"{provider} - {model}" if provider else model,
            "providerType": provider or "unknown",
            "modelType": model,
            "usage": {"inputTokens": sent, "outputTokens": received},
        }
        for (provider, model), (sent, received) in found.items()
    }


_Sums = dict[tuple[str, str], tuple[int, int]]


def _in_memory(session: str) -> Iterator[tuple[tuple[str, str], tuple[int, int]]]:
    sums: _Sums = {}
    for value, numbers in state.counter.numbers_by(SESSION_MODEL, f"{session}\0").items():
        name, provider, model = value.rsplit("\0", 2)
        if name == session:
            sent = numbers.get("input_tokens", 0) + numbers.get("embedding_tokens", 0)
            _add(sums, provider, model, sent, numbers.get("output_tokens", 0))
    yield from sums.items()


def _in_ledgers(session: str, given: Ledger | None) -> Iterator[tuple[tuple[str, str], tuple[int, int]]]:
    asked = given, configured_ledger(), *state.sinks
    for ledger in dict.fromkeys(sink for sink in asked if isinstance(sink, Ledger)):
        sums: _Sums = {}
        for (provider, model, _), totals in ledger.by_session_model(session).items():
            _add(sums, provider, model, totals.prompt_tokens + totals.embedding_tokens, totals.completion_tokens)
        yield from sums.items()


def _add(sums: _Sums, provider: str | None, model: str, sent: int, received: int) -> None:
    if model == TOOLS:  # they cost, and are no model
        return
    key = _named(provider) if provider else "", model
    before = sums.get(key, (0, 0))
    sums[key] = before[0] + sent, before[1] + received


def _named(provider: str) -> str:
    """Return genai-prices' id of a provider, or the name itself where that is unknown."""
    found = provider_id(provider)
    return provider if found == flat(provider) != provider.lower() else found
