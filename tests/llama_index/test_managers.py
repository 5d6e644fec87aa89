import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler

from token_handlers import TokenCounter, track_tokens
from token_handlers.langchain import LangChainTokenHandler
from token_handlers.llama_index import LlamaIndexTokenHandler

WRONG = {
    "its class": (lambda: LlamaIndexTokenHandler, r"takes an instance: LlamaIndexTokenHandler\(\)"),
    "a counter": (TokenCounter, r"takes LlamaIndexTokenHandler\(counter\), not a TokenCounter itself"),
    "LangChain's": (LangChainTokenHandler, "takes a LlamaIndexTokenHandler, not LangChain's LangChainTokenHandler"),
    "LangChain's class": (lambda: LangChainTokenHandler, "not LangChain's LangChainTokenHandler"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_handler_of_llama_index_is_refused(name):
    """A manager that is given the wrong thing says which is the right one, and takes nothing."""
    make, message = WRONG[name]
    handler, manager = make(), CallbackManager([])
    before = list(manager.handlers)
    with track_tokens():
        with pytest.raises(TypeError, match=message):
            CallbackManager([handler])
        with pytest.raises(TypeError, match=message):
            manager.add_handler(handler)
        with pytest.raises(TypeError, match=message):
            manager.set_handlers([handler])

    assert before == manager.handlers


def test_handlers_are_taken():
    """Ours, and those of LlamaIndex and others, are handlers."""
    with track_tokens() as counter:
        handlers = [LlamaIndexTokenHandler(counter), TokenCountingHandler(tokenizer=str.split)]
        assert handlers == CallbackManager(handlers).handlers


def test_the_class_without_a_block():
    """Where nothing was tracked yet, the class in a manager is refused when its first call starts."""
    manager = CallbackManager([])
    manager.handlers = [LlamaIndexTokenHandler]
    with pytest.raises(TypeError, match=r"takes an instance: LlamaIndexTokenHandler\(\)"), manager.as_trace("chat"):
        pass
