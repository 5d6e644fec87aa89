"""The common end of an LLM run: an answer with OpenAI's usage, whole, which waits to be read with others like it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from token_handlers.langchain.calls import Run
from token_handlers.payloads import plain_counts, read_message, read_usage_metadata
from token_handlers.tracking.recorder import record_later
from token_handlers.tracking.result import Likeness, Spent

PLAIN_USAGE = {
    "completion_tokens",
    "prompt_tokens",
    "total_tokens",
    "completion_tokens_details",
    "prompt_tokens_details",
}
# Providers whose own client reads a plain usage without losing any of it.
LOSSLESS = ("openai", "azure")


class _Plain(NamedTuple):
    """The usage of the common shape, from OpenAI's client or one like it."""

    usage: Mapping[str, Any]
    raw: Mapping[str, Any]
    model: Any
    tier: Any

    def read(self, run: Any) -> Spent:
        """Return what the run used."""
        run.describe()
        kept = {"token_usage": self.raw, "model_name": self.model, "service_tier": self.tier}
        whole = run.provider in LOSSLESS and "input_token_details" in self.usage  # not before langchain-core 0.3.9
        reading = read_usage_metadata(self.usage) if whole else read_message(self.usage, kept, run.provider)
        if reading is None:
            return Spent(self.known(), source="estimated")
        tier = reading.service_tier or self.tier
        tier = tier if isinstance(tier, str) else None
        return Spent(reading.counts, model=model_name(run, kept, {}), cost=reading.cost, service_tier=tier)

    def alike(self, run: Any) -> Likeness | None:
        """Return what tells the run from those that differ in their counts alone, and these."""
        metadata = run.metadata
        if not metadata or metadata.get("ls_provider") not in LOSSLESS or "input_token_details" not in self.usage:
            return None
        model, counts = metadata.get("ls_model_name"), plain_counts(self.usage)
        if model is None or counts is None:
            return None
        tags = tuple(run.tags) if run.tags else None
        return (self.model, self.tier, model, id(run.serialized), tags, metadata.get("langgraph_node")), *counts

    def known(self) -> Mapping[str, int]:
        """Return the two counts that there are."""
        return {name: self.usage[name] for name in ("input_tokens", "output_tokens") if type(self.usage[name]) is int}


def queue_plain(run: Run, usage: Any, metadata: Mapping[str, Any]) -> bool:
    """Queue a run whose usage is whole and has the common shape, to be read later; return whether it is."""
    raw = metadata.get("token_usage")
    if run.chunk is not None or not isinstance(raw, dict) or not isinstance(usage, dict):
        return False
    if not (PLAIN_USAGE.issuperset(raw) and usage.get("input_tokens") and usage.get("output_tokens")):
        return False
    told = _Plain(usage, raw, metadata.get("model_name"), metadata.get("service_tier"))
    run.forget_texts()
    record_later(run, told)
    return True


def model_name(run: Run, metadata: Mapping[str, Any], output: Mapping[str, Any]) -> str | None:
    """Return the name of the model that answered."""
    name = metadata.get("model_name") or metadata.get("model") or output.get("model_name") or output.get("model")
    if not isinstance(name, str):
        return None
    return name if run.chunk is None else _once(name)


def _once(name: str) -> str:
    """Return a model's name as it was before LangChain joined it to itself: streams with n > 1 do."""
    period = (name + name).find(name, 1)
    return name[:period]
