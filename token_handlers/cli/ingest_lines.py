"""One line of JSON as a record of a call: numbers, names and labels; texts stay where they are."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import get_args

from pydantic import ValidationError

from token_handlers.payloads import UNSTATED_LIFETIME, ReportedUsage, is_empty, is_whole, read_payload
from token_handlers.pricing.calculator import price_call, was_cached
from token_handlers.pricing.price import Price
from token_handlers.usage import Operation, Usage, UsageRecord

Fields = Mapping[str, object]

_WRAPPED = ("output", "payload", "response", "result", "llmResult", "data")
_EVENT_IDS = ("event_id", "eventId", "run_id", "runId")
_TIMES = ("started_at", "startedAt", "timestamp", "time", "ts", "ended_at", "endedAt", "created_at", "created")
_MODELS = ("model", "model_name", "modelName")
_MILLISECONDS = 10**11
"""Numbers above are milliseconds since 1970, others are seconds."""

_MOST_TOKENS, _MOST_USD = 10**15, 10**6
"""What one call may have: a ledger holds no more."""


class BadLine(Exception):
    """A line that holds no usage; the message says why."""


def record_of_line(line: bytes, provider: str | None = None) -> UsageRecord:
    """Return what a line says a call used and cost; ``provider`` where the line does not name one.

    Its event id is the line's own: event id, run id or the response's id, else a hash of the line. A line that states
    only a part of the usage is an estimate, whose doubts say so.
    """
    value = _parse(line)
    fields = value if isinstance(value, dict) else {}
    if {"usage", "operation", "outcome"} <= fields.keys() <= UsageRecord.model_fields.keys():
        return _own_record(fields, line)
    wrapped = next((fields[name] for name in _WRAPPED if isinstance(fields.get(name), dict | list)), None)
    provider = _text(fields, "provider") or provider
    reading = None if wrapped is None else read_payload(wrapped, provider)
    reading = reading or read_payload(value, provider)
    if reading is None:
        raise BadLine("no usage in it, of any provider or framework that is known")
    nodes = _nodes(wrapped, fields)
    model = reading.model or _text(fields, *_MODELS) or _stated_model(nodes)
    return _record(fields, reading._replace(model=model), provider, _event_id(fields, nodes) or _hash(line))


def _parse(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadLine(f"no JSON ({error})") from None


def _own_record(fields: Fields, line: bytes) -> UsageRecord:
    try:
        record = UsageRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise BadLine(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for name in ("cost", "saved_cost", "cache_saved_cost"):
        amount = getattr(record, name)
        if amount is not None and abs(amount) >= _MOST_USD:
            raise BadLine(f"{name} is {_MOST_USD:,} USD or more, which no call costs")
    for name, number in (("requests", record.requests), *record.usage):
        if number > _MOST_TOKENS:
            raise BadLine(f"{name} is above {_MOST_TOKENS:,}, which no call has")
    for name in ("started_at", "ended_at"):
        moment = getattr(record, name)
        if moment is not None:
            _in_range(name, moment)
    return record if fields.get("event_id") else record.model_copy(update={"event_id": _hash(line)})


def _record(fields: Fields, reading: ReportedUsage, provider: str | None, event_id: str) -> UsageRecord:
    started = _time(fields)
    operation = _operation(fields, reading.model)
    missing = _missing(reading, operation)
    price = _price(reading, provider, started)
    doubts = (*missing, *reading.doubts, *_unstated(reading), *(() if price is None else price.doubts))
    doubts = tuple(dict.fromkeys(doubts))
    return UsageRecord(
        usage=Usage(**reading.counts),
        model=reading.model,
        provider=provider,
        operation=operation,
        source="estimated" if missing else "reported",
        session=_label(fields, "session", "session_id", "sessionId"),
        user=_label(fields, "user", "user_id", "userId"),
        tags=_tags(fields.get("tags")),
        cost=None if price is None else price.cost,
        cost_source=None if price is None else price.source,
        cache_saved_cost=None if price is None else price.cache_saved,
        doubts=doubts,
        cost_breakdown=() if price is None else price.parts,
        service_tier=reading.service_tier,
        served=reading.context,
        billed=reading.billed,
        beside=reading.beside,
        event_id=event_id,
        started_at=started,
    )


def _missing(reading: ReportedUsage, operation: Operation) -> tuple[str, ...]:
    """Return what of the usage the line does not state as a number."""
    if not is_whole(reading, operation):
        sides = {"input_tokens": "input", "output_tokens": "output"}
        unsaid = [side for name, side in sides.items() if name not in reading.counts]
        return (f"no number of {' or '.join(unsaid)} tokens",)
    return ("a usage of 0 tokens",) if is_empty(reading) else ()


def _unstated(reading: ReportedUsage) -> tuple[str, ...]:
    """Return a doubt about Claude's cache writes that may be kept an hour: nobody has the request here."""
    written, counts = "cache_write_tokens", reading.counts
    is_told = any(name.startswith("cache_write_") for name in counts if name != written)
    is_told |= reading.cost is not None or not counts.get(written) or "claude" not in (reading.model or "").lower()
    return () if is_told else (UNSTATED_LIFETIME,)


