"""Importing this module turns on the automatic tracking that AGENTSIGHT_TOKEN_HANDLER_TYPE names."""

from token_handlers.install import install

install()
