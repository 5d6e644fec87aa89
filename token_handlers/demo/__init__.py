"""The demo, and the OpenAI-compatible loopback server behind it, which keeps a ledger of what it billed."""