def _price(reading: ReportedUsage, provider: str | None, at: datetime | None) -> Price | None:
    if reading.cost is not None and not was_cached(reading.counts):
        return Price(reading.cost, "reported")
    price = price_call(
        reading.counts if reading.billed is None else reading.billed,
        reading.model,
        provider,
        service_tier=reading.service_tier,
        at=None if at is None else at.timestamp(),
        context=reading.context,
        beside=reading.beside,
        warns=reading.cost is None,
    )
    if reading.cost is None:
        return price
    return Price(reading.cost, "reported", cache_saved=None if price is None else price.cache_saved)


def _operation(fields: Fields, model: str | None) -> Operation:
    operations: tuple[Operation, ...] = get_args(Operation)
    stated = next((operation for operation in operations if operation == fields.get("operation")), None)
    return stated or ("embeddings" if "embed" in (model or "").lower() else "chat")


def _event_id(fields: Fields, nodes: list[Fields]) -> str | None:
    places = [fields.get(name) for name in _EVENT_IDS] + [node.get("id") for node in nodes]
    return next((place for place in places if isinstance(place, str) and place), None)


def _stated_model(nodes: list[Fields]) -> str | None:
    metadata = [node.get("response_metadata") for node in nodes]
    return next(filter(None, (_text(each, *_MODELS) for each in metadata if isinstance(each, dict))), None)


def _nodes(wrapped: object, fields: Fields) -> list[Fields]:
    """Return where an id and a model may stand: the payload, what wraps it, and a LangChain result's message."""
    payload = wrapped if isinstance(wrapped, dict) else {}
    return [payload, fields, *_messages(payload), *_messages(fields)]


def _messages(result: Fields) -> Iterator[Fields]:
    """Yield the one message of a LangChain result, and what it was made of; several have no id in common."""
    generations = result.get("generations")
    while isinstance(generations, list):
        if len(generations) != 1:
            return
        generations = generations[0]
    message = generations.get("message") if isinstance(generations, dict) else None
    if isinstance(message, dict):
        yield message
        for name in ("kwargs", "data", "lc_kwargs"):
            inner = message.get(name)
            if isinstance(inner, dict):
                yield inner


def _time(fields: Fields) -> datetime | None:
    for name in _TIMES:
        value = fields.get(name)
        try:
            if isinstance(value, str):
                moment = datetime.fromisoformat(value)
                return _in_range(name, moment if moment.tzinfo else moment.replace(tzinfo=UTC))
            if isinstance(value, int | float) and not isinstance(value, bool):
                return datetime.fromtimestamp(value / 1000 if value > _MILLISECONDS else value, UTC)
        except (ValueError, OverflowError, OSError):
            raise BadLine(f"{name} is no time: {str(value)[:40]!r}") from None
    return None


def _in_range(name: str, moment: datetime) -> datetime:
    """Return a time that is one in UTC, too: the first and the last day of the calendar may not be."""
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise BadLine(f"{name} is no time: {moment.isoformat()!r} is not within the years 1 to 9999 in UTC") from None
    return moment


def _tags(tags: object) -> dict[str, str]:
    if isinstance(tags, dict):
        return {name: str(value) for name, value in tags.items() if name}
    if isinstance(tags, list):
        return {tag: "true" for tag in tags if isinstance(tag, str) and tag}
    return {}


def _text(fields: Fields, *names: str) -> str | None:
    return next((value for name in names if isinstance(value := fields.get(name), str) and value), None)


def _label(fields: Fields, *names: str) -> str | None:
    """Return a label, which others may write as a number."""
    values = (fields.get(name) for name in names)
    return next((str(value) for value in values if isinstance(value, str | int) and str(value)), None)


def _hash(line: bytes) -> str:
    return hashlib.sha256(line.strip()).hexdigest()[:32]
