import gc

import openai
import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CustomLLM,
    LLMMetadata,
)
from llama_index.core.llms.callbacks import llm_completion_callback

from tests.support.bills import billed, counted
from tests.support.llama_index_clients import MESSAGES, PROMPT, Weather, drain, no_swallowed_faults, run
from token_handlers import Budget, BudgetExceeded, shared_counter, track_tokens, uninstall
from token_handlers.budget import Amounts
from token_handlers.llama_index import LlamaIndexTokenHandler, calls, hook
from token_handlers.tracking.call import open_calls


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher, no call stays open; what is attached stays for other tests."""
    with no_swallowed_faults():
        yield
    uninstall()
    hook.attach()
    assert {} == calls.by_span
    assert not any(isinstance(call, calls.ModelCall) for call in open_calls)


class Plain(CustomLLM):
    """An LLM over openai's client without any of LlamaIndex's decorators; its answers have a raw or none."""

    url: str
    raw: bool = True

    @property
    def metadata(self):
        return LLMMetadata(model_name="gpt-4o-mini")

    def chat(self, messages, **kwargs):
        return self._chat_response(self._ask([message.content for message in messages]))

    async def achat(self, messages, **kwargs):
        return self.chat(messages, **kwargs)

    def complete(self, prompt, *args, **kwargs):
        return self._response(self._ask([prompt]))

    async def acomplete(self, prompt, *args, **kwargs):
        return self.complete(prompt, **kwargs)

    def stream_chat(self, messages, **kwargs):
        def chunks():
            for chunk in self._stream([message.content for message in messages]):
                yield self._chat_response(chunk)

        return chunks()

    async def astream_chat(self, messages, **kwargs):
        async def chunks():
            for chunk in self.stream_chat(messages, **kwargs):
                yield chunk

        return chunks()

    def stream_complete(self, prompt, *args, **kwargs):
        return (self._response(chunk) for chunk in self._stream([prompt]))

    async def astream_complete(self, prompt, *args, **kwargs):
        async def chunks():
            for chunk in self._stream([prompt]):
                yield self._response(chunk)

        return chunks()

    def structured_predict(self, output_cls, prompt, llm_kwargs=None, **prompt_args):
        self._ask([prompt.format(**prompt_args)])
        return output_cls(city="Rome", degrees=30)

    def stream_structured_predict(self, output_cls, prompt, llm_kwargs=None, **prompt_args):
        for _ in self._stream([prompt.format(**prompt_args)]):
            yield output_cls(city="Rome", degrees=30)

    def _ask(self, texts):
        with openai.OpenAI(base_url=self.url, api_key="none", max_retries=0) as client:
            messages = [{"role": "user", "content": text} for text in texts]
            return client.chat.completions.create(model="gpt-4o-mini", messages=messages)

    def _stream(self, texts):
        with openai.OpenAI(base_url=self.url, api_key="none", max_retries=0) as client:
            messages = [{"role": "user", "content": text} for text in texts]
            options = {"include_usage": True}
            with client.chat.completions.create(
                model="gpt-4o-mini", messages=messages, stream=True, stream_options=options
            ) as stream:
                yield from stream

    def _chat_response(self, answer):
        text, raw = self._read(answer)
        return ChatResponse(message=ChatMessage(role="assistant", content=text), delta=text, raw=raw)

    def _response(self, answer):
        text, raw = self._read(answer)
        return CompletionResponse(text=text, delta=text, raw=raw)

    def _read(self, answer):
        first = answer.choices[0] if answer.choices else None
        said = getattr(first, "message", None) or getattr(first, "delta", None)
        return getattr(said, "content", None) or "", answer if self.raw else None


WAYS = {
    "chat": lambda llm: llm.chat(MESSAGES),
    "achat": lambda llm: run(llm.achat(MESSAGES)),
    "complete": lambda llm: llm.complete("How?"),
    "acomplete": lambda llm: run(llm.acomplete("How?")),
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
    "astream_chat": lambda llm: run(drain(llm.astream_chat(MESSAGES))),
    "stream_complete": lambda llm: list(llm.stream_complete("How?")),
    "astream_complete": lambda llm: run(drain(llm.astream_complete("How?"))),
    "predict": lambda llm: llm.predict(PROMPT, city="Rome"),
    "stream": lambda llm: list(llm.stream(PROMPT, city="Rome")),
    "structured_predict": lambda llm: llm.structured_predict(Weather, PROMPT, city="Rome"),
    "stream_structured_predict": lambda llm: list(llm.stream_structured_predict(Weather, PROMPT, city="Rome")),
}


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "bare"])
@pytest.mark.parametrize("way", WAYS)
def test_methods_without_decorators_equal_the_bill(ledger, way, raw):
    """Each call counts once, by what the provider answered, in the block and for the handler that the LLM carries."""
    handler = LlamaIndexTokenHandler()
    llm = Plain(url=ledger.url(), raw=raw, callback_manager=CallbackManager([handler]))
    before = shared_counter().successful_requests
    with track_tokens() as counter:
        WAYS[way](llm)

    assert 1 == billed(ledger)["requests"] == shared_counter().successful_requests - before
    assert billed(ledger) == counted(counter) == counted(handler.counter)
    assert 0 == counter.estimated_requests
    assert ["gpt-4o-mini-2024-07-18"] == [*counter.by_model]


@pytest.mark.parametrize("way", WAYS)
def test_a_handler_alone_counts_them(ledger, way):
    """No block is needed where the LLM carries a handler."""
    handler = LlamaIndexTokenHandler()
    WAYS[way](Plain(url=ledger.url(), callback_manager=CallbackManager([handler])))

    assert billed(ledger) == counted(handler.counter)


@pytest.mark.parametrize("way", WAYS)
def test_a_budget_refuses_them_before_they_are_sent(ledger, way):
    """The call that would pass the limit never reaches the server, and nothing stays reserved."""
    llm, budget = Plain(url=ledger.url()), Budget(max_requests=1)
    with track_tokens(budget=budget):
        WAYS[way](llm)
        with pytest.raises(BudgetExceeded, match="max_requests=1: 1 spent"):
            WAYS[way](llm)

    assert 1 == len(ledger.entries()) == budget.spent().requests
    assert Amounts() == budget.held()


def test_outside_of_blocks_nobody_counts_them(ledger):
    """Without a block, a handler or automatic tracking such a call is nobody's."""
    before = shared_counter().successful_requests
    Plain(url=ledger.url()).complete("How?")

    assert before == shared_counter().successful_requests


