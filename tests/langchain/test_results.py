from types import SimpleNamespace
from typing import ClassVar
from uuid import uuid4

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from token_handlers import BudgetExceeded
from token_handlers.langchain.calls import Batch, Run
from token_handlers.langchain.results import read_decision, read_end, read_error
from token_handlers.payloads import ReportedUsage
from token_handlers.tracking.call import open_calls, process_context
from token_handlers.tracking.result import DISCARD, FAILED, NOTHING_REPORTED, CallResult, Incomplete

STATED = {"input_tokens": 9, "output_tokens": 5, "total_tokens": 14}
COUNTS = {"input_tokens": 9, "output_tokens": 5}
MODEL = {"model_name": "gpt-4o-mini-2024-07-18", "finish_reason": "stop"}
NAME = MODEL["model_name"]
EXACT = "report_stream_usage(model) makes it exact where the server can"
LEFT_OUT = "its server or client leaves the usage out"


@pytest.fixture
def run():
    """Return a ChatOpenAI run of one prompt, in no block, that has neither chunks nor children."""
    made = Run(process_context, uuid4(), [[HumanMessage("hi")]], metadata={"ls_provider": "openai"})
    yield made
    open_calls.pop(made)


def ended(*messages, output=None):
    """Return the result of one prompt with these answers."""
    return LLMResult(generations=[[ChatGeneration(message=message) for message in messages]], llm_output=output)


def answer(text="yes", usage=STATED, **fields):
    """Return an answer of gpt-4o-mini."""
    return AIMessage(text, usage_metadata=usage, **{"response_metadata": MODEL, "id": "run-1", **fields})


def whole(**changes):
    """Return the verdict of 9 and 5 tokens of gpt-4o-mini."""
    return CallResult(ReportedUsage(COUNTS, model=NAME)._replace(**changes))


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (ended(answer(), output={}), whole()),
        (ended(answer(usage=None), output={"token_usage": {"prompt_tokens": 9, "completion_tokens": 5}}), whole()),
        (
            ended(answer(response_metadata={**MODEL, "service_tier": "priority"}), output={}),
            whole(service_tier="priority"),
        ),
        (ended(answer(usage=None), output={}), Incomplete(None, "yes", remedy=LEFT_OUT, model=NAME)),
        (
            ended(answer(usage={"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}), output={}),
            Incomplete(None, "yes", remedy=LEFT_OUT, model=NAME),
        ),
        (
            ended(answer(usage={"input_tokens": 9, "output_tokens": 0, "total_tokens": 9}), output={}),
            Incomplete(
                ReportedUsage({"input_tokens": 9, "output_tokens": 0}, model=NAME), "yes", False, LEFT_OUT, NAME
            ),
        ),
        (ended(answer("a", None), answer("b", None), output={}), Incomplete(None, "a\nb", False, LEFT_OUT, NAME)),
        (ended(output={}), Incomplete(None, "", remedy=LEFT_OUT)),
        (LLMResult(generations=[]), Incomplete(None, "", remedy=LEFT_OUT)),
    ],
    ids=[
        "message",
        "llm_output",
        "tier",
        "no usage",
        "0 beside text",
        "0 out beside text",
        "two without usage",
        "no answer",
        "nothing",
    ],
)
def test_a_chat_model_ended(run, response, verdict):
    """What is reported is the result; what is not leaves the answer's text to an estimate."""
    assert verdict == read_end(run, response)


def test_a_stream_ended(run):
    """A stream's usages are added up; one without them could have been asked for."""
    run.chunk = object()
    unreported = read_end(run, ended(answer(usage=None)))
    for sent, received in ((9, 0), (0, 5)):
        run.note({"input_tokens": sent, "output_tokens": received, "total_tokens": sent + received})

    assert Incomplete(None, "yes", remedy=EXACT, model=NAME) == unreported
    assert whole() == read_end(run, ended(answer()))


def test_a_cached_answer(run):
    """An answer that LangChain's cache marks was not sent."""
    marked = answer(usage={**STATED, "total_cost": 0}, id="lc_run--of-another")

    assert whole()._replace(outcome="cached") == read_end(run, ended(marked))


def test_a_model_that_asks_another(run):
    """A run that reports what its own calls used is theirs; one that reports something else is a call beside them."""
    run.child_usages = [COUNTS]
    passed_on = read_end(run, ended(answer(), output={}))
    run.child_usages = [{"input_tokens": 1, "output_tokens": 1}]

    assert DISCARD == passed_on
    assert whole() == read_end(run, ended(answer(), output={}))


def test_a_legacy_model_ended():
    """The first of its prompts has the usage of them all, in as many requests as it sends; the others have none."""
    runs = [Run(process_context, uuid4(), [text], {"kwargs": {"batch_size": 2}}) for text in ("a", "b", "c")]
    batch = Batch()
    for run in runs:
        run.batch = batch
        batch.runs.append(run)
        open_calls.pop(run)
    usage = {"token_usage": {"prompt_tokens": 9, "completion_tokens": 5}, "model_name": NAME}
    first = read_end(runs[0], LLMResult(generations=[[Generation(text="x")]], llm_output=usage))
    batch.reported = True

    assert whole()._replace(requests=2) == first
    assert DISCARD == read_end(runs[1], LLMResult(generations=[[Generation(text="y")]], llm_output={"token_usage": {}}))


def rejected():
    """Return the error of a request that the provider rejected."""
    response = httpx.Response(400, request=httpx.Request("POST", "http://127.0.0.1/v1/chat/completions"))
    return openai.BadRequestError("no", response=response, body=None)


class Cut(ValueError):
    """An answer that was cut by its length: the error has the billed completion with it."""

    completion: ClassVar[object] = {"model": NAME, "usage": {"prompt_tokens": 9, "completion_tokens": 5}}


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (rejected, FAILED),
        (Cut, whole()),
        (lambda: TimeoutError("lost"), Incomplete(interrupted=True)),
        (lambda: BudgetExceeded("no"), DISCARD),
    ],
    ids=["rejected", "cut", "lost", "refused"],
)
def test_a_run_failed(run, error, verdict):
    """A rejected call costs nothing, a lost one is estimated, a refused one was not sent; an error may be billed."""
    assert verdict == read_error(run, error(), None)


def test_a_stream_failed(run):
    """A stream that breaks off costs what it reported so far, and more; one that was whole before, just that."""
    run.chunk = object()
    run.note(STATED)
    broken = read_error(run, rejected(), None)
    run.finished = True

    assert Incomplete(ReportedUsage(COUNTS), interrupted=True) == broken
    assert whole(model=None) == read_error(run, rejected(), None)


def test_a_decision(run):
    """A decision model's answer states its usage; an input of 0 is none."""
    stated = SimpleNamespace(usage=STATED, model=NAME)
    nothing = SimpleNamespace(usage={**STATED, "input_tokens": 0}, model=NAME)

    assert whole() == read_decision(run, stated)
    assert isinstance(read_decision(run, nothing), Incomplete)


def test_nothing_is_recorded(run):
    """Reading a verdict leaves the call open: what is recorded is the recorder's."""
    read_end(run, ended(answer(), output={}))

    assert run in open_calls
    assert NOTHING_REPORTED == FAILED.usage
