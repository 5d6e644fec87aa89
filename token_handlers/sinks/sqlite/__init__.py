"""SQLiteLedger: every record of one machine in one file."""

from token_handlers.sinks.sqlite.ledger import SQLiteLedger

__all__ = ["SQLiteLedger"]
