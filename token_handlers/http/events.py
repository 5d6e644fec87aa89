"""What an answer's events say about its bill: the usage that they state, and whether anything came after it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from token_handlers.payloads import ReportedUsage, is_empty, read_payload, states_no_output

MOST_EVENTS = 6
"""How many types of event are kept of a stream; of each type the last event is."""

MOST_FEES = 256
"""How many events that show a tool's fee are kept of a stream."""

Event = dict[str, Any]


class AnswerReading(NamedTuple):
    """What an answer says: the usage that it reports, the model that answered, and the provider's id of the answer.

    A usage of zeros alone is None, as some servers send it with an answer that they bill. ``is_final`` is whether the
    usage is the whole bill: nothing was generated after it.
    """

    usage: ReportedUsage | None = None
    is_final: bool = False
    model: str | None = None
    response_id: str | None = None


_NESTED = ("message", "response", "delta", "interaction", "metadata", "x_groq", "chunk")
_FLAT = ("eval_count", "prompt_eval_count", "prompt_token_count", "generation_token_count", "inputTextTokenCount",
         "totalOutputTextTokenCount", "generated_token_count", "amazon-bedrock-invocationMetrics")  # fmt: skip
_STATED = ("usage", "usageMetadata", "usage_metadata", "meta")
_LAST_TYPES = ("response.completed", "response.incomplete", "response.failed", "message-end", "stream-end",
               "interaction.complete", "interaction.completed", "message_stop")  # fmt: skip


def stated_usage(event: Event) -> object:
    """Return the usage that an event states, or None."""
    for key in _STATED:
        if event.get(key):
            return event[key]
    for key in _NESTED:
        inner = event.get(key)
        if type(inner) is dict:
            for name in _STATED:
                if inner.get(name):
                    return inner[name]
    for choice in _dicts(event.get("choices")):  # Moonshot's streams
        if choice.get("usage"):
            return choice["usage"]
    results = _dicts(event.get("results"))
    flat = (*results[:1], event)
    return next((each for each in flat if any(each.get(key) is not None for key in _FLAT)), None)


def has_content(event: Event) -> bool:
    """Return whether an event brings a part of the answer."""
    for choice in _dicts(event.get("choices")):
        delta = choice.get("delta") or choice.get("message") or choice
        if type(delta) is dict and any(value for key, value in delta.items() if key in _CONTENT):
            return True
    for candidate in _dicts(event.get("candidates")):
        if (candidate.get("content") or {}).get("parts"):
            return True
    kind = event_type(event)
    if kind.endswith((".delta", "_delta", "-delta", "-generation")) and kind != "message_delta":
        return True
    message = event.get("message")
    if type(message) is dict and "done" in event and any(message.get(key) for key in _CONTENT):
        return True
    return any(event.get(key) for key in ("generation", "outputText", "contentBlockDelta")) or (
        "done" in event and bool(event.get("response") or event.get("thinking"))
    )


CUT = "tool calls in an answer of more than 4 MB or 256 calls"
"""The doubt about the usage of an answer that was too long to be read whole."""

WORDLESS = "text beside an output of 0"
"""The doubt about a usage that states no output for an answer with text."""


def _has_words(answer: Event) -> bool:
    """Return whether a whole answer has text, or calls tools."""
    listed = answer.get("content") if answer.get("type") == "message" else answer.get("output")
    return has_content(answer) or bool(listed and isinstance(listed, list))


_CONTENT = {"content", "text", "reasoning", "reasoning_content", "reasoning_details", "thinking", "tool_calls",
            "function_call", "refusal", "audio", "images"}  # fmt: skip


def is_end(event: Event) -> bool:
    """Return whether an event says that the answer is complete."""
    if "choices" in event:
        choices = _dicts(event["choices"])
        return not choices or any(choice.get("finish_reason") for choice in choices)
    if "candidates" in event:
        return any(candidate.get("finishReason") for candidate in _dicts(event["candidates"]))
    kind = event_type(event)
    if kind == "message_delta":
        return bool((event.get("delta") or {}).get("stop_reason"))
    if kind:
        return kind in _LAST_TYPES
    return bool(event.get("done") or event.get("metadata") or event.get("amazon-bedrock-invocationMetrics"))


def event_type(event: Event) -> str:
    """Return the name of an event's type, empty where it has none."""
    kind = event.get("type") or event.get("event_type")
    return kind if type(kind) is str else ""


def _dicts(value: object) -> list[Event]:
    return [each for each in value if type(each) is dict] if type(value) is list else []


_PLAIN_BLOCKS = {"text", "thinking", "redacted_thinking", "tool_use"}
_SHOWN = frozenset({"annotations", "executed_tools", "tool_calls"})


