"""The end of an LLM call -> what it used: reported where anything reports it, else estimated and flagged."""

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from token_handlers.guide import WHY
from token_handlers.llama_index import calls
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.chat_usage import plain_usage
from token_handlers.llama_index.text import answer_text, response_text
from token_handlers.payloads import ReportedUsage, read_payload
from token_handlers.tracking.failures import was_rejected, was_stopped
from token_handlers.tracking.recorder import discard, record, record_estimate, record_later

logger = logging.getLogger("token_handlers")

_MAX_WARNED = 1_000
_WHOLE = {"input_tokens", "output_tokens"}
_warned: set[str] = set()
# An exception that passes through two streams, one reading the other, is one failure.
_MARK = "_token_handlers_recorded"


def record_end(call: ModelCall, response: Any) -> None:
    """Record a call that ended well, unless it only passed on what another call is recorded for."""
    plain = plain_usage(getattr(response, "raw", None))
    streamed = call.response is not None
    if plain is not None and not streamed and call.child_usages is None and not call.parents:
        calls.remove(call)
        call.end(plain)
        record_later(call, call)
        return
    if streamed and calls.hand_over(call):
        _drop(call)
        return
    reading = plain.read(call.provider_name()) if plain is not None else _read(call, response)
    if call.child_usages is not None and (reading is None or not call.reports_own_usage(reading.counts)):
        _drop(call)
        return
    calls.remove(call)
    if reading is not None and "input_tokens" in reading.counts and "output_tokens" in reading.counts:
        call.end(reading)
        record_later(call, call)
        return
    estimate, method = call.estimate_for(response)
    call.describe()
    _warn_unreported(call, streamed=streamed)
    if reading is None:
        record(call, estimate, model=_model(response), source="estimated", method=method)
    else:
        counts = {**estimate, **reading.counts}
        record(call, counts, model=reading.model, source="estimated", method=f"partial+{method}")


def record_error(call: ModelCall, error: BaseException | None) -> None:
    """Record a call that failed: rejected calls cost nothing, interrupted ones what was received, or an estimate."""
    if call.child_usages is not None or calls.hand_over(call) or (call.response is None and _is_done_with(error)):
        _drop(call)
        return
    calls.remove(call)
    # openai raises with the billed completion attached when the answer was cut by its length or a filter
    billed = getattr(error, "completion", None) if isinstance(call.answer, list | None) else call.answer
    reading = read_payload(billed, call.provider_name()) or _read(call, call.response)
    if reading is not None and (billed is not None or _ended(call.response)):
        record(call, reading.counts, model=reading.model, cost=reading.cost, service_tier=reading.service_tier)
    elif call.response is None and billed is None and error is not None and was_rejected(error):
        record(call, {}, outcome="failed")
    elif reading is None:
        record_estimate(call)
    else:
        estimate, method = call.estimate()
        counts = {**estimate, **reading.counts}
        counts["output_tokens"] = max(reading.counts.get("output_tokens", 0), estimate["output_tokens"])
        record(call, counts, model=reading.model, source="estimated", method=f"partial+{method}")


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
    parsed = [answer.parse() if type(answer).__name__ == "LegacyAPIResponse" else answer for answer in call.answers]
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


def _is_done_with(error: BaseException | None) -> bool:
    """Return whether this error was recorded already, or says that nothing was sent; and mark it."""
    marked = hasattr(error, _MARK) or was_stopped(error)
    if error is not None and not marked:
        with contextlib.suppress(AttributeError):  # an exception class may refuse attributes
            setattr(error, _MARK, True)
    return marked


def _drop(call: ModelCall) -> None:
    calls.remove(call)
    discard(call)


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


def _warn_unreported(call: ModelCall, *, streamed: bool) -> None:
    name = call.model or "the model"
    if name in _warned or len(_warned) >= _MAX_WARNED:
        return
    _warned.add(name)
    remedy = (
        "report_stream_usage(llm) makes it exact where the server can"
        if streamed
        else ("its server or client leaves the usage out")
    )
    message = "%s reported no usage: its tokens are estimated and counted in estimated_requests; %s (%s)"
    logger.warning(message, name, remedy, WHY)
