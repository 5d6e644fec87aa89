"""Ingestion pipelines that start worker processes: their models carry a Messenger there, which sends usage home."""

from typing import Any

from token_handlers.errors import shielded
from token_handlers.llama_index.handler import Messenger

_lent: dict[str, list[Any]] = {}


@shielded
def lend(span_id: str, pipeline: Any, bound_args: Any) -> None:
    """Put a messenger into the models of a pipeline that starts workers, until it has run."""
    if (bound_args.arguments.get("num_workers") or 0) < 2:  # one worker is this process
        return
    models = [*pipeline.transformations]
    managers = {id(manager): manager for model in models if (manager := getattr(model, "callback_manager", None))}
    messenger = Messenger()
    for manager in managers.values():
        before, manager.handlers = manager.handlers, [*manager.handlers, messenger]
        _lent.setdefault(span_id, []).append((manager, before, manager.handlers, messenger))


def take_back(span_id: str) -> None:
    """Take the messengers of a pipeline out again."""
    for manager, before, after, messenger in _lent.pop(span_id, ()) if _lent else ():
        untouched = manager.handlers is after and after[-1] is messenger
        # The very list: models built without handlers share that of Settings.callback_manager.
        manager.handlers = before if untouched else [other for other in manager.handlers if other is not messenger]
