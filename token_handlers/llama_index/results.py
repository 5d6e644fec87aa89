"""The end of an LLM call -> a verdict: what it used where anything reports it, else what is to be estimated."""

from collections.abc import Iterable, Mapping
from typing import Any

from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.chat_usage import plain_usage
from token_handlers.llama_index.text import answer_text, response_text
from token_handlers.payloads import ReportedUsage, read_payload
from token_handlers.tracking.failures import was_rejected
from token_handlers.tracking.result import DISCARD, FAILED, CallResult, Estimate, Verdict

_WHOLE = {"input_tokens", "output_tokens"}
_REPORT = "report_stream_usage(llm) makes it exact where the server can"
_LEFT_OUT = "its server or client leaves the usage out"


def read_end(call: ModelCall, response: Any) -> Verdict:
    """Return what a call used that ended well, unless it only passed on what another call is recorded for."""
    plain = plain_usage(getattr(response, "raw", None))
    usage = plain.read(call.provider_name()) if plain is not None else _read(call, response)
    if call.child_usages is not None and (usage is None or not call.reports_own_usage(usage.counts)):
        return DISCARD
    if usage is not None and usage.counts.keys() >= _WHOLE:
        return CallResult(usage, requests=call.requests)
    model = _model(response) if usage is None else usage.model
    remedy = _REPORT if call.response is not None and call.asks_by_options() else _LEFT_OUT
    return Estimate(usage, response_text(response), remedy=remedy, model=model)


def read_error(call: ModelCall, error: BaseException | None) -> Verdict:
    """Return what a call used that failed: rejected calls cost nothing, interrupted ones what was received."""
    if call.child_usages is not None:
        return DISCARD
    # openai raises with the billed completion attached when the answer was cut by its length or a filter
    billed = getattr(error, "completion", None) if isinstance(call.answer, list | None) else call.answer
    usage = read_payload(billed, call.provider_name()) or _read(call, call.response)
    if usage is not None and (billed is not None or _ended(call.response)):
        return CallResult(usage)
    if call.response is None and billed is None and error is not None and was_rejected(error):
        return FAILED
    return Estimate(usage, interrupted=True, model=None if usage is None else usage.model)


def _read(call: ModelCall, response: Any) -> ReportedUsage | None:
    provider = call.provider_name()
    events = read_payload(call.answer, provider) if isinstance(call.answer, list) and call.answer else None
    reading = events or read_response(response, provider)
    return _read_answers(call, response) if reading is None and call.child_usages is None else reading


def _read_answers(call: ModelCall, response: Any) -> ReportedUsage | None:
    """Return what the client's answers say, for an LLM that makes its response of the last one's text alone.

    None where one says nothing, or they do not have one price.
    """
    # these are from openai's and anthropic's with_raw_response, and have been parsed already
    parsed = [
        answer.parse() if type(answer).__name__ == "LegacyAPIResponse" else answer for answer in call.client_answers
    ]
    text = answer_text(parsed[-1]).strip() if parsed else ""
    if not text or text not in response_text(response):
        return None
    readings = [read_payload(answer, call.provider_name()) for answer in parsed]
    whole = [reading for reading in readings if reading is not None and reading.counts.keys() >= _WHOLE]
    if len(whole) < len(readings) or any(reading[1:] != whole[0][1:] for reading in whole):
        return None
    first, *others = whole
    if not others:
        return first
    if first.cost is not None or first.billed is not None:
        return None
    call.requests = len(whole)
    return first._replace(counts=_total(reading.counts for reading in whole))


def read_response(response: Any, provider: str | None) -> ReportedUsage | None:
    """Return what a response says of usage, from wherever it says it."""
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


def _total(several: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in several:
        for name, number in counts.items():
            total[name] = total.get(name, 0) + number
    return total


def _ended(response: Any) -> bool:
    """Return whether the last chunk says that the answer is complete."""
    choices = _field(getattr(response, "raw", None), "choices")
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
