"""Labels that LangChain programs put on their calls themselves: the metadata of a run's config."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from token_handlers.tracking.scopes import Labels
from token_handlers.tracking.track_tokens import RESERVED

MOST_LABELS = 20
MOST_CHARACTERS = 200

_SESSION = ("session", "session_id", "thread_id", "langfuse_session_id")
_USER = ("user", "user_id", "langfuse_user_id")
_PLAIN = (str, int, float, UUID, Decimal, date)
_INTERNAL = ("ls_", "lc_", "langgraph_", "checkpoint_", "__")
INTERNAL_KEYS = frozenset(
    {
        "checkpoint_id",
        "checkpoint_ns",
        "langgraph_checkpoint_ns",
        "langgraph_node",
        "langgraph_path",
        "langgraph_step",
        "langgraph_triggers",
        "lc_versions",
        "ls_integration",
        "ls_max_tokens",
        "ls_model_name",
        "ls_model_type",
        "ls_provider",
        "ls_stop",
        "ls_temperature",
        "revision_id",
        "run_attempt",
        "run_id",
        "thread_ts",
        "versions",
    }
)
"""What LangChain and LangGraph put into metadata themselves, with all that starts as _INTERNAL says."""


def with_metadata(labels: Labels, metadata: Mapping[str, Any]) -> Labels:
    """Return the labels of a call with what its metadata says; what a block said goes first.

    Each key is a tag, and sessions' and users' ids fill ``session`` and ``user``. At most MOST_LABELS keys are taken,
    with MOST_CHARACTERS of each value; nested values are left out.
    """
    found: dict[str, str] = {}
    for key, value in metadata.items():
        if len(found) < MOST_LABELS and isinstance(value, _PLAIN) and type(key) is str and not _is_internal(key):
            text = str(value)[:MOST_CHARACTERS]
            if text:
                found[key] = text
    agent = metadata.get("lc_agent_name")
    if agent and isinstance(agent, str):
        found.setdefault("agent", agent[:MOST_CHARACTERS])
    if not found:
        return labels
    session = _first(found, _SESSION) if labels.session is None else labels.session
    user = _first(found, _USER) if labels.user is None else labels.user
    tags = {key: text for key, text in found.items() if key not in RESERVED}
    return Labels(session, user, {**tags, **labels.tags})


def _is_internal(key: str) -> bool:
    return not key or key in INTERNAL_KEYS or key.startswith(_INTERNAL)


def _first(found: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    return next((found[key] for key in keys if key in found), None)
