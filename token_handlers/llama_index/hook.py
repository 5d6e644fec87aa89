"""LlamaIndex's root dispatcher: one event handler and one span handler of ours, put there once and taken away whole."""

import threading
from types import ModuleType

from token_handlers.llama_index import clients, executors, filters, managers, nested, uninstrumented, wraps
from token_handlers.llama_index.dispatcher import EventRecorder, SpanRecorder
from token_handlers.llama_index.owners import owner_of
from token_handlers.tracking.answers import listeners, request_owners
from token_handlers.tracking.call import parent_finders
from token_handlers.tracking.state import rest


def _rest() -> None:
    rest(_fall_asleep, _wake, filters.are_handlers_needed)


def _fall_asleep() -> None:
    """Take our handlers out of LlamaIndex's own lists, where they are the last: it may be going through these."""
    from llama_index_instrumentation import root_dispatcher as root

    for handlers, ours in ((root.event_handlers, _events), (root.span_handlers, _spans)):
        if handlers and id(handlers[-1]) == id(ours):
            handlers.remove(ours)  # type: ignore[arg-type]  # duck-typed, see dispatcher
    managers.leave_starts()


def _wake() -> None:
    """Put our handlers back."""
    if not _attached:
        return
    from llama_index_instrumentation import root_dispatcher as root

    if all(id(handler) != id(_events) for handler in root.event_handlers):
        root.add_event_handler(_events)  # type: ignore[arg-type]  # as above
    if all(id(handler) != id(_spans) for handler in root.span_handlers):
        root.add_span_handler(_spans)  # type: ignore[arg-type]  # as above
    managers.watch_starts()


_events, _spans = EventRecorder(), SpanRecorder(_rest)
_attaching = threading.Lock()
_attached = False

_WRAPS = {
    "llama_index.core.callbacks.base": managers.watch,
    "llama_index.core.base.llms.base": uninstrumented.watch,
    "llama_index.core.multi_modal_llms.base": uninstrumented.watch,
    "llama_index.core.tools.function_tool": executors.watch,
    "llama_index.core.async_utils": executors.watch,
    "workflows.context.context": executors.watch_workflows,
    "llama_index.llms.bedrock_converse.base": executors.watch_bedrock,
    "openai._base_client": clients.wrap_sdk,
}


def attach(_: ModuleType | None = None) -> None:
    """Add our handlers to the root dispatcher, once, beside those of others; after `detach` they can be added again."""
    global _attached  # noqa: PLW0603 (the one place that says so)
    if _attached:
        return
    with _attaching:
        if _attached:
            return
        _attached = True
        _wake()
        wraps.attach(_WRAPS)
        parent_finders.append(nested.join)
        request_owners.append(owner_of)
        listeners.append(filters.any_listening)


def check_budgets() -> None:
    """Wrap the functions in which a budget refuses calls, if our handlers are attached; later `attach` does so."""
    with _attaching:
        if _attached:
            wraps.attach(_WRAPS)


def detach() -> None:
    """Take our handlers away, and nothing else; the lists are new ones, as LlamaIndex may be going through the old."""
    global _attached  # noqa: PLW0603 (as above)
    from llama_index_instrumentation import root_dispatcher as root

    _attached = False
    listeners[:] = [listens for listens in listeners if listens is not filters.any_listening]
    request_owners[:] = [owner for owner in request_owners if owner is not owner_of]
    parent_finders[:] = [ask for ask in parent_finders if ask is not nested.join]
    root.event_handlers = [handler for handler in root.event_handlers if id(handler) != id(_events)]
    root.span_handlers = [handler for handler in root.span_handlers if id(handler) != id(_spans)]
    wraps.restore()
    uninstrumented.restore()
