import logging

import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMChatInProgressEvent, LLMCompletionEndEvent
from llama_index.core.llms import ChatMessage, CompletionResponse
from llama_index_instrumentation import root_dispatcher
from openai.types.chat import ChatCompletion

from tests.support.llama_index_clients import MESSAGES, Answering, answer, no_swallowed_faults
from token_handlers import track_tokens
from token_handlers.llama_index.results import read_response
from token_handlers.payloads import read_any
from token_handlers.tokenizer.vocabularies import load


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher."""
    with no_swallowed_faults():
        yield


ANTHROPIC = {"input_tokens": 20, "output_tokens": 11, "cache_read_input_tokens": 300, "cache_creation_input_tokens": 0}
GEMINI = {"prompt_token_count": 30, "candidates_token_count": 9, "thoughts_token_count": 40, "total_token_count": 79}
BEDROCK = {"inputTokens": 40, "outputTokens": 12, "totalTokens": 52}
MISTRAL = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
THOUGHT = {"reasoning_tokens": 20}
XAI = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35, "completion_tokens_details": THOUGHT}
SHAPES = {
    "Anthropic": ("Anthropic_LLM", {"model": "claude-sonnet-4-5", "usage": ANTHROPIC}, (320, 11)),
    "Gemini": ("GenAI", {"usage_metadata": GEMINI}, (30, 49)),
    "Bedrock": ("Bedrock_Converse_LLM", {"usage": BEDROCK}, (40, 12)),
    "Bedrock's stream": ("Bedrock_Converse_LLM", {"metadata": {"usage": BEDROCK}}, (40, 12)),
    "Ollama": ("Ollama_llm", {"model": "llama3", "prompt_eval_count": 26, "eval_count": 298}, (26, 298)),
    "Mistral": ("MistralAI_LLM", {"model": "mistral-small-latest", "usage": MISTRAL}, (7, 5)),
    "Mistral's stream": ("MistralAI_LLM", {"data": {"model": "mistral-small-latest", "usage": MISTRAL}}, (7, 5)),
    "Groq's stream": ("Groq", {"model": "llama-3.1-8b-instant", "choices": [], "x_groq": {"usage": MISTRAL}}, (7, 5)),
    "xAI": ("OpenAILike", {"model": "grok-4", "usage": XAI}, (10, 25)),
}
WRONG_IN_LLAMA_INDEX = SHAPES.keys() - {"Ollama", "Mistral"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_providers_report(shape, streamed):
    """Every provider's usage is read as it bills, in answers and at the ends of streams."""
    name, raw, expected = SHAPES[shape]
    tokens = TokenCountingHandler(tokenizer=str.split)
    manager = CallbackManager([tokens])
    llm = Answering(name=name, answers=(answer(None, "one"), answer(raw)), callback_manager=manager)
    with track_tokens() as counter:
        _ = list(llm.stream_chat(MESSAGES)) if streamed else llm.chat(MESSAGES)

    assert expected == (counter.prompt_tokens, counter.completion_tokens)
    assert 0 == counter.estimated_requests
    if shape in WRONG_IN_LLAMA_INDEX:
        assert expected != (tokens.prompt_llm_token_count, tokens.completion_llm_token_count)


