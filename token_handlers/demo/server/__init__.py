"""The OpenAI-compatible loopback server of the demo and the tests, which keeps a ledger of what it billed."""

from token_handlers.demo.server.server import Channel, LedgerServer

__all__ = ["Channel", "LedgerServer"]
