"""The answers that most calls end with, read in a few steps; a property test shows each equal to the general readers.

Whatever is not plain, in one field or another, is None here, and is left to them. What is told by its type's name is
an SDK's own object, whose fields can be asked for without running anybody's code.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from token_handlers.payloads.reported import MOST_TOKENS, Counts, ReportedUsage

_Dict = dict[str, Any]

_Names = dict[str, str | None]

_METADATA_INPUTS: _Names = {"cache_read": "cache_read_tokens", "cache_creation": "cache_write_tokens",
                    "ephemeral_5m_input_tokens": "cache_write_5m_tokens",
                    "ephemeral_1h_input_tokens": "cache_write_1h_tokens", "audio": "input_audio_tokens"}  # fmt: skip
_METADATA_OUTPUTS: _Names = {"reasoning": "reasoning_tokens", "audio": "output_audio_tokens"}
_CHAT = frozenset({"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details",
                   "completion_tokens_details", "queue_time", "prompt_time", "completion_time",
                   "total_time"})  # fmt: skip
_CHAT_INPUTS: _Names = {"cached_tokens": "cache_read_tokens", "cache_write_tokens": "cache_write_tokens",
                "audio_tokens": "input_audio_tokens", "image_tokens": "input_image_tokens",
                "video_tokens": "input_video_tokens", "text_tokens": None}  # fmt: skip
_CHAT_OUTPUTS: _Names = {"reasoning_tokens": "reasoning_tokens", "audio_tokens": "output_audio_tokens",
                 "image_tokens": "output_image_tokens", "text_tokens": None, "accepted_prediction_tokens": None,
                 "rejected_prediction_tokens": None}  # fmt: skip
_MESSAGES = frozenset({"input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
                       "cache_creation", "output_tokens_details", "service_tier", "inference_geo", "server_tool_use",
                       "iterations", "speed"})  # fmt: skip
_THOUGHTS: _Names = {"thinking_tokens": "reasoning_tokens"}
_LIFETIMES: _Names = {"ephemeral_5m_input_tokens": "cache_write_5m_tokens",
              "ephemeral_1h_input_tokens": "cache_write_1h_tokens"}  # fmt: skip
_ANYWHERE = ("global", "not_available")

_METADATA = frozenset({"token_usage", "usage", "model_name", "model", "model_provider", "service_tier",
                       "system_fingerprint", "id", "finish_reason", "logprobs", "object", "created", "created_at",
                       "status", "metadata", "type", "role", "stop_reason", "stop_sequence", "stop_details",
                       "container", "grounding_metadata", "context_management", "diagnostics", "safety_ratings",
                       "prompt_feedback", "incomplete_details", "user", "done", "done_reason", "total_duration",
                       "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count",
                       "eval_duration", "ResponseMetadata", "stopReason", "metrics"})  # fmt: skip
_LOSSY = ("mistral", "openrouter", "cohere", "together", "xai")
_SHOWING_FEES = frozenset({"tool_outputs", "annotations", "executed_tools", "groundingMetadata"})
_BLOCKS = frozenset({"text", "tool_use", "thinking", "redacted_thinking", "reasoning", "refusal", "function_call",
                     "tool_call", "TextBlock", "ToolUseBlock", "ThinkingBlock", "RedactedThinkingBlock"})  # fmt: skip
_COMPLETIONS = frozenset({"ChatCompletion", "ChatCompletionChunk"})
_COMPLETION = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint",
                         "service_tier"})  # fmt: skip
_MESSAGE = frozenset({"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "stop_details",
                      "usage", "container", "diagnostics"})  # fmt: skip


def read_plain_message(
    usage_metadata: Any, response_metadata: Any, provider: str | None, content: Any, additional_kwargs: Any
) -> ReportedUsage | None:
    """A LangChain message of OpenAI's client, of Anthropic's, or one with a ``usage_metadata`` alone."""
    metadata = response_metadata
    if type(usage_metadata) is not dict or not _is_plain_answer(metadata, content, additional_kwargs):
        return None
    kind = metadata.get("model_provider") if provider is None else provider
    if kind is not None and (type(kind) is not str or "vercel" in kind.lower()):  # see _is_plain_provider
        return None
    counts, raw = _counts(usage_metadata, _LANGCHAIN), metadata.get("token_usage")
    if counts is None:
        return None
    tier, model = metadata.get("service_tier"), metadata.get("model_name")
    model = metadata.get("model") if model is None else model
    raw = metadata.get("usage") if raw is None else raw
    if raw is not None:
        own = _raw_counts(raw, kind)
        if own is None or _sides(own) != _sides(counts):
            return None
        counts, tier = own | counts, raw.get("service_tier") if tier is None else tier
    elif counts.get("cache_write_tokens") or (kind is not None and kind.lower().startswith(_LOSSY)):
        return None  # LangChain's streams leave out how long these are kept, and what else these bill by
    return _reported(counts, tier, model)


_sides = itemgetter("input_tokens", "output_tokens")


def _is_plain_answer(metadata: Any, content: Any, additional_kwargs: Any) -> bool:
    if type(metadata) is not dict or not _METADATA.issuperset(metadata):
        return False
    if "stop_reason" in metadata and _is_refusal(metadata):
        return False
    if "grounding_metadata" in metadata and not _is_void(metadata["grounding_metadata"]):
        return False
    more = additional_kwargs
    if more is not None and (type(more) is not dict or not _SHOWING_FEES.isdisjoint(more)):
        return False
    return type(content) is str or _are_plain(content)


def read_plain(payload: Any, provider: str | None) -> ReportedUsage | None:
    """A whole answer as LlamaIndex and the SDKs pass it on: a chat completion, a message, or a usage alone."""
    if not _is_plain_provider(provider):
        return None
    if type(payload) is not dict:
        return _read_completion(payload.__dict__) if _is_plain_object(payload, _COMPLETIONS) else None
    if _COMPLETION.issuperset(payload):
        return _read_completion(payload)
    if _MESSAGE.issuperset(payload):
        return _read_message(payload, provider)
    counts = _counts(payload, _OPENAI) if _CHAT.issuperset(payload) else None
    return None if counts is None else ReportedUsage(counts)


def _read_completion(body: _Dict) -> ReportedUsage | None:
    usage = body.get("usage")
    if type(usage) is not dict:
        if not _is_plain_object(usage, ("CompletionUsage",)):
            return None
        usage = usage.__dict__
    choices = body.get("choices")
    if choices is not None and (type(choices) is not list or not all(map(_is_plain_choice, choices))):
        return None
    counts = _counts(usage, _OPENAI) if _CHAT.issuperset(usage) else None
    return None if counts is None else _reported(counts, body.get("service_tier"), body.get("model"))


def _read_message(body: _Dict, provider: str | None) -> ReportedUsage | None:
    usage = body.get("usage")
    if type(usage) is not dict:
        if not _is_plain_object(usage, ("Usage",)):
            return None
        usage = usage.__dict__
    kind = body.get("type")
    if type(kind) is not str or kind != "message" or _is_refusal(body) or not _are_plain(body.get("content")):
        return None
    counts = _raw_counts(usage, provider or "anthropic")
    return None if counts is None else _reported(counts, usage.get("service_tier"), body.get("model"))


def _is_void(part: Any) -> bool:
    return part is None or (type(part) is dict and not part)


def _is_refusal(body: _Dict) -> bool:
    """Whether it is one, or may be: a reason that is no text is left to others."""
    reason = body.get("stop_reason")
    return reason is not None and (type(reason) is not str or reason == "refusal")


def _reported(counts: Counts, tier: Any, model: Any) -> ReportedUsage | None:
    if tier is not None:
        if type(tier) is not str or not tier:
            return None
        tier = None if tier == "auto" else tier.lower()
    if model is not None and (type(model) is not str or not model or "command" in model):
        return None  # Cohere bills other units
    return ReportedUsage(counts, None, tier, model)


def _is_plain_provider(provider: Any) -> bool:
    """Vercel's gateway bills reasoning beside the output."""
    return provider is None or (type(provider) is str and "vercel" not in provider.lower())


