"""LangChain's configure hook: one for the life of the process, read by LangChain whenever it configures a run."""

from types import ModuleType

from token_handlers.langchain.handler import ProcessRecorder, RunRecorder
from token_handlers.tracking.scopes import active_scopes
from token_handlers.tracking.state import state

_recorder = ProcessRecorder()
_attached = False


class RecorderVariable:
    """Stands where LangChain expects a context variable; asked, it answers with who is to record what starts here.

    A real variable can only be set in a context or have one default for good: this one is seen in every thread and in
    an empty context, and while nothing is tracked there is no handler at all.
    """

    @staticmethod
    def get() -> RunRecorder | None:
        """Return the innermost get_openai_callback's handler, else the process's own, or None where nothing tracks."""
        scopes = active_scopes()
        if not scopes:
            return _recorder if "langchain" in state.automatic else None
        recorder: RunRecorder | None = scopes[-1].recorder
        return _recorder if recorder is None else recorder


def attach(context: ModuleType) -> None:
    """Register the hook with langchain_core.tracers.context, once."""
    global _attached  # noqa: PLW0603 (once in a process' life)
    if not _attached:
        _attached = True
        context.register_configure_hook(RecorderVariable(), inheritable=True)
