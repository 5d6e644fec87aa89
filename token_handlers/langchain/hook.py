"""LangChain's configure hook: one for the life of the process, read by LangChain whenever it configures a run."""

from contextvars import ContextVar
from types import ModuleType

from token_handlers.langchain.handler import ProcessRecorder

_attached: list[ContextVar[ProcessRecorder]] = []


def attach(context: ModuleType) -> None:
    """Register the hook with langchain_core.tracers.context, once.

    A variable's default is visible in every thread, in an empty context and after a fork, unlike a value that is set.
    """
    if not _attached:
        recorder = ProcessRecorder()
        _attached.append(ContextVar("token_handlers_recorder", default=recorder))
        context.register_configure_hook(_attached[0], inheritable=True)