class Fake(CustomLLM):
    """An LLM without a server and without decorators."""

    usage: dict[str, int] | None = None
    error: Exception | None = None

    @property
    def metadata(self):
        return LLMMetadata(model_name="fake-1")

    def complete(self, prompt, *args, **kwargs):
        if self.error is not None:
            raise self.error
        return CompletionResponse(text="one two three", raw={"usage": self.usage})

    def stream_complete(self, prompt, *args, **kwargs):
        for text in ("one", " two", " three"):
            yield CompletionResponse(text=text, delta=text)


def test_a_silent_answer_is_an_estimate():
    """Where neither the answer nor a provider says what was used, the call is estimated, and counted as such."""
    with track_tokens() as counter:
        Fake().complete("How many boats?")
        list(Fake().stream_complete("How many boats?"))
        list(Fake().stream_chat(MESSAGES))

    assert (3, 3) == (counter.successful_requests, counter.estimated_requests)
    assert 9 == counter.completion_tokens
    assert ["fake-1"] == [*counter.by_model]


def test_a_stream_that_is_broken_off_or_never_read():
    """The first is estimated by what came; the second was never sent."""
    with track_tokens() as counter:
        stream = Fake().stream_complete("How many boats?")
        next(stream)
        stream.close()
        Fake().stream_complete("How many boats?")
        gc.collect()

    assert (1, 1, 1) == (counter.successful_requests, counter.estimated_requests, counter.completion_tokens)


def test_a_call_that_fails():
    """What was never sent costs nothing; what may have been is an estimate."""
    with track_tokens() as counter:
        with pytest.raises(NotImplementedError):
            Fake(error=NotImplementedError()).complete("How?")
        with pytest.raises(ValueError, match="cannot read it"):
            Fake(error=ValueError("cannot read it")).complete("How?")

    assert (1, 1, 1) == (counter.failed_requests, counter.successful_requests, counter.estimated_requests)


class PassedOn(Fake):
    """An LLM whose own method only passes on what an instrumented one of another LLM answers."""

    other: CustomLLM

    def complete(self, prompt, *args, **kwargs):
        return self.other.complete(prompt)

    def stream_complete(self, prompt, *args, **kwargs):
        return self.other.stream_complete(prompt)


class Instrumented(Fake):
    """An LLM with decorators."""

    @llm_completion_callback()
    def complete(self, prompt, *args, **kwargs):
        return super().complete(prompt)

    @llm_completion_callback()
    def stream_complete(self, prompt, *args, **kwargs):
        for text in ("one", " two"):
            yield CompletionResponse(text=text, delta=text, raw={"usage": self.usage})


PASSED = {name: WAYS[name] for name in ("complete", "stream_complete", "stream_chat", "astream_complete")}


@pytest.mark.parametrize("way", PASSED)
def test_what_is_passed_on_counts_once(way):
    """Also where the instrumented method is the parent's of the same class."""
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    with track_tokens() as counter:
        PASSED[way](PassedOn(other=Instrumented(usage=usage)))
        PASSED[way](Instrumented(usage=usage))

    assert (2, 14, 4) == (counter.successful_requests, counter.prompt_tokens, counter.completion_tokens)


def test_classes_are_left_as_they_were(ledger):
    """uninstall() gives every class its own methods back, and what is defined later stays as it is written."""
    uninstall()
    own = {name: Plain.__dict__[name] for name in ("chat", "complete")}
    originals = {name: member.__wrapped__ for name, member in own.items()}
    with track_tokens():
        pass
    held = Plain(url=ledger.url()).complete
    uninstall()

    class Later(Fake):
        def complete(self, prompt, *args, **kwargs):
            return CompletionResponse(text="later")

    assert originals == {name: Plain.__dict__[name].__wrapped__ for name in own}
    assert not hasattr(Later.complete, "_token_handlers_original")
    before = shared_counter().successful_requests
    held("How?")
    assert before == shared_counter().successful_requests


def test_classes_that_are_defined_later_are_watched():
    """So are those of an integration that is imported while something is tracked."""
    with track_tokens() as counter:

        class Later(Fake):
            def complete(self, prompt, *args, **kwargs):
                return CompletionResponse(text="later")

        Later().complete("How?")

    assert 1 == counter.successful_requests