_sdk_types: set[type] = set()
"""The types of the SDKs that were met, of which there are a few."""


def _is_plain_object(value: Any, names: Any) -> bool:
    kind = type(value)
    if kind not in _sdk_types:
        if not kind.__module__.startswith(("openai.", "anthropic.")):
            return False
        _sdk_types.add(kind)
    return kind.__name__ in names and not value.__pydantic_extra__


def _are_plain(content: Any) -> bool:
    """Whether the blocks of an answer show neither a tool that is billed nor an image."""
    if content is None or type(content) is str:
        return True
    if type(content) is not list:
        return False
    for block in content:
        kind = type(block)
        name = block.get("type") if kind is dict else kind.__name__
        if kind is not str and (type(name) is not str or name not in _BLOCKS):
            return False
    return True


def _is_plain_choice(choice: Any) -> bool:
    """Whether a choice shows neither citations nor tools that its provider ran."""
    fields = _fields(choice)
    message: Any = fields.get("message", fields.get("delta"))
    fields = _fields(message)
    more = fields if type(message) is dict or not fields else message.__pydantic_extra__ or {}
    calls, notes = fields.get("tool_calls"), fields.get("annotations")
    if not fields or not (notes is None or (type(notes) is list and not notes)) or "executed_tools" in more:
        return False
    return calls is None or (type(calls) is list and all(map(_is_plain_call, calls)))


