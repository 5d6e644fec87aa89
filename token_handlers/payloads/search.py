"""Where in a payload its usage stands: the readers in their order, and the keys that lead to what they read."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from token_handlers.payloads.anthropic import merge_events, read_content, read_messages, read_server_tools
from token_handlers.payloads.bedrock import (
    read_bedrock_extras,
    read_converse,
    read_invocation_metrics,
    read_invoke_headers,
    read_llama,
    read_titan,
)
from token_handlers.payloads.cohere import billed_units, read_billed_extras, read_cohere, read_lost_units
from token_handlers.payloads.fields import Fields, entries, items, named, part, text, view, views
from token_handlers.payloads.gateways import estimated_cost, stated_cost
from token_handlers.payloads.google import (
    UNFINISHED,
    has_finish_reason,
    read_gemini,
    read_grounding,
    read_interactions,
    read_litellm_searches,
    read_tool_counts,
    read_vertex_embeddings,
)
from token_handlers.payloads.groq import read_breakdown, read_executed_tools
from token_handlers.payloads.javascript import read_token_usage, read_vercel
from token_handlers.payloads.langchain import (
    add_usage_metadata,
    answer_of,
    combine,
    implied_tier,
    lost_parts,
    read_usage_metadata,
    same_call,
)
from token_handlers.payloads.mistral import read_connectors
from token_handlers.payloads.moonshot import read_built_in_search
from token_handlers.payloads.ollama import read_ollama, read_watsonx
from token_handlers.payloads.openai import (
    read_annotations,
    read_chat,
    read_output,
    read_realtime,
    read_responses,
    read_total,
)
from token_handlers.payloads.perplexity import read_searches
from token_handlers.payloads.plain import read_plain_message
from token_handlers.payloads.reported import (
    MODELS,
    Counts,
    Hint,
    ReportedUsage,
    clamp_parts,
    count,
    hint_of,
    is_empty,
    joined,
    served_context,
    served_tier,
    unreadable,
)
from token_handlers.payloads.xai import read_server_side_tools

NO_INPUT = "an output beside an input of 0"
"""The doubt about a usage that states output tokens and no input, without a stated cost."""

Reader = Callable[[Fields, Hint], ReportedUsage | None]


def read_langchain(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """LangChain's UsageMetadata, known by its singular ``input_token_details`` or ``output_token_details``."""
    if view(usage.get("input_token_details")) is None and view(usage.get("output_token_details")) is None:
        return None
    return read_usage_metadata(usage, hint)


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

# What a usage or an answer shows as billed beside its tokens, and the fields of which one has to be there. Of two that
# state one count, the one nearer to the usage stands.
EXTRAS: tuple[tuple[Reader, frozenset[str]], ...] = (
    (read_server_tools, frozenset({"server_tool_use", "server_tool_use_details"})),
    (read_server_side_tools, frozenset({"server_side_tool_usage_details", "num_sources_used"})),
    (read_searches, frozenset({"num_search_queries", "tool_calls_details"})),
    (read_connectors, frozenset({"connectors", "prompt_audio_seconds"})),
    (read_tool_counts, frozenset({"grounding_tool_count"})),
    (read_billed_extras, frozenset({"billed_units", "billedUnits"})),
    (read_bedrock_extras, frozenset({"trace", "serverToolUsage"})),
    (read_output, frozenset({"output", "tool_usage"})),
    (read_content, frozenset({"content", "stop_reason"})),
    (read_litellm_searches, frozenset({"prompt_tokens_details"})),
    (read_lost_units, frozenset({"prompt_tokens"})),
    (
        read_grounding,
        frozenset(
            {"candidates", "groundingMetadata", "grounding_metadata", "finish_reason", "vertex_ai_grounding_metadata"}
        ),
    ),
    (read_annotations, frozenset({"annotations", "choices"})),
    (read_executed_tools, frozenset({"executed_tools", "choices"})),
    (read_built_in_search, frozenset({"choices"})),
)

