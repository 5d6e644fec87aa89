"""The warning about AGENTSIGHT_TOKEN_HANDLER_TYPE where it is set, and nothing in the process reads it."""

from token_handlers.errors import WHY
from token_handlers.lifecycle import Warnings
from token_handlers.settings import Settings

_warnings = Warnings()
_is_read = False


def note_read() -> None:
    """Note that automatic tracking was started, or that somebody asked for it."""
    global _is_read  # noqa: PLW0603 (the one place)
    _is_read = True


def warn_if_unread() -> None:
    """Warn once where somebody reads what the whole process used, and the variable is set without any effect."""
    if _is_read:
        return
    handler_type = (Settings().token_handler_type or "").strip()
    if handler_type:
        _warnings.warn(
            "unread",
            "AGENTSIGHT_TOKEN_HANDLER_TYPE is %r, but nothing in this process reads it, so calls outside of blocks and "
            "handlers are not counted: `import token_handlers.auto`, or call token_handlers.install() (%s)",
            handler_type,
            WHY,
        )
