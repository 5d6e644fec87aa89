"""Whose request is it: the LangChain call in whose code a request is sent, from the stack, else from the context."""

from collections.abc import Mapping
from contextvars import ContextVar
from types import ModuleType
from typing import Any
from uuid import UUID

from token_handlers.http import ProviderRequest
from token_handlers.langchain.calls import Run, flow, open_runs
from token_handlers.langchain.labels import counters_of_run, labels_of_run
from token_handlers.langchain.nested import RUN_CODE
from token_handlers.langchain.run_config import run_config
from token_handlers.tracking.answers import OWN_FRAMES, context_owners, request_owners
from token_handlers.tracking.call import Call
from token_handlers.tracking.frames import callers_named
from token_handlers.tracking.surroundings import RunSource, run_sources

_EMBED = frozenset({"embed_documents", "embed_query", "aembed_documents", "aembed_query", "embed_image"})
_RERANK = frozenset({"compress_documents", "acompress_documents", "rerank"})
_CODE = {"embeddings": RUN_CODE | _EMBED, "rerank": RUN_CODE | _RERANK}
"""The functions that send a request, where not only a run's do, by what the request is for."""

last_run: ContextVar[Run | None] = ContextVar("token_handlers_langchain_run", default=None)
"""The run that was started last in this context: a fallback for threads and tasks that a model starts by itself."""


def owner_of(request: ProviderRequest) -> Call | None:
    """Return the innermost open call of LangChain's in whose code a request is sent."""
    code = _CODE.get(request.operation)
    if code is None and not open_runs:
        return None
    for frame in callers_named(code or RUN_CODE, beyond=OWN_FRAMES):
        variables = frame.f_locals
        if code is None or frame.f_code.co_name in RUN_CODE:
            run_id = getattr(variables.get("run_manager"), "run_id", None)
            run = open_runs.get(run_id.int) if isinstance(run_id, UUID) else None
            if run is not None:
                if run.next_same_id is not None:
                    run = _asked_in(run, variables)
                return run if run.batch is None or run.operation == "chat" else run.batch.runs[0]
        else:
            model = variables.get("self")
            if _is_langchain(model):
                # Not above: it imports langchain_core.embeddings, whose import is what attaches this very module.
                from token_handlers.langchain.embeddings import open_embedding_call

                return open_embedding_call(model, request, variables)
    return None


def owner_in_context(request: ProviderRequest) -> Call | None:
    """Return the run whose model has started this thread or task by itself: it is open, and nothing was received."""
    run = last_run.get() if open_runs else None
    if run is None or run.settled or run.chunk is not None or run.answers or run.flow == flow():
        return None
    return run


def _asked_in(newest: Run, arguments: Mapping[str, Any]) -> Run:
    """Return the one of the open runs to which a caller has given one id that has the same prompt as a frame."""
    run: Run | None = newest
    messages = arguments.get("messages")
    while run is not None:
        if run.prompt and run.prompt[0] == messages:
            return run
        run = run.next_same_id
    return newest


def _is_langchain(model: object) -> bool:
    return any(kind.__module__.startswith("langchain_core.") for kind in type(model).__mro__)


def attach(_: ModuleType | None = None) -> None:
    """Have the requests of LangChain's calls found, and other calls in its runs labelled, once."""
    if owner_of not in request_owners:
        request_owners.append(owner_of)
        context_owners.append(owner_in_context)
        run_sources.append(RunSource(run_config, labels_of_run, counters_of_run))
