"""Automatic tracking of a whole process, and the settings: the only reader of the environment."""

import importlib.util
import logging
from typing import ClassVar

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from token_handlers.budget import Budget, check_budget
from token_handlers.guide import WHY
from token_handlers.process import check_budgets, process, unwatch_llama_index, watch_frameworks
from token_handlers.scopes import any_entered

logger = logging.getLogger("token_handlers")

# handler type -> the distribution's import name, and the extra that installs it
FRAMEWORKS = {"langchain": ("langchain_core", "langchain"), "llamaindex": ("llama_index.core", "llamaindex")}

_warned: set[str] = set()


class Settings(BaseSettings):
    """What the environment says; read when it is used, so that setting a variable after the import works."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="AGENTSIGHT_", extra="ignore", hide_input_in_errors=True
    )

    token_handler_type: str | None = None
    api_key: SecretStr | None = None
    api_endpoint: str = "https://api.agentsight.io"
    conversation_id: str | None = None
    token_ledger: str | None = None
    token_redis_url: SecretStr | None = None


def install(handler_type: str | None = None, *, budget: Budget | None = None) -> None:
    """Track every call of this process, in every thread, into the shared counter, until `uninstall()`.

    ``handler_type`` is 'langchain', 'llamaindex', both separated by a comma, or 'auto' for what is installed; case does
    not matter. None reads AGENTSIGHT_TOKEN_HANDLER_TYPE, and does nothing where that is unset or empty. Anything else
    is a ValueError. A framework that is not installed gives one warning and is not tracked. Calling it again adds to
    what is tracked, and tracks nothing twice. AGENTSIGHT_TOKEN_LEDGER, where it is set, opens that ledger as a sink.
    Each call of the process that is counted, in blocks too, is checked against ``budget`` before it is sent; with one,
    what no handler type says is 'auto'.
    """
    if budget is not None:
        check_budget(budget)
    settings = Settings()
    text = settings.token_handler_type if handler_type is None else handler_type
    if text is None or (handler_type is None and not text.strip()):
        if budget is None:
            return
        text = "auto"
    wanted = parse_handler_type(text)
    if budget is not None:
        process.budgets = (*(other for other in process.budgets if other is not budget), budget)
        check_budgets()
    present = {name for name in wanted if _is_installed(name)}
    if text.strip().lower() != "auto":
        for name in wanted - present:
            _warn_missing(name)
    if settings.token_ledger:
        from token_handlers.sessions import configured_ledger

        configured_ledger(settings)
    if present:
        process.automatic.update(present)
        watch_frameworks()


def uninstall() -> None:
    """Stop automatic tracking; the shared counter keeps what it has, and blocks and handlers go on counting.

    The budgets that install() was given are let go.
    """
    process.automatic.clear()
    process.budgets = ()
    if not any_entered():
        unwatch_llama_index()


def parse_handler_type(text: str) -> set[str]:
    """Return the frameworks that a handler type names; raise a ValueError that lists what there is."""
    if not isinstance(text, str):
        raise TypeError(f"handler_type must be a string, not {text!r}")
    names = {name.strip().lower() for name in text.split(",")}
    if names == {"auto"}:
        return set(FRAMEWORKS)
    if not names <= set(FRAMEWORKS):
        raise ValueError(
            f"{text!r} is no handler type: AGENTSIGHT_TOKEN_HANDLER_TYPE and install() take 'langchain', 'llamaindex', "
            "'langchain,llamaindex' or 'auto'"
        )
    return names


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(FRAMEWORKS[name][0]) is not None
    except ModuleNotFoundError:  # the parent package of llama_index.core
        return False


def _warn_missing(name: str) -> None:
    if name not in _warned:
        _warned.add(name)
        module, extra = FRAMEWORKS[name]
        logger.warning(
            "%s is not installed, so %s calls are not tracked: pip install 'token-handlers[%s]' (%s)",
            module,
            name,
            extra,
            WHY,
        )
