"""The config of the run in whose code this is, which LangChain keeps in a context variable of its own."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextvars import ContextVar

    from langchain_core.runnables import RunnableConfig


def run_config() -> "RunnableConfig | None":
    """Return the config, None outside of all runs."""
    return _variable().get()


@cache
def _variable() -> "ContextVar[RunnableConfig | None]":
    # Not above: our hook is attached while langchain_core is imported, when the module that has it is half made.
    from langchain_core.runnables.config import var_child_runnable_config

    return var_child_runnable_config