def _shown_fees(event: Event) -> Event | None:
    """Return the part of an event that shows a fee: grounding, citations, or tools that the provider ran."""
    if event.get("type") == "content_block_start":
        block = event.get("content_block") or {}
        return None if block.get("type") in _PLAIN_BLOCKS else {**event, "content_block": _without_text(block)}
    if "candidates" in event:
        grounded = [{"groundingMetadata": each["groundingMetadata"]}
                    for each in _dicts(event["candidates"]) if each.get("groundingMetadata")]  # fmt: skip
        if grounded:
            return {"candidates": grounded, "modelVersion": event.get("modelVersion")}
    for choice in _dicts(event.get("choices")):
        delta = choice.get("delta") or {}
        if _SHOWN.isdisjoint(delta):
            continue
        shown = {key: delta[key] for key in ("annotations", "executed_tools") if delta.get(key)}
        called = [{"function": {"name": name}} for each in _dicts(delta.get("tool_calls"))
                  if str(name := (each.get("function") or {}).get("name")).startswith("$")]  # fmt: skip
        if called:  # a tool of the provider's own: Moonshot's web search
            shown["tool_calls"] = called
        if shown:
            return {"choices": [{"delta": shown}]}
    return None


def _without_text(block: Event) -> Event:
    """Return only the type of a block, and that of its content, as an error is not billed."""
    content = block.get("content")
    kind = {"type": content.get("type")} if type(content) is dict else []
    return {"type": block.get("type"), "name": block.get("name"), "caller": block.get("caller"), "content": kind}


_FACTS = {"model": "model", "modelVersion": "model", "model_name": "model", "service_tier": "service_tier",
          "id": "id", "responseId": "id", "response_id": "id", "generation_id": "id"}  # fmt: skip
"""Where events name the model, tier and id of their answer; of two names the first counts."""


def _note_facts(facts: dict[str, str], event: Event) -> None:
    """Add the names in an event, else those in the answer within it, until the model and the id are known."""
    for source in event, event.get("message"), event.get("response"), event.get("interaction"):
        if "model" in facts and "id" in facts:
            return
        if type(source) is dict:
            for key in filter(source.__contains__, _FACTS):
                name, value = _FACTS[key], source[key]
                if name not in facts and type(value) is str and value:
                    facts[name] = value


def read_answer(answer: Event, provider: str | None, *, is_cut: bool = False) -> AnswerReading:
    """Return what an answer of one JSON object says, which states its usage in any shape."""
    facts, model, response_id = answer, answer.get("model"), answer.get("id")
    if not (model and response_id and type(model) is type(response_id) is str):  # few do not have both
        facts = {}
        _note_facts(facts, answer)
        model, response_id = facts.get("model"), facts.get("id")
    usage = read_payload(answer, provider)
    has_output = usage is not None and usage.counts.get("output_tokens")
    if usage is None or not (has_output or _is_bill(usage)):
        return AnswerReading(None, False, model, response_id)
    doubts, is_final = usage.doubts, True
    if not has_output:
        is_final = not is_empty(usage)
        if states_no_output(usage, str(answer.get("modelVersion"))) and _has_words(answer):
            doubts = (*doubts, WORDLESS)
    if is_cut:
        doubts = (*doubts, CUT)
    if doubts is not usage.doubts or not usage.model or (facts.get("service_tier") and not usage.service_tier):
        usage = _named(usage, facts, doubts)
    return AnswerReading(usage, is_final, model, response_id)


def _named(usage: ReportedUsage, facts: Mapping[str, Any], doubts: tuple[str, ...]) -> ReportedUsage:
    """Return a usage with the model and the tier that its answer names elsewhere, and these doubts."""
    model = usage.model or facts.get("model")
    tier = usage.service_tier or _served(facts.get("service_tier"))
    if doubts is usage.doubts and model == usage.model and tier == usage.service_tier:
        return usage
    return usage._replace(doubts=doubts, model=model, service_tier=tier)


