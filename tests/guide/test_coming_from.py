"""The guide's tables for those who come from another counter: each row is shown with the old one beside the new.

agentsight's own client is not here to be asked: what it sends is what tests/agentsight_api.py insists on.
"""

from typing import Any

import pytest
from langchain_community.callbacks import get_openai_callback as peers_callback
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.tracers.context import _configure_hooks
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler

from tests.support.agentsight_api import ACTIONS, KEY, AgentSightAPI
from tests.support.guide_pages import rows, sections
from tests.support.llama_index_clients import MESSAGES, Local, make_embedder, make_llm
from token_handlers import Budget, BudgetExceeded, ConversationTracker, get_openai_callback, guide, track_tokens
from token_handlers.llama_index import LlamaIndexTokenHandler
from token_handlers.tokenizer import estimate_tokens

PAGE = sections(guide.page("switching"))
TABLES = "".join(PAGE[name] for name in ("What to change", "What is called how"))
WRITE, NAMES, DIFFERS = (rows(part) for part in TABLES.split("\n\n") if part.lstrip().startswith("|"))
OURS, OPENAI, METADATA, LLAMA_INDEX, AGENTSIGHT = 1, 2, 3, 4, 5
ANSWERED = "gpt-4o-mini-2024-07-18"


def chat(ledger, name="gpt-4o-mini", **modes):
    """Return a ChatOpenAI on the test's channel."""
    return ChatOpenAI(model=name, base_url=ledger.url(**modes), api_key="none", max_retries=0)


def embedder(ledger):
    """Return OpenAIEmbeddings on the test's channel, without the tokenizer that it would download."""
    return OpenAIEmbeddings(
        model="text-embedding-3-small", base_url=ledger.url(), api_key="none", check_embedding_ctx_length=False
    )


def values(column, names):
    """Return what the expressions of one column are worth, by row."""
    cells = {row[0]: row[column].strip("`") for row in NAMES[1:]}
    return {what: eval(code, names) for what, code in cells.items() if code and what != "to zero"}


def ours(there, names):
    """Return what our column is worth in the rows that another has."""
    return {what: value for what, value in values(OURS, names).items() if what in there}


def test_every_row_is_shown():
    """The tables are about the four counters that the tests here go through, and the differences are these."""
    counters = ["get_openai_callback", "get_usage_metadata_callback", "TokenCountingHandler", "agentsight"]

    assert counters == [name.strip("`") for name in NAMES[0][OPENAI:]]
    assert all(name in row[0] for name, row in zip(counters, WRITE[1:], strict=True))
    assert list(DIFFERENCES) == [row[0] for row in DIFFERS[1:]]


def test_what_to_write_is_there(ledger):
    """The lines of the first table's last column work as they stand."""
    first, block, manager, tracker = (row[1].strip("`") for row in WRITE[1:])
    names: dict[str, Any] = {"CallbackManager": CallbackManager, "LlamaIndexTokenHandler": LlamaIndexTokenHandler}
    exec(f"{first}\n{tracker}\nfrom token_handlers import track_tokens\n{block}\n    pass\nmanager = {manager}", names)

    assert names["get_openai_callback"] is get_openai_callback
    assert names["ConversationTracker"] is ConversationTracker
    make_llm(ledger, callback_manager=names["manager"]).chat(MESSAGES)
    assert 1 == names["manager"].handlers[0].successful_requests


def test_names_of_langchains_callbacks(ledger):
    """What both of LangChain's callbacks say of a call, ours say under the names in the table."""
    model = chat(ledger, cached=2, reasoning=3)
    with peers_callback() as cb, get_usage_metadata_callback() as metadata, track_tokens() as tokens:
        model.invoke("What is the weather?")
        model.invoke("And tomorrow?")
    with get_openai_callback() as dropped_in:
        model.invoke("What is the weather?")
        model.invoke("And tomorrow?")
    new = {"tokens": tokens, "model": ANSWERED}
    said, usage = values(OPENAI, {"cb": cb}), values(METADATA, {"usage": metadata.usage_metadata[ANSWERED]})

    assert 6 < len(said)
    assert ours(said, new) == pytest.approx(said)
    assert ours(usage, new) == usage
    assert values(OPENAI, {"cb": dropped_in}) == pytest.approx(said)
    assert str(cb).splitlines()[:-1] == str(dropped_in).splitlines()[:6]


