"""Ledgers with calls in them, for the tests of the commands that read one."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from token_handlers.sinks.sqlite import SQLiteLedger
from token_handlers.usage import Usage, UsageRecord

FIRST_DAY = datetime(2026, 10, 1, 12, tzinfo=UTC)

CALLS = (
    UsageRecord(
        usage=Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=250, reasoning_tokens=40),
        model="gpt-4o",
        cost=Decimal("0.0031875"),
        cost_source="genai-prices",
        cache_saved_cost=Decimal("0.0003125"),
        session="<script>alert(1)</script>",
        user="ann",
        tags={"team": "red"},
        event_id="a",
        started_at=FIRST_DAY,
    ),
    UsageRecord(
        usage=Usage(input_tokens=2000, output_tokens=10),
        model="my-llama",
        session="s1",
        source="estimated",
        method="characters",
        event_id="b",
        started_at=FIRST_DAY + timedelta(days=1),
    ),
    UsageRecord(
        usage=Usage(input_tokens=500),
        model="text-embedding-3-small",
        operation="embeddings",
        cost=Decimal("0.5"),
        cost_source="reported",
        event_id="c",
        started_at=FIRST_DAY + timedelta(days=2),
    ),
    UsageRecord(model="gpt-4o", outcome="failed", event_id="d", started_at=FIRST_DAY + timedelta(days=2)),
)


def fill(path: Path, *records: UsageRecord) -> Path:
    """Make a ledger of these records, or of CALLS."""
    with SQLiteLedger(path) as ledger:
        for record in records or CALLS:
            ledger(record)
    return path
