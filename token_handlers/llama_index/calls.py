"""The open LLM calls: what their start and their chunks said, until they end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import is_
from types import FrameType
from typing import Any, NamedTuple
from weakref import ref

from pydantic import BaseModel

from token_handlers.budget.tool_fees import NO_FEES, AllowedFees, allowed_fees
from token_handlers.llama_index.by_type import ByType
from token_handlers.llama_index.model_names import base_url, model_name, takes_stream_options
from token_handlers.llama_index.text import message_pairs, plain_texts, response_text, split_tokens, states_usage
from token_handlers.tokenizer.estimates import Estimate, estimate_prompt, estimate_tokens, prepare
from token_handlers.tokenizer.tool_schemas import SENT_BESIDE, sent_tools
from token_handlers.tracking.call import Call, bound_tokens
from token_handlers.tracking.frames import callers

_MAX_TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "num_predict")
_TOOLS = ("tools", "built_in_tools")  # an LLM's own, Anthropic's and OpenAIResponses'
_SETTINGS = ("additional_kwargs", "_generation_config")  # what is sent with each request; the other is Google's


class ModelCall(Call):
    """One call of an LLM.

    ``response`` is the latest chunk of a stream, ``deltas`` the text of each, and ``reported`` the last raw chunk that
    stated usage, with the number of deltas up to it.
    """

    # Class attributes are the defaults, as in Call.
    span_id: str | None = None
    prompt: Any = None
    kwargs: Mapping[str, Any] | None = None
    model_dict: Mapping[str, Any] | None = None
    instance: Any = None
    response: Any = None
    deltas: list[str] | None = None
    reported: tuple[Any, int] | None = None
    tokenizer: Callable[[str], Sequence[object]] | None = None  # of the handler that counts the call
    is_structured = False
    asks_itself = False  # another method of the same LLM is recorded for it, as chat is where complete calls that
    stream: ref[Any] | None = None
    frame: FrameType | None = None
    event_id: str | None = None
    next_same_id: "ModelCall | None" = None

    def describe(self) -> None:
        """Fill in model, provider and base URL; not done at the start, which is the application's waiting time.

        The model is the one that was asked for: a name given to the call itself overrides the LLM's.
        """
        instance, facts = self.instance, self.model_dict or {}
        model = self.kwargs.get("model") if self.kwargs else None
        self.model = model if model and isinstance(model, str) else model_name(facts, instance)
        self.base_url = base_url(instance)
        provider = facts.get("class_name")
        if isinstance(provider, str):
            self.provider = provider
            if "edrock" in provider:
                region = getattr(instance, "region_name", None)
                if isinstance(region, str):
                    self.served = {"region": region}

    def model_asked(self) -> str | None:
        """Return the model that was asked for."""
        if self.model is None:
            self.describe()
        return self.model

    def provider_name(self) -> str | None:
        """Return the LLM's class name, which is all that LlamaIndex says of the provider."""
        name = self.model_dict.get("class_name") if self.model_dict else None
        return name if isinstance(name, str) else None

    def receive(self, chunk: Any) -> None:
        """Keep what a chunk of a stream says: a message holds all of the text so far, or its delta alone."""
        self.response = chunk
        deltas, delta, raw = self.deltas, chunk.delta, chunk.raw
        if deltas is None:
            deltas = self.deltas = []
        if delta:
            deltas.append(delta)
        if raw is not None and states_usage(raw):
            self.reported = raw, len(deltas)

    def received(self) -> str:
        """Return the text that was received so far."""
        text, whole = response_text(self.response), "".join(self.deltas or ())
        return text if len(text) >= len(whole) else whole

    def progress(self) -> int:
        """Return the number of chunks with text, or the text's length, that was received."""
        return len(self.deltas or response_text(self.response))

    def estimate(self, text: str | None = None) -> tuple[dict[str, int], str]:
        """Return the estimated tokens of the prompt and of an answer, by default of what was received so far."""
        prompt = self.estimate_input()
        text = self.received() if text is None else text
        if self.tokenizer is not None:
            return {"input_tokens": prompt.tokens, "output_tokens": split_tokens(self.tokenizer, [text])}, prompt.method
        answer = estimate_tokens(text, self.counted_as).tokens if text else 0
        return {"input_tokens": prompt.tokens, "output_tokens": answer}, prompt.method

    def estimate_input(self) -> Estimate:
        """Return the prompt's estimated tokens, tools and schemas included."""
        self.describe()
        pairs, media = ([("user", self.prompt)], False) if isinstance(self.prompt, str) else message_pairs(self.prompt)
        if self.tokenizer is not None:
            return Estimate(split_tokens(self.tokenizer, (text for pair in pairs for text in pair)), "custom")
        prepare(self.counted_as)
        if isinstance(self.prompt, str):
            return estimate_prompt(pairs, (), self.counted_as)
        return estimate_prompt(pairs, sent_tools(self.kwargs or {}), self.counted_as, media=media)

    def estimate_prompt(self) -> int:
        """Return the prompt's estimated tokens."""
        return self.estimate_input().tokens

    def prompt_bound(self) -> int | None:
        """Return a bound of the prompt's tokens; None with tools, schemas, images or a handler's tokenizer."""
        if self.tokenizer is not None or (self.asks_more() and self._sends_more()):
            return None
        texts = [self.prompt] if isinstance(self.prompt, str) else plain_texts(self.prompt)
        return None if texts is None else bound_tokens(texts)

    def _sends_more(self) -> bool:
        """Return whether tools or schemas are sent beside the prompt."""
        kwargs = self.kwargs or {}
        return any(kwargs.get(name) for name in SENT_BESIDE) or bool(self._declared()[0])

    def max_output(self) -> int:
        """Return the most output tokens that the call, or else its LLM, allows; 0 where neither says."""
        for said in self._settings():
            for name in _MAX_TOKENS:
                number = said.get(name)
                if type(number) is int and number > 0:
                    return number
        for name in _stated[type(self.instance)].limits:
            number = getattr(self.instance, name, None)
            if type(number) is int and number > 0:
                return number
        return 0

    def allowed_fees(self) -> AllowedFees:
        """Return what the tools may be billed for that the call or its LLM declares."""
        tools, settings = self._declared()
        most = next((said["max_tool_calls"] for said in settings if "max_tool_calls" in said), None)
        return allowed_fees(tools, most) if tools else NO_FEES

    def _declared(self) -> tuple[list[Any], list[Mapping[str, Any]]]:
        """Return the tools that the call or its LLM declares, and the settings of both."""
        settings, instance = self._settings(), self.instance
        listed = [said.get("tools") for said in settings]
        listed += [getattr(instance, name, None) for name in _stated[type(instance)].tools]
        return [tool for each in listed if isinstance(each, list | tuple) for tool in each], settings

    def _settings(self) -> list[Mapping[str, Any]]:
        """Return the settings that the call, and then its LLM, send with the request, where they have any."""
        found: list[Mapping[str, Any]] = []
        if self.kwargs and isinstance(self.kwargs, Mapping):
            found.append(self.kwargs)
        for name in _stated[type(self.instance)].settings:
            said = getattr(self.instance, name, None)
            if said and isinstance(said, Mapping):
                found.append(said)
        return found

    def asks_more(self) -> bool:
        """Return whether the call or its LLM states any of what `asked` returns: cheap, as most state nothing."""
        if self.kwargs:
            return True
        instance = self.instance
        for name in _stated[type(instance)].beside:  # noqa: SIM110 - a generator takes longer
            if getattr(instance, name, None):
                return True
        return False

    def asked(self) -> dict[str, Any]:
        """Return what the call and its LLM send beside the prompt, by name; the call's settings have precedence."""
        tools, settings = self._declared()
        found: dict[str, Any] = {"tools": tools} if tools else {}
        for said in reversed(settings):
            found |= {name: value for name, value in said.items() if value is not None and name != "tools"}
        more = found.pop("extra_body", None)
        return {**found, **more} if isinstance(more, Mapping) else found

    def asks_by_options(self) -> bool:
        """Return whether report_stream_usage makes this LLM report usage in streams."""
        return takes_stream_options(type(self.instance))

    def forget(self) -> None:
        """Drop this call from the table of open ones."""
        remove(self)

    def same_prompt(self, prompt: Any) -> bool:
        """Return whether this call's prompt is that of another event: LlamaIndex copies the list, not its messages."""
        if isinstance(prompt, str) or isinstance(self.prompt, str):
            return bool(self.prompt == prompt)
        return len(self.prompt) == len(prompt) and all(map(is_, self.prompt, prompt))


