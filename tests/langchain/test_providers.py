from decimal import Decimal

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from tests.support.bills import billed, counted
from token_handlers import track_tokens
from token_handlers.errors import raise_faults
from token_handlers.langchain import results


def anthropic(ledger, **modes):
    """Return a ChatAnthropic that talks to the test's channel."""
    url = ledger.url(close=1, **modes)
    return ChatAnthropic(
        model_name="claude-haiku-4-5", base_url=url, api_key="none", max_retries=0, timeout=None, stop=None
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_anthropic(ledger, streaming):
    """Anthropic's input excludes its cache; ours includes it, and prices each part."""
    with track_tokens() as counter:
        model = anthropic(ledger, prompt=1000, cached=300, written=200)
        list(model.stream("Why?")) if streaming else model.invoke("Why?")

    assert billed(ledger) == counted(counter)
    assert (300, 200, 0) == (counter.prompt_tokens_cached, counter.cache_write_tokens, counter.estimated_requests)
    # claude-haiku-4-5: input 1, output 5, cache read 0.1, cache write 1.25 USD per million tokens
    spent = 500 * 1 + counter.completion_tokens * 5 + Decimal(300) / 10 + 200 * Decimal("1.25")
    assert spent / 10**6 == counter.cost


async def test_anthropic_async(ledger):
    """The same, asynchronously."""
    with track_tokens() as counter:
        await anthropic(ledger).ainvoke("Why?")
        async for _ in anthropic(ledger).astream("Why?"):
            pass

    assert billed(ledger) == counted(counter)


class Shaped(BaseChatModel):
    """A chat model whose answers have the shape of a provider's LangChain client."""

    provider: str
    message: AIMessage
    output: dict | None = None

    @property
    def _llm_type(self):
        return "shaped"

    def _get_ls_params(self, stop=None, **kwargs):
        return {"ls_provider": self.provider, "ls_model_name": "requested", "ls_model_type": "chat"}

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        message = self.message.model_copy(deep=True)
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output=self.output)


def answer(usage, /, **metadata):
    """Return a provider's answer."""
    usage = usage and {"total_tokens": usage["input_tokens"] + usage["output_tokens"], **usage}
    return AIMessage("hello", usage_metadata=usage, response_metadata=metadata)


