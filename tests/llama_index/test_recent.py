import logging

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType

from tests.support.llama_index_clients import MESSAGES, Answering, answer, make_embedder, make_llm
from token_handlers import BudgetExceeded, TokenCounter
from token_handlers.llama_index import LlamaIndexTokenHandler, recent

USAGE = {"usage": {"prompt_tokens": 18, "completion_tokens": 3, "total_tokens": 21}}


def model(handler, raw=USAGE, text="one two three"):
    """Return an LLM that answers so, and carries a handler."""
    return Answering(answers=(answer(raw, text),), callback_manager=CallbackManager([handler]))


def test_each_call_is_listed_in_numbers(ledger):
    """Under TokenCountingHandler's names, without a text; reset_counts() empties both lists."""
    handler = LlamaIndexTokenHandler()
    model(handler).chat(MESSAGES)
    make_embedder(ledger, callback_manager=CallbackManager([handler])).get_text_embedding("one two")

    [call], [embedding] = handler.llm_token_counts, handler.embedding_token_counts
    assert (18, 3, 21) == (call.prompt_token_count, call.completion_token_count, call.total_token_count)
    assert (2, 0, 2) == embedding[:3]
    assert ("", "") == (call.prompt, call.completion)
    assert call.event_id
    handler.reset_counts()
    assert ([], []) == (handler.llm_token_counts, handler.embedding_token_counts)


def test_the_lists_are_bounded(monkeypatch):
    """Only the last calls are listed, however many handlers count into one counter."""
    monkeypatch.setattr(recent, "MOST_CALLS", 3)
    counter = TokenCounter()
    for _ in range(5):
        handler = LlamaIndexTokenHandler(counter)
        model(handler).chat(MESSAGES)

    assert 3 == len(handler.llm_token_counts)
    assert 5 == counter.successful_requests
    assert 1 == len(counter.listeners)


def test_verbose_says_what_each_call_used(capsys, caplog):
    """It prints as TokenCountingHandler does, or logs where it has a logger."""
    model(LlamaIndexTokenHandler(verbose=True)).chat(MESSAGES)
    assert "LLM Prompt Token Usage: 18\nLLM Completion Token Usage: 3\n" == capsys.readouterr().out
    with caplog.at_level(logging.DEBUG, "mine"):
        model(LlamaIndexTokenHandler(verbose=True, logger=logging.getLogger("mine"))).chat(MESSAGES)
    said = [record.getMessage() for record in caplog.records if record.name == "mine"]
    assert ["LLM Prompt Token Usage: 18\nLLM Completion Token Usage: 3"] == said


def test_the_tokenizer_counts_what_is_not_reported():
    """It splits the prompt and the answer; the call is an estimate all the same."""
    handler = LlamaIndexTokenHandler(tokenizer=str.split)
    model(handler, raw=None, text="one two three four").chat(MESSAGES)

    assert (4, 1) == (handler.completion_llm_token_count, handler.estimated_requests)
    assert handler.prompt_llm_token_count > 4


def test_ignored_events_are_not_counted(ledger):
    """As with TokenCountingHandler the ends decide."""
    no_llms = LlamaIndexTokenHandler(event_ends_to_ignore=[CBEventType.LLM])
    starts = LlamaIndexTokenHandler(event_starts_to_ignore=[CBEventType.LLM])
    no_embeddings = LlamaIndexTokenHandler(event_ends_to_ignore=[CBEventType.EMBEDDING])
    manager = CallbackManager([no_llms, starts, no_embeddings])
    make_llm(ledger, callback_manager=manager).chat(MESSAGES)
    make_embedder(ledger, callback_manager=manager).get_text_embedding("one two")

    assert (0, 2) == (no_llms.total_llm_token_count, no_llms.total_embedding_token_count)
    assert starts.total_llm_token_count == no_embeddings.total_llm_token_count > 0
    assert (2, 0) == (starts.total_embedding_token_count, no_embeddings.total_embedding_token_count)


def test_a_token_budget_refuses_what_would_pass_it(ledger):
    """The call is not sent, where TokenCountingHandler raises after it; reset_counts() begins again."""
    handler = LlamaIndexTokenHandler(token_budget=100)
    llm = make_llm(ledger, callback_manager=CallbackManager([handler]), max_tokens=60)
    llm.chat(MESSAGES)
    with pytest.raises(BudgetExceeded, match="max_tokens=100"):
        llm.chat(MESSAGES)
    assert 1 == len(ledger.entries())
    handler.reset_counts()
    llm.chat(MESSAGES)

    assert 2 == len(ledger.entries())


@pytest.mark.parametrize("wrong", [{"tokenizer": 3}, {"counter": str.split}])
def test_arguments_of_other_kinds_are_refused(wrong):
    """The message names the argument."""
    with pytest.raises(TypeError, match=r"tokenizer must be a callable|a tokenizer is given by its name: tokenizer="):
        LlamaIndexTokenHandler(**wrong)