def _is_plain_call(call: Any) -> bool:
    """Whether a tool call is the caller's own: a provider's built-in tools have names of their own."""
    name = _fields(_fields(call).get("function")).get("name")
    return type(name) is str and not name.startswith("$")


def _fields(value: Any) -> _Dict:
    if type(value) is dict:
        return value
    fields: _Dict = value.__dict__ if type(value).__module__.startswith("openai.") else {}
    return fields


def _raw_counts(usage: Any, provider: Any) -> Counts | None:
    if type(usage) is not dict:
        return None
    if _CHAT.issuperset(usage):
        return _counts(usage, _OPENAI)
    is_anthropic = type(provider) is str and provider.lower().startswith("anthropic")
    return _messages_counts(usage) if is_anthropic and _MESSAGES.issuperset(usage) else None


_CountReader = Callable[..., Counts | None]
_Sources = dict[str | None, str]
_SIDES: _Sources = {"input_tokens": "n0", "output_tokens": "n1"}
_TIMED = "cache_write_5m_tokens", "cache_write_1h_tokens"
_READERS_KEPT = 256
_INTEGERS = {int}
_INTEGERS_OR_NONE = {int, type(None)}


class _Form:
    """Where a usage states its numbers, and how they are counted: n0, n1, ... are the heads, then the parts' numbers.

    ``sound`` is what must hold of the heads, ``whole`` what the parts of ``given`` are in together; those of
    ``generated`` are in n1. ``adds_timed`` is whether what is kept for a time may stand beside what was written.
    """

    def __init__(
        self,
        heads: tuple[str, ...],
        given: str,
        inputs: _Names,
        generated: str,
        outputs: _Names,
        *,
        counted: _Sources = _SIDES,
        sound: str = "n2 == n0 + n1",
        whole: str = "n0",
        adds_timed: bool = False,
    ) -> None:
        self.heads = itemgetter(*heads)
        self.given, self.generated = given, generated
        self._inputs, self._outputs = inputs, outputs
        self._first_part = len(heads)
        self._counted, self._sound, self._whole, self._adds_timed = counted, sound, whole, adds_timed
        self.readers: dict[tuple[object, ...], _CountReader] = {}  # by the parts' keys: clients have few orders of them

    def learn(self, given: _Dict, generated: _Dict) -> _CountReader | None:
        """Return what reads numbers with parts of these keys, and remember it; None where a key is not known."""
        if not (self._inputs.keys() >= given.keys() and self._outputs.keys() >= generated.keys()):
            return None
        if self._adds_timed and "cache_creation" not in given and not given.keys().isdisjoint(_LIFETIMES):
            return None
        numbers = [f"n{at}" for at in range(self._first_part + len(given) + len(generated))]
        of_parts = iter(numbers[self._first_part :])
        inputs = {self._inputs[key]: next(of_parts) for key in given}
        outputs = {self._outputs[key]: next(of_parts) for key in generated}
        for parts in inputs, outputs:
            parts.pop(None, None)  # such as text, which is what the others leave
        counted: _Sources = {**self._counted, **inputs, **outputs}
        beside = {**inputs}
        if self._adds_timed and "cache_write_tokens" in inputs:
            write = inputs["cache_write_tokens"]
            timed = " + ".join(beside.pop(name) for name in _TIMED if name in inputs) or "0"
            # either all that was written, or moved out of it
            written = f"({write} if {timed} == {write} else {write} + {timed})"
            counted["cache_write_tokens"] = beside["cache_write_tokens"] = written
        tests = (
            self._sound,
            f"(n1 == 0 or {counted['input_tokens']} > 0)",  # nobody generates out of nothing
            f"{counted['input_tokens']} + n1 < {MOST_TOKENS}",
            f"{_sum(beside)} <= {self._whole}",
            f"{_sum(outputs)} <= n1",
        )
        shown = ", ".join(f"{name!r}: {n}" for name, n in counted.items())
        # source that is made of our own names and numbers alone: in a third of the steps of loops over them
        source = f"lambda {', '.join(numbers)}: {{{shown}}} if {' and '.join(tests)} else None"
        made: _CountReader = eval(source, {"__builtins__": {}})  # noqa: S307
        if len(self.readers) >= _READERS_KEPT:
            self.readers.clear()
        self.readers[*given, None, *generated] = made
        return made