ANTHROPIC_CACHE = {
    "cache_read": 40,
    "cache_creation": 0,
    "ephemeral_5m_input_tokens": 30,
    "ephemeral_1h_input_tokens": 20,
}
# provider, answer, llm_output -> prompt, completion, cached, cache writes, reasoning, model
SHAPES = {
    "anthropic": (
        answer(
            {"input_tokens": 120, "output_tokens": 9, "input_token_details": ANTHROPIC_CACHE},
            model_name="claude-sonnet-4-5-20250929",
        ),
        None,
        (120, 9, 40, 50, 0, "claude-sonnet-4-5-20250929"),
    ),
    "google_genai": (
        answer(
            {
                "input_tokens": 30,
                "output_tokens": 49,
                "input_token_details": {"cache_read": 10},
                "output_token_details": {"reasoning": 40},
            },
            model_name="gemini-2.5-flash",
        ),
        {},
        (30, 49, 10, 0, 40, "gemini-2.5-flash"),
    ),
    "mistral": (
        answer({"input_tokens": 20, "output_tokens": 5}, model_name="mistral-small-latest"),
        {
            "token_usage": {
                "prompt_tokens": 20,
                "completion_tokens": 5,
                "total_tokens": 25,
                "prompt_tokens_details": {"cached_tokens": 16},
            },
            "model_name": "mistral-small-latest",
        },
        (20, 5, 16, 0, 0, "mistral-small-latest"),
    ),
    "groq": (
        answer(
            {
                "input_tokens": 20,
                "output_tokens": 15,
                "input_token_details": {"cache_read": 8},
                "output_token_details": {"reasoning": 11},
            },
            model_name="openai/gpt-oss-20b",
            service_tier="on_demand",
        ),
        {"token_usage": {"prompt_tokens": 20, "completion_tokens": 15, "queue_time": 0.1}, "model_name": "x"},
        (20, 15, 8, 0, 11, "openai/gpt-oss-20b"),
    ),
    "ollama": (
        answer(
            {"input_tokens": 26, "output_tokens": 7},
            model="llama3.2",
            model_name="llama3.2",
            done_reason="stop",
            prompt_eval_count=26,
            eval_count=7,
        ),
        None,
        (26, 7, 0, 0, 0, "llama3.2"),
    ),
    "amazon_bedrock": (
        answer(
            {"input_tokens": 120, "output_tokens": 12, "input_token_details": {"cache_read": 80, "cache_creation": 0}},
            model_name="us.anthropic.claude-haiku-4-5-20251001-v1:0",
        ),
        None,
        (120, 12, 80, 0, 0, "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
    ),
    "xai": (
        AIMessage(
            "hello",
            usage_metadata={
                "input_tokens": 20,
                "output_tokens": 5,
                "total_tokens": 125,
                "output_token_details": {"reasoning": 100},
            },
            response_metadata={"model_name": "grok-4"},
        ),
        None,
        (20, 105, 0, 0, 100, "grok-4"),
    ),
    "cohere": (
        answer(None, model_name="command-r"),
        {"token_usage": {"prompt_tokens": 14, "completion_tokens": 6}},
        (14, 6, 0, 0, 0, "command-r"),
    ),
}


@pytest.mark.parametrize("provider", SHAPES)
def test_payload_shapes(provider):
    """Each provider's answer is read for what it says, wherever LangChain's client put it."""
    message, output, expected = SHAPES[provider]
    with track_tokens() as counter:
        Shaped(provider=provider, message=message, output=output).invoke("hi")

    assert expected == (
        counter.prompt_tokens,
        counter.completion_tokens,
        counter.prompt_tokens_cached,
        counter.cache_write_tokens,
        counter.reasoning_tokens,
        next(iter(counter.by_model)),
    )
    assert (1, provider in ("cohere", "xai")) == (counter.successful_requests, counter.estimated_requests)


def test_cohere_is_priced_by_its_billed_units():
    """Cohere bills other units than tokens: they price a call, and where they are lost it counts as estimated."""
    units = {
        "billed_units": {"input_tokens": 23, "output_tokens": 41},
        "tokens": {"input_tokens": 906, "output_tokens": 77},
    }
    message = AIMessage("hello", response_metadata={"model_name": "command-r-08-2024", "usage": units})
    with track_tokens() as counter:
        Shaped(provider="cohere", message=message).invoke("hi")

    assert (906, 77, 0) == (counter.prompt_tokens, counter.completion_tokens, counter.estimated_requests)
    # command-r-08-2024: input 0.15, output 0.60 USD per million tokens
    assert (23 * Decimal("0.15") + 41 * Decimal("0.60")) / 10**6 == counter.cost


def test_five_minute_and_one_hour_writes_have_their_prices():
    """Anthropic's two kinds of cache write are priced apart."""
    message, output, _ = SHAPES["anthropic"]
    with track_tokens() as counter:
        Shaped(provider="anthropic", message=message, output=output).invoke("hi")

    # claude-sonnet-4-5: input 3, output 15, read 0.3, 5-minute write 3.75, 1-hour write 6 USD per million tokens
    spent = 30 * 3 + 9 * 15 + 40 * Decimal("0.3") + 30 * Decimal("3.75") + 20 * 6
    assert spent / 10**6 == counter.cost


def test_half_a_usage_is_an_estimate():
    """Ollama may leave the prompt's tokens out: what it said counts, the rest is estimated, and that is flagged."""
    message = answer(None, model_name="llama3.2", done_reason="stop", eval_count=7)
    with track_tokens() as counter:
        Shaped(provider="ollama", message=message).invoke("how are you today?")

    assert (7, 1) == (counter.completion_tokens, counter.estimated_requests)
    assert counter.prompt_tokens > 3


def test_a_reported_cost_wins():
    """What the provider says that the call cost is the cost, also of a model without a price."""
    output = {"token_usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost": 0.0125}}
    message = answer({"input_tokens": 10, "output_tokens": 5}, model_name="vendor/new-model")
    records = []
    with track_tokens(sinks=[records.append]) as counter:
        Shaped(provider="openrouter", message=message, output=output).invoke("hi")

    assert (Decimal("0.0125"), 0) == (counter.cost, counter.unpriced_requests)
    assert ["reported"] == [record.cost_source for record in records]


