"""Where in a payload its usage stands: the readers in their order, and the doors that lead to what they read."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from token_handlers.payloads.anthropic import merge_events, read_messages
from token_handlers.payloads.bedrock import (
    read_converse,
    read_invocation_metrics,
    read_invoke_headers,
    read_llama,
    read_titan,
)
from token_handlers.payloads.cohere import read_billed_units, read_cohere
from token_handlers.payloads.fields import Fields, entries, part, text, view, views
from token_handlers.payloads.google import read_gemini, read_interactions, read_vertex_embeddings
from token_handlers.payloads.javascript import read_token_usage, read_vercel
from token_handlers.payloads.langchain import add_usage_metadata, combine, implied_tier, read_usage_metadata, same_call
from token_handlers.payloads.ollama import read_ollama, read_watsonx
from token_handlers.payloads.openai import output_fees, read_chat, read_realtime, read_responses, read_total
from token_handlers.payloads.reported import ReportedUsage, clamp_parts, reported_cost, served_tier

Reader = Callable[[Fields, str | None], dict[str, int] | None]


def read_langchain(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """LangChain's UsageMetadata, known by its singular ``input_token_details`` or ``output_token_details``."""
    if view(usage.get("input_token_details")) is None and view(usage.get("output_token_details")) is None:
        return None
    reading = read_usage_metadata(usage)
    return None if reading is None else reading.counts


# The first that finds counts has read it: a shape that shares names with another one stands before it.
READERS: tuple[Reader, ...] = (
    read_chat,
    read_realtime,
    read_langchain,
    read_responses,
    read_messages,
    read_gemini,
    read_interactions,
    read_vercel,
    read_converse,
    read_token_usage,
    read_cohere,
    read_ollama,
    read_invocation_metrics,
    read_llama,
    read_titan,
    read_watsonx,
    read_vertex_embeddings,
    read_invoke_headers,
    read_total,
)

NESTED_KEYS = (
    "usage", "usage_metadata", "usageMetadata", "token_usage", "tokenUsage", "token_count", "x_groq", "meta",
    "raw", "response", "message", "metadata", "delta", "data", "result", "body", "interaction", "kwargs", "lc_kwargs",
    "llm_output", "llmOutput", "response_metadata", "generation_info", "generationInfo", "additional_kwargs",
    "ResponseMetadata", "HTTPHeaders",
)  # fmt: skip
MODELS = ("model", "model_name", "modelVersion", "model_version", "modelName", "model_id", "modelId", "modelType")
_RAW = ("token_usage", "tokenUsage", "usage", "token_count")
_ESSENTIAL = frozenset({"input_tokens", "output_tokens", "rerank_searches"})
MOST_NODES, MOST_DEPTH = 128, 6


class PayloadSearch:
    """One walk through a payload: at most 128 nodes, each once, however they refer to each other."""

    def __init__(self, provider: str | None, composites: "tuple[Composite, ...]" = ()) -> None:
        self.provider = provider
        self.composites = composites
        self.left = MOST_NODES
        self._seen: dict[int, Any] = {}

    def find(self, root: Fields) -> ReportedUsage | None:
        """The first usage behind the doors, completed by what stands around it."""
        stack: list[tuple[Fields, tuple[Fields, ...]]] = [(root, ())]
        while stack and self.left:
            node, around = stack.pop()
            self.left -= 1
            reading = self._read(node)
            if reading is not None:
                return fill_from_ancestors(reading, around)
            if len(around) < MOST_DEPTH:
                stack += [(child, (node, *around)) for child in reversed(list(self._children(node)))]
        return None

    def _read(self, node: Fields) -> ReportedUsage | None:
        for composite in self.composites:
            reading = composite(node, self.provider)
            if reading is not None:
                return reading
        for door in NESTED_KEYS[:3]:
            usage = view(node.get(door))
            reading = None if usage is None else read_usage(usage, self.provider)
            if reading is not None:
                return fill_from_ancestors(reading, (node,))
        return read_usage(node, self.provider)

    def _children(self, node: Fields) -> Iterator[Fields]:
        for door in NESTED_KEYS:
            value = node.get(door)
            child = None if value is None or id(value) in self._seen else view(value)
            if child is not None:
                self._seen[id(value)] = value
                yield child


def read_shape(usage: Fields, provider: str | None) -> dict[str, int] | None:
    """The counts of a usage object of any shape, or None."""
    for reader in READERS:
        counts = reader(usage, provider)
        if counts:
            clamp_parts(counts, reader.__name__.removeprefix("read_"))
            if not _ESSENTIAL.isdisjoint(counts):
                return counts
    return None


def read_usage(usage: Fields, provider: str | None) -> ReportedUsage | None:
    """A usage object of any shape, with what it says itself of cost, tier and model."""
    counts = read_shape(usage, provider)
    if counts is None:
        return None
    tier = served_tier(usage) or implied_tier(usage)
    return ReportedUsage(counts, reported_cost(usage), tier, text(usage, *MODELS), read_billed_units(usage))


