import asyncio
import copy
import subprocess
import sys
import threading
import uuid
from decimal import Decimal
from pathlib import Path

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_openai import ChatOpenAI

from tests.support.answer_server import answering, events
from tests.support.bills import billed, counted
from tests.support.provider_answers import USAGE, chunk
from token_handlers import TokenCounter, get_openai_callback, http, install, shared_counter, track_tokens, uninstall
from token_handlers.counter.tables import usd
from token_handlers.langchain import LangChainTokenHandler, report_stream_usage
from token_handlers.langchain import calls as open_runs
from token_handlers.tracking.recorder import discard
from token_handlers.tracking.state import state

ROOT = Path(__file__).parents[2]


def chat(ledger, /, **settings):
    """Return a ChatOpenAI that talks to the test's channel."""
    return ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(close=1), api_key="none", max_retries=0, **settings)


@pytest.fixture
def automatic():
    """Track automatically during the test; yield the shared counter's growth."""
    counter = shared_counter()
    before = counted(counter)
    install("langchain")
    yield lambda: {name: number - before[name] for name, number in counted(counter).items()}
    uninstall()


def test_one_run_in_many_handlers(ledger):
    """A run seen by handlers in the constructor, the call and the block, and by one twice, counts once in each."""
    mine, other = LangChainTokenHandler(), LangChainTokenHandler()
    with track_tokens() as counter:
        chat(ledger, callbacks=[mine, mine]).invoke("hi", config={"callbacks": [mine, other, other]})

    assert billed(ledger) == counted(mine) == counted(other) == counted(counter)


def test_one_stream_in_many_handlers(ledger):
    """The chunks of a stream that several handlers see are estimated once."""
    mine = LangChainTokenHandler()
    model = chat(ledger, callbacks=[mine])
    with track_tokens() as alone:
        list(model.stream("hi"))
    with track_tokens() as many:
        list(model.stream("hi", config={"callbacks": [LangChainTokenHandler(), LangChainTokenHandler(), mine]}))

    assert 1 == alone.estimated_requests == many.estimated_requests
    assert counted(alone) == counted(many)


def test_handlers_that_share_a_counter(ledger):
    """Two handlers on one counter count a run once."""
    counter = TokenCounter()
    handlers = [LangChainTokenHandler(counter), LangChainTokenHandler(counter)]
    chat(ledger).invoke("hi", config={"callbacks": handlers})

    assert billed(ledger) == counted(counter)


def test_two_calls_with_one_run_id(ledger):
    """Two real calls to which the caller gives the same run_id are two, one after the other and at once."""
    run_id = uuid.uuid4()
    with track_tokens() as counter:
        chat(ledger).invoke("hi", config={"run_id": run_id})
        chat(ledger).invoke("hi", config={"run_id": run_id})

        async def both():
            config = {"run_id": run_id}
            await asyncio.gather(chat(ledger).ainvoke("a", config=config), chat(ledger).ainvoke("b c", config=config))

        asyncio.run(both())

    assert billed(ledger) == counted(counter)
    assert 4 == counter.successful_requests


def test_of_two_calls_with_one_run_id_the_answered_one_ends():
    """An end event belongs to the call whose answer was seen, whichever of them was started last."""
    handler, run_id = LangChainTokenHandler(), uuid.uuid4()
    for prompt in ("a", "b c"):
        handler.on_chat_model_start({}, [[HumanMessage(prompt)]], run_id=run_id, invocation_params={"prompt": prompt})
    second = open_runs.newest(run_id)
    first = second.next_same_id
    first.answers = (http.ProviderAnswer(http.read_parameters("http://127.0.0.1", "/v1/messages", {"messages": []})),)

    assert [first, second] == [open_runs.leave(run_id, handler), open_runs.leave(run_id, handler)]
    for run in (first, second):
        discard(run)


def test_a_stream_begun_inside_and_drained_outside(ledger):
    """The scope where a stream started gets it, exactly, wherever it is drained."""
    with track_tokens() as counter:
        stream = report_stream_usage(chat(ledger)).stream("hi")
        next(stream)
    assert 1 == counter.estimated_requests

    list(stream)
    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


