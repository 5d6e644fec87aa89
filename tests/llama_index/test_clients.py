import openai
import pytest
from google import genai
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.llms.google_genai import GoogleGenAI
from llama_index.llms.mistralai import MistralAI
from llama_index.llms.ollama import Ollama

from tests.support.answer_server import answering, body, lines
from tests.support.bills import billed, counted
from tests.support.llama_index_clients import MESSAGES, PROMPT, Weather, drain, no_swallowed_faults, run
from tests.support.provider_servers import replying
from token_handlers import Budget, BudgetExceeded, shared_counter, track_tokens, uninstall
from token_handlers.budget import Amounts
from token_handlers.llama_index import LlamaIndexTokenHandler, calls, hook
from token_handlers.tracking.call import open_calls

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher, no call stays open; what is attached stays for other tests."""
    with no_swallowed_faults():
        yield
    uninstall()
    hook.attach()
    assert {} == calls.by_span
    assert not any(isinstance(call, calls.ModelCall) for call in open_calls)


def piece(text, **more):
    """Return an answer of Gemini's."""
    content = {"role": "model", "parts": [{"text": text}]}
    end = {"finishReason": "STOP"} if more.get("usageMetadata") is THOUGHT else {}
    return {"candidates": [{"content": content, "index": 0, **end}], "modelVersion": "gemini-2.5-flash", **more}


THOUGHT = {"promptTokenCount": 30, "candidatesTokenCount": 9, "thoughtsTokenCount": 40, "totalTokenCount": 79}
FIRST = {"promptTokenCount": 30, "thoughtsTokenCount": 40, "totalTokenCount": 70}
ANSWER = '{"city": "Rome", "degrees": 30}'
EVENTS = [piece(ANSWER, usageMetadata=FIRST), piece("", usageMetadata=THOUGHT)]
FILLED = {
    "id": "f",
    "object": "chat.completion",
    "created": 1,
    "model": "codestral-2501",
    "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "return a + b"}}],
}


@pytest.fixture
def provider():
    """A server that answers as Gemini and as Mistral do."""
    whole = piece(ANSWER, usageMetadata=THOUGHT)
    with replying(generateContent=whole, streamGenerateContent=EVENTS, completions=FILLED) as replies:
        yield replies


def options(provider):
    """Return what Google's client is to know of the server; loading certificates would take a fifth of a second."""
    unverified = {"client_args": {"verify": False}, "async_client_args": {"ssl": False}}
    return {"base_url": provider.url, **unverified}


def gemini(provider, **settings):
    """Return LlamaIndex's client of Gemini, which asks for the model's limits where it is not told."""
    settings = {"max_tokens": 100, "context_window": 1000, **settings}
    return GoogleGenAI("gemini-2.5-flash", api_key="none", http_options=options(provider), **settings)


def codestral(provider, **settings):
    """Return LlamaIndex's client of Mistral."""
    return MistralAI("codestral-latest", api_key="none", endpoint=provider.url, max_retries=0, **settings)


def usage_of(counter):
    """Return what a counter says of LLM calls."""
    return (
        counter.successful_requests,
        counter.failed_requests,
        counter.estimated_requests,
        counter.prompt_tokens,
        counter.completion_tokens,
    )


async def closing(llm, answer):
    """Await an answer, and close the client's connections in the event loop that they are of."""
    try:
        return await answer
    finally:
        await llm._client.aio.aclose()


GOOGLE = {
    "structured_predict": lambda llm: llm.structured_predict(Weather, PROMPT, city="Rome"),
    "astructured_predict": lambda llm: run(closing(llm, llm.astructured_predict(Weather, PROMPT, city="Rome"))),
    "stream_structured_predict": lambda llm: list(llm.stream_structured_predict(Weather, PROMPT, city="Rome"))[-1],
    "astream_structured_predict": lambda llm: run(
        closing(llm, drain(llm.astream_structured_predict(Weather, PROMPT, city="Rome")))
    ),
}
SILENT = {
    **{way: (gemini, call, (1, 0, 0, 30, 49), "gemini-2.5-flash") for way, call in GOOGLE.items()},
    "fill_in_middle": (
        codestral,
        lambda llm: llm.fill_in_middle("def add(a, b):", "\n"),
        (1, 0, 0, 12, 5),
        "codestral-2501",
    ),
}


