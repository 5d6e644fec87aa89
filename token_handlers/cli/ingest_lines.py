"""One line of JSON as a record of a call: numbers, names and labels; texts stay where they are."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import get_args

from pydantic import ValidationError

from token_handlers.payloads import ReportedUsage, read_payload
from token_handlers.pricing.calculator import price_call
from token_handlers.usage import Operation, Usage, UsageRecord

Fields = Mapping[str, object]

_WRAPPED = ("output", "payload", "response", "result", "llmResult", "data")
_EVENT_IDS = ("event_id", "eventId", "run_id", "runId")
_TIMES = ("started_at", "startedAt", "timestamp", "time", "ts", "ended_at", "endedAt", "created_at", "created")
_MODELS = ("model", "model_name", "modelName")
_MILLISECONDS = 10**11
"""Numbers above are milliseconds since 1970, others are seconds."""


class BadLine(Exception):
    """A line that holds no usage; the message says why."""


def record_of_line(line: bytes, provider: str | None = None) -> UsageRecord:
    """Return what a line says a call used and cost; ``provider`` where the line does not name one.

    Its event id is the line's own: event id, run id or the response's id, else a hash of the line.
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
    return record if record.event_id else record.model_copy(update={"event_id": _hash(line)})


def _record(fields: Fields, reading: ReportedUsage, provider: str | None, event_id: str) -> UsageRecord:
    started = _time(fields)
    cost, source = _cost(reading, provider, started)
    return UsageRecord(
        usage=Usage(**reading.counts),
        model=reading.model,
        provider=provider,
        operation=_operation(fields, reading.model),
        session=_text(fields, "session", "session_id", "sessionId"),
        user=_text(fields, "user", "user_id", "userId"),
        tags=_tags(fields.get("tags")),
        cost=cost,
        cost_source=source,
        event_id=event_id,
        started_at=started,
    )


def _cost(reading: ReportedUsage, provider: str | None, at: datetime | None) -> tuple[Decimal | None, str | None]:
    if reading.cost is not None:
        return reading.cost, "reported"
    counts = reading.counts if reading.billed is None else reading.billed
    moment = None if at is None else at.timestamp()
    price = price_call(counts, reading.model, provider, service_tier=reading.service_tier, at=moment)
    return (None, None) if price is None else (price.cost, price.source)


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
                return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return datetime.fromtimestamp(value / 1000 if value > _MILLISECONDS else value, UTC)
        except (ValueError, OverflowError, OSError):
            raise BadLine(f"{name} is no time: {str(value)[:40]!r}") from None
    return None


def _tags(tags: object) -> dict[str, str]:
    if isinstance(tags, dict):
        return {name: str(value) for name, value in tags.items() if name}
    if isinstance(tags, list):
        return {tag: "true" for tag in tags if isinstance(tag, str) and tag}
    return {}


def _text(fields: Fields, *names: str) -> str | None:
    return next((value for name in names if isinstance(value := fields.get(name), str) and value), None)


def _hash(line: bytes) -> str:
    return hashlib.sha256(line.strip()).hexdigest()[:32]
