"""Labels that LangChain programs put on their calls themselves: the metadata of a run's config."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from token_handlers.counter.counter import TokenCounter
from token_handlers.langchain.run_config import run_config
from token_handlers.tracking.scopes import Labels
from token_handlers.tracking.surroundings import MOST_CHARACTERS, RunLabels, is_chosen
from token_handlers.tracking.track_tokens import RESERVED

MOST_LABELS = 20

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

LS_KEYS = frozenset(key for key in INTERNAL_KEYS if key.startswith("ls_")) | {"lc_versions"}
"""What the metadata of a run has that is neither LangGraph's nor of a config: there is no label in it."""


def with_run_name(labels: Labels, name: object, block: Labels) -> Labels:
    """Return the labels of a call with the name of its own run, unless a block said otherwise."""
    if not isinstance(name, str) or not name or "run_name" in block.tags or not is_chosen("run_name"):
        return labels
    return labels._replace(tags={**labels.tags, "run_name": name[:MOST_CHARACTERS]})


def with_metadata(labels: Labels, metadata: Mapping[str, Any]) -> Labels:
    """Return the labels of a call with what its run's metadata says; what a block said goes first.

    Each key is a tag, and sessions' and users' ids fill ``session`` and ``user``. At most MOST_LABELS keys are taken,
    with MOST_CHARACTERS of each value; nested values are left out.
    """
    found: dict[str, str] = {}
    for key, value in metadata.items():
        if len(found) < MOST_LABELS and isinstance(value, _PLAIN) and type(key) is str and _is_label(key):
            text = str(value)[:MOST_CHARACTERS]
            if text:
                found[key] = text
    agent = metadata.get("lc_agent_name")
    if agent and isinstance(agent, str) and is_chosen("agent"):
        found.setdefault("agent", agent[:MOST_CHARACTERS])
    if not found:
        return labels
    session = _first(found, _SESSION) if labels.session is None else labels.session
    user = _first(found, _USER) if labels.user is None else labels.user
    tags = {key: text for key, text in found.items() if key not in RESERVED}
    return Labels(session, user, {**tags, **labels.tags})


def labels_of_run(labels: Labels) -> RunLabels | None:
    """Return the labels of a call of another kind that starts in the code of a run, by the run's metadata."""
    config = run_config()
    metadata = config.get("metadata") if config else None
    if not metadata:
        return None
    node = metadata.get("langgraph_node")
    return RunLabels(with_metadata(labels, metadata), node if isinstance(node, str) else None)


def counters_of_run() -> Sequence[TokenCounter]:
    """Return the counters of the LangChainTokenHandlers that the run here was given."""
    config = run_config()
    handlers = getattr(config.get("callbacks"), "handlers", ()) if config else ()
    counters = (getattr(handler, "counter", None) for handler in handlers)
    return [counter for counter in counters if isinstance(counter, TokenCounter)]


def _is_label(key: str) -> bool:
    return bool(key) and key not in INTERNAL_KEYS and not key.startswith(_INTERNAL) and is_chosen(key)


def _first(found: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    return next((found[key] for key in keys if key in found), None)