@pytest.mark.parametrize("way", SILENT)
def test_calls_without_events(provider, way):
    """Google's structured predictions and Mistral's fill_in_middle, which have no events, are counted as billed, once.

    Google's thoughts are output, and its streams state the usage so far in each event.
    """
    make, call, expected, model = SILENT[way]
    handler = LlamaIndexTokenHandler()
    llm = make(provider, callback_manager=CallbackManager([handler]))
    with track_tokens() as counter:
        call(llm)

    assert expected == usage_of(counter) == usage_of(handler)
    assert ([model], 0) == (list(counter.by_model), counter.unpriced_requests)
    assert counter.cost == handler.cost
    assert handler.total_cost > 0


@pytest.mark.parametrize("way", SILENT)
def test_a_handler_alone_counts_calls_without_events(provider, way):
    """No scope is needed where the LLM carries our handler; where it does not, its calls are nobody's."""
    make, call, expected, _ = SILENT[way]
    handler = LlamaIndexTokenHandler()
    before = shared_counter().successful_requests
    call(make(provider, callback_manager=CallbackManager([handler])))
    call(make(provider))

    assert expected == usage_of(handler)
    assert before + 1 == shared_counter().successful_requests


@pytest.mark.parametrize("way", SILENT)
def test_refused_calls_without_events(provider, way):
    """What the provider rejects is a failed request."""
    make, call, _, _ = SILENT[way]
    provider.status = 429
    with track_tokens() as counter, pytest.raises(Exception, match="429"):
        call(make(provider))

    assert (0, 1, 0, 0, 0) == usage_of(counter)


@pytest.mark.parametrize("way", SILENT)
def test_budgets_refuse_calls_without_events(provider, way):
    """A call for which there is no room is not sent; what was sent is booked, and nothing stays held."""
    make, call, (_, _, _, *tokens), _ = SILENT[way]
    llm, budget = make(provider), Budget(max_requests=2)
    with track_tokens(budget=budget) as counter:
        call(llm)
        call(llm)
        with pytest.raises(BudgetExceeded, match="max_requests=2"):
            call(llm)

    assert 2 == len(provider.asked)
    assert (2, 2 * sum(tokens), Amounts()) == (budget.spent().requests, budget.spent().tokens, budget.held())
    assert (2, 0) == (counter.successful_requests, counter.failed_requests)


def test_a_stated_maximum_is_held(provider):
    """Google's max_tokens, which its client keeps to itself, is held."""
    budget = Budget(max_tokens=90)
    with track_tokens(budget=budget), pytest.raises(BudgetExceeded, match="max_tokens=90: 0 spent"):
        GOOGLE["structured_predict"](gemini(provider))
    with track_tokens(budget=budget):
        GOOGLE["structured_predict"](gemini(provider, max_tokens=10))

    assert 1 == len(provider.asked)
    assert (79, Amounts()) == (budget.spent().tokens, budget.held())


@pytest.mark.parametrize("way", ["chat", "stream_chat"])
def test_google_chats(provider, way):
    """Calls that have events go through the same client, and count once."""
    with track_tokens() as counter:
        _ = list(getattr(gemini(provider), way)(MESSAGES))

    assert (1, 0, 0, 30, 49) == usage_of(counter)


def test_a_stream_without_events_that_is_broken_off(provider):
    """What was received so far is an estimate; a stream that nobody reads was never sent."""
    budget = Budget(max_requests=3)
    with track_tokens(budget=budget) as counter:
        stream = gemini(provider).stream_structured_predict(Weather, PROMPT, city="Rome")
        next(stream)
        stream.close()
        del stream
        gemini(provider).stream_structured_predict(Weather, PROMPT, city="Rome")

    assert 1 == len(provider.asked)
    assert (1, 0, 1) == usage_of(counter)[:3]
    assert (True, 9) == (counter.prompt_tokens > 30, counter.completion_tokens)
    assert (1, Amounts()) == (budget.spent().requests, budget.held())


class Own(CustomLLM):
    """An LLM of one's own that asks through openai's client, and passes on the text alone."""

    url: str
    questions: tuple[str, ...] = ("How?",)
    said: str | None = None
    streams: bool = False

    @property
    def metadata(self):
        return LLMMetadata(model_name="own")

    @llm_completion_callback()
    def complete(self, prompt, **kwargs):
        with openai.OpenAI(base_url=self.url, api_key="none", max_retries=0) as client:
            for question in self.questions:
                messages = [{"role": "user", "content": question}]
                answer = client.chat.completions.create(model="gpt-4o-mini", messages=messages)
            if self.streams:
                list(client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True))
        return CompletionResponse(text=self.said or answer.choices[0].message.content)

    @llm_completion_callback()
    async def acomplete(self, prompt, **kwargs):
        async with openai.AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0) as client:
            messages = [{"role": "user", "content": prompt}]
            answer = await client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=messages)
        return CompletionResponse(text=f"Well, {answer.parse().choices[0].message.content}")

    @llm_completion_callback()
    def stream_complete(self, prompt, **kwargs):
        yield self.complete(prompt)