def test_a_generator_stepped_in_fresh_contexts(ledger):
    """A streaming response that a web framework steps in a fresh context each time counts all its calls."""
    import contextvars

    counters = []

    def response():
        with track_tokens() as counter:
            counters.append(counter)
            model = report_stream_usage(chat(ledger))
            for question in ("hi", "hi again"):
                for chunk in model.stream(question):
                    yield chunk.content

    stepped = response()
    while contextvars.Context().run(next, stepped, None) is not None:
        pass

    assert billed(ledger) == counted(counters[0])
    assert (2, 0) == (counters[0].successful_requests, counters[0].estimated_requests)


def test_threads_of_ones_own(ledger):
    """Threads count in the block through track_tokens(counter=...)."""
    model = chat(ledger)

    def work(counter):
        with track_tokens(counter=counter):
            model.invoke("hi")

    with track_tokens() as counter:
        threads = [threading.Thread(target=work, args=(counter,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert billed(ledger) == counted(counter)


def test_automatic_tracking(ledger, automatic):
    """Everything in the process, in every thread, reaches the shared counter, once where handlers are attached too."""
    handler = LangChainTokenHandler()
    model = chat(ledger, callbacks=[handler])
    model.invoke("hi")
    thread = threading.Thread(target=model.invoke, args=("hi",))
    thread.start()
    thread.join()
    with track_tokens():
        model.invoke("hi")

    assert billed(ledger) == automatic() == counted(handler)


def test_only_what_is_tracked_is_recorded(ledger):
    """While a tracked run is open, a call outside of blocks and handlers is still nobody's."""
    with track_tokens():
        stream = chat(ledger).stream("hi")
        next(stream)
    before = shared_counter().successful_requests
    chat(ledger).invoke("hi")
    assert before == shared_counter().successful_requests

    list(stream)
    assert before == shared_counter().successful_requests  # the open call was in it, as an estimate


def test_uninstall_stops_it(ledger, automatic):
    """After uninstall() a call outside of blocks and handlers is not recorded; installing again works."""
    install("langchain")
    uninstall()
    chat(ledger).invoke("hi")
    assert 0 == automatic()["requests"]

    install("LangChain ")
    chat(ledger).invoke("hi")
    assert 1 == automatic()["requests"]


def test_nothing_stays_open(ledger):
    """After calls, streams and failures no run is kept."""
    before = set(open_runs.open_runs)
    model = chat(ledger)
    with track_tokens():
        model.invoke("hi")
        list(model.stream("hi"))
    chat(ledger, callbacks=[LangChainTokenHandler()]).invoke("hi")

    assert before == set(open_runs.open_runs)


def test_tracks_what_is_imported_inside_the_block(server):
    """LangChain is tracked even if it is imported only inside the block, which does not import it itself."""
    script = f"""
import sys
from token_handlers import track_tokens
with track_tokens() as counter:
    assert not any(name.startswith(("langchain", "llama_index")) for name in sys.modules)
    from langchain_openai import ChatOpenAI
    ChatOpenAI(model="gpt-4o-mini", base_url={server.url()!r}, api_key="none").invoke("hi")
print(counter.successful_requests, counter.total_tokens > 0)
"""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=ROOT)
    assert ("1 True\n", "") == (done.stdout, done.stderr)


def test_one_hook_for_life():
    """However many blocks are entered, LangChain has one hook of ours."""
    from langchain_core.tracers.context import _configure_hooks

    with track_tokens():
        before = len(_configure_hooks)
    for _ in range(100):
        with track_tokens(), get_openai_callback():
            pass

    assert before == len(_configure_hooks)


def test_get_openai_callback(ledger):
    """The drop-in yields a handler with OpenAICallbackHandler's attributes and printed lines."""
    with get_openai_callback() as callback:
        chat(ledger).invoke("hi")
    bill = billed(ledger)

    assert isinstance(callback, LangChainTokenHandler)
    assert bill == counted(callback)
    assert bill["prompt"] + bill["completion"] == callback.total_tokens
    assert callback.total_cost > 0
    assert f"Tokens Used: {callback.total_tokens}" == str(callback).splitlines()[0]
    assert f"Total Cost (USD): ${usd(callback.cost)}" == repr(callback).splitlines()[6]


def test_an_error_inside_get_openai_callback(ledger):
    """After an exception the callback counts no more, which the peer's goes on doing."""
    with pytest.raises(KeyError), get_openai_callback() as callback:
        raise KeyError
    chat(ledger).invoke("hi")

    assert 0 == callback.successful_requests


def test_usage_metadata_is_langchains(ledger):
    """usage_metadata is what UsageMetadataCallbackHandler has, model by model."""
    peer, handler = UsageMetadataCallbackHandler(), LangChainTokenHandler()
    for modes in ({}, {"cached": 2, "reasoning": 3}, {"model": "gpt-4o-2024-08-06", "audio": 2}):
        model = ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(**modes), api_key="none")
        model.invoke("What is the weather?", config={"callbacks": [peer, handler]})

    assert peer.usage_metadata == handler.usage_metadata


def result(**usage):
    """Return the result of a call that used this."""
    message = AIMessage("hello", usage_metadata=usage or None, response_metadata={"model_name": "gpt-4o-mini"})
    return LLMResult(generations=[[ChatGeneration(message=message)]])


def test_an_end_without_a_start():
    """An end whose start was not seen counts, with or without a run_id."""
    handler = LangChainTokenHandler()
    handler.on_llm_end(result(input_tokens=3, output_tokens=4, total_tokens=7))
    handler.on_llm_end(result(input_tokens=3, output_tokens=4, total_tokens=7), run_id=uuid.uuid4())

    assert (6, 8, 2) == (handler.prompt_tokens, handler.completion_tokens, handler.successful_requests)


def test_an_error_without_a_start():
    """An error or a token whose start was not seen changes nothing."""
    handler = LangChainTokenHandler()
    handler.on_llm_error(ValueError(), run_id=uuid.uuid4())
    handler.on_llm_new_token("x", run_id=uuid.uuid4())

    assert set() == {number for number in counted(handler).values() if number}


@pytest.mark.parametrize("generations", [[], [[]]])
def test_an_empty_result(generations):
    """A result without a generation is one request of unknown usage, and no exception."""
    handler = LangChainTokenHandler()
    handler.on_llm_end(LLMResult(generations=generations))

    assert (1, 1) == (handler.successful_requests, handler.estimated_requests)


def test_copies_are_the_handler():
    """LangChain copies callbacks lists; a copied handler counts into the same counter."""
    handler = LangChainTokenHandler()

    assert handler is copy.copy(handler) is copy.deepcopy(handler)


def test_a_counters_attributes():
    """What a TokenCounter has the handler has too; anything else is an AttributeError that names it."""
    handler = LangChainTokenHandler()

    assert (handler.counter.by_model, 0) == (handler.by_model, handler.estimated_requests)
    with pytest.raises(AttributeError, match="no_such_number"):
        _ = handler.no_such_number  # type: ignore[attr-defined]


def test_a_handler_is_no_reason_to_stream(monkeypatch):
    """What is invoked is not streamed, as it is where a handler asks LangChain for the chunks."""
    chunks = []
    handler = LangChainTokenHandler()
    monkeypatch.setattr(handler, "on_llm_new_token", lambda token, **_: chunks.append(token))
    with track_tokens() as totals:
        GenericFakeChatModel(messages=iter([AIMessage("one two three")])).invoke("hi", {"callbacks": [handler]})

    assert (1, 1, []) == (handler.successful_requests, totals.successful_requests, chunks)


def test_a_handler_is_truthy():
    """LangChain drops falsy handlers."""
    assert LangChainTokenHandler()


def test_a_counter_that_is_none():
    """counter takes a TokenCounter and nothing else."""
    with pytest.raises(TypeError, match="counter must be a TokenCounter, not 3"):
        LangChainTokenHandler(3)


def test_a_handler_alone_sees_what_the_event_leaves_out(monkeypatch):
    """Without a block or automatic tracking the provider's own answer is the bill, too: a stream's stated cost."""
    http.detach()
    monkeypatch.setattr(state, "watched", False)
    usage = {**USAGE, "cost": 0.00204, "is_byok": False}
    mine = LangChainTokenHandler()
    with answering(events([chunk("Hel"), chunk(finish="stop"), chunk(usage=usage)], done=True)) as server:
        model = ChatOpenAI(model="openai/gpt-4o", base_url=f"{server.url}/v1", api_key="x", stream_usage=True)
        list(model.stream("hi", config={"callbacks": [mine]}))
    assert (Decimal("0.00204"), 0) == (mine.cost, mine.estimated_requests)