NESTED_KEYS = (
    "usage", "usage_metadata", "usageMetadata", "token_usage", "tokenUsage", "token_count", "x_groq", "meta",
    "raw", "response", "message", "metadata", "delta", "data", "result", "body", "interaction", "kwargs", "lc_kwargs",
    "llm_output", "llmOutput", "response_metadata", "generation_info", "generationInfo", "additional_kwargs",
    "ResponseMetadata", "HTTPHeaders",
)  # fmt: skip
_RAW = ("token_usage", "usage", "usage_metadata", "usageMetadata", "token_count", "tokenUsage")
"""Where a message has its provider's own usage; the last has LangChain.js' sums alone."""
_ESSENTIAL = frozenset({"input_tokens", "output_tokens", "rerank_searches"})
MOST_NODES, MOST_DEPTH = 128, 6


class PayloadSearch:
    """One walk through a payload: at most 128 nodes, each once, however they refer to each other."""

    def __init__(self, hint: Hint, composites: "tuple[Reader, ...]" = ()) -> None:
        self.hint = hint
        self.composites = composites
        self.left = MOST_NODES
        self._seen: dict[int, Any] = {}

    def find(self, root: Fields) -> ReportedUsage | None:
        """The first usage behind the keys, completed by what stands around it."""
        stack: list[tuple[Fields, tuple[Fields, ...]]] = [(root, ())]
        while stack and self.left:
            node, around = stack.pop()
            self.left -= 1
            reading = self._read(node, around)
            if reading is not None:
                return reading
            if len(around) < MOST_DEPTH:
                stack += [(child, (node, *around)) for child in reversed(list(self._children(node)))]
        return None

    def _read(self, node: Fields, around: tuple[Fields, ...]) -> ReportedUsage | None:
        for composite in self.composites:
            reading = composite(node, self.hint)
            if reading is not None:
                return complete(reading, around, self.hint)
        around = (*around, *self.hint.around)
        stated = [node.get(key) for key in NESTED_KEYS[:3]]
        stated += [choice.get("usage") for choice in items(node, "choices")]  # Moonshot's streams
        for each in stated:
            usage = view(each)
            reading = None if usage is None else read_usage(usage, self.hint._replace(around=(node, *around)))
            if reading is not None:
                return reading
        return read_usage(node, self.hint._replace(around=around))

    def _children(self, node: Fields) -> Iterator[Fields]:
        for key in NESTED_KEYS:
            value = node.get(key)
            child = None if value is None or id(value) in self._seen else view(value)
            if child is not None:
                self._seen[id(value)] = value
                yield child


