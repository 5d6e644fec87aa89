"""get_openai_callback(): langchain-community's context manager, for every provider."""

import sys
from types import FrameType

from token_handlers.langchain.handler import LangChainTokenHandler
from token_handlers.tracking.track_tokens import track_tokens


class get_openai_callback(track_tokens):  # noqa: N801 (used like a function)
    """Count the LangChain calls inside the block; yields a LangChainTokenHandler, for every provider's models."""

    def __init__(self) -> None:
        super().__init__()

    def __enter__(self) -> LangChainTokenHandler:  # type: ignore[override]  # its attributes are a TokenCounter's
        return self._enter_handler(sys._getframe(1))  # noqa: SLF001 (a generator's block is remembered by its frame)

    async def __aenter__(self) -> LangChainTokenHandler:  # type: ignore[override]  # as above
        return self._enter_handler(sys._getframe(1))  # noqa: SLF001 (as above)

    def _enter_handler(self, caller: FrameType) -> LangChainTokenHandler:
        handler = LangChainTokenHandler()
        self._counter = handler.counter
        super().__enter__(caller)
        self._entered[-1].recorder = handler
        return handler


get_bedrock_anthropic_callback = get_openai_callback
