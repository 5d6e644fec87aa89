"""Events out of order, missing, doubled, from any thread: nothing raises, nothing is negative, nothing is kept."""

import threading
import uuid

from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

from token_handlers import TokenCounter, Usage, track_tokens
from token_handlers.langchain import LangChainTokenHandler
from token_handlers.langchain import calls as open_runs

NUMBERS = st.integers(0, 10**6)
JUNK = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3) | st.lists(st.none(), max_size=2)
)
USAGES = st.none() | st.fixed_dictionaries(
    {"input_tokens": NUMBERS | JUNK, "output_tokens": NUMBERS | JUNK, "total_tokens": NUMBERS | JUNK},
    optional={
        "input_token_details": JUNK | st.dictionaries(st.sampled_from(["cache_read", "audio", "x"]), NUMBERS | JUNK),
        "output_token_details": JUNK | st.dictionaries(st.sampled_from(["reasoning", "audio"]), NUMBERS | JUNK),
    },
)
METADATA = st.dictionaries(
    st.sampled_from(["model_name", "token_usage", "usage", "service_tier", "cost"]), JUNK | USAGES
)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["start", "token", "end", "error", "chain"]), st.integers(0, 2), st.integers(0, 1)),
    max_size=12,
)


def message(kind, usage, metadata):
    """Return a message that says junk of its usage, which pydantic would refuse."""
    return kind(content="hello").model_copy(update={"usage_metadata": usage, "response_metadata": metadata})


def play(handlers, events, usage, metadata, ids):
    """Fire events at handlers."""
    prompt = [[HumanMessage("hi")]]
    whole = LLMResult(generations=[[ChatGeneration(message=AIMessage("hello"))]])
    whole.llm_output = {}
    whole.generations[0][0].message = message(AIMessage, usage, metadata)
    for event, run, which in events:
        handler, run_id = handlers[which], ids[run]
        if event == "start":
            handler.on_chat_model_start({}, prompt, run_id=run_id, invocation_params={"n": run})
        elif event == "token":
            chunk = ChatGenerationChunk(message=AIMessageChunk(content="x"))
            chunk.message = message(AIMessageChunk, usage, metadata)
            handler.on_llm_new_token("x", chunk=chunk, run_id=run_id)
        elif event == "end":
            handler.on_llm_end(whole, run_id=run_id)
        elif event == "error":
            handler.on_llm_error(ValueError("broken"), run_id=run_id, response=whole)
        else:
            handler.on_chain_error(ValueError("broken"), run_id=run_id)


def assert_sound(counter):
    """Nothing is negative, and every total is one that Usage accepts."""
    numbers = counter.numbers_by("model").values()
    for model in numbers:
        assert all(number >= 0 for number in model.values())
        Usage(**{name: number for name, number in model.items() if name in Usage.model_fields})
    assert counter.cost is None or counter.cost >= 0


@settings(max_examples=100)
@given(events=EVENTS, usage=USAGES, metadata=METADATA)
def test_disorder(events, usage, metadata):
    """Whatever comes in whatever order, nothing raises, and no run that has ended stays open."""
    counter, ids = TokenCounter(), [uuid.uuid4() for _ in range(3)]
    handlers = [LangChainTokenHandler(counter), LangChainTokenHandler(counter)]
    with track_tokens() as around:
        play(handlers, events, usage, metadata, ids)
        for run_id in ids:
            for handler in handlers:
                while open_runs.find(run_id, handler) is not None:
                    handler.on_llm_error(GeneratorExit(), run_id=run_id)

    assert_sound(counter)
    assert_sound(around)
    assert all(run_id.int not in open_runs.open_runs for run_id in ids)
    assert {} == counter.open_calls == around.open_calls


def test_disorder_in_threads():
    """Two handlers that see one run's events from different threads record it once."""
    counter = TokenCounter()
    handlers = [LangChainTokenHandler(counter), LangChainTokenHandler(counter)]
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    for _ in range(50):
        ids = [uuid.uuid4()]
        play(handlers, [("start", 0, 0)], usage, {}, ids)
        run = open_runs.find(ids[0], handlers[0])
        run.handlers.append(handlers[1])
        barrier = threading.Barrier(2)

        def end(which, ids=ids, barrier=barrier):
            barrier.wait(10)
            play(handlers, [("end", 0, which)], usage, {}, ids)

        threads = [threading.Thread(target=end, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert (150, 200, 50) == (counter.prompt_tokens, counter.completion_tokens, counter.successful_requests)
