import pytest
from langchain_core.language_models import LLM
from langchain_openai import OpenAI

from tests.support.bills import billed, counted
from token_handlers import track_tokens
from token_handlers.langchain import LangChainTokenHandler, report_stream_usage


def llm(ledger, /, *, modes=None, **settings):
    """Return a legacy OpenAI LLM that talks to the test's channel."""
    settings = {"api_key": "none", "max_retries": 0, **settings}
    return OpenAI(model="gpt-3.5-turbo-instruct", base_url=ledger.url(**(modes or {})), **settings)


@pytest.mark.parametrize("settings", [{}, {"n": 2, "best_of": 2}, {"best_of": 3}, {"n": 2, "best_of": 4}])
def test_one_http_call_is_one_request(ledger, settings):
    """Several prompts, n and best_of go out in one HTTP call, which is one request with the usage that was billed."""
    handler = LangChainTokenHandler()
    model = llm(ledger, callbacks=[handler], **settings)
    with track_tokens() as counter:
        model.invoke("say something")
        model.generate(["say one", "say two things", "say three other things"])
        model.batch(["say one", "say two things"])

    assert billed(ledger) == counted(counter) == counted(handler)
    assert (3, 0, 0) == (counter.successful_requests, counter.estimated_requests, counter.unpriced_requests)


async def test_async_calls(ledger):
    """ainvoke, agenerate and abatch are exact as well."""
    model = llm(ledger, modes={"close": 1})
    with track_tokens() as counter:
        await model.ainvoke("say something")
        await model.agenerate(["say one", "say two things"])
        await model.abatch(["say one", "say two things"])

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


def test_more_prompts_than_fit_one_call(ledger):
    """The client splits many prompts over several HTTP calls; LangChain tells their sum, which is as many requests."""
    with track_tokens() as counter:
        llm(ledger, batch_size=2).generate([f"say {number}" for number in range(5)])

    assert billed(ledger) == counted(counter)
    assert 3 == counter.successful_requests


class Shouting(LLM):
    """A model of one's own: one call for each prompt, and nothing said of usage."""

    @property
    def _llm_type(self):
        return "shouting"

    def _call(self, prompt, stop=None, run_manager=None, **kwargs):
        return prompt.upper()


@pytest.mark.parametrize("prompts", [1, 3])
def test_an_unreported_call_is_estimated(prompts):
    """Without usage each prompt and each answer is estimated, and counted as an estimated request."""
    with track_tokens() as counter:
        Shouting().generate(["say something of some length"] * prompts)

    assert (prompts, prompts) == (counter.successful_requests, counter.estimated_requests)
    assert counter.prompt_tokens >= 3 * prompts
    assert counter.completion_tokens >= 3 * prompts


@pytest.mark.parametrize("prompts", [1, 3])
def test_a_rejected_call_fails_once(ledger, prompts):
    """One rejected HTTP call is one failed request, however many prompts it had."""
    with track_tokens() as counter, pytest.raises(Exception, match="500"):
        llm(ledger, modes={"status": "500"}).generate(["say something"] * prompts)

    assert billed(ledger) == counted(counter)
    assert 1 == counter.failed_requests


def test_a_stream_that_reports_usage_is_exact(ledger):
    """The client drops a stream's usage, but the provider's answer has it."""
    with track_tokens() as counter:
        list(llm(ledger, modes={"usage": "always"}).stream("say something"))

    assert billed(ledger) == counted(counter)
    assert (1, 0) == (counter.successful_requests, counter.estimated_requests)


def test_a_stream_is_estimated(ledger):
    """A stream whose server reports no usage is estimated and flagged."""
    with track_tokens() as counter:
        list(llm(ledger, modes={"usage": "never"}).stream("say something"))

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)
    assert counter.completion_tokens > 0


@pytest.mark.parametrize("streaming", [False, True])
def test_report_stream_usage(ledger, streaming):
    """Made to report usage, a stream is exact, through stream() and through streaming=True."""
    model = report_stream_usage(llm(ledger, streaming=streaming))
    with track_tokens() as counter:
        if streaming:
            model.invoke("say something")
        else:
            list(model.stream("say something"))

    assert billed(ledger) == counted(counter)
    assert (1, 0) == (counter.successful_requests, counter.estimated_requests)


async def test_report_stream_usage_async(ledger):
    """So is an asynchronous stream."""
    model = report_stream_usage(llm(ledger, modes={"close": 1}))
    with track_tokens() as counter:
        async for _ in model.astream("say something"):
            pass
        await model.ainvoke("say something")

    assert billed(ledger) == counted(counter)
    assert 0 == counter.estimated_requests


def test_report_stream_usage_copies(ledger):
    """The model that was given stays as it was, and the copy is of its kind by name."""
    model = llm(ledger)
    reporting = report_stream_usage(model)

    assert (OpenAI, "OpenAI") == (type(model), type(reporting).__name__)
    assert isinstance(reporting, OpenAI)
    assert model.client is not reporting.client
    assert report_stream_usage(reporting).client is not None


@pytest.mark.parametrize("junk", [None, "gpt-4o", 3, object()])
def test_report_stream_usage_takes_models(junk):
    """What is no LangChain model is refused by an error that names its type."""
    with pytest.raises(TypeError, match=f"not {type(junk).__name__}"):
        report_stream_usage(junk)
