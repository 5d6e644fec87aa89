import copy
import pickle
import subprocess
import sys

import pytest
from llama_index.core import Settings
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.llms import ChatMessage, ChatResponse
from llama_index.llms.openai import OpenAI
from llama_index_instrumentation import root_dispatcher

from tests.support.bills import billed, counted
from tests.support.llama_index_clients import MESSAGES, Answering, answer, make_embedder, make_llm, no_swallowed_faults
from token_handlers import MissingDependency, TokenCounter, install, shared_counter, track_tokens, uninstall
from token_handlers import llama_index as package
from token_handlers.llama_index import LlamaIndexTokenHandler, hook, report_stream_usage


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher; what is attached stays, as other tests count on it."""
    with no_swallowed_faults():
        yield
    uninstall()
    hook.attach()


def test_the_attributes_of_token_counting_handler(ledger):
    """It can stand where LlamaIndex's own stood."""
    ours, theirs = LlamaIndexTokenHandler(), TokenCountingHandler(tokenizer=str.split)
    manager = CallbackManager([ours, theirs])
    make_llm(ledger, callback_manager=manager).chat(MESSAGES)
    make_embedder(ledger, callback_manager=manager).get_text_embedding("one two")

    for name in ("prompt_llm_token_count", "completion_llm_token_count", "total_llm_token_count"):
        assert getattr(theirs, name) == getattr(ours, name)
    assert 2 == ours.total_embedding_token_count
    ours.reset_counts()
    assert (0, 0) == (ours.total_llm_token_count, ours.total_embedding_token_count)


def test_everything_of_a_counter(ledger):
    """What a TokenCounter has, the handler has; what it has not is an AttributeError."""
    counter = TokenCounter()
    handler = LlamaIndexTokenHandler(counter)
    make_llm(ledger, callback_manager=CallbackManager([handler])).chat(MESSAGES)

    assert handler.counter is counter
    assert counter.cost == handler.cost
    assert handler.total_cost > 0
    assert "Tokens Used" in repr(handler)
    with pytest.raises(AttributeError, match="no attribute '_nothing'"):
        handler._nothing  # type: ignore[attr-defined]  # noqa: B018 (that is the question)
    with pytest.raises(TypeError, match="must be a TokenCounter, not 3"):
        LlamaIndexTokenHandler(3)


def test_a_call_counts_once_however_it_is_seen(ledger):
    """A scope, a handler twice in one manager, another handler and automatic tracking: one record in each counter."""
    one, other = LlamaIndexTokenHandler(), LlamaIndexTokenHandler()
    llm = make_llm(ledger, callback_manager=CallbackManager([one, other, one]))
    install("llamaindex")
    before = shared_counter().successful_requests
    with track_tokens() as outer, track_tokens() as inner:
        llm.chat(MESSAGES)
        list(report_stream_usage(llm).stream_chat(MESSAGES))

    for counter in (one, other, outer, inner):
        assert billed(ledger) == counted(counter)
    assert before + 2 == shared_counter().successful_requests


def test_a_handler_counts_its_own_models_alone(ledger):
    """Calls of models that do not carry it are not its."""
    handler = LlamaIndexTokenHandler()
    make_llm(ledger).chat(MESSAGES)

    assert 0 == handler.successful_requests


def test_models_built_before_are_counted(ledger):
    """A model with a manager of its own, built before the scope and before Settings had one, is counted."""
    own = TokenCountingHandler(tokenizer=str.split)
    llm = make_llm(ledger, callback_manager=CallbackManager([own]))
    with track_tokens() as counter:
        llm.chat(MESSAGES)

    assert billed(ledger) == counted(counter)
    assert [own] == llm.callback_manager.handlers


def test_settings_handlers_are_kept(ledger, monkeypatch):
    """The user's handlers in Settings stay, and see what they saw."""
    own, ours = TokenCountingHandler(tokenizer=str.split), LlamaIndexTokenHandler()
    monkeypatch.setattr(Settings, "_callback_manager", CallbackManager([own]))
    Settings.callback_manager.add_handler(ours)
    with track_tokens() as counter:
        make_llm(ledger).chat(MESSAGES)

    assert own.total_llm_token_count == ours.total_llm_token_count == counter.total_tokens > 0


def test_a_copy_is_the_handler(ledger):
    """Copies, deep copies and pickles are the handler itself, and the model that carries it is not damaged."""
    handler = LlamaIndexTokenHandler()
    llm = make_llm(ledger, callback_manager=CallbackManager([handler]))
    state = pickle.dumps(llm)
    next_same_id = pickle.loads(state)

    assert handler is copy.copy(handler) is copy.deepcopy(handler) is pickle.loads(pickle.dumps(handler))
    assert [handler] == llm.callback_manager.handlers == next_same_id.callback_manager.handlers
    assert [handler] == copy.deepcopy(llm).callback_manager.handlers
    next_same_id.chat(MESSAGES)
    assert billed(ledger) == counted(handler.counter)


def test_attach_and_detach():
    """Ours are added once beside those that are there; detaching leaves the rest as it was, and can be undone."""
    hook.detach()
    events, spans = list(root_dispatcher.event_handlers), list(root_dispatcher.span_handlers)
    request = sys.modules["openai._base_client"].SyncAPIClient.__dict__["request"]
    hook.attach()
    hook.attach()

    assert len(events) + 1 == len(root_dispatcher.event_handlers)
    assert len(spans) + 1 == len(root_dispatcher.span_handlers)
    hook.detach()
    hook.detach()
    assert (events, spans) == (root_dispatcher.event_handlers, root_dispatcher.span_handlers)
    assert request is sys.modules["openai._base_client"].SyncAPIClient.__dict__["request"]


