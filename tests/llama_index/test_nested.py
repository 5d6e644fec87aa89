from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import CompletionResponse
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.llms.openai import OpenAI, OpenAIResponses

from tests.support.bills import billed, counted
from tests.support.llama_index_clients import (
    MESSAGES,
    PROMPT,
    Local,
    Weather,
    drain,
    make_llm,
    no_swallowed_faults,
    run,
)
from token_handlers import track_tokens
from token_handlers.llama_index import LlamaIndexTokenHandler, report_stream_usage


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher."""
    with no_swallowed_faults():
        yield


async def _break(stream):
    async for _ in (chunks := await stream):
        await chunks.aclose()


class Refused(Exception):
    """An error as a provider's client raises it."""

    status_code = 429


RAW = {"model": "local-1-0612", "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}
WAYS = {
    "complete": lambda llm: llm.complete("How?"),
    "chat": lambda llm: llm.chat(MESSAGES),
    "achat": lambda llm: run(llm.achat(MESSAGES)),
    "acomplete": lambda llm: run(llm.acomplete("How?")),
    "stream_complete": lambda llm: list(llm.stream_complete("How?")),
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
    "astream_chat": lambda llm: run(drain(llm.astream_chat(MESSAGES))),
    "astream_complete": lambda llm: run(drain(llm.astream_complete("How?"))),
}
BROKEN = {
    "stream_chat": lambda llm: next(iter(llm.stream_chat(MESSAGES))),
    "astream_chat": lambda llm: run(_break(llm.astream_chat(MESSAGES))),
}
UNREAD = {
    "stream_chat": lambda llm: llm.stream_chat(MESSAGES),
    "astream_chat": lambda llm: run(llm.astream_chat(MESSAGES)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("raw", [RAW, None], ids=["reported", "silent"])
def test_a_call_by_way_of_another_counts_once(way, raw):
    """A chat that LlamaIndex makes of complete, in two or three steps, is one call in every counter."""
    handler = LlamaIndexTokenHandler()
    llm = Local(raw=raw, callback_manager=CallbackManager([handler]))
    with track_tokens() as counter:
        WAYS[way](llm)

    assert 1 == llm.requests == counter.successful_requests == handler.successful_requests
    assert 3 == counter.completion_tokens == handler.completion_llm_token_count
    assert (0 if raw else 1) == counter.estimated_requests
    if raw:
        assert 5 == counter.prompt_tokens


class Whole(Local):
    """One that streams its whole answer at once."""

    @llm_completion_callback()
    def stream_complete(self, prompt, **kwargs):
        yield self.complete(prompt)


class Pieces(Local):
    """One that streams its whole answer in pieces, without its usage."""

    @llm_completion_callback()
    def stream_complete(self, prompt, **kwargs):
        def pieces():
            text = ""
            for word in self.complete(prompt).text.split():
                text += word
                yield CompletionResponse(text=text, delta=word)

        return pieces()


class Checked(Local):
    """One that asks another LLM first, and then streams an answer of its own."""

    other: Any = None

    @llm_completion_callback()
    def stream_complete(self, prompt, **kwargs):
        def chunks():
            self.other.complete("Is it about the weather?")
            self._bill()
            usage = {"prompt_tokens": 50, "completion_tokens": 3, "total_tokens": 53}
            yield CompletionResponse(text="one two three", raw={"usage": usage})

        return chunks()


STREAMED = [way for way in WAYS if "stream" in way]


@pytest.mark.parametrize("kind", [Whole, Pieces])
@pytest.mark.parametrize("way", STREAMED)
@pytest.mark.parametrize("raw", [RAW, None], ids=["reported", "silent"])
def test_a_stream_made_of_complete_counts_once(kind, way, raw):
    """A stream that passes on what the LLM's own complete answered is that one call, by its usage if it has any."""
    llm, handler = kind(raw=raw), LlamaIndexTokenHandler()
    llm.callback_manager = CallbackManager([handler])
    with track_tokens() as counter:
        WAYS[way](llm)

    assert 1 == llm.requests == counter.successful_requests == handler.successful_requests
    assert (0 if raw else 1) == counter.estimated_requests
    assert counter.prompt_tokens == handler.prompt_tokens
    if raw:
        assert (5, 3) == (counter.prompt_tokens, counter.completion_tokens)


@pytest.mark.parametrize("way", STREAMED)
def test_a_stream_that_asks_another_first(way):
    """A stream with usage of its own is a call beside the one that it makes."""
    other = Local(raw=RAW)
    with track_tokens() as counter:
        WAYS[way](Checked(other=other))

    assert (2, 55, 6) == (counter.successful_requests, counter.prompt_tokens, counter.completion_tokens)


def test_token_counting_handler_counts_it_again():
    """LlamaIndex's own handler has two or three calls there."""
    tokens = TokenCountingHandler(tokenizer=str.split)
    llm = Local(raw=RAW, callback_manager=CallbackManager([tokens]))
    run(llm.achat(MESSAGES))

    assert 3 * 8 == tokens.total_llm_token_count


@pytest.mark.parametrize("way", WAYS)
def test_a_failure_counts_once(way):
    """An error that passes through several calls is one failed request."""
    llm = Local(error=Refused("no"))
    with track_tokens() as counter, pytest.raises(Refused):
        WAYS[way](llm)

    assert (0, 1, 0) == (counter.successful_requests, counter.failed_requests, counter.total_tokens)


@pytest.mark.parametrize("way", WAYS)
def test_an_unclear_failure_is_an_estimate_once(way):
    """An error that does not say whether the call was billed leaves one estimate."""
    llm = Local(error=RuntimeError("no"))
    with track_tokens() as counter, pytest.raises(RuntimeError):
        WAYS[way](llm)

    assert (1, 1, 0) == (counter.successful_requests, counter.estimated_requests, counter.completion_tokens)


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_stream_counts_once(way):
    """Of several streams that read one another, one is counted when they are broken off."""
    llm = Local()
    with track_tokens() as counter:
        BROKEN[way](llm)

    assert (1, 1, 1) == (counter.successful_requests, counter.estimated_requests, counter.completion_tokens)


@pytest.mark.parametrize("way", UNREAD)
def test_a_stream_that_nobody_reads_was_never_sent(way):
    """The request goes out at the first chunk; without one there is nothing to bill."""
    llm = Local()
    with track_tokens() as counter:
        UNREAD[way](llm)

    assert (0, 0, 0) == (counter.successful_requests, counter.failed_requests, counter.total_tokens)


STRUCTURED = {
    "structured_predict": lambda llm: llm.structured_predict(Weather, PROMPT, city="Rome"),
    "astructured_predict": lambda llm: run(llm.astructured_predict(Weather, PROMPT, city="Rome")),
    "stream_structured_predict": lambda llm: list(llm.stream_structured_predict(Weather, PROMPT, city="Rome")),
    "as_structured_llm": lambda llm: llm.as_structured_llm(Weather).chat(MESSAGES),
    "as_structured_llm complete": lambda llm: llm.as_structured_llm(Weather).complete("How?"),
    "as_structured_llm async": lambda llm: run(llm.as_structured_llm(Weather).achat(MESSAGES)),
}


@pytest.mark.parametrize("kind", [OpenAI, OpenAIResponses])
@pytest.mark.parametrize("way", STRUCTURED)
def test_structured_answers_equal_the_bill(ledger, kind, way):
    """Structured prediction is counted exactly and once, also where LlamaIndex fires no event of it."""
    handler = LlamaIndexTokenHandler()
    llm = report_stream_usage(make_llm(ledger, kind, callback_manager=CallbackManager([handler])))
    with track_tokens() as counter:
        STRUCTURED[way](llm)

    assert 1 == billed(ledger)["requests"]
    if way == "stream_structured_predict" and kind is OpenAI:  # it replaces the options that ask for usage
        assert 1 == counter.successful_requests == handler.estimated_requests + (1 - counter.estimated_requests)
    else:
        assert billed(ledger) == counted(counter) == counted(handler.counter)
        assert 0 == counter.estimated_requests


def test_token_counting_handler_misses_silent_calls(ledger):
    """LlamaIndex's own handler says 0 where there are no events."""
    tokens = TokenCountingHandler(tokenizer=str.split)
    llm = make_llm(ledger, OpenAIResponses, callback_manager=CallbackManager([tokens]))
    llm.structured_predict(Weather, PROMPT, city="Rome")

    assert 0 == tokens.total_llm_token_count < billed(ledger)["prompt"]


def test_a_silent_call_that_is_refused(ledger):
    """It is a failed request, once."""
    llm = make_llm(ledger, OpenAIResponses, modes={"status": "429"})
    with track_tokens() as counter, pytest.raises(Exception, match="429"):
        llm.structured_predict(Weather, PROMPT, city="Rome")

    assert (0, 1) == (counter.successful_requests, counter.failed_requests)


def test_silent_calls_outside_are_not_counted(ledger):
    """Without a scope or a handler that wants it, a silent call is nobody's."""
    with track_tokens() as counter:
        pass
    make_llm(ledger, OpenAIResponses).structured_predict(Weather, PROMPT, city="Rome")

    assert 0 == counter.successful_requests
