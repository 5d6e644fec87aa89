"""One call from its start to its record."""

from token_handlers.tracking.track_tokens import track_tokens

__all__ = ["track_tokens"]