def prompt_of(payload: Mapping[str, Any]) -> Any:
    """Return the messages or the prompt in the payload of a callback's event."""
    messages = payload.get("messages")
    return payload.get("formatted_prompt") or "" if messages is None else messages


by_span: dict[str | None, ModelCall] = {}
"""The newest open call of each span, by the span's id; its ``next_same_id`` is the next older one of that span."""

streams: dict[FrameType, ModelCall] = {}
"""The open calls that answer by a stream, by the frame of LlamaIndex's generator."""


def find(span_id: str | None, prompt: Any) -> ModelCall | None:
    """Return the open call of a span; where several share one, the one with this prompt, else the newest."""
    newest = call = by_span.get(span_id)
    if newest is None or newest.next_same_id is None or prompt is None:
        return newest
    while call is not None and not call.same_prompt(prompt):
        call = call.next_same_id
    return newest if call is None else call


def any_open() -> bool:
    """Return whether any call is open."""
    return bool(by_span)


def _all_open() -> Iterator[ModelCall]:
    for newest in list(by_span.values()):
        call: ModelCall | None = newest
        while call is not None:
            yield call
            call = call.next_same_id


def with_response(response: Any) -> ModelCall | None:
    """Return the open call whose latest chunk is this very response."""
    return next((call for call in _all_open() if call.response is response), None)


