"""install(): automatic tracking of a whole process."""

import importlib.util

from token_handlers.budget.budget import Budget, check_budget
from token_handlers.counter.counter import TokenCounter
from token_handlers.errors import WHY
from token_handlers.http import detach
from token_handlers.lifecycle import Warnings
from token_handlers.pricing import calculator
from token_handlers.settings import FRAMEWORKS, Settings
from token_handlers.sinks.configured import add_configured_sinks
from token_handlers.tracking.answers import watch as watch_answers
from token_handlers.tracking.scopes import any_entered
from token_handlers.tracking.sdk_calls import SDK
from token_handlers.tracking.state import check_budgets, state, unwatch_frameworks, watch_frameworks
from token_handlers.tracking.surroundings import choose_labels
from token_handlers.tracking.unread_variable import note_read, warn_if_unread

__all__ = ["Settings", "install", "shared_counter", "uninstall"]

_missing = Warnings()


def install(
    handler_type: str | None = None,
    *,
    budget: Budget | None = None,
    update_prices: bool = False,
    http: bool = True,
) -> None:
    """Track every call of this process, in every thread, into the shared counter, until `uninstall()`.

    ``handler_type`` is 'langchain', 'llamaindex', both separated by a comma, or 'auto' for what is installed, and then
    the calls that the application makes by the providers' own SDKs count as well; case does not matter. None reads
    AGENTSIGHT_TOKEN_HANDLER_TYPE, and does nothing where that is unset or empty. Anything else is a ValueError. A
    framework that is not installed gives one warning and is not tracked. Calling it again adds to what is tracked, and
    tracks nothing twice.

    AGENTSIGHT_TOKEN_LEDGER, where it is set, adds that ledger as a sink, and AGENTSIGHT_TOKEN_REDIS_URL a
    `RedisCounter` of that server, whose namespace is "token_handlers". AGENTSIGHT_TOKEN_LABELS names the labels to take
    from what the frameworks state, such as 'customer,user_id,tool'; 'off' takes none, and without it all are taken.
    Each call of the process that is counted, in blocks too, is checked against ``budget`` before it is sent; with one,
    or with ``update_prices``, what no handler type says is 'auto'.

    With ``update_prices``, or AGENTSIGHT_TOKEN_PRICES=auto, a background thread fetches the price table that
    genai-prices publishes, now and every six hours; a table that is older or lacks known models is not used. Nothing is
    fetched otherwise.

    Without ``http`` the HTTP clients are left as they are until `uninstall()`, as by TOKEN_HANDLERS_HTTP=off: what the
    frameworks' events say is counted alone, and no SDK's own call.
    """
    if budget is not None:
        check_budget(budget)
    if not http:
        state.watches_http = False
        detach()
    note_read()
    settings = Settings()
    if update_prices or settings.price_updates is not None:
        calculator.update_prices()
    text = settings.token_handler_type if handler_type is None else handler_type
    if text is None or (handler_type is None and not text.strip()):
        if budget is None and not update_prices:
            return
        text = "auto"
    wanted = parse_handler_type(text)
    if budget is not None:
        state.budgets = (*(other for other in state.budgets if other is not budget), budget)
        check_budgets()
    present = {name for name in wanted if _is_installed(name)}
    if text.strip().lower() == "auto":
        present.add(SDK)
    else:
        for name in wanted - present:
            _warn_missing(name)
    add_configured_sinks(settings)
    choose_labels(settings)
    if present:
        state.automatic.update(present)
        watch_frameworks()


def shared_counter() -> TokenCounter:
    """Return the process-wide counter, which every recorded call reaches.

    One warning says so where AGENTSIGHT_TOKEN_HANDLER_TYPE is set and nothing has read it.
    """
    warn_if_unread()
    return state.counter


def uninstall() -> None:
    """Stop automatic tracking; the shared counter keeps what it has, and blocks and handlers go on counting.

    The budgets that install() was given are let go, and no price table is fetched any more.
    """
    state.automatic.clear()
    state.budgets = ()
    calculator.stop_updates()
    state.watches_http = True
    if any_entered():
        watch_answers()
    else:
        unwatch_frameworks()


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
    module, extra = FRAMEWORKS[name]
    _missing.warn(
        name,
        "%s is not installed, so %s calls are not tracked: pip install 'token-handlers[%s]' (%s)",
        module,
        name,
        extra,
        WHY,
    )
