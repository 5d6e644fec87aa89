"""SQLLedger: every record of a fleet in one PostgreSQL database."""

from token_handlers.sinks.postgres.ledger import SQLLedger

__all__ = ["SQLLedger"]