class Streaming(Shaped):
    """The same, streamed: a piece, and the end with its usage and metadata."""

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        yield ChatGenerationChunk(message=AIMessageChunk(content="hello"))
        said = {"usage_metadata": self.message.usage_metadata, "response_metadata": self.message.response_metadata}
        yield ChatGenerationChunk(message=AIMessageChunk(content="", **said))


@pytest.mark.parametrize(
    ("model", "usd", "estimated"), [("openai/gpt-4o-mini", "0.0000045", 1), ("vendor/new-model:free", "0", 0)]
)
def test_a_cost_of_zero_is_that_of_a_free_model(model, usd, estimated):
    """OpenRouter's cost of a call with one's own key is its fee alone, maybe 0; whose key it is, messages leave out."""
    message = answer({"input_tokens": 10, "output_tokens": 5}, model_name=model, cost=0)
    with track_tokens() as counter:
        Shaped(provider="openrouter", message=message).invoke("hi")

    assert (Decimal(usd), estimated) == (counter.cost, counter.estimated_requests)


def test_a_usage_before_the_end_of_its_stream_is_an_estimate():
    """What is written after it, it does not count."""
    message = answer({"input_tokens": 10, "output_tokens": 5}, model_name="gpt-4o-mini")
    with track_tokens() as counter:
        list(EarlyUsage(provider="openai", message=message).stream("hi"))

    assert (10, 5, 1) == (counter.prompt_tokens, counter.completion_tokens, counter.estimated_requests)


def test_a_reported_cost_wins_in_a_stream():
    """OpenRouter's streams state the cost in the last chunk's metadata."""
    message = answer({"input_tokens": 10, "output_tokens": 5}, model_name="vendor/new-model", cost=0.0125)
    with track_tokens() as counter:
        list(Streaming(provider="openrouter", message=message).stream("hi"))

    assert (10, 5, Decimal("0.0125")) == (counter.prompt_tokens, counter.completion_tokens, counter.cost)


class EarlyUsage(Streaming):
    """The same, with the usage first."""

    def _stream(self, *args, **kwargs):
        yield from reversed(list(super()._stream(*args, **kwargs)))


def test_a_fault_of_ours_leaves_an_estimate(monkeypatch, caplog):
    """Where reading an answer fails, the call is an estimate, the application has its answer, and the log one line."""
    monkeypatch.setattr(results, "read_plain_message", lambda *event: {}["nothing"])
    raise_faults(False)
    try:
        message, output, _ = SHAPES["mistral"]
        with track_tokens() as counter:
            answers = [Shaped(provider="mistral", message=message, output=output).invoke("hi") for _ in range(2)]
    finally:
        raise_faults(True)

    assert ["hello", "hello"] == [one.content for one in answers]
    assert (2, 2) == (counter.successful_requests, counter.estimated_requests)
    assert 1 == sum("KeyError" in line for line in caplog.messages)


@pytest.mark.parametrize("junk", [{}, {"input_tokens": None}, {"input_tokens": -3, "output_tokens": "x"}, [], "x", 3])
def test_junk_for_a_usage(junk):
    """Whatever a client puts in a message's usage, nothing raises and nothing is negative."""
    message = AIMessage("hello").model_copy(update={"usage_metadata": junk, "response_metadata": {"token_usage": junk}})
    with track_tokens() as counter:
        Shaped(provider="openai", message=message).invoke("hi")

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert counter.prompt_tokens >= 0
    assert counter.completion_tokens >= 0


def test_text_out_of_no_tokens_is_estimated():
    """A usage of 0 and 0 beside text is no usage: nobody generates text out of no tokens."""
    message = AIMessage("some text", usage_metadata={"input_tokens": 0, "output_tokens": 0, "total_tokens": 0})
    with track_tokens() as counter:
        GenericFakeChatModel(messages=iter([message])).invoke("hi")

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert counter.completion_tokens > 0
