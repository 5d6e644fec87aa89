import asyncio
import gc
from collections.abc import Callable

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from token_handlers import TokenCounter, track_tokens
from token_handlers.langchain import LangChainTokenHandler
from token_handlers.llama_index import LlamaIndexTokenHandler

MISPLACED: dict[str, Callable[[], object]] = {
    "the class LangChainTokenHandler": lambda: LangChainTokenHandler,
    "the class LlamaIndexTokenHandler": lambda: LlamaIndexTokenHandler,
    "a LlamaIndexTokenHandler": LlamaIndexTokenHandler,
    "a TokenCounter": TokenCounter,
    "a track_tokens": track_tokens,
}


async def _drain(stream):
    return [chunk async for chunk in stream]


WAYS = {
    "invoke": lambda model, config: model.invoke("hi", config),
    "ainvoke": lambda model, config: asyncio.run(model.ainvoke("hi", config)),
    "stream": lambda model, config: list(model.stream("hi", config)),
    "astream": lambda model, config: asyncio.run(_drain(model.astream("hi", config))),
}


@pytest.mark.filterwarnings("ignore:coroutine '.*ahandle_event' was never awaited")  # LangChain's, as it raises
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", MISPLACED)
def test_what_is_no_handler(what, way):
    """A class, LlamaIndex's handler, a counter or a block in a callbacks list is a TypeError: it names what belongs."""
    model = GenericFakeChatModel(messages=iter([AIMessage("x")]))
    with pytest.raises(TypeError, match=rf"not {what}: put LangChainTokenHandler\((counter)?\) into it"):
        WAYS[way](model, {"callbacks": [MISPLACED[what]()]})
    gc.collect()


@pytest.mark.parametrize("what", MISPLACED)
def test_looking_at_what_is_no_handler(what):
    """Asking whether it has one of these attributes is no error."""
    misplaced = MISPLACED[what]()
    assert not (hasattr(misplaced, "ignore_chat_model") and hasattr(misplaced, "raise_error"))