class Events:
    """The events of an answer that concern its bill: the last of each type that states a usage, and what came after it.

    ``is_curious`` is whether to add even an event that says nothing about the bill: the first, and any after a usage.
    """

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}
        self.ended = False
        self.is_cut = False
        self.whole: Event | None = None  # an answer of one JSON value, which then is all there is
        self.is_curious = True
        self._kept: dict[str, Event] = {}
        self._fees: list[Event] = []
        self._sums = StatedIncrements()
        self._stating: Event | None = None  # the last event with a usage of the answer so far
        self._is_outdated = False

    def add(self, event: Event | list[Any]) -> None:
        """Take the next event."""
        if isinstance(event, list):
            for each in event:
                if isinstance(each, dict):
                    self.add(each)
            return
        self.is_curious = self._stating is not None
        if "model" not in self.facts or "id" not in self.facts:
            _note_facts(self.facts, event)
        self._keep_fees(event)
        usage = stated_usage(event)
        kind = event_type(event)
        if usage is None:
            self._note_rest(event)
        elif kind == "message_start":
            self._keep(kind, event)
        else:
            if "choices" in event and isinstance(usage, Mapping):
                self._sums.add(usage)
            self._keep(kind, event)
            self._stating, self._is_outdated, self.is_curious = event, False, True

    def _note_rest(self, event: Event) -> None:
        stating = self._stating
        if stating is not None and (has_content(event) or (is_end(event) and has_content(stating))):
            self._is_outdated = True

    def _keep(self, kind: str, event: Event) -> None:
        self._kept.pop(kind, None)
        self._kept[kind] = event
        if len(self._kept) > MOST_EVENTS:
            del self._kept[next(iter(self._kept))]

    def _keep_fees(self, event: Event) -> None:
        """Keep an event that shows a fee, without its text: it need not be the one that states the usage."""
        shown = _shown_fees(event)
        if shown is None:
            return
        if len(self._fees) < MOST_FEES:
            self._fees.append(shown)
        else:
            self.is_cut = True

    def read(self, provider: str | None) -> AnswerReading:
        """Return what the events say, with the model and the tier that any of them names."""
        if self.whole is not None:
            return read_answer(self.whole, provider, is_cut=self.is_cut)
        model, response_id = self.facts.get("model"), self.facts.get("id")
        events = self._to_read()
        usage = read_payload(events[0] if len(events) == 1 else events, provider) if events else None
        if usage is None or not _is_bill(usage):
            return AnswerReading(None, False, model, response_id)
        is_final = not is_empty(usage) and self._is_final()  # tokens of 0 beside a fee are not
        doubts = usage.doubts
        if self.is_cut:
            doubts = (*doubts, CUT)
        if self._sums.are_doubtful:
            doubts = (*doubts, "prompts of several sizes in one stream, added up")
        return AnswerReading(_named(usage, self.facts, doubts), is_final, model, response_id)

    def _is_final(self) -> bool:
        """Return whether nothing was generated after the usage; one that came with content needs the answer's end."""
        if self._stating is None or self._is_outdated:
            return False
        return self.ended or is_end(self._stating)

    def _to_read(self) -> list[Event]:
        """Return the events to read, the one with the usage last, its increments added up."""
        events = list(self._kept.values())
        if not events:
            return []
        if self._sums.are_increments:
            events[-1] = {**events[-1], "usage": self._sums.total}
        return [*events[:-1], *self._fees, events[-1]]


def _is_bill(usage: ReportedUsage) -> bool:
    """Return whether a usage states anything that is billed: one of zeros does not.

    An answer without output may have no tokens and a doubt about what it is billed for, as Cohere's for images.
    """
    counts = usage.counts
    return any(counts.values()) or bool(usage.cost) or (bool(usage.doubts) and "output_tokens" not in counts)


def _served(tier: object) -> str | None:
    return tier.lower() if tier and isinstance(tier, str) and tier != "auto" else None


class StatedIncrements:
    """The usages of a stream's chunks, which are a running total in each, or increments to add up.

    They are a running total if the first and the last prompt tokens that are not 0 are the same. ``are_doubtful``:
    several chunks state prompt tokens, and not the same number.
    """

    def __init__(self) -> None:
        self.total: Event = {}
        self._usages = 0
        self._prompts = 0
        self._first = self._last = 0
        self.are_doubtful = False

    def add(self, usage: Mapping[str, Any]) -> None:
        """Add the usage of the next chunk that states one."""
        self._usages += 1
        prompt = usage.get("prompt_tokens")
        if type(prompt) is int and prompt:
            self._prompts += 1
            self.are_doubtful |= 0 < prompt != (self._first or prompt)  # below 0 is a correction
            self._first, self._last = self._first or prompt, prompt
        self.total = _sum(self.total, usage)

    @property
    def are_increments(self) -> bool:
        """Whether the usages of the chunks must be summed."""
        return self._usages > 1 and not (self._prompts > 1 and self._first == self._last)


def _sum(left: Mapping[str, Any], right: Mapping[str, Any]) -> Event:
    total = dict(left)
    for key, value in right.items():
        if type(value) is int:
            total[key] = (total.get(key) or 0) + value
        elif isinstance(value, Mapping):
            total[key] = _sum(total.get(key) or {}, value)
        elif value is not None:
            total[key] = value
    return total