def test_names_of_token_counting_handler(ledger):
    """What LlamaIndex's handler says of a chat and an embedding, ours say under the names in the table."""
    handler, dropped_in = TokenCountingHandler(), LlamaIndexTokenHandler()
    manager = CallbackManager([handler, dropped_in])
    with track_tokens() as tokens:
        make_llm(ledger, callback_manager=manager).chat(MESSAGES)
        make_embedder(ledger, callback_manager=manager).get_text_embedding("hello")
    said = values(LLAMA_INDEX, {"handler": handler})
    bill = ledger.total()
    # its requests are those of LLMs, and its embeddings' tokens are tiktoken's rather than those billed
    assert {"requests": 1, "embeddings": estimate_tokens("hello", "text-embedding-3-small").tokens} == {
        name: said.pop(name) for name in ("requests", "embeddings")
    }

    assert ours(said, {"tokens": tokens, "model": ANSWERED}) == said
    assert bill.embedding_tokens == tokens.embedding_tokens == dropped_in.total_embedding_token_count
    assert said["both"] == dropped_in.total_llm_token_count
    assert said["input"] == dropped_in.prompt_llm_token_count
    dropped_in.reset_counts()
    tokens.reset()
    assert (0, 0) == (dropped_in.total_llm_token_count, tokens.total_tokens)


def test_names_of_agentsight(ledger):
    """What is sent in AgentSight's form is what ours say under the names in the table."""
    with AgentSightAPI() as api:
        tracker = ConversationTracker("c-1", api_key=KEY, endpoint=api.url)
        with tracker:
            chat(ledger).invoke("hello")
            embedder(ledger).embed_query("hello")
        tracker.track_token_usage(prompt_tokens=10, completion_tokens=5)
        tracker.send_tracked_data()
        (request,) = [request for request in api.requests if request.path == ACTIONS]
    said = values(AGENTSIGHT, {"sent": request.body["metadata"]})

    assert 4 == len(said)
    assert ours(said, {"tokens": tracker.counter, "model": ANSWERED}) == said


def a_stream_without_usage(ledger):
    """LangChain's callbacks have nothing, LlamaIndex's guesses; ours say that it is an estimate, or know."""
    handler, plain = TokenCountingHandler(), chat(ledger)
    with peers_callback() as cb, get_usage_metadata_callback() as metadata, track_tokens() as tokens:
        list(plain.stream("hello"))
    with track_tokens() as others:
        list(make_llm(ledger, callback_manager=CallbackManager([handler])).stream_chat(MESSAGES))

    assert (0, {}) == (cb.total_tokens, metadata.usage_metadata)
    assert (
        0 < handler.total_llm_token_count != ledger.entries()[1].prompt_tokens + ledger.entries()[1].completion_tokens
    )
    assert (1, 1) == (tokens.estimated_requests, others.estimated_requests)
    assert tokens.total_tokens > 0


def an_unknown_model(ledger):
    """The peer's cost is 0.0; ours is not known."""
    with peers_callback() as cb, track_tokens() as tokens:
        chat(ledger, "nobodys-model").invoke("hello")

    assert (0.0, 1) == (cb.total_cost, cb.successful_requests)
    assert (None, 1) == (tokens.cost, tokens.unpriced_requests)


def a_cached_answer(ledger):
    """One of the two calls was billed."""
    model = chat(ledger)
    model.cache = InMemoryCache()
    with peers_callback() as cb, get_usage_metadata_callback() as metadata, track_tokens() as tokens:
        model.invoke("hello")
        model.invoke("hello")
    bill = ledger.total()

    assert 2 * bill.prompt_tokens == cb.prompt_tokens == metadata.usage_metadata[ANSWERED]["input_tokens"]
    assert (bill.prompt_tokens, 1) == (tokens.prompt_tokens, tokens.cached_responses)


def nested_blocks(ledger):
    """The peer's outer block has one call of two."""
    model = chat(ledger)
    with peers_callback() as cb, track_tokens() as tokens:
        model.invoke("hello")
        with peers_callback(), track_tokens() as inner:
            model.invoke("hello")

    assert 1 == cb.successful_requests
    assert (2, 1) == (tokens.successful_requests, inner.successful_requests)


def an_error_in_the_block(ledger):
    """The peer counts a call that comes after its block."""
    with pytest.raises(KeyError), peers_callback() as cb, track_tokens() as tokens:
        raise KeyError
    chat(ledger).invoke("hello")

    assert (1, 0) == (cb.successful_requests, tokens.successful_requests)


