"""The commands of the command line: each module adds its parser, and imports what it needs when it runs."""

from token_handlers.errors import TokenHandlersError


class WrongUsage(TokenHandlersError):
    """What was asked for lacks something; the exit status is 2."""