OWN = {
    "complete": lambda llm: llm.complete("How?"),
    "acomplete": lambda llm: run(llm.acomplete("How?")),
    "chat": lambda llm: llm.chat(MESSAGES),
    "achat": lambda llm: run(llm.achat(MESSAGES)),
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
}


@pytest.mark.parametrize("questions", [("How?",), ("How?", "How so?")])
@pytest.mark.parametrize("way", OWN)
def test_a_model_that_passes_on_no_usage(ledger, way, questions):
    """What openai's client was answered is what it used, if its response has that text."""
    with track_tokens() as counter:
        OWN[way](Own(url=ledger.url(), questions=questions))

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests
    assert ["gpt-4o-mini-2024-07-18"] == [*counter.by_model]


def test_a_model_that_says_something_else(ledger):
    """Whatever the model makes of its answers, what was answered is what it used."""
    with track_tokens() as counter:
        Own(url=ledger.url(), said="Something else.").complete("How?")

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


def test_a_model_whose_client_leaves_the_usage_out(ledger):
    """Where one of its answers says no usage, what was used is an estimate, and both requests are flagged."""
    with track_tokens() as counter:
        Own(url=ledger.url(), streams=True).complete("How?")

    assert 2 == billed(ledger)["requests"] == counter.successful_requests == counter.estimated_requests


def test_the_applications_own_google_calls(provider):
    """What the application itself asks of Google's client counts as its own, beside LlamaIndex's calls."""
    client = genai.Client(api_key="none", http_options=options(provider))
    with track_tokens() as counter, track_tokens(sdk_calls=False) as without:
        gemini(provider).chat(MESSAGES)
        client.models.generate_content(model="gemini-2.5-flash", contents="Why?")
    with track_tokens() as other:
        list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="Why?"))
    client.close()

    assert 3 == len(provider.asked)
    assert (1, 0, 0, 30, 49) == usage_of(counter) == usage_of(without) == usage_of(other)


def test_a_providers_usage_of_nothing(provider):
    """An answer with text that says 0 tokens of everything is an estimate."""
    nothing = {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}
    provider.by_method["generateContent"] = piece("Rome", usageMetadata=nothing)
    with track_tokens() as counter:
        gemini(provider).chat(MESSAGES)

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert counter.completion_tokens > 0


SAID = {"model": "llama3", "created_at": "2026-11-29T10:00:00Z", "done": False}
SAID |= {"message": {"role": "assistant", "content": "Hello"}}
ENDED = {**SAID, "done": True, "done_reason": "stop", "eval_count": 20}
WHOLE = {**ENDED, "prompt_eval_count": 100}
OLLAMA = {
    "chat": lambda llm: llm.chat(MESSAGES),
    "complete": lambda llm: llm.complete("Hi"),
    "achat": lambda llm: run(llm.achat(MESSAGES)),
    "acomplete": lambda llm: run(llm.acomplete("Hi")),
}
OLLAMA_STREAMS = {
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
    "stream_complete": lambda llm: list(llm.stream_complete("Hi")),
    "astream_chat": lambda llm: run(drain(llm.astream_chat(MESSAGES))),
    "astream_complete": lambda llm: run(drain(llm.astream_complete("Hi"))),
}


@pytest.mark.parametrize("end", [WHOLE, ENDED], ids=["whole", "without the prompt"])
@pytest.mark.parametrize("way", [*OLLAMA, *OLLAMA_STREAMS])
def test_ollamas_methods_call_each_other(way, end):
    """Ollama's complete is made of chat: each is one request, an estimate where the server leaves the prompt out."""
    reply = lines([SAID, {**end, "message": {"role": "assistant", "content": ""}}])
    with answering(reply if way in OLLAMA_STREAMS else body(end)) as server:
        llm = Ollama(model="llama3", base_url=server.url, context_window=8000)
        ask = {**OLLAMA, **OLLAMA_STREAMS}[way]
        with track_tokens(budget=Budget(max_requests=1)) as counter:
            ask(llm)
            with pytest.raises(BudgetExceeded):
                ask(llm)

    assert (1, 1, 20) == (len(server.asked), counter.successful_requests, counter.completion_tokens)
    assert (end is ENDED) == counter.estimated_requests
    assert end is ENDED or 100 == counter.prompt_tokens