def several_choices(ledger):
    """The peer has nothing, as the answer's metadata lacks the model's name."""
    with get_usage_metadata_callback() as metadata, track_tokens() as tokens:
        chat(ledger).bind(n=2).invoke("hello")

    assert {} == metadata.usage_metadata
    assert ledger.total().completion_tokens == tokens.completion_tokens


def embeddings(ledger):
    """The peers have no call."""
    with peers_callback() as cb, get_usage_metadata_callback() as metadata, track_tokens() as tokens:
        embedder(ledger).embed_query("hello")

    assert (0, {}) == (cb.successful_requests, metadata.usage_metadata)
    assert ledger.total().embedding_tokens == tokens.embedding_tokens
    assert tokens.total_cost > 0


def a_chat_made_of_complete(ledger):
    """The peer has two calls where one was made."""
    handler = TokenCountingHandler()
    with track_tokens() as tokens:
        llm = Local(callback_manager=CallbackManager([handler]))
        llm.chat(MESSAGES)

    assert (1, 2, 1) == (llm.requests, len(handler.llm_token_counts), tokens.successful_requests)


def a_limit(ledger):
    """The peer raises when the call is paid for, ours before it is sent."""
    handler = TokenCountingHandler(token_budget=5)
    with pytest.raises(ValueError, match="budget"):
        make_llm(ledger, callback_manager=CallbackManager([handler])).chat(MESSAGES)
    assert 1 == ledger.total().requests

    with pytest.raises(BudgetExceeded), track_tokens(budget=Budget(max_tokens=5)):
        make_llm(ledger).chat(MESSAGES)
    assert 1 == ledger.total().requests


def texts(ledger):
    """The peer has the prompt and the answer afterwards; ours has no text, in no record."""
    handler, dropped_in, records = TokenCountingHandler(), LlamaIndexTokenHandler(), []
    dropped_in.on_record(records.append)
    make_llm(ledger, callback_manager=CallbackManager([handler, dropped_in])).chat(MESSAGES)

    assert dropped_in.flush(10)
    assert str(MESSAGES[1].content) in handler.llm_token_counts[0].prompt
    assert 1 == len(records)
    assert str(MESSAGES[1].content) not in records[0].model_dump_json()


def many_blocks(ledger):
    """Every block of the peer's makes LangChain's list of hooks longer; ours do not."""
    with track_tokens():  # the first puts the one hook there that we have
        kept = list(_configure_hooks)
    with get_usage_metadata_callback(), get_usage_metadata_callback():
        pass
    left = len(_configure_hooks) - len(kept)
    _configure_hooks[:] = kept
    with track_tokens(), get_openai_callback():
        pass

    assert (2, len(kept)) == (left, len(_configure_hooks))


def a_second_send(ledger):
    """Ours sends nothing twice."""
    with AgentSightAPI() as api:
        tracker = ConversationTracker("c-1", api_key=KEY, endpoint=api.url)
        tracker.track_token_usage(prompt_tokens=10)
        first, second = tracker.send_tracked_data(), tracker.send_tracked_data()

    assert (10, 0) == (first["sent"]["prompt_tokens"], second["sent"]["prompt_tokens"])


def names_of_get_token_usage(ledger):
    """Ours has LlamaIndex's names."""
    tracker = ConversationTracker("c-1", sink=print)
    tracker.track_token_usage(prompt_tokens=10)

    assert 10 == tracker.get_token_usage()["prompt_llm_token_count"]


DIFFERENCES = {
    "a stream without usage": a_stream_without_usage,
    "an unknown model": an_unknown_model,
    "an answer from LangChain's cache": a_cached_answer,
    "nested blocks": nested_blocks,
    "an error in the block": an_error_in_the_block,
    "`n=2`": several_choices,
    "LangChain's embeddings": embeddings,
    "a chat made of `complete`": a_chat_made_of_complete,
    "a limit": a_limit,
    "prompts and answers": texts,
    "many blocks": many_blocks,
    "a second `send_tracked_data()`": a_second_send,
    "`get_token_usage()`": names_of_get_token_usage,
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_what_differs(what, ledger):
    """Each row of the page's table of differences is as it says, there and here."""
    DIFFERENCES[what](ledger)