def follow(call: ModelCall, stream: Any, unread: Callable[[ModelCall], None]) -> None:
    """Note the stream by which a call answers; ``unread`` is called if it is dropped before its first chunk."""
    if call.stream is not None:
        return

    def thrown_away(_: object) -> None:
        if call.response is None and not call.settled:
            unread(call)

    try:
        call.stream = ref(stream, thrown_away)
    except TypeError:
        return
    call.frame = getattr(stream, "gi_frame", None) or getattr(stream, "ag_frame", None)
    if call.frame is not None:
        streams[call.frame] = call


def hand_over(call: ModelCall) -> bool:
    """Leave a stream to another open call that passes on the very same chunk; return whether there is one.

    LlamaIndex runs the inner of two such streams outside the outer one's span when the outer one is async.
    """
    response = call.response
    if response is None:
        return False
    other = next((other for other in _all_open() if other is not call and other.response is response), None)
    if other is None:
        return False
    if call.child_usages is not None:
        other.child_usages = [*(other.child_usages or ()), *call.child_usages]
    else:
        for parent in (*call.parents, other):
            if not parent.child_usages:  # this one's usage will not be among them
                parent.child_usages = None
    other.answers, call.answers = (*other.answers, *call.answers), ()
    if other.reservations is None:  # nothing is to slip in between this one's end and the other's
        other.reservations, call.reservations = call.reservations, None
    return True


def read_here() -> list[ModelCall]:
    """Return the calls whose first chunk is being read here, by the stack: they make the calls that start here.

    LlamaIndex has left their spans by then.
    """
    found: list[ModelCall] = []
    if streams:
        for frame in callers():
            call = streams.get(frame)
            if call is not None and call.response is None:
                found.append(call)
    return found


class Stated(NamedTuple):
    """Names of the attributes in which the LLMs of a class may keep what they send with a request."""

    settings: tuple[str, ...]
    tools: tuple[str, ...]
    beside: tuple[str, ...]  # settings and tools
    limits: tuple[str, ...]


def _stated_by(kind: type) -> Stated:
    several = (tuple(name for name in names if _may_have(kind, name)) for names in (_SETTINGS, _TOOLS, _MAX_TOKENS))
    settings, tools, limits = several
    return Stated(settings, tools, (*settings, *tools), limits)


def _may_have(kind: type, name: str) -> bool:
    if not issubclass(kind, BaseModel) or kind.model_config.get("extra") == "allow" or name in kind.model_fields:
        return True
    is_own = "__getattr__" in (key for base in kind.__mro__ if base is not BaseModel for key in vars(base))
    return is_own or name in kind.__private_attributes__ or any(name in vars(base) for base in kind.__mro__)


_stated = ByType(_stated_by)
"""By the class of an LLM. Pydantic takes 3 µs to say that an instance has no such attribute."""


def remove(call: ModelCall) -> None:
    """Take a call out of the tables."""
    if call.stream is not None:
        call.stream = None  # it would hold the call for as long as the stream is kept
        if call.frame is not None:
            streams.pop(call.frame, None)
            call.frame = None
    span_id = call.span_id
    other = by_span.get(span_id)
    if other is call:
        if call.next_same_id is None:
            by_span.pop(span_id, None)
        else:
            by_span[span_id] = call.next_same_id
        return
    while other is not None and other.next_same_id is not call:
        other = other.next_same_id
    if other is not None:
        other.next_same_id = call.next_same_id
