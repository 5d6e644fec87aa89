"""The end of an LLM call -> a verdict: what it used where anything reports it, else what is to be estimated."""

from typing import Any

from token_handlers.llama_index.asked import with_asked
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.text import response_text
from token_handlers.payloads import ReportedUsage, is_empty, read_payload, states_no_output
from token_handlers.tracking.answers import is_billed_by_answer
from token_handlers.tracking.failures import was_rejected
from token_handlers.tracking.result import BY_ANSWER, DISCARD, FAILED, CallResult, Incomplete, Verdict

_WHOLE = {"input_tokens", "output_tokens"}
_REPORT = "report_stream_usage(llm) makes it exact where the server can"
_LITELLM, _UNSEEN = "litellm_llm", "LiteLLM's own cache may have answered: no request was seen"
_LEFT_OUT = "its server or client leaves the usage out"


def read_end(call: ModelCall, response: Any) -> Verdict:
    """Return what a call used that ended well, unless it only passed on what another call is recorded for."""
    if call.asks_itself:
        return DISCARD
    if call.answers and call.child_usages is None and is_billed_by_answer(call):
        return BY_ANSWER
    provider = call.provider_name()
    usage = read_response(response, provider)
    if call.child_usages is not None and (usage is None or not call.reports_own_usage(usage.counts)):
        return DISCARD
    if usage is None or not usage.counts.get("output_tokens") or "input_tokens" not in usage.counts:
        more = _read_more(call, usage, response, provider)
        if isinstance(more, Incomplete):
            return more
        usage = more
    usage = with_asked(call, usage)
    return CallResult(usage) if provider != _LITELLM else _of_litellm(call, usage, response)


def _read_more(
    call: ModelCall, usage: ReportedUsage | None, response: Any, provider: str | None
) -> ReportedUsage | Incomplete:
    """Return the usage of a call whose response states no output, or only a part, else what to estimate."""
    if usage is not None and is_empty(usage) and (response_text(response) or call.received()):
        usage = None  # an answer with text was not made of no tokens
    is_partial = False
    if usage is None and call.reported is not None:
        usage = read_payload(call.reported[0], provider)
        is_partial = call.reported[1] < len(call.deltas or ())
    is_wordless = (
        usage is not None
        and states_no_output(usage, usage.model or call.model_asked())
        and bool(response_text(response) or call.received())
    )
    if usage is not None and not is_partial and not is_wordless and usage.counts.keys() >= _WHOLE:
        return usage
    text = None if call.deltas and not is_wordless else response_text(response) or call.received()
    model = _model(response) if usage is None else usage.model
    remedy = _REPORT if call.response is not None and call.asks_by_options() else _LEFT_OUT
    return Incomplete(usage, text, interrupted=is_partial, remedy=remedy, model=model)


def _of_litellm(call: ModelCall, usage: ReportedUsage, response: Any) -> CallResult:
    """Return what LiteLLM's response says where no request was seen: its own cache repeats the usage of the first time.

    Its response tells that, the chunks of its streams do not.
    """
    hidden = getattr(getattr(response, "raw", None), "_hidden_params", None)
    if isinstance(hidden, dict) and hidden.get("cache_hit"):
        return CallResult(usage._replace(cost=None), outcome="cached")
    if call.response is None or call.answers:
        return CallResult(usage)
    return CallResult(usage._replace(doubts=(*usage.doubts, _UNSEEN)))


def read_error(call: ModelCall, error: BaseException | None) -> Verdict:
    """Return what a call used that failed: rejected calls cost nothing, interrupted ones what was received."""
    if call.child_usages is not None:
        return DISCARD
    # openai raises with the billed completion attached when the answer was cut by its length or a filter
    billed = getattr(error, "completion", None)
    usage = read_payload(billed, call.provider_name()) or read_response(call.response, call.provider_name())
    is_whole = _ended(getattr(call.response, "raw", None))
    if (usage is None or is_empty(usage)) and call.reported is not None:
        raw, position = call.reported
        usage = read_payload(raw, call.provider_name())
        is_whole = _ended(raw) and position == len(call.deltas or ())
    if usage is not None and (billed is not None or is_whole):
        return CallResult(usage)
    if call.response is None and billed is None and error is not None and was_rejected(error):
        return FAILED
    return Incomplete(usage, interrupted=True, model=None if usage is None else usage.model)


def read_response(response: Any, provider: str | None) -> ReportedUsage | None:
    """Return the usage that a response reports, in its raw answer or its additional_kwargs."""
    if response is None:
        return None
    raw = getattr(response, "raw", None)
    reading = None if raw is None else read_payload(raw, provider)
    if reading is not None and "input_tokens" in reading.counts:
        return reading
    # Anthropic's streams: the last event has the output alone, the message has both.
    message = getattr(response, "message", None)
    for kwargs in (getattr(message, "additional_kwargs", None), getattr(response, "additional_kwargs", None)):
        other = read_payload(kwargs, provider) if kwargs else None
        if other is not None:
            return _joined(reading, other)
    return reading


def _joined(reading: ReportedUsage | None, other: ReportedUsage) -> ReportedUsage:
    if reading is None:
        return other
    return other._replace(
        counts={**other.counts, **reading.counts},
        cost=reading.cost if other.cost is None else other.cost,
        service_tier=other.service_tier or reading.service_tier,
        model=reading.model or other.model,
    )


def _ended(raw: Any) -> bool:
    """Return whether a chunk says that the answer is complete."""
    choices = _field(raw, "choices")
    if not isinstance(choices, list):
        return False
    return not choices or bool(_field(choices[0], "finish_reason"))


def _model(response: Any) -> str | None:
    raw = getattr(response, "raw", None)
    for holder in (raw, _field(raw, "response"), _field(raw, "data")):
        name = _field(holder, "model")
        if isinstance(name, str) and name:
            return name
    return None


def _field(thing: Any, name: str) -> Any:
    try:
        return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)
    except Exception:  # noqa: BLE001 - a foreign object's own code runs here, and junk is None
        return None
