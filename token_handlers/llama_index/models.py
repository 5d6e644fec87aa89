"""Which of our callback handlers an LLM or embedding model carries in its callback manager."""

from typing import Any

from token_handlers.counter.attributes import UsageAttributes
from token_handlers.llama_index.filters import is_tracked
from token_handlers.tracking.call import Call


class CountsCalls(UsageAttributes):
    """What our callback handlers have in common, apart from LlamaIndex's base class: a counter.

    ``counts_llms`` and ``counts_embeddings`` are False where the user has it ignore these events.
    """

    counts_llms = True
    counts_embeddings = True

    def count(self, call: Call) -> None:
        """Count a call, unless its kind is ignored."""
        raise NotImplementedError


def is_counted(instance: Any) -> bool:
    """Return whether a call of this model that starts here is recorded."""
    return is_tracked() or count_for_handlers(None, instance)


def count_for_handlers(call: Call | None, instance: Any) -> bool:
    """Count a call for each of our handlers that the model carries, and return whether there are any."""
    manager = getattr(instance, "callback_manager", None)
    ours = [handler for handler in getattr(manager, "handlers", ()) if isinstance(handler, CountsCalls)]
    if call is not None:
        for handler in ours:
            handler.count(call)
    return bool(ours)
