"""The command line: each module of a command adds its parser, and imports what it needs when it runs."""

from token_handlers.cli.main import main

__all__ = ["main"]