def _sum(parts: _Sources) -> str:
    return " + ".join(parts.values()) or "0"


_LANGCHAIN = _Form(
    ("input_tokens", "output_tokens", "total_tokens"),
    "input_token_details", _METADATA_INPUTS, "output_token_details", _METADATA_OUTPUTS, adds_timed=True,
)  # fmt: skip
"""LangChain's UsageMetadata; see `read_usage_metadata`."""

_OPENAI = _Form(
    ("prompt_tokens", "completion_tokens", "total_tokens"),
    "prompt_tokens_details", _CHAT_INPUTS, "completion_tokens_details", _CHAT_OUTPUTS,
)  # fmt: skip
"""OpenAI's usage; see `read_chat`."""

_ANTHROPIC = _Form(
    ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    "cache_creation", _LIFETIMES, "output_tokens_details", _THOUGHTS,
    counted={"input_tokens": "n0 + n2 + n3", "output_tokens": "n1", "cache_read_tokens": "n2",
             "cache_write_tokens": "n3"},
    sound="True", whole="n3",
)  # fmt: skip
"""Anthropic's usage; see `read_messages`. Its input is what was neither read from a cache nor written to one."""

_ANTHROPIC_UNCACHED = _Form(
    ("input_tokens", "output_tokens"), "cache_creation", {}, "output_tokens_details", _THOUGHTS, sound="True"
)
"""The same of older servers, and of those without a cache."""


def _messages_counts(usage: _Dict) -> Counts | None:
    """The counts of Anthropic's usage."""
    if not (usage.get("server_tool_use") is usage.get("iterations") is usage.get("speed") is None):
        return None
    place = usage.get("inference_geo")
    if place is not None and (type(place) is not str or place not in _ANYWHERE):
        return None
    is_cached = not (usage.get("cache_read_input_tokens") is usage.get("cache_creation_input_tokens") is None)
    return _counts(usage, _ANTHROPIC if is_cached else _ANTHROPIC_UNCACHED)


_PARTS = frozenset({"PromptTokensDetails", "CompletionTokensDetails", "CacheCreation", "OutputTokensDetails"})


def _counts(usage: _Dict, form: _Form) -> Counts | None:
    """The counts of a form, where all parts fit into their wholes together, which is more than they have to."""
    try:
        heads = form.heads(usage)
    except KeyError:
        return None
    given, generated = usage.get(form.given), usage.get(form.generated)
    if type(given) is not dict:
        given = _details(given)
    if type(generated) is not dict:
        generated = _details(generated)
    if given is None or generated is None:
        return None
    numbers = (*heads, *given.values(), *generated.values())
    kinds = {*map(type, numbers)}
    if kinds != _INTEGERS:
        if kinds != _INTEGERS_OR_NONE or None in heads:
            return None
        given = {key: number for key, number in given.items() if number is not None}
        generated = {key: number for key, number in generated.items() if number is not None}
        numbers = (*heads, *given.values(), *generated.values())
    read = form.readers.get((*given, None, *generated)) or form.learn(given, generated)
    return None if read is None or min(numbers) < 0 else read(*numbers)


def _details(value: Any) -> _Dict | None:
    """The fields of details that are no dict: none, or an SDK's own object; None where they are another thing."""
    if value is None:
        return {}
    fields: _Dict | None = value.__dict__ if _is_plain_object(value, _PARTS) else None
    return fields
