"""What older versions of the frameworks do otherwise, played to the newest; versions.py tests the old ones."""

import uuid
from types import SimpleNamespace

from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from pydantic import BaseModel, ConfigDict

from token_handlers.langchain import LangChainTokenHandler
from token_handlers.langchain import results as events
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.model_names import facts_of
from token_handlers.payloads import read_payload
from token_handlers.tracking.recorder import discard

USAGE = {"input_tokens": 20, "output_tokens": 14, "total_tokens": 34}


def started(run_id):
    """Return a handler that has seen a run of ChatOpenAI start."""
    handler = LangChainTokenHandler()
    facts = {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini"}
    handler.on_chat_model_start({}, [[HumanMessage("hi")]], run_id=run_id, metadata=facts)
    return handler


def result(output=None, **message):
    """Return a run's result."""
    answer = AIMessage(content="hello", usage_metadata=dict(USAGE), **message)
    return LLMResult(generations=[[ChatGeneration(message=answer)]], llm_output=output)


def test_details_that_only_the_client_tells():
    """Before langchain-core 0.3.9 a UsageMetadata has no details; the client's own usage has them."""
    raw = {
        "prompt_tokens": 20,
        "completion_tokens": 14,
        "total_tokens": 34,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    handler = started(run_id := uuid.uuid4())
    metadata = {"token_usage": raw, "model_name": "gpt-4o-mini"}
    handler.on_llm_end(result(metadata, id=f"run-{run_id}-0", response_metadata=metadata), run_id=run_id)

    assert (20, 14) == (handler.prompt_tokens, handler.completion_tokens)
    assert (4, 2) == (handler.prompt_tokens_cached, handler.reasoning_tokens)


def test_usage_that_is_summed_up_in_place():
    """Before langchain-core 0.3.9 a stream's first chunk takes in the usage of the later ones."""
    handler = started(run_id := uuid.uuid4())
    first = AIMessageChunk(content="x", usage_metadata=dict(USAGE))
    for message in (first, AIMessageChunk(content="x", usage_metadata={**USAGE, "output_tokens": 15})):
        handler.on_llm_new_token("x", chunk=ChatGenerationChunk(message=message), run_id=run_id)
        first.usage_metadata["input_tokens"] += 20
    handler.on_llm_end(LLMResult(generations=[[ChatGenerationChunk(message=first)]]), run_id=run_id)

    assert (20, 15) == (handler.prompt_tokens, handler.completion_tokens)


def test_a_hit_without_a_mark(monkeypatch):
    """Before langchain-core 0.3.73 the cache marks nothing: the answer's id is that of the run that was billed."""
    monkeypatch.setattr(events, "_hits_are_marked", lambda: False)
    handler = started(run_id := uuid.uuid4())
    handler.on_llm_end(result(id=f"run-{uuid.uuid4()}-0"), run_id=run_id)
    own = started(run_id)
    own.on_llm_end(result(id=f"run-{run_id}-0"), run_id=run_id)

    assert (0, 1) == (handler.successful_requests, handler.cached_responses)
    assert (1, 0) == (own.successful_requests, own.cached_responses)


def test_a_model_is_told_by_its_fields():
    """Before llama-index-core 0.14.23 events have a model's fields, and models have no to_payload."""
    llm = SimpleNamespace(class_name=lambda: "openai_llm", model="gpt-4o")
    call = ModelCall()
    call.model_dict = {"class_name": "openai_llm", "model": "gpt-4o"}
    call.describe()
    discard(call)

    assert {"class_name": "openai_llm", "model_name": "gpt-4o"} == facts_of(llm)
    assert {"class_name": "SimpleNamespace", "model_name": None} == facts_of(SimpleNamespace())
    assert ("gpt-4o", "openai_llm") == (call.model, call.provider)


class CompletionUsage(BaseModel):
    """The usage of openai's client before 1.51, which has no fields for details."""

    model_config = ConfigDict(extra="allow")

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def test_a_usage_without_fields_for_details():
    """Usage without details is read all the same."""
    usage = CompletionUsage(prompt_tokens=7, completion_tokens=5, total_tokens=12)
    kind = type("ChatCompletion", (SimpleNamespace,), {})
    raw = kind(usage=usage, model="m", service_tier=None, __pydantic_extra__={})

    assert {"input_tokens": 7, "output_tokens": 5} == read_payload(raw).counts