def test_a_handler_outlives_detach(ledger):
    """A handler that is used after `detach` goes on counting, from its first call on."""
    handler = LlamaIndexTokenHandler()
    manager = CallbackManager([handler])
    for use in (
        lambda: make_llm(ledger, callback_manager=manager).chat(MESSAGES),
        lambda: list(report_stream_usage(make_llm(ledger, callback_manager=manager)).stream_chat(MESSAGES)),
        lambda: make_embedder(ledger, callback_manager=manager).get_text_embedding("one two"),
    ):
        hook.detach()
        use()

    bill = ledger.total()
    assert (bill.prompt_tokens, bill.completion_tokens) == (handler.prompt_tokens, handler.completion_tokens)
    assert (3, 1) == (handler.successful_requests, handler.estimated_requests)  # the embedding's request was not seen


def test_a_handler_that_comes_in_the_middle(ledger):
    """An end without a start is counted by what it carries."""
    handler = LlamaIndexTokenHandler()
    llm = report_stream_usage(make_llm(ledger, callback_manager=CallbackManager([])))
    with track_tokens() as counter:
        stream = llm.stream_chat(MESSAGES)
        next(stream)
        llm.callback_manager.handlers = [handler]  # the list itself is that of Settings
        list(stream)

    assert counted(counter) == counted(handler.counter)
    assert 1 == counter.successful_requests


def test_a_handler_that_alone_comes_in_the_middle():
    """Where nothing else tracks the call, it is opened at its end, and counted by what that carries."""
    usage = {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}
    handler = LlamaIndexTokenHandler()
    llm = Answering(answers=(answer(usage), answer(usage)), callback_manager=CallbackManager([]))
    stream = llm.stream_chat(MESSAGES)
    next(stream)
    llm.callback_manager.handlers = [handler]
    list(stream)

    assert (15, 1, 0) == (handler.total_llm_token_count, handler.successful_requests, handler.estimated_requests)


@pytest.mark.parametrize(("cached", "estimated"), [({}, 1), ({"cache_read_input_tokens": 4}, 0)])
def test_a_handler_that_comes_when_anthropic_s_stream_ends(cached, estimated):
    """What its first event alone said of a cache nobody knows; a last one that says so is the whole bill."""
    usage = {"input_tokens": 9, "output_tokens": 5, **cached}
    response = ChatResponse(
        message=ChatMessage(role="assistant", content="hi"), raw={"type": "message_delta", "usage": usage}
    )
    handler = LlamaIndexTokenHandler()
    handler.on_event_end(CBEventType.LLM, {EventPayload.MESSAGES: MESSAGES, EventPayload.RESPONSE: response})

    assert 9 + sum(cached.values()) == handler.prompt_tokens
    assert (5, estimated) == (handler.completion_tokens, handler.estimated_requests)


def test_ends_that_mean_nothing():
    """Ends without start and answer, and events of other kinds, count nothing and raise nothing."""
    handler = LlamaIndexTokenHandler()
    handler.on_event_end(CBEventType.LLM, None, event_id="a")
    handler.on_event_end(CBEventType.LLM, {EventPayload.EXCEPTION: ValueError()}, event_id="b")
    handler.on_event_end(CBEventType.EMBEDDING, {EventPayload.CHUNKS: ["a"]}, event_id="c")
    handler.on_event_end(CBEventType.RETRIEVE, {}, event_id="d")
    assert "e" == handler.on_event_start(CBEventType.RETRIEVE, {}, event_id="e")
    handler.start_trace("t")
    handler.end_trace("t", {})

    assert 0 == handler.successful_requests + handler.failed_requests


def test_nothing_is_kept_of_calls(ledger):
    """After their ends no call, event or text is left in the handler."""
    handler = LlamaIndexTokenHandler()
    llm = Answering(answers=(answer({"usage": {"prompt_tokens": 1, "completion_tokens": 1}}),))
    llm.callback_manager = CallbackManager([handler])
    for _ in range(20):
        llm.chat(MESSAGES)
        list(llm.stream_chat(MESSAGES))

    assert 40 == handler.successful_requests
    assert ({}, []) == (handler._events, handler._again)


def test_automatic_tracking(ledger):
    """install() counts into the shared counter whatever LLM makes the call, until uninstall()."""
    before = shared_counter().successful_requests
    install("LlamaIndex")
    make_llm(ledger, OpenAI).chat(MESSAGES)
    uninstall()
    make_llm(ledger, OpenAI).chat(MESSAGES)

    assert before + 1 == shared_counter().successful_requests


def test_without_llama_index(monkeypatch):
    """Its absence is one clear error with the pip line."""
    for name in [name for name in sys.modules if name.startswith("token_handlers.llama_index")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llama_index.core", None)

    with pytest.raises(MissingDependency, match=r"pip install 'token-handlers\[llamaindex\]'"):
        import token_handlers.llama_index  # noqa: F401


FIRST = ["llama_index.core", "llama_index.llms.openai"]


@pytest.mark.parametrize("first", FIRST)
def test_llama_index_imported_later(first):
    """Tracking, and a budget, that are installed before LlamaIndex is imported, by whatever module, see its calls."""
    code = f"""
import sys
from token_handlers import Budget, BudgetExceeded, install, shared_counter
install("llamaindex", budget=Budget(max_requests=1))
assert "llama_index.core" not in sys.modules
import {first}
from llama_index.core.llms import MockLLM
MockLLM().complete("one two")
try:
    MockLLM().complete("one two")
except BudgetExceeded as error:
    print(shared_counter().successful_requests, error.spent)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)

    assert "1 1" == done.stdout.strip()


def test_what_the_package_has():
    """Its two names, and no others."""
    assert ["LlamaIndexTokenHandler", "report_stream_usage"] == package.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018 (that is the question)
