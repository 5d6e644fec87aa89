from types import SimpleNamespace
from typing import ClassVar

import httpx
import openai
import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse

from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.results import read_end, read_error
from token_handlers.payloads import ReportedUsage
from token_handlers.tracking.call import open_calls, process_context
from token_handlers.tracking.result import DISCARD, FAILED, CallResult, Incomplete

RAW = {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}}
COUNTS = {"input_tokens": 9, "output_tokens": 5}
WHOLE = CallResult(ReportedUsage(COUNTS, model="gpt-4o-mini"))
LEFT_OUT = "its server or client leaves the usage out"
WORDLESS = {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}}
WORDLESS_COUNTS = {"input_tokens": 9, "output_tokens": 0}
EMPTY = {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 0, "completion_tokens": 0}}


@pytest.fixture
def call():
    """Return a call of OpenAI's class, in no block."""
    made = ModelCall(process_context)
    made.model_dict = {"class_name": "openai_llm"}
    yield made
    open_calls.pop(made)


def chat(raw=None, text="yes", **more):
    """Return a chat's response."""
    return ChatResponse(message=ChatMessage(content=text, role="assistant"), raw=raw, **more)


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (chat(RAW), WHOLE),
        (chat(additional_kwargs={"prompt_tokens": 9, "completion_tokens": 5}), CallResult(ReportedUsage(COUNTS))),
        (CompletionResponse(text="yes", raw=RAW), WHOLE),
        (chat(), Incomplete(None, "yes", remedy=LEFT_OUT)),
        (chat(EMPTY), Incomplete(None, "yes", remedy=LEFT_OUT, model="gpt-4o-mini")),
        (
            chat(WORDLESS),
            Incomplete(
                ReportedUsage(WORDLESS_COUNTS, model="gpt-4o-mini"), "yes", remedy=LEFT_OUT, model="gpt-4o-mini"
            ),
        ),
        (chat(WORDLESS, text=""), CallResult(ReportedUsage(WORDLESS_COUNTS, model="gpt-4o-mini"))),
        (
            chat({**WORDLESS, "model": "gemma-3-27b-it"}),
            CallResult(ReportedUsage(WORDLESS_COUNTS, model="gemma-3-27b-it")),
        ),
        (None, Incomplete(None, "", remedy=LEFT_OUT)),
    ],
    ids=[
        "raw",
        "additional_kwargs",
        "completion",
        "no usage",
        "0 beside text",
        "no output beside text",
        "no output",
        "Gemma's output",
        "nothing",
    ],
)
def test_a_call_ended(call, response, verdict):
    """What is reported is the result; what is not leaves the answer's text to an estimate."""
    assert verdict == read_end(call, response)


def test_a_stream_reported_before_its_end(call):
    """A usage that text came after is what was used before it; where none came after, it is the whole."""
    call.deltas = ["a", "b"]
    call.reported = RAW, 1
    before = read_end(call, chat())
    call.reported = RAW, 2

    assert Incomplete(WHOLE.usage, None, True, LEFT_OUT, "gpt-4o-mini") == before
    assert WHOLE == read_end(call, chat())


class Litellms(dict):
    """LiteLLM's response, which says that its own cache has answered."""

    _hidden_params: ClassVar[object] = {"cache_hit": True}


@pytest.mark.parametrize(
    ("raw", "is_stream", "verdict"),
    [
        (Litellms(RAW), False, CallResult(WHOLE.usage, outcome="cached")),
        (RAW, False, WHOLE),
        (
            RAW,
            True,
            CallResult(WHOLE.usage._replace(doubts=("LiteLLM's own cache may have answered: no request was seen",))),
        ),
    ],
    ids=["its cache", "an answer", "a stream"],
)
def test_litellms_own_cache(call, raw, is_stream, verdict):
    """What it answers is not billed again; a stream does not say, so without a request it is an estimate."""
    call.model_dict = {"class_name": "litellm_llm"}
    call.response = chat(raw) if is_stream else None

    assert verdict == read_end(call, chat(raw))


def test_a_call_that_asks_another(call):
    """A call that reports what its own calls used is theirs; one that reports something else is a call beside them."""
    call.child_usages = [COUNTS]
    passed_on = read_end(call, chat(RAW))
    call.child_usages = [{"input_tokens": 1, "output_tokens": 1}]

    assert DISCARD == passed_on
    assert WHOLE == read_end(call, chat(RAW))


def test_a_complete_that_is_a_chat(call):
    """A method that calls another of the same LLM is recorded by that one."""
    call.asks_itself = True

    assert DISCARD == read_end(call, chat(RAW))


def rejected():
    """Return the error of a request that the provider rejected."""
    response = httpx.Response(400, request=httpx.Request("POST", "http://127.0.0.1/v1/chat/completions"))
    return openai.BadRequestError("no", response=response, body=None)


class Cut(ValueError):
    """An answer that was cut by its length: the error has the billed completion with it."""

    completion: ClassVar[object] = RAW


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(rejected, FAILED), (Cut, WHOLE), (lambda: TimeoutError("lost"), Incomplete(interrupted=True))],
    ids=["rejected", "cut", "lost"],
)
def test_a_call_failed(call, error, verdict):
    """What was rejected costs nothing, what an error carries is billed, and what was lost is estimated."""
    assert verdict == read_error(call, error())


@pytest.mark.parametrize(("finish", "is_whole"), [("stop", True), (None, False)])
def test_a_stream_failed(call, finish, is_whole):
    """A stream that fails after its last chunk has its whole usage; before, more was generated than it reported."""
    call.response = chat({**RAW, "choices": [{"finish_reason": finish}]})
    verdict = read_error(call, rejected())

    assert (WHOLE if is_whole else Incomplete(WHOLE.usage, interrupted=True, model="gpt-4o-mini")) == verdict
    assert call in open_calls


@pytest.mark.parametrize(("name", "served"), [("Bedrock_Converse_LLM", {"region": "eu-west-2"}), ("openai_llm", {})])
def test_bedrocks_region_is_the_clients(call, name, served):
    """Its rates are not the same everywhere, and an event does not say where it was served."""
    call.model_dict = {"class_name": name}
    call.instance = SimpleNamespace(region_name="eu-west-2")
    call.describe()

    assert served == call.served