def fill_from_ancestors(reading: ReportedUsage, around: tuple[Fields, ...]) -> ReportedUsage:
    """A reading with the cost, tier, model and searches that its surroundings state, the nearest first."""
    counts, cost, tier, model = reading[:4]
    for node in around:
        counts = {**output_fees(node), **counts}
        cost = reported_cost(node) if cost is None else cost
        tier = tier or served_tier(node)
        model = model or text(node, *MODELS)
    return reading._replace(counts=counts, cost=cost, service_tier=tier, model=model)


def read_result(result: Fields, provider: str | None) -> ReportedUsage | None:
    """LangChain's LLMResult: what each prompt's first generation says, or the sum in ``llm_output``.

    With n > 1 every generation repeats the whole usage, so the others are left out.
    """
    generations = entries(result.get("generations"))
    if generations is None:
        return None
    prompts = [prompt for entry in generations if (prompt := entries(entry)) is not None] or [generations]
    firsts = [first for prompt in prompts if (first := next(views(prompt), None)) is not None]
    readings = [found for first in firsts if (found := PayloadSearch(provider, (read_node,)).find(first)) is not None]
    whole = PayloadSearch(provider).find(part(result, "llm_output", "llmOutput"))
    if not readings or whole is None:
        return total(readings) if readings else whole
    return _result(total(readings), whole, several=len(prompts) > 1)


def _result(reading: ReportedUsage, whole: ReportedUsage, *, several: bool) -> ReportedUsage:
    counts = whole.counts if several else reading.counts
    if same_call(reading.counts, whole.counts):
        counts = {**whole.counts, **reading.counts}
        clamp_parts(counts, "LangChain LLMResult")
    cost = whole.cost if reading.cost is None else reading.cost
    tier, model = reading.service_tier or whole.service_tier, reading.model or whole.model
    return ReportedUsage(counts, cost, tier, model, whole.billed if several else reading.billed or whole.billed)


def read_node(message: Fields, provider: str | None) -> ReportedUsage | None:
    """A LangChain message, known by its ``response_metadata``."""
    metadata = message.get("response_metadata")
    return None if metadata is None else read_message(message.get("usage_metadata"), metadata, provider)


def read_message(usage_metadata: Any, response_metadata: Any, provider: str | None = None) -> ReportedUsage | None:
    """What a LangChain message says: its ``usage_metadata``, completed from its ``response_metadata``."""
    usage, metadata = view(usage_metadata), view(response_metadata) or {}
    reading = None if usage is None else read_usage_metadata(usage)
    raw = next((found for key in _RAW if (found := view(metadata.get(key))) is not None), None)
    if raw is not None:
        return combine(reading, read_usage(raw, provider), metadata)
    return combine(reading, PayloadSearch(provider).find(metadata) if reading is None else None, metadata)


Composite = Callable[[Fields, str | None], ReportedUsage | None]
COMPOSITES: tuple[Composite, ...] = (read_result, read_node)


def total(readings: list[ReportedUsage]) -> ReportedUsage:
    """Several calls as one: cost, tier and model where all of them state it, the latter two where they agree."""
    if len(readings) == 1:
        return readings[0]
    counts: dict[str, int] = {}
    for reading in readings:
        for name, number in reading.counts.items():
            counts[name] = counts.get(name, 0) + number
    costs = [reading.cost for reading in readings if reading.cost is not None]
    tiers, models = {reading.service_tier for reading in readings}, {reading.model for reading in readings}
    return ReportedUsage(
        counts,
        sum(costs, Decimal(0)) if len(costs) == len(readings) else None,
        tiers.pop() if len(tiers) == 1 else None,
        models.pop() if len(models) == 1 else None,
    )


def read_chunks(chunks: list[Fields], provider: str | None) -> ReportedUsage | None:
    """The chunks or events of one call's stream: Anthropic's merged, LangChain's added up, else the last with usage."""
    merged = merge_events(chunks)
    if merged is not None:
        return PayloadSearch(provider).find(merged)
    messages = [part(chunk, "message", "kwargs") if chunk.get("usage_metadata") is None else chunk for chunk in chunks]
    reading = read_usage_metadata(add_usage_metadata(messages))
    if reading is not None:
        return combine(reading, None, _last_metadata(messages))
    finds = (PayloadSearch(provider, COMPOSITES).find(chunk) for chunk in reversed(chunks))
    return next((found for found in finds if found is not None), None)


def _last_metadata(messages: list[Fields]) -> dict[str, Any]:
    metadata = [part(message, "response_metadata") for message in messages]
    keys = (*MODELS, "service_tier", "cost", "cost_details")
    return {key: value for each in metadata for key in keys if (value := each.get(key)) is not None}


def read_model_map(models: Any, provider: str | None) -> ReportedUsage | None:
    """Cognigy's map of model references to their usage: the sum, with a model's name where there is one model."""
    if type(models) is not dict or not models:
        return None
    readings: list[ReportedUsage] = []
    for entry in views(list(models.values())):
        usage = view(entry.get("usage"))
        counts = None if usage is None else read_shape(usage, provider)
        if counts is None:
            return None
        readings.append(ReportedUsage(counts, model=text(entry, *MODELS)))
    return total(readings) if readings else None
