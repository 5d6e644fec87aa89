"""Counters: thread-safe cumulative totals, in all and by label."""

from token_handlers.counter.counter import TokenCounter

__all__ = ["TokenCounter"]