def test_what_the_message_reports():
    """Usage that an integration keeps with the message or the response is read where raw has none."""
    message = ChatMessage(role="assistant", content="one", additional_kwargs={"usage": ANTHROPIC})
    kept = answer({"usage": {"output_tokens": 11}}).model_copy(update={"message": message})
    copied = answer(None, additional_kwargs={"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12})
    with track_tokens() as counter:
        Answering(name="Anthropic_LLM", answers=(kept,)).chat(MESSAGES)
        Answering(answers=(copied,)).chat(MESSAGES)

    assert (327, 16, 0) == (counter.prompt_tokens, counter.completion_tokens, counter.estimated_requests)


def test_the_answering_model_and_its_price():
    """The model that answered names the record; the one that was asked for does where no answer says."""
    one = Answering(name="Anthropic_LLM", model="claude-alias", answers=(answer(SHAPES["Anthropic"][1]),))
    other = Answering(name="GenAI", model="gemini-2.5-flash", answers=(answer(SHAPES["Gemini"][1]),))
    with track_tokens() as counter:
        one.chat(MESSAGES)
        other.chat(MESSAGES)

    assert {"claude-sonnet-4-5", "gemini-2.5-flash"} == set(counter.by_model)
    assert 0 == counter.unpriced_requests
    assert counter.total_cost > 0


class Junk:
    """An object whose attributes cannot be read."""

    def __getattr__(self, name):
        raise RuntimeError(name)


RAWS = [
    None, 3, "text", b"bytes", [], [1, None], {}, {"usage": None}, {"usage": "much"}, {"usage": []}, object(), Junk,
    {"usage": {"prompt_tokens": None, "completion_tokens": None}},
    {"usage": {"prompt_tokens": "12", "completion_tokens": -3}},
    {"usage": {"prompt_tokens": True, "completion_tokens": float("nan")}},
]  # fmt: skip


@pytest.mark.parametrize("raw", RAWS, ids=range(len(RAWS)))
def test_junk_is_an_estimate(raw, caplog):
    """Whatever raw is, the call is estimated and flagged; no number is made of junk."""
    llm = Answering(answers=(answer(raw() if raw is Junk else raw),))
    with track_tokens() as counter:
        llm.chat(MESSAGES)
        list(llm.stream_chat(MESSAGES))

    assert (2, 2, 6) == (counter.successful_requests, counter.estimated_requests, counter.completion_tokens)
    assert [] == [entry for entry in caplog.records if entry.levelno >= logging.ERROR]


def test_estimates_are_made_by_the_models_own_vocabulary():
    """llama-index-core brings OpenAI's, and the first estimate loads it: texts have the tokens that OpenAI counts."""
    records, text = [], "Grüße, 你好, 1,234.5"
    with track_tokens(sinks=[records.append]):
        Answering(model="gpt-4o-mini", answers=(answer(None, text),)).chat([ChatMessage(text)])

    [record] = records
    tokens = len(load("o200k_base").encode_ordinary(text))
    assert ("estimated", "tiktoken:o200k_base") == (record.source, record.method)
    assert (tokens + 7, tokens) == (record.usage.input_tokens, record.usage.output_tokens)  # 7 are the markup


def test_a_reported_zero_stays_zero():
    """Of an answer without text it is no reason for an estimate."""
    usage = {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}
    with track_tokens() as counter:
        Answering(answers=(answer({"usage": usage}, ""),)).chat(MESSAGES)

    assert (4, 0, 0) == (counter.prompt_tokens, counter.completion_tokens, counter.estimated_requests)


def test_half_a_usage_is_completed_and_flagged():
    """What is reported stands, the rest is estimated."""
    records = []
    with track_tokens(sinks=[records.append]) as counter:
        Answering(answers=(answer({"usage": {"completion_tokens": 40}}),)).chat(MESSAGES)

    assert (40, 1) == (counter.completion_tokens, counter.estimated_requests)
    assert counter.prompt_tokens > 5
    assert records[0].method.startswith("partial+")


def test_events_without_a_start():
    """Progress and ends of calls that nobody saw start count nothing."""
    done = answer({"usage": MISTRAL})
    with track_tokens() as counter:
        root_dispatcher.event(LLMChatInProgressEvent(messages=MESSAGES, response=done, span_id="s"))
        root_dispatcher.event(LLMChatEndEvent(messages=MESSAGES, response=done, span_id="s"))
        root_dispatcher.event(LLMChatEndEvent(messages=[], response=None, span_id="s"))
        root_dispatcher.event(LLMCompletionEndEvent(prompt="", response=CompletionResponse(text=""), span_id="s"))

    assert 0 == counter.successful_requests + counter.failed_requests


PLAIN = {"prompt_tokens": 22, "completion_tokens": 11, "total_tokens": 33}
USAGES = [
    PLAIN,
    PLAIN | {"prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0}},
    PLAIN | {"completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": None}},
    PLAIN | {"prompt_tokens_details": {"cached_tokens": 40}},
    PLAIN | {"prompt_tokens_details": {"cached_tokens": 4, "other_tokens": 4}},
    PLAIN | {"completion_tokens_details": {"accepted_prediction_tokens": 4}},
    PLAIN | {"total_tokens": 50},
    PLAIN | {"cost": 0.1},
    PLAIN | {"prompt_tokens": -22},
]


@pytest.mark.parametrize("usage", USAGES, ids=repr)
def test_the_short_way_agrees_with_the_long_one(usage):
    """What is read of a response is what its raw answer says, whatever way that is read."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o", "service_tier": "default"}
    raw = ChatCompletion.model_validate(body | {"choices": [choice], "usage": usage})

    long, short = read_any(raw, "openai_llm"), read_response(answer(raw), "openai_llm")

    said = [{name: number for name, number in read.counts.items() if number} for read in (long, short)]
    assert long._replace(counts=said[0]) == short._replace(counts=said[1])


def chunk(delta, usage=None, *, whole=True, so_far=""):
    """Return a chunk of a stream; its message has the text so far, or without ``whole`` the delta alone."""
    return answer({"choices": [], "usage": usage}, so_far + delta if whole else delta, delta=delta)


HALF = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
FULL = {"prompt_tokens": 10, "completion_tokens": 40, "total_tokens": 50}
STREAMS = {
    "not on the last chunk": [chunk("one two"), chunk("", FULL, so_far="one two"), chunk("", so_far="one two")],
    "on two chunks": [chunk("one"), chunk("", HALF, so_far="one"), chunk("", FULL, so_far="one")],
    "then one of nothing": [
        chunk("one"),
        chunk("", FULL, so_far="one"),
        chunk("", dict.fromkeys(FULL, 0), so_far="one"),
    ],
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_streams_usage_may_stand_on_any_chunk(name):
    """Whatever comes after it without text, such as a content filter's verdict, the usage that was stated is it."""
    with track_tokens() as counter:
        list(Answering(answers=STREAMS[name]).stream_chat(MESSAGES))

    assert (10, 40, 0) == (counter.prompt_tokens, counter.completion_tokens, counter.estimated_requests)


def test_a_usage_that_text_comes_after_is_partial():
    """It states the prompt, but not what was generated after it: the rest is estimated, and flagged."""
    answers = [chunk("one", HALF), chunk(" two three four five six", so_far="one")]
    with track_tokens() as counter:
        list(Answering(answers=answers).stream_chat(MESSAGES))

    assert (10, 1) == (counter.prompt_tokens, counter.estimated_requests)
    assert counter.completion_tokens > 2


def test_deltas_add_up_where_a_stream_is_broken_off():
    """Some integrations' chunks have their own text alone, and an estimate is made of all that was received."""
    answers = [chunk(word, whole=False) for word in ("one", " two", " three", " four", " five", " six")]
    with track_tokens() as counter:
        stream = Answering(answers=answers).stream_chat(MESSAGES)
        for _ in range(5):
            next(stream)
        stream.close()

    assert (5, 1) == (counter.completion_tokens, counter.estimated_requests)


def test_no_answer_with_text_was_made_of_nothing():
    """A usage of 0 tokens beside text is none: an estimate; without a text it is believed."""
    nothing = {"usage": dict.fromkeys(FULL, 0)}
    with track_tokens() as counter:
        Answering(answers=[answer(nothing)]).chat(MESSAGES)
        Answering(answers=[answer(nothing, text="")]).chat(MESSAGES)

    assert (2, 1, 3) == (counter.successful_requests, counter.estimated_requests, counter.completion_tokens)