def read_shape(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """The counts of a usage object of any shape, or None."""
    for reader in READERS:
        reading = reader(usage, hint)
        if reading is not None:
            doubts = clamp_parts(reading.counts, reader.__name__.removeprefix("read_"))
            if not _ESSENTIAL.isdisjoint(reading.counts):
                return reading._replace(doubts=joined(reading.doubts, doubts, tuple(unreadable(usage))))
    return None


def read_usage(usage: Fields, hint: Hint) -> ReportedUsage | None:
    """A usage object of any shape, completed by what stands around it."""
    reading = read_shape(usage, hint)
    if reading is None:
        return None
    tier = served_tier(usage) or implied_tier(usage) or reading.service_tier
    return complete(reading._replace(service_tier=tier, billed=billed_units(usage)), (usage, *hint.around), hint)


def complete(reading: ReportedUsage, nodes: Sequence[Fields], hint: Hint) -> ReportedUsage:
    """A reading with the cost, tier, model, place and fees that its surroundings state, the nearest first.

    What the biller states as the cost includes its fees: whether these can be counted is no doubt then.
    """
    if not nodes:
        return reading
    hint = hint._replace(around=tuple(nodes))
    extras = [found for node in nodes for found in _extras(node, hint)]
    counts = dict(reading.counts)
    for extra in extras:
        _add_extra(counts, extra)
    extras += [found for node in nodes if (found := read_breakdown(node, counts)) is not None]
    cost, doubts = _nearest(reading.cost, nodes, stated_cost), reading.doubts
    if cost is None:
        guess = _nearest(None, nodes, estimated_cost)
        cost = None if guess is None else guess.cost
        doubts = joined(doubts, *(each.doubts for each in ([guess] if guess is not None else extras)))
        if counts.get("input_tokens") == 0 and counts.get("output_tokens"):
            doubts = joined(doubts, (NO_INPUT,))
    return ReportedUsage(
        counts,
        cost,
        _nearest(reading.service_tier, nodes, served_tier),
        _nearest(reading.model, nodes, lambda node: text(node, *MODELS)),
        _nearest(reading.billed, extras, lambda extra: extra.billed),
        _place(reading, nodes, extras, counts),
        (*reading.beside, *(each for extra in extras for each in extra.beside)),
        doubts,
    )


def _extras(node: Fields, hint: Hint) -> Iterator[ReportedUsage]:
    for read, keys in EXTRAS:
        if type(node) is dict and keys.isdisjoint(node):
            continue
        found = read(node, hint)
        if found is not None:
            yield found


def _place(
    reading: ReportedUsage, nodes: Sequence[Fields], extras: Iterable[ReportedUsage], counts: Counts
) -> Mapping[str, str]:
    places = [reading.context, *map(served_context, nodes), *(extra.context for extra in extras)]
    context = {key: value for place in reversed(places) for key, value in place.items()}
    if not counts.get("cache_write_tokens"):
        context.pop("cache_retention", None)  # the price of what is written alone
    return context


Node = TypeVar("Node")
Found = TypeVar("Found")


def _nearest(stated: Found | None, nodes: Iterable[Node], read: Callable[[Node], Found | None]) -> Found | None:
    if stated is not None:
        return stated
    return next((found for node in nodes if (found := read(node)) is not None), None)


def _add_extra(counts: Counts, extra: ReportedUsage) -> None:
    """Add what is billed beside a call's own counts, in place; of what both state, the call's own stands."""
    for name, number in extra.counts.items():
        counts.setdefault(name, number)
    for _, tokens in extra.beside:
        for name, number in tokens.items():
            counts[name] = counts.get(name, 0) + number


def read_result(result: Fields, hint: Hint) -> ReportedUsage | None:
    """LangChain's LLMResult: what each prompt's first generation says, or the sum in ``llm_output``.

    With n > 1 every generation repeats the whole usage, so the others are left out.
    """
    generations = entries(result.get("generations"))
    if generations is None:
        return None
    prompts = [prompt for entry in generations if (prompt := entries(entry)) is not None] or [generations]
    firsts = [first for prompt in prompts if (first := next(views(prompt), None)) is not None]
    readings = [found for first in firsts if (found := PayloadSearch(hint, (read_node,)).find(first)) is not None]
    whole = PayloadSearch(hint).find(part(result, "llm_output", "llmOutput"))
    if not readings or whole is None:
        return total(readings) if readings else whole
    return _result(total(readings), whole, several=len(prompts) > 1)


def _result(reading: ReportedUsage, whole: ReportedUsage, *, several: bool) -> ReportedUsage:
    counts, doubts = (whole if several else reading).counts, reading.doubts
    if same_call(reading.counts, whole.counts):
        counts = {**whole.counts, **reading.counts}
        doubts = joined(doubts, clamp_parts(counts, "LangChain LLMResult"))
    return ReportedUsage(
        counts,
        whole.cost if reading.cost is None else reading.cost,
        reading.service_tier or whole.service_tier,
        reading.model or whole.model,
        whole.billed if several else reading.billed or whole.billed,
        {**whole.context, **reading.context},
        reading.beside or whole.beside,
        joined(doubts, whole.doubts),
    )


def read_node(message: Fields, hint: Hint) -> ReportedUsage | None:
    """A LangChain message, known by its ``response_metadata``."""
    metadata = message.get("response_metadata")
    if metadata is None:
        return None
    more = message.get("content"), message.get("additional_kwargs")
    return read_any_message(message.get("usage_metadata"), metadata, hint, *more)


def read_message(
    usage_metadata: Any,
    response_metadata: Any,
    provider: str | None = None,
    *,
    content: Any = None,
    additional_kwargs: Any = None,
) -> ReportedUsage | None:
    """What a LangChain message says: its ``usage_metadata``, completed by all else that it has.

    ``response_metadata`` has the provider's own usage, cost, tier and model; ``content`` and ``additional_kwargs``
    show the searches and tools that the answer was billed for. The common shapes are read in a few steps.
    """
    plain = read_plain_message(usage_metadata, response_metadata, provider, content, additional_kwargs)
    if plain is not None:
        return plain
    return read_any_message(usage_metadata, response_metadata, hint_of(provider), content, additional_kwargs)


def read_any_message(
    usage_metadata: Any, response_metadata: Any, hint: Hint, content: Any, additional_kwargs: Any
) -> ReportedUsage | None:
    """As `read_message`, by the readers of every shape."""
    usage, metadata = view(usage_metadata), view(response_metadata) or {}
    provider = hint if hint.provider else hint_of(text(metadata, "model_provider"))
    hint = provider._replace(around=(metadata,))
    raw = next((each for key in _RAW if (each := view(metadata.get(key))) is not None), None)
    answer = answer_of(content, additional_kwargs, raw or usage)
    found = None if usage is None else read_usage_metadata(usage, hint)
    if raw is not None:
        found = combine(found, read_usage(raw, hint))
    elif found is None:
        found = PayloadSearch(hint._replace(around=())).find(metadata)
    if found is None:
        return None
    stop = text(metadata, "stop_reason")
    nodes = (metadata, answer if stop is None else answer | {"stop_reason": stop})
    # what the message itself states of cost, tier and model overrules its raw usage
    stated = found._replace(cost=None, service_tier=None, model=text(metadata, "model_name", *MODELS))
    whole = _overruled(complete(stated, nodes, hint), found)
    is_raw = raw is not None and raw.get("promptTokens") is None
    if is_raw or (raw is None and usage is None):
        return whole
    return whole._replace(doubts=joined(whole.doubts, tuple(lost_parts(whole, content, hint))))


def _overruled(stated: ReportedUsage, found: ReportedUsage) -> ReportedUsage:
    return stated._replace(
        cost=found.cost if stated.cost is None else stated.cost,
        service_tier=stated.service_tier or found.service_tier,
        model=stated.model or found.model,
    )


def read_event(event: Fields, hint: Hint) -> ReportedUsage | None:
    """The first event of a Messages stream, whose output is no count of what will be written, or the last by itself."""
    if text(event, "type") not in ("message_start", "message_delta"):
        return None
    merged = merge_events([event])
    return None if merged is None else PayloadSearch(hint).find(merged)


COMPOSITES: tuple[Reader, ...] = (read_result, read_node, read_event)


def total(readings: list[ReportedUsage]) -> ReportedUsage:
    """Several calls as one: cost, tier, model and place where all of them state it, the latter where they agree."""
    if len(readings) == 1:
        return readings[0]
    counts: Counts = {}
    billed: Counts = {}
    for reading in readings:
        for sums, stated in ((counts, reading.counts), (billed, reading.billed or reading.counts)):
            for name, number in stated.items():
                sums[name] = sums.get(name, 0) + number
    costs = [reading.cost for reading in readings if reading.cost is not None]
    tiers, models = {reading.service_tier for reading in readings}, {reading.model for reading in readings}
    places = [reading.context for reading in readings]
    return ReportedUsage(
        counts,
        sum(costs, Decimal(0)) if len(costs) == len(readings) else None,
        tiers.pop() if len(tiers) == 1 else None,
        models.pop() if len(models) == 1 else None,
        billed if any(reading.billed is not None for reading in readings) else None,
        places[0] if all(place == places[0] for place in places) else {},
        tuple(each for reading in readings for each in reading.beside),
        joined(*(reading.doubts for reading in readings)),
    )


def read_chunks(chunks: list[Fields], hint: Hint) -> ReportedUsage | None:
    """The chunks or events of one call's stream: Anthropic's merged, LangChain's added up, else the last with usage.

    What the other chunks show of searches and tools is added; a usage of zeros is passed over for one that is none.
    """
    merged = merge_events(chunks)
    if merged is not None:
        return PayloadSearch(hint).find(merged)
    messages = [_message_of(chunk) for chunk in chunks]
    usage = add_usage_metadata(messages)
    if any(count(usage.get(side)) is not None for side in ("input_tokens", "output_tokens")):
        blocks = [block for each in messages for block in entries(each.get("content")) or []]
        return read_any_message(usage, _last_metadata(messages), hint, blocks, _joined_kwargs(messages))
    found = [(place, reading) for place, chunk in enumerate(chunks)
             if (reading := PayloadSearch(hint, COMPOSITES).find(chunk)) is not None]  # fmt: skip
    if not found:
        return None
    place, last = next((each for each in reversed(found) if not is_empty(each[1])), found[-1])
    whole = complete(last, [*chunks[:place], *chunks[place + 1 :]], hint)
    doubts = tuple(doubt for doubt in whole.doubts if doubt != UNFINISHED)
    is_whole = _is_final(chunks, place) and (UNFINISHED not in last.doubts or any(map(has_finish_reason, chunks)))
    return whole._replace(doubts=doubts if is_whole else (*doubts, UNFINISHED))


def _message_of(chunk: Fields) -> Fields:
    """LangChain's message in a generation or in a serialised object; else the chunk itself."""
    if chunk.get("usage_metadata") is not None:
        return chunk
    return next((found for key in ("message", "kwargs") if (found := view(chunk.get(key))) is not None), chunk)


def _is_final(chunks: list[Fields], place: int) -> bool:
    """Whether no piece of the answer comes after the usage: one that came with a piece needs an end behind it."""
    if any(_has_text(chunk) for chunk in chunks[place + 1 :]):
        return False
    return not _has_text(chunks[place]) or any(
        choice.get("finish_reason") for chunk in chunks[place:] for choice in items(chunk, "choices")
    )


def _has_text(chunk: Fields) -> bool:
    """Whether a chunk of chat completions carries a piece of the answer."""
    return any(text(part(choice, "delta"), "content") is not None for choice in items(chunk, "choices"))


def _last_metadata(messages: list[Fields]) -> dict[str, Any]:
    """What the chunks' ``response_metadata`` say, the last to say it."""
    metadata = [part(message, "response_metadata") for message in messages]
    return {key: value for each in metadata for key, value in named(each) if value is not None}


def _joined_kwargs(messages: list[Fields]) -> dict[str, Any]:
    more = [part(message, "additional_kwargs") for message in messages]
    return {key: [each for one in more for each in entries(one.get(key)) or []]
            for key in ("tool_outputs", "annotations", "executed_tools")}  # fmt: skip


def read_model_map(models: Any, hint: Hint) -> ReportedUsage | None:
    """Cognigy's map of model references to their usage: the sum, with a model's name where there is one model."""
    if type(models) is not dict or not models:
        return None
    readings: list[ReportedUsage] = []
    for entry in views(list(models.values())):
        usage = view(entry.get("usage"))
        reading = None if usage is None else read_shape(usage, hint)
        if reading is None:
            return None
        readings.append(reading._replace(model=text(entry, *MODELS)))
    return total(readings) if readings else None
