"""LangChain's configure hook: one for the life of the process, read by LangChain whenever it configures a run."""

from types import ModuleType

from token_handlers.langchain import owners
from token_handlers.langchain.handler import RecorderVariable
from token_handlers.langchain.nested import link
from token_handlers.tracking.call import parent_finders

_attached = False


def attach(context: ModuleType) -> None:
    """Register the hook with langchain_core.tracers.context, once."""
    global _attached  # noqa: PLW0603 (once in a process' life)
    owners.attach()
    if not _attached:
        _attached = True
        context.register_configure_hook(RecorderVariable(), inheritable=True)
        parent_finders.append(link)
