"""RedisCounter: the totals of a fleet, on a Redis-protocol server."""

from token_handlers.sinks.redis.counter import (
    Amounts,
    Backlog,
    RedisCounter,
    Reserved,
    Spent,
    StoreRefused,
    StoreUnavailable,
)

__all__ = ["Amounts", "Backlog", "RedisCounter", "Reserved", "Spent", "StoreRefused", "StoreUnavailable"]
