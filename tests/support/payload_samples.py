"""Payloads of every shape, and what each says."""

import json
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from token_handlers.payloads import ReportedUsage


class Sample(NamedTuple):
    name: str
    payload: Any
    counts: dict[str, int] | None = None
    cost: str | None = None
    service_tier: str | None = None
    model: str | None = None
    provider: str | None = None
    billed: dict[str, int] | None = None
    context: dict[str, str] | None = None
    beside: list[tuple[str | None, dict[str, int]]] | None = None
    doubts: list[str] | None = None

    @property
    def expected(self) -> ReportedUsage | None:
        if self.counts is None:
            return None
        return ReportedUsage(
            self.counts,
            self.cost and Decimal(self.cost),
            self.service_tier,
            self.model,
            self.billed,
            self.context or {},
            tuple((model, counts) for model, counts in self.beside or ()),
            tuple(self.doubts or ()),
        )


# Hand-written payloads of every shape, one a line, and what each says.
SAMPLES = [
    Sample(**json.loads(line)) for line in Path(__file__).with_name("payload_samples.jsonl").read_text().splitlines()
]


def both(tokens: int, output: int, **more: int) -> dict[str, int]:
    """The counts of a call with input and output."""
    return {"input_tokens": tokens, "output_tokens": output, **more}


def objects(value: Any) -> Any:
    """The payload as an SDK's objects."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: objects(each) for key, each in value.items()})
    return [objects(each) for each in value] if isinstance(value, list) else value
