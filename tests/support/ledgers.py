"""Records for a ledger, and what a TokenCounter says of those that it has."""

import sqlite3
import subprocess
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from token_handlers import TokenCounter, Usage, UsageRecord

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def call(event=None, sent=17, received=12, cost="0.0000015", **fields):
    """Return a record of one call to gpt-4o-mini, with an event id of its own unless one is given."""
    usage = Usage(input_tokens=sent, output_tokens=received)
    given = {"usage": usage, "model": "gpt-4o-mini", "cost": cost and Decimal(cost), "started_at": NOON}
    named = {} if event is None else {"event_id": event}
    return UsageRecord(**{**given, **named, **fields})


def make_old(path, version=2):
    """Make a ledger as version 1 or 2 made it: five calls, one of them absurd, which a version of today refuses."""
    connection = sqlite3.connect(path)
    connection.executescript(Path(__file__).with_name("ledger_version_2.sql").read_text("utf-8"))
    if version == 1:
        connection.executescript("DROP TABLE usage_outbox; PRAGMA user_version = 1;")
    connection.close()


def mounts():
    """Return the command that runs another where it may mount, or None where nobody may."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        return command if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0 else None
    except FileNotFoundError:
        return None


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
