"""Records for a ledger, and what a TokenCounter says of those that it has."""

import sqlite3
from datetime import UTC, datetime
from decimal import Decimal

from token_handlers import TokenCounter, Usage, UsageRecord

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def call(event=None, sent=17, received=12, cost="0.0000015", **fields):
    """Return a record of one call to gpt-4o-mini."""
    usage = Usage(input_tokens=sent, output_tokens=received)
    given = {"usage": usage, "model": "gpt-4o-mini", "cost": cost and Decimal(cost), "started_at": NOON}
    return UsageRecord(**{**given, "event_id": event, **fields})


def counted(records):
    """Return a TokenCounter that counted the records."""
    counter = TokenCounter()
    for record in records:
        counter.add(record)
    return counter


def check_sums(ledger):
    """Check that the rollups have the sums of the calls, in all and by each label."""
    counter = counted(ledger.records())
    assert counter.snapshot() == ledger.totals()
    for label in ("model", "session", "user", "langgraph_node", "tag", "team"):
        assert counter.by(label) == ledger.by(label)


def check_file(path):
    """Check that SQLite finds nothing torn in the file."""
    connection = sqlite3.connect(path)
    assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
